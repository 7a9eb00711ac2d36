"""Phase for magnitude images: smooth, or as in a measured gradient echo."""

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

#: Part of the volumes that get the smooth phase alone, as a spin echo.
SMOOTH_ONLY = 0.3
#: Number of places with a local field, and largest phase of the ramp per axis and of a local field, in radians.
LOCAL_FIELDS, LARGEST_RAMP, LARGEST_LOCAL = 4, 1.5 * math.pi, 6.0
#: Change per slice of the phase of a ramp or local field, relative to its largest phase.
DRIFT = 0.02


def with_smooth_phase(images: Tensor, seed: int) -> Tensor:
    """Add a smooth phase, as of a real scan, to magnitude images: cosines of less than two cycles per image.

    Parameters
    ----------
    images
        Real, shape ``(..., height, width)``.
    seed
        Seed of the phase, which is the same for all slices.

    Returns
    -------
        complex64, same shape, same magnitude; the phase varies by about one radian.
    """
    phase = _smooth_phase(images, torch.Generator().manual_seed(seed))
    return torch.polar(images.abs().to(torch.float32), phase.expand_as(images))


def with_realistic_phase(images: Tensor, seed: int) -> Tensor:
    r"""Add the phase of a measured gradient echo to magnitude images.

    The phase is the sum of

    - a ramp, up to :math:`\pm 1.5 \pi` from the center to the edge along each axis: the echo is off the center of
      k-space by at most 1.5 lines;
    - four local fields (susceptibility), Gaussians of up to :math:`\pm 6` radians and of widths between 0.08 and 0.38
      in halves of the field of view;
    - a constant on a rim, the bright pixels near the border of the body: fat of the scalp;
    - the smooth phase of :func:`with_smooth_phase`.

    The ramp, the local fields and the constant are scaled by one random strength between 0.25 and 1. Three of ten
    seeds give the smooth phase alone, as a spin echo shows.

    Parameters
    ----------
    images
        Real, shape ``(..., height, width)``; the third axis from the end, if any, holds the slices of one volume.
    seed
        Seed of the phase. It is almost the same for all slices: ramp and local fields change by at most
        2 % of their largest phase from one slice to the next.

    Returns
    -------
        complex64, same shape, same magnitude.
    """
    generator = torch.Generator().manual_seed(seed)
    magnitude = images.abs().to(torch.float32)
    phase = _smooth_phase(images, generator).expand_as(magnitude)
    if float(torch.rand((), generator=generator)) < SMOOTH_ONLY:
        return torch.polar(magnitude, phase.contiguous())
    strength = float(0.25 + 0.75 * torch.rand((), generator=generator))
    rows, columns = (torch.linspace(-1, 1, n) for n in images.shape[-2:])
    slices = images.shape[-3] if images.ndim > 2 else 1
    number = torch.arange(slices)[:, None, None] - slices // 2

    def change(largest: float) -> Tensor:
        drift = float(2 * torch.rand((), generator=generator) - 1) * DRIFT * largest
        return drift * number

    a, b = (LARGEST_RAMP * strength * (2 * torch.rand(2, generator=generator) - 1)).tolist()
    phase = phase + (a + change(LARGEST_RAMP) * strength).clamp(-LARGEST_RAMP, LARGEST_RAMP) * rows[:, None]
    phase = phase + (b + change(LARGEST_RAMP) * strength).clamp(-LARGEST_RAMP, LARGEST_RAMP) * columns
    for _ in range(LOCAL_FIELDS):
        height, row, column, width = torch.rand(4, generator=generator).tolist()
        distance = torch.hypot(rows[:, None] - 1.6 * row + 0.8, columns - 1.6 * column + 0.8)
        peak = strength * (LARGEST_LOCAL * (2 * height - 1) + change(LARGEST_LOCAL))
        phase = phase + peak.clamp(-LARGEST_LOCAL, LARGEST_LOCAL) * torch.exp(
            -((distance / (0.08 + 0.3 * width)) ** 2) / 2
        )
    offset = strength * math.pi * float(2 * torch.rand((), generator=generator) - 1)
    phase = phase + offset * _rim(magnitude)
    return torch.polar(magnitude, phase.view_as(magnitude))


def _smooth_phase(images: Tensor, generator: torch.Generator) -> Tensor:
    rows, columns = (torch.linspace(-0.5, 0.5, n) for n in images.shape[-2:])
    phase = torch.zeros(images.shape[-2:])
    for _ in range(4):
        fy, fx, offset = ((torch.rand(3, generator=generator) - 0.5) * torch.tensor([4.0, 4.0, 2.0])).tolist()
        phase += 0.7 * torch.cos(2 * math.pi * (fy * rows[:, None] + fx * columns + offset))
    return phase


def _rim(magnitude: Tensor) -> Tensor:
    """Bright pixels within about 6 % of the field of view from the border of the body, as float of the same shape."""
    largest = magnitude.amax() if magnitude.numel() else magnitude.new_ones(())
    body = (magnitude > 0.1 * largest).float().reshape(-1, 1, *magnitude.shape[-2:])
    reach = max(round(0.06 * min(magnitude.shape[-2:])), 1)
    inside = avg_pool2d(body, 2 * reach + 1, 1, reach).view_as(magnitude)
    return ((inside < 0.8) & (magnitude > 0.3 * largest)).float()
