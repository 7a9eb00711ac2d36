"""Hold out a part of the measurements, for training and evaluation without a reference."""

from dataclasses import replace

import torch
from torch import Tensor

from physics import CartesianMRI, RadonOperator, calibration_block

from ..errors import DataError
from .sample import Sample


def hide(batch: Sample, fraction: float, generator: torch.Generator) -> tuple[Sample, Tensor]:
    """Take a random part of the measurements of a batch away, by the rules of :func:`recon.held_out_split`.

    MRI: sampled positions outside the calibration block, drawn for every slice. CT: whole views, the same for all
    slices of the batch, so that filtered back-projection knows which are missing.

    Returns
    -------
        The batch without that part, and the mask of it, bool, broadcastable to the measurement.

    Raises
    ------
    DataError
        If a slice has too little outside its calibration block.
    TypeError
        If the operator is neither Cartesian MRI nor CT.
    ValueError
        If the fraction is out of range or the sample is no batch.
    """
    require_fraction("hide", fraction)
    A, y = batch.operator, batch.measurement
    if y.ndim != len(A.range_shape) + 1:
        raise ValueError(f"hide: measurement has shape {tuple(y.shape)}, expected one batch axis; use `collate`")
    try:
        if isinstance(A, CartesianMRI):
            slices = [
                replace(batch, measurement=y[i], operator=CartesianMRI(A.maps[i], A.mask[i])) for i in range(len(y))
            ]
            masks = torch.stack([held_out_split(single, fraction, generator)[1] for single in slices])
            hidden = masks.unsqueeze(-3)
        elif isinstance(A, RadonOperator):
            single = replace(batch, measurement=y[0], operator=RadonOperator(A.grid, A.geometry))
            hidden = masks = held_out_split(single, fraction, generator)[1]
        else:
            raise TypeError(f"hide: operator is {type(A).__name__}, expected CartesianMRI or RadonOperator")
    except ValueError as error:
        raise DataError(f"{batch.meta[0].volume}: {error}") from None
    return replace(batch, operator=A.restrict(~masks), measurement=y * ~hidden), hidden


def require_fraction(who: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{who}: fraction is {value}, expected a number between 0 and 1")


def held_out_split(sample: Sample, fraction: float, generator: torch.Generator) -> tuple[Sample, Tensor]:
    """Take a part of the measurement away, to score an image where no reference exists.

    MRI: positions are drawn among the sampled ones outside the calibration block, which the maps come from and
    which is always kept: whole columns where the mask is a column mask, single points where it is 2-D. CT: whole views.

    Parameters
    ----------
    sample
        A single slice with a Cartesian operator or a CT scan.
    fraction
        Part of those positions to hold out, between 0 and 1; at least one is held out and one is kept.
    generator
        Draws the positions.

    Returns
    -------
        The sample without the held-out measurements, and the held-out mask, bool ``(1 | height, width)``, in CT
        ``(views, 1)``.

    Raises
    ------
    TypeError
        If the operator is neither.
    ValueError
        If `fraction` is out of range, the sample is a batch, or nothing lies outside the calibration block.
    """
    operator = sample.operator
    if not isinstance(operator, CartesianMRI | RadonOperator):
        expected = "expected CartesianMRI or RadonOperator"
        raise TypeError(f"held_out_split: operator is {type(operator).__name__}, {expected}")
    if sample.measurement.ndim != len(operator.range_shape):
        found = tuple(sample.measurement.shape)
        raise ValueError(f"held_out_split: measurement has shape {found}, expected a single slice; split first")
    if not 0 < fraction < 1:
        raise ValueError(f"held_out_split: fraction is {fraction}, expected a number between 0 and 1")
    if isinstance(operator, CartesianMRI):
        outside = _outside_calibration(operator.mask)
    else:
        outside = torch.ones(operator.range_shape[0], 1, dtype=torch.bool, device=sample.measurement.device)
    candidates = outside.nonzero()
    if len(candidates) < 2:
        raise ValueError("held_out_split: fewer than two positions outside the calibration block to hold out")
    count = min(max(round(fraction * len(candidates)), 1), len(candidates) - 1)
    drawn = candidates[torch.randperm(len(candidates), generator=generator)[:count].to(candidates.device)]
    held_out = torch.zeros_like(outside)
    held_out[drawn[:, 0], drawn[:, 1]] = True
    kept = replace(sample, operator=operator.restrict(~held_out), measurement=sample.measurement * ~held_out)
    return kept, held_out


def _outside_calibration(mask: Tensor) -> Tensor:
    outside = mask.clone()
    if samples_center(mask):
        block = calibration_block(mask)
        rows, columns = (slice(None), block[0]) if len(block) == 1 else block
        outside[rows, columns] = False
    return outside


def samples_center(mask: Tensor) -> bool:
    """Whether a mask ``(1 | height, width)`` samples the center of k-space and so has a calibration block."""
    return bool(mask[mask.shape[0] // 2, mask.shape[1] // 2])
