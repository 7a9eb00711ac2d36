"""What an HDF5 file holds at its root, for detectors."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..hdf5_file import opened


@dataclass(frozen=True)
class HDF5Content:
    """Datasets at the root, type and shape by name; groups, names of their members; whether MATLAB wrote the file."""

    datasets: dict[str, tuple[np.dtype[Any], tuple[int, ...]]]
    groups: dict[str, tuple[str, ...]]
    is_matlab: bool


def hdf5_content(path: Path) -> HDF5Content | None:
    """What a file holds; links are not followed. None: it is no HDF5.

    Raises
    ------
    DataError
        If the HDF5 is broken.
    """
    if not h5py.is_hdf5(path):
        return None
    with path.open("rb") as raw:
        is_matlab = raw.read(10) == b"MATLAB 7.3"
    with opened(path) as file:
        held = {name: file[name] for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)}
        datasets = {
            name: (entry.dtype, tuple(entry.shape)) for name, entry in held.items() if isinstance(entry, h5py.Dataset)
        }
        groups = {name: tuple(entry) for name, entry in held.items() if isinstance(entry, h5py.Group)}
        is_matlab |= any("MATLAB_class" in entry.attrs for entry in held.values())
    return HDF5Content(datasets, groups, is_matlab)
