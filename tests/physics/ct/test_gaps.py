"""Rays without a value are interpolated along the detector."""

import math

import torch

from physics import across_gaps


def test_gaps_are_filled_by_lines_and_ends_by_the_nearest_ray() -> None:
    rays = torch.tensor([[9.0, 1.0, 9.0, 9.0, 4.0, 9.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]], dtype=torch.float64)
    measured = torch.tensor([[False, True, False, False, True, False], [True] * 6])
    filled = across_gaps(rays, measured)
    assert filled[0].tolist() == [1.0, 1.0, 2.0, 3.0, 4.0, 4.0] and torch.equal(filled[1], rays[1])
    hidden = rays.masked_fill(~measured, math.nan).requires_grad_()
    assert torch.equal(across_gaps(hidden, measured), filled)
    assert not across_gaps(rays, torch.zeros(2, 6, dtype=torch.bool)).any()
    assert torch.autograd.gradcheck(lambda x: across_gaps(x, measured), rays.clone().requires_grad_())
