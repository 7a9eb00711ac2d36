"""The task of a site on slices of a smaller matrix, each measured when it is needed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import torch

from recon import DataError, Sample, VolumeSlices, data_error

from ..experiment import ReconstructionTask
from ..sites import Patients, SiteManifest, Split, patients_of


@dataclass(frozen=True)
class SmallTask(ReconstructionTask):
    """The task of a site on slices of a smaller matrix, without validation.

    Parameters
    ----------
    size
        Rows and columns at most; 0: as measured.
    trains_on
        Split that takes the place of the training data.
    """

    size: int = 0
    trains_on: Split = "train"

    def slices(self) -> "SmallSlices":
        """The slices on which it trains."""
        return SmallSlices(self.manifest, self._opened(), self.size)

    def dataset(self, split: Split) -> Any:
        """The slices on which it trains, whatever the split; without the augmentation of the recipe."""
        return self.slices()

    def patients(self, samples: VolumeSlices | None = None) -> Patients:
        """The patients in the slices on which it trains, which its ``samples`` do not name."""
        return patients_of(self.manifest, self._opened(), self.trains_on)

    def _opened(self) -> VolumeSlices:
        return _opened(_Source.of(self, self.trains_on))

    def validate(self, network: torch.nn.Module) -> float | None:
        """None: the attack needs no score."""
        return None


@dataclass(frozen=True)
class SmallSlices(Sequence[Sample]):
    """Slices of a site on a smaller matrix, read and measured when they are indexed.

    Raises
    ------
    DataError
        If a slice cannot be measured on a smaller matrix.
    """

    manifest: SiteManifest
    measured: VolumeSlices
    size: int

    def __len__(self) -> int:
        return len(self.measured)

    @overload
    def __getitem__(self, number: int) -> Sample: ...
    @overload
    def __getitem__(self, number: slice) -> list[Sample]: ...
    def __getitem__(self, number: int | slice) -> Sample | list[Sample]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        sample = self.measured[range(len(self))[number]]  # raises IndexError, at which a loop ends
        if not self.size:
            return sample
        kind = self.manifest.kind
        if kind.smaller is None:
            expected = "one whose slices can be measured on a smaller matrix: its `smaller`"
            raise data_error(self.manifest.path, "modality", repr(kind.name), expected, "attack another site")
        try:
            return kind.smaller(sample, self.size)
        except TypeError as error:
            expected = "an operator of fedrecon that can be made smaller"
            raise data_error(self.manifest.path, "operator", str(error), expected, "attack another site") from None
        except DataError as error:
            raise DataError(f"{self.manifest.path}: {error}, or attack other sites (--site, --sum-of)") from None


@dataclass(frozen=True)
class _Source:
    """A split of a site; equal to another where manifest and files are."""

    manifest: SiteManifest = field(compare=False)
    place: Path
    text: str
    maps_folder: Path
    raw_coils: bool
    split: Split
    files: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, task: ReconstructionTask, split: Split) -> "_Source":
        manifest = task.manifest
        found = [file.stat() for file in manifest.files(split) if file.is_file()]
        files = tuple((status.st_size, status.st_mtime_ns) for status in found)
        return cls(manifest, manifest.path, manifest.to_toml(), task.maps_folder, task.raw_coils, split, files)


@lru_cache(maxsize=16)
def _opened(source: _Source) -> VolumeSlices:
    """The slices as measured. A process opens the files of a split once, not for every search."""
    return source.manifest.dataset(source.split, source.maps_folder, raw_coils=source.raw_coils)
