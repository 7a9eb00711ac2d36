"""Base class of the datasets of slices, readers of their files, and generators seeded by names."""

import hashlib
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import Parameter
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Protocol, TypeVar

import torch
from annotated_types import Ge, Lt
from torch import Tensor
from torch.utils.data import Dataset

from physics import OPERATORS, LinearOperator, Registry

from ..errors import DataError, data_error, naming_file
from .image_header import ImageHeader
from .label_files import DisplayedGrid, ScanLabels
from .other_formats import format_of
from .sample import Sample

#: A seed in a recipe or manifest.
Seed = Annotated[int, Ge(0), Lt(2**63)]


class Volume(Protocol):
    """One file of a site: checked facts; slices are read on demand."""

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


AnyVolume = TypeVar("AnyVolume", bound=Volume)
Maker = TypeVar("Maker", bound=Callable[..., Any])
#: Whether a reader takes a file, from its content.
Detector = Callable[[Path], bool]


class Readers(Registry[AnyVolume]):
    """Readers of files by the value of ``format`` in a manifest.

    A reader takes a path and options, checks the file and returns its :class:`Volume`. The options are keys of
    ``[data]``. A detector tells from the content of a file whether its reader takes it.

    Parameters
    ----------
    kind, parts
        As of :class:`physics.Registry`.
    detectors
        Detectors by the name of their reader. A reader without one is used only where it is named.
    """

    def __init__(
        self, kind: str, parts: Mapping[str, Callable[..., AnyVolume]], detectors: Mapping[str, Detector] | None = None
    ) -> None:
        super().__init__(kind, parts)
        self._detectors = dict(detectors or {})

    def add(self, name: str, detect: Detector | None = None) -> Callable[[Maker], Maker]:
        """Decorator that registers a reader, and its detector, which takes a path; errors as of the base class."""

        def register(part: Maker) -> Maker:
            registered = super(Readers, self).add(name)(part)
            if detect is not None:
                self._detectors[name] = detect
            return registered

        return register

    def remove(self, name: str) -> None:
        super().remove(name)
        self._detectors.pop(name, None)

    def _name_format(self, path: Path, format: str) -> None:
        """Name the format of a file that its reader refuses, if it is empty or that of another one.

        Raises
        ------
        DataError
            If the file is empty, or the detector of the reader does not take it, and its format is known.
        """
        if path.stat().st_size == 0:
            expected = f"a file of format {format}"
            raise data_error(path, "file", "an empty file", expected, "copy it again") from None
        takes = self._detectors.get(format)
        known = None if takes is None or takes(path) else format_of(path)
        if known is not None and known.is_named:
            raise data_error(path, "file", known.name, f"a file of format {format}", known.advice) from None

    def has_detector(self, name: str) -> bool:
        """Whether a reader can tell from the content of a file that it takes it."""
        return name in self._detectors

    def takes(self, path: Path) -> list[str]:
        """Names of the readers that take a file, told from its content."""
        with naming_file(path, "file"):
            return [name for name, takes in self._detectors.items() if takes(path)]

    def detect(self, path: Path | str) -> str:
        """Name of the reader that takes a file, told from its content.

        Raises
        ------
        DataError
            If no reader takes the file, or several do.
        OSError
            If the file cannot be read.
        """
        path = Path(path)
        if not path.is_file():
            found = "a folder" if path.is_dir() else "nothing"
            raise data_error(path, "file", found, "a file", "correct the path")
        names = self.takes(path)
        if len(names) == 1:
            return names[0]
        if names:
            found = f"a file that {' and '.join(names)} read"
            raise data_error(path, "format", found, "one reader", f"name the format: one of {', '.join(names)}")
        expected = f"one of {', '.join(self._detectors)}"
        if path.stat().st_size == 0:
            raise data_error(path, "file", "an empty file", expected, "copy it again")
        if (known := format_of(path)) is None:
            raise data_error(
                path, "file", "a format that is not known", expected, "see the formats in the documentation"
            )
        raise data_error(path, "file", known.name, expected, known.advice)

    def options(self, name: str) -> dict[str, Parameter]:
        """Options of a reader: its arguments after the path."""
        return dict(list(super().options(name).items())[1:])

    def open(self, path: Path | str, format: str, **options: Any) -> AnyVolume:
        """Check a file; no slice is read.

        Raises
        ------
        DataError
            If the file is missing, broken or of another format, or an option cannot be used.
        """
        path = Path(path)
        if not path.is_file():
            found = "a folder" if path.is_dir() else "nothing"
            raise data_error(path, "file", found, f"a file of format {format}", "correct the path")
        try:
            with naming_file(path, "file"):
                volume = self[format](path, **options)
        except DataError:
            self._name_format(path, format)
            raise
        if volume is None:
            raise DataError(f"{path}: the reader {format!r} returns nothing, expected a volume; return one")
        return volume


