"""M4Raw: files of the fastMRI layout, one for each repetition, whose mean is the usual scan."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import data_error
from ..complex_values import Array
from ..mri_file import open_volume
from ..mri_volume import KSpaceVolume

#: Name of a repetition: person and contrast, then its number in two digits, as in 2022061003_T101.h5.
_REPETITION = re.compile(r"^(?P<scan>.+_(?:T1|T2|FLAIR|GRE))(?P<number>\d\d)$", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class AveragedVolume(KSpaceVolume):
    """Mean of the k-space of several files; `repetitions` are the volumes."""

    repetitions: tuple[KSpaceVolume, ...] = ()

    def _read(self, what: str, index: int) -> Array:
        if what != "kspace":
            raise data_error(self.path, what, "one for each repetition", f"{what} of the mean", "use another reference")
        total = sum(volume.read_slice(index).to(torch.complex128) for volume in self.repetitions)
        return np.asarray(total) / len(self.repetitions)


def open_m4raw(path: Path) -> KSpaceVolume:
    """Average all repetitions of a scan of M4Raw; any of its files names the scan.

    One repetition alone is of the format ``fastmri``. The noise covariance is that of one repetition over their number;
    reconstructions in the files belong to single repetitions and are left out.

    Raises
    ------
    DataError
        If the name is not that of a repetition, there is one alone, or they differ in shape or sampling.
    """
    open_volume(path)
    if (match := _REPETITION.match(path.stem)) is None:
        expected = "a name with contrast and number of the repetition, as 2022061003_T101.h5"
        raise data_error(path, "file name", path.name, expected, "use the format fastmri for a single scan")
    scan = match["scan"]
    files = sorted(file for file in path.parent.iterdir() if _is_of(file, scan, path.suffix))
    if len(files) < 2:
        raise data_error(path, "repetitions", "one file", f"several, {scan}*{path.suffix}", "use the format fastmri")
    volumes = [open_volume(file) for file in files]
    first = volumes[0]
    for volume in volumes[1:]:
        if volume.shape != first.shape:
            found, expected = f"shape {volume.shape}", f"{first.shape}, that of {first.path.name}"
            raise data_error(volume.path, "kspace", found, expected, "leave out the repetition")
        if not torch.equal(volume.available, first.available):
            found, expected = "another mask", f"that of {first.path.name}"
            raise data_error(volume.path, "mask", found, expected, "leave out the repetition")
    covariance = first.noise_covariance
    facts: dict[str, Any] = {
        **{key: value for key, value in vars(first).items() if key != "version"},
        "rss_shape": None,
        "noise_covariance": None if covariance is None else covariance / len(volumes),
        "reading": f"{first.reading}; mean of {len(volumes)} repetitions ({', '.join(file.name for file in files)})",
        "sources": tuple(files),
    }
    return replace(AveragedVolume(**facts), repetitions=tuple(volumes))


def _is_of(file: Path, scan: str, suffix: str) -> bool:
    match = _REPETITION.match(file.stem)
    return match is not None and match["scan"] == scan and file.suffix == suffix
