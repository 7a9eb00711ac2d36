"""What data sets of slices have in common: files in order, slices counted through, randomness by name."""

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch.utils.data import Dataset

from ..errors import data_error
from .sample import Sample


class VolumeSlices(Dataset[Sample]):
    """Slices of some files, counted through in order.

    Parameters
    ----------
    volumes
        Path and number of slices of every file.

    Raises
    ------
    DataError
        If two files have one name.
    """

    #: Number of the pass; another one draws another augmentation.
    epoch = 0

    def __init__(self, volumes: Sequence[tuple[Path, int]]) -> None:
        _require_different_names([path for path, _ in volumes])
        self._ends = list(accumulate(slices for _, slices in volumes))

    def __len__(self) -> int:
        return self._ends[-1]

    def locate(self, index: int) -> tuple[int, int]:
        """Number of the volume and of its slice that a sample comes from."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"slices: index {index}, expected less than {len(self)}")
        index %= len(self)
        number = bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)


def _require_different_names(paths: Sequence[Path]) -> None:
    """Refuse two files of one name: it names a volume in the report and seeds what is drawn for it.

    Raises
    ------
    DataError
        At the first file whose name occurs again.
    """
    names = Counter(path.name for path in paths)
    for path in paths:
        if names[path.name] > 1:
            raise data_error(path, "file name", "a second file of this name", "one", "rename it")


def seed_from(text: str, bits: int = 63) -> int:
    """The first ``bits`` bits of the SHA-256 of ``text``: a seed depends on its purpose, not on the order of calls."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big") >> (256 - bits)


def generator_for(*parts: object) -> torch.Generator:
    """A generator of its own for every purpose, file and slice."""
    return torch.Generator().manual_seed(seed_from(repr(parts)))
