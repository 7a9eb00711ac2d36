"""Rays that were not measured, interpolated along the detector from those beside them."""

import torch
from torch import Tensor


def across_gaps(rays: Tensor, measured: Tensor) -> Tensor:
    """Values of all rays: the measured ones as they are, between them a straight line, at the ends the nearest one.

    For filtered back-projection, which would draw a ring for every element without a value. A view without any
    measured ray is 0.

    Parameters
    ----------
    rays
        ``(..., views, detectors)``; values of rays that were not measured are not looked at, they may be NaN.
    measured
        Whether a ray was measured, broadcastable to `rays`.
    """
    n, place = rays.shape[-1], torch.arange(rays.shape[-1], device=rays.device)
    before = torch.where(measured, place, -1).cummax(-1).values
    after = torch.where(measured, place, n).flip(-1).cummin(-1).values.flip(-1)
    left = torch.where(before < 0, after, before).clamp_max(n - 1)
    right = torch.where(after >= n, before, after).clamp_min(0)
    part = (place - left).to(rays) / (right - left).clamp_min(1).to(rays)
    known = torch.where(measured, rays, 0.0)
    first, second = (known.gather(-1, index.expand(known.shape)) for index in (left, right))
    filled: Tensor = torch.where(measured, known, torch.lerp(first, second, part.expand(known.shape)))
    return filled
