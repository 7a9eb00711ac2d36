"""What fedrecon must know of a kind of scan: one class, a value of it per modality."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from physics import Registry

from ..data import Sample, Volume, VolumeSlices, collate
from ..networks import OperatorCorrection

#: Arguments of every dataset of slices that are no keys of a manifest's ``[data]``.
_NOT_IN_DATA = ("files", "site", "simulate", "maps_folder", "augment", "seed")

#: Measures image quality of one method at a site, from the method and its images, as JSON holds it.
MeasureQuality = Callable[[nn.Module, np.ndarray[Any, Any]], dict[str, Any]]


class Option(NamedTuple):
    """Type and default of a key."""

    annotation: Any
    default: Any

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty


@dataclass(frozen=True)
class Modality:
    """One kind of scan. All code above asks a value of this class instead of comparing names or classes.

    Parameters
    ----------
    name
        Value of the key ``modality`` in manifests.
    title
        Name in tables and messages.
    slices
        Dataset of a site: ``slices(files, site, simulate=..., format=..., **keys of [data])``.
    simulation
        Dataclass of retrospective degradation, section ``[simulate]`` of a manifest.
    readers
        Readers of files by the key ``format`` of ``[data]``.
    open
        Opens a file: ``open(path, format, **options of the reader)``.
    methods
        Classical methods by the name of their arm.
    inversion
        Classical method that only inverts the measurement.
    baselines
        Classical methods of a comparison.
    correction
        Makes the learned correction of the operator.
    origin
        Describes from a site's facts where its measurements come from, for the metric card.
    example
        Simulates a small slice with a reference from a seed; property tests run on it.
    quality
        Prepares the measurement of image quality at a site from its test slices and references; None: none is measured.
    window_hu
        Whether pictures are shown in a window of Hounsfield units, too.
    """

    name: str
    title: str
    slices: Callable[..., VolumeSlices]
    simulation: type
    readers: Registry[Any]
    open: Callable[..., Volume]
    methods: Registry[nn.Module]
    inversion: str
    baselines: tuple[str, ...]
    correction: Callable[[], OperatorCorrection]
    origin: Callable[[Mapping[str, Any]], str]
    example: Callable[[int], Sample]
    quality: Callable[[Any, np.ndarray[Any, Any]], MeasureQuality] | None = None
    window_hu: bool = False

    def batch(self, count: int = 2) -> Sample:
        """A batch of examples."""
        return collate([self.example(seed) for seed in range(count)])

    @property
    def augments(self) -> bool:
        """Whether training slices can be augmented."""
        return "augment" in inspect.signature(self.slices).parameters

    def data_options(self) -> dict[str, Option]:
        """Keys of ``[data]`` that are arguments of the dataset, beside those of every dataset."""
        return {key: option for key, option in _options(self.slices).items() if key not in _NOT_IN_DATA}

    def reader_options(self, format: str) -> dict[str, Option]:
        """Keys of ``[data]`` that belong to one reader."""
        return {key: option for key, option in _options(self.readers[format]).items() if key != "path"}

    def arguments(self, **wanted: Any) -> dict[str, Any]:
        """Those of the arguments that the dataset takes."""
        known = inspect.signature(self.slices).parameters
        return {key: value for key, value in wanted.items() if key in known}


def _options(maker: Callable[..., Any]) -> dict[str, Option]:
    found = {}
    for key, parameter in inspect.signature(maker).parameters.items():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            known = parameter.annotation is not parameter.empty and not isinstance(parameter.annotation, str)
            found[key] = Option(parameter.annotation if known else Any, parameter.default)
    return found
