"""Hold out a part of the measurements, for training and evaluation without a reference."""

from dataclasses import replace

import torch
from torch import Tensor

from ..errors import DataError
from .sample import Sample


def hide(batch: Sample, fraction: float, generator: torch.Generator) -> tuple[Sample, Tensor]:
    """Take a random part of the measurements of a batch away, by the rules of :func:`held_out_split`.

    In MRI every slice has a draw of its own; in CT the same views are taken from all slices of the batch.

    Returns
    -------
        The batch without that part, and the mask of it, bool, broadcastable to the measurement.

    Raises
    ------
    DataError
        If a slice has too little outside its calibration block.
    TypeError
        If the operator names nothing to hold out.
    ValueError
        If the fraction is out of range or the sample is no batch.
    """
    require_fraction("hide", fraction)
    if batch.measurement.ndim != len(batch.operator.range_shape) + 1:
        found = tuple(batch.measurement.shape)
        raise ValueError(f"hide: measurement has shape {found}, expected one batch axis; use `collate`")
    try:
        return _without(batch, fraction, generator)
    except ValueError as error:
        raise DataError(f"{batch.meta[0].volume}: {error}") from None


def held_out_split(sample: Sample, fraction: float, generator: torch.Generator) -> tuple[Sample, Tensor]:
    """Take a part of the measurement of a single slice away, to score an image where no reference exists.

    MRI: sampled positions outside the calibration block, which the coil maps come from; whole columns where the mask is
    a column mask, single points where it is 2-D. CT: whole views.

    Parameters
    ----------
    sample
        A single slice whose operator names candidates, see :meth:`physics.LinearOperator.hold_out_candidates`.
    fraction
        Part of the candidates to hold out, between 0 and 1; at least one is held out and one is kept.
    generator
        Random generator of the draw.

    Returns
    -------
        The sample without the held-out measurements, and their mask, bool, broadcastable to the measurement:
        ``(1, 1 | height, width)`` in MRI, ``(views, 1)`` in CT.

    Raises
    ------
    TypeError
        If the operator names nothing to hold out.
    ValueError
        If `fraction` is out of range, the sample is a batch, or nothing lies outside the calibration block.
    """
    require_fraction("held_out_split", fraction)
    if sample.measurement.ndim != len(sample.operator.range_shape):
        found = tuple(sample.measurement.shape)
        raise ValueError(f"held_out_split: measurement has shape {found}, expected a single slice; split first")
    return _without(sample, fraction, generator)


def require_fraction(who: str, value: float) -> None:
    """Refuse a fraction that is not between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{who}: fraction is {value}, expected a number between 0 and 1")


def _without(sample: Sample, fraction: float, generator: torch.Generator) -> tuple[Sample, Tensor]:
    held_out = sample.operator.draw_held_out(fraction, generator)
    kept = replace(sample, operator=sample.operator.restrict(~held_out), measurement=sample.measurement * ~held_out)
    return kept, held_out
