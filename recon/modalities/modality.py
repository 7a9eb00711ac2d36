"""Everything that differs between modalities: one class, a value of it per modality."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from inspect import Parameter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from physics import Registry, options_of

from ..data import Readers, Sample, Volume, VolumeSlices, collate
from ..networks import OperatorCorrection

#: Arguments of datasets that are not keys of a manifest's ``[data]``.
_NOT_IN_DATA = ("files", "names", "site", "simulate", "maps_folder", "raw_coils", "augment", "redraw", "seed", "labels")

#: Measures image quality of one method at a site, from the method and its images, as JSON holds it.
MeasureQuality = Callable[[nn.Module, np.ndarray[Any, Any]], dict[str, Any]]


class Option(NamedTuple):
    """Type and default of a key."""

    annotation: Any
    default: Any

    @property
    def required(self) -> bool:
        return self.default is Parameter.empty


@dataclass(frozen=True)
class Modality:
    """One kind of scan. Code above this package uses a value of this class; it does not compare names or classes.

    Parameters
    ----------
    name
        Value of the key ``modality`` in manifests.
    title
        Name in tables and messages.
    slices
        Dataset of a site: ``slices(files, site, simulate=..., format=..., **keys of [data])``. Its other arguments are
        keys of ``[data]``; ``maps_folder``, ``raw_coils``, ``augment``, ``redraw``, ``seed`` and ``labels`` are those
        of :class:`recon.KSpaceSlices`.
    simulation
        Dataclass of retrospective degradation; its fields are the keys of ``[simulate]``.
    readers
        Readers of the files.
    methods
        Classical methods by the name of their arm.
    inversion
        Name of the classical method that only inverts the measurement.
    baselines
        Names of the classical methods of a comparison.
    correction
        Constructor of the learned correction of the operator.
    samplings
        Values of the key ``sampling`` of ``[simulate]`` that are of this modality: a manifest with one of them need not
        name it.
    origin
        Origin of the measurements, from the facts of a site, for the metric card.
    example
        Simulates a small slice with a reference from a seed; property tests run on it.
    quality
        Image quality at a site, from its test slices and references; None: it is not measured.
    window_hu
        Whether pictures are also shown in a window of Hounsfield units.
    write_scan
        Writes the arrays of a scan as a file of the usual format, ``write_scan(path, measurement, ...)``, and returns
        whether they are a single slice; None: methods are called with files and samples alone.
    smaller
        Measures a slice anew on a matrix of at most so many rows and columns, ``smaller(sample, size)``; None: its
        sites cannot be attacked by ``fedrecon privacy``.
    """

    name: str
    title: str
    slices: Callable[..., VolumeSlices]
    simulation: type
    readers: Readers[Any]
    methods: Registry[nn.Module]
    inversion: str
    baselines: tuple[str, ...]
    correction: Callable[[], OperatorCorrection]
    origin: Callable[[Mapping[str, Any]], str]
    example: Callable[[int], Sample]
    samplings: Collection[str] = ()
    quality: Callable[[Any, np.ndarray[Any, Any]], MeasureQuality] | None = None
    window_hu: bool = False
    write_scan: Callable[..., bool] | None = None
    smaller: Callable[[Sample, int], Sample] | None = None

    def batch(self, count: int = 2) -> Sample:
        """A batch of examples."""
        return collate([self.example(seed) for seed in range(count)])

    def open(self, path: Path | str, format: str, **options: Any) -> Volume:
        """Check a file; errors as of :meth:`recon.Readers.open`."""
        volume: Volume = self.readers.open(path, format, **options)
        return volume

    def format_of(self, path: Path) -> str | None:
        """Name of the reader that takes a file, told from its content; None: none, or the modality does not tell.

        Raises
        ------
        DataError
            If several readers take it.
        """
        return self.readers.detect(path) if path.is_file() and self.readers.takes(path) else None

    def format_of_another(self, path: Path, usual: str) -> str | None:
        """Name of the reader that takes a file, if the usual reader can tell from its content that it does not.

        None: the usual reader takes it, has no detector, or no other takes it.

        Raises
        ------
        DataError
            If several other readers take it.
        """
        if not path.is_file() or not self.readers.has_detector(usual) or usual in (names := self.readers.takes(path)):
            return None
        return self.readers.detect(path) if names else None

    @property
    def augments(self) -> bool:
        """Whether training slices can be augmented."""
        return "augment" in options_of(self.slices)

    @property
    def takes_labels(self) -> bool:
        """Whether slices can have the label of a downstream task."""
        return "labels" in options_of(self.slices)

    def data_options(self) -> dict[str, Option]:
        """Keys of ``[data]`` that are arguments of the dataset, beside those of every dataset."""
        found = _options(options_of(self.slices))
        return {key: option for key, option in found.items() if key not in _NOT_IN_DATA}

    def reader_options(self, format: str) -> dict[str, Option]:
        """Keys of ``[data]`` that are options of one reader."""
        return _options(self.readers.options(format))

    def arguments(self, **wanted: Any) -> dict[str, Any]:
        """The arguments that the dataset takes."""
        known = options_of(self.slices)
        return {key: value for key, value in wanted.items() if key in known}


def _options(parameters: Mapping[str, Parameter]) -> dict[str, Option]:
    unknown = {key for key, p in parameters.items() if p.annotation is p.empty or isinstance(p.annotation, str)}
    return {key: Option(Any if key in unknown else p.annotation, p.default) for key, p in parameters.items()}
