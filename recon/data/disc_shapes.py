"""Shapes of discs for simulated CT scans: holes, networks of bars."""

import math

import torch
from torch import Tensor

from .random_scans import uniform


def holes_of_disc(x: Tensor, y: Tensor, radius: float, generator: torch.Generator) -> list[Tensor]:
    """Round and straight holes in a disc around (0, 0)."""
    holes = []
    for _ in range(int(uniform(generator, 0, 12))):
        angle, distance = uniform(generator, 0, 2 * math.pi), radius * uniform(generator, 0, 0.85) ** 0.5
        cx, cy = distance * math.cos(angle), distance * math.sin(angle)
        turn = uniform(generator, 0, math.pi)
        u = (x - cx) * math.cos(turn) + (y - cy) * math.sin(turn)
        v = (y - cy) * math.cos(turn) - (x - cx) * math.sin(turn)
        a, b = (radius * uniform(generator, 0.02, 0.3) for _ in range(2))
        round_hole = uniform(generator, 0, 1) < 0.6
        holes.append((u / a) ** 2 + (v / b) ** 2 < 1 if round_hole else (u.abs() < a) & (v.abs() < b))
    return holes


def cells_of_disc(x: Tensor, y: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """Cells of a Voronoi diagram between bars of equal width, and within a ring."""
    points = radius * (2 * torch.rand(int(uniform(generator, 5, 25)), 2, generator=generator) - 1)
    nearest = ((x[..., None] - points[:, 0]).square() + (y[..., None] - points[:, 1]).square()).topk(2, largest=False)
    gap = points[nearest.indices[..., 0]] - points[nearest.indices[..., 1]]
    to_bar = (nearest.values[..., 1] - nearest.values[..., 0]) / (2 * gap.square().sum(-1).sqrt())
    bar, ring = radius * uniform(generator, 0.015, 0.06), radius * uniform(generator, 0.7, 0.95)
    return (to_bar > bar) & (torch.hypot(x, y) < ring)


def inside_circle(size: int, radius: float) -> Tensor:
    """1 in the middle of a square image, 0 beyond a circle; a radius of 1 touches the borders."""
    place = torch.linspace(-1, 1, size)
    return (torch.hypot(place[:, None], place) < radius).float()
