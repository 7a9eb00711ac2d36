"""Hold out a part of the measurements, for training and evaluation without a reference."""

from dataclasses import replace

import torch
from torch import Tensor

from ..errors import DataError, data_error
from .sample import Sample
from .slices import VolumeSlices


def held_out_split(sample: Sample, fraction: float, generator: torch.Generator) -> tuple[Sample, Tensor]:
    """Hold out a random part of the measurements of a slice or a batch.

    MRI: sampled positions outside the calibration block, from which coil maps are estimated; whole columns of a column
    mask, single points of a 2-D mask; drawn for every slice. Radial and spiral MRI: whole spokes, drawn likewise. CT:
    whole views, the same for all slices.

    Parameters
    ----------
    sample
        Its operator defines :meth:`physics.LinearOperator.hold_out_candidates`.
    fraction
        Fraction of the candidates, between 0 and 1; at least one is held out and at least one is kept.
    generator
        Random generator of the draw.

    Returns
    -------
        The sample without the held-out measurements, and their mask, bool, broadcastable to the measurement:
        ``(*batch, 1, 1 | height, width)`` or ``(*batch, 1, spokes, 1)`` in MRI, ``(views, 1)`` in CT.

    Raises
    ------
    DataError
        If a slice has fewer than two candidates.
    TypeError
        If the operator defines no candidates.
    ValueError
        If the fraction is out of range.
    """
    require_fraction("held_out_split", fraction)
    try:
        held_out = sample.operator.draw_held_out(fraction, generator)
    except ValueError as error:
        raise DataError(f"{sample.meta[0].volume}: {error}") from None
    kept = replace(sample, operator=sample.operator.restrict(~held_out), measurement=sample.measurement * ~held_out)
    return kept, held_out


def can_hold_out(sample: Sample) -> bool:
    """Whether every slice has at least two candidates of :func:`held_out_split`, and the operator defines them.

    A scan with one block of columns, such as partial Fourier, has none; nor has a CT scan with one view.
    """
    try:
        candidates = sample.operator.hold_out_candidates()
    except TypeError:
        return False
    axes = tuple(range(-len(sample.operator.range_shape), 0))
    return bool((candidates.sum(axes) >= 2).all())


def require_hold_out(samples: VolumeSlices) -> None:
    """Refuse files for training without a reference if nothing can be held out of their first slice.

    Raises
    ------
    DataError
        It names all of them.
    """
    firsts = [samples.first(number) for number in range(len(samples.volumes))]
    bad = [v.path for v, index in zip(samples.volumes, firsts, strict=True) if not can_hold_out(samples[index])]
    if bad:
        found, expected = "nothing to hold out of the measurements", "sampled positions outside the calibration block"
        advice = "train with references, or leave out " + ", ".join(path.name for path in bad)
        raise data_error(bad[0], "mask", found, f"{expected}, or several views", advice)


def require_fraction(who: str, value: float) -> None:
    """Refuse a fraction that is not between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{who}: fraction is {value}, expected a number between 0 and 1")
