"""Base class of the datasets of slices: files in order, slices counted through, generators seeded by name."""

import hashlib
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Protocol

import torch
from annotated_types import Ge, Lt
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import data_error
from .sample import Sample

#: A seed as recipes and manifests hold it.
Seed = Annotated[int, Ge(0), Lt(2**63)]


class Volume(Protocol):
    """One file of a site: checked facts, slices read on demand."""

    @property
    def path(self) -> Path: ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of slices, then the shape of one slice."""

    @property
    def patient_id(self) -> str | None: ...

    @property
    def description(self) -> str:
        """Kind and size of the measurement in a few words, for ``fedrecon sites check``."""

    def read_slice(self, index: int) -> Tensor:
        """Measurement of one slice as stored.

        Raises
        ------
        DataError
            If it cannot be read or is not finite.
        """


class VolumeSlices(Dataset[Sample], ABC):
    """Slices of some files, counted through in order; one subclass per modality.

    Attributes
    ----------
    site
        Name of the site.
    volumes
        The files.
    reference_kinds
        Kind of the reference of every file, see :class:`SampleMeta`.
    epoch
        Number of the pass over the data; another one draws another augmentation.

    Parameters
    ----------
    volumes
        Path and number of slices of every file.

    Raises
    ------
    DataError
        If two files have one name.
    """

    site: str
    volumes: Sequence[Volume]
    reference_kinds: tuple[str, ...]
    epoch = 0

    def __init__(self, volumes: Sequence[tuple[Path, int]]) -> None:
        _require_different_names([path for path, _ in volumes])
        self._ends = list(accumulate(slices for _, slices in volumes))

    def __len__(self) -> int:
        return self._ends[-1]

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    @abstractmethod
    def acceleration(self, number: int) -> float:
        """Samples of a full measurement over those that are used, of a volume."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Scan parameters of the site for the report, as JSON holds them."""

    @abstractmethod
    def arrays(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Measurements and operators of some samples of one shape, for a file of test data."""

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