class VolumeSlices(Dataset[Sample], ABC):
    """All slices of some files, in order; one subclass per modality.

    Files are checked when the dataset is made and read slice by slice; no file stays open, so a dataset can be sent to
    other processes. Samples depend on the files and the arguments alone.

    Attributes
    ----------
    volumes
        The files.
    names
        Name of every volume in samples and reports; it seeds the random numbers of the volume.
    reference_kinds
        Kind of the reference of every file, see :class:`SampleMeta`.
    epoch
        Number of the pass over the data; in training every pass draws another augmentation, and mask and noise anew.

    Parameters
    ----------
    files
        Paths.
    names
        Names of the volumes, which must differ; None: the names of the files.
    site
        Name of the site, for :class:`SampleMeta`.
    readers, format, reader_options
        The reader of the files and its options.
    labels
        Labels of a downstream task, which samples then have; None: none.

    Raises
    ------
    DataError
        If there is no file, one cannot be used, or two have one name.
    """

    volumes: Sequence[Volume]
    names: tuple[str, ...]
    reference_kinds: tuple[str, ...]
    epoch = 0

    def __init__(
        self,
        files: Sequence[Path | str],
        site: str,
        readers: Readers[Any],
        format: str,
        reader_options: Mapping[str, Any],
        names: Sequence[str] | None = None,
        labels: ScanLabels | None = None,
    ) -> None:
        if not files:
            raise DataError(f"{site}: found no file, expected at least one; name it")
        self.site, self.format, self.labels = site, format, labels
        self.volumes = tuple(readers.open(file, format, **reader_options) for file in files)
        self.names = tuple(volume.path.name for volume in self.volumes) if names is None else tuple(names)
        _require_different(self.names, [volume.path for volume in self.volumes])
        self._ends = list(accumulate(self.n_slices(number) for number in range(len(self.volumes))))
        self._grids: dict[int, DisplayedGrid] = {}

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        number, i = self.locate(index)
        with naming_file(self.volumes[number].path, f"slice {i}"):
            return self.sample(number, i)

    @abstractmethod
    def sample(self, number: int, i: int) -> Sample:
        """Slice ``i`` of a volume."""

    def n_slices(self, number: int) -> int:
        """Number of samples of a volume."""
        return self.volumes[number].shape[0]

    def as_stored(self, images: Tensor) -> Tensor:
        """Images of all samples of a volume, ``(slices, *A.domain_shape)``, as 2-D images in the order of its file."""
        return images

    @abstractmethod
    def acceleration(self, number: int) -> float:
        """Samples of a full measurement of a volume over the samples that are used."""

    def calibration(self, number: int) -> int | None:
        """Lines of a file from which its operator is calibrated, for ``fedrecon sites check``; None: needs none."""
        return None

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Scan parameters of the site for the report, as JSON values."""

    @abstractmethod
    def arrays(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Measurements and operators of samples of one shape, for a file of test data."""

    def check(self, number: int) -> list[str]:
        """Read a file whole; returns what makes its reconstructions doubtful, one line each, with the file's path.

        The caller prints the lines, as ``fedrecon sites check`` does: no sample logs them again. Subclasses add their
        checks to those of this class.

        Raises
        ------
        DataError
            If training would refuse the file.
        """
        for _ in self.measured_slices(number):
            pass
        return []

    def coverage_warnings(self, number: int) -> list[str]:
        """Lines that say that the scan of a file does not see the whole object, or that its image does not hold it.

        Reads a few slices, degraded as by ``[simulate]``.
        """
        return []

    def map_bytes(self, sample: Sample) -> int:
        """Bytes of the file of estimated maps of a slice; 0 where none are stored."""
        return 0

    def completeness(self, number: int) -> str:
        """How much of a file without undersampling was measured, in words."""
        return "fully sampled"

    def image_header(self, number: int) -> ImageHeader:
        """What a file states of its images, from the method ``image_header`` of its volume, if it has one."""
        read = getattr(self.volumes[number], "image_header", None)
        header: ImageHeader = ImageHeader() if read is None else read()
        return header

    def displayed_shape(self, number: int) -> tuple[int, int]:
        """``(height, width)`` of :meth:`Sample.magnitude`; datasets with labels must know it."""
        raise NotImplementedError(f"{type(self).__name__} has labels, but no displayed_shape")

    def displayed_grid(self, number: int) -> DisplayedGrid:
        """Grid of the displayed images of a volume, on which its labels lie."""
        if number not in self._grids:
            shape = self.displayed_shape(number)
            header, size = self.image_header(number).cropped(shape), (self.n_slices(number), *shape)
            path, is_placed = self.volumes[number].path, header.placement is not None
            if header.planes is not None:
                advice = "make the sites with axial planes"
                raise data_error(path, "labels", "slices of tilted planes", "axial slices", advice)
            self._grids[number] = DisplayedGrid(path, size, header.affine(size), is_placed)
        return self._grids[number]

    def label(self, number: int, i: int) -> Tensor | None:
        """Label of a slice, see :attr:`Sample.label`; None: the dataset has none. Errors of :class:`ScanLabels`."""
        return None if self.labels is None else self.labels.of_slice(number, i, self.displayed_grid(number))

    def measured_slices(self, number: int) -> Iterator[Tensor]:
        """Slices of a file as stored, one after another.

        Raises
        ------
        DataError
            If one cannot be read, is not finite or has another shape than the volume says.
        """
        volume = self.volumes[number]
        for index in range(volume.shape[0]):
            stored = volume.read_slice(index)
            found, expected = tuple(stored.shape), tuple(volume.shape[1:])
            if found != expected:
                key, advice = f"slice {index}", f"correct the reader {self.format!r}"
                raise data_error(volume.path, key, f"shape {found}", f"{expected}, as of the volume", advice)
            yield stored

    def first(self, number: int) -> int:
        """Index of the first slice of a volume."""
        return self._ends[number - 1] if number else 0

    def locate(self, index: int) -> tuple[int, int]:
        """Numbers of the volume and of its slice at an index."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"slices: index {index}, expected less than {len(self)}")
        index %= len(self)
        number = bisect_right(self._ends, index)
        return number, index - self.first(number)


def make_operator(path: Path, name: str, *arguments: Any) -> LinearOperator:
    """Operator of a slice of a file, by its name in :data:`physics.OPERATORS`.

    Raises
    ------
    DataError
        If the operator does not take these arguments: it belongs to another modality, it is a part of other
        operators, or the file does not suit it.
    """
    try:
        return OPERATORS[name](*arguments)
    except (TypeError, AttributeError) as error:
        found, advice = f"{name!r}, which fails ({error})", "correct `operator` in [data] of the manifest"
        raise data_error(path, "operator", found, "an operator of this modality", advice) from error
    except ValueError as error:
        raise DataError(" ".join(f"{path}: {error}".split())) from error


def volume_names(files: Sequence[str]) -> dict[str, str]:
    """Names of volumes by file, a path below one folder: the base name, or the path where two base names are equal."""
    bases = {file: PurePosixPath(file).name for file in files}
    count = Counter(bases.values())
    return {file: base if count[base] == 1 else file for file, base in bases.items()}


def _require_different(names: Sequence[str], paths: Sequence[Path]) -> None:
    """Refuse two volumes of one name, which identifies a volume in reports and seeds its random numbers."""
    count = Counter(names)
    for name, path in zip(names, paths, strict=True):
        if count[name] > 1:
            raise data_error(path, "file name", "a second file of this name", "one", "rename it")


def seed_from(text: str, bits: int = 63) -> int:
    """Seed of ``bits`` bits from a text that names its purpose, by SHA-256: the order of calls does not matter."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big") >> (256 - bits)


def generator_for(*parts: object) -> torch.Generator:
    """Random generator for a purpose, a file, a slice ...: equal parts give equal numbers."""
    return torch.Generator().manual_seed(seed_from(repr(parts)))
