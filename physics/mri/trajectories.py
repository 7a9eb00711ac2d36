"""Trajectories through k-space: radial, golden-angle and spiral."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..autograd.constants import constant_of, constants

Array = np.ndarray[Any, Any]

#: Angle between consecutive spokes of a golden-angle scan, 180 degrees over the golden ratio: 111.25 degrees.
GOLDEN_ANGLE_RAD = math.pi * (math.sqrt(5) - 1) / 2


def radial_trajectory(spokes: int, samples: int, *, first_angle_rad: float = 0.0) -> Tensor:
    r"""Spokes through the center at equal angles over half a turn.

    Sample j of the spoke at angle t is :math:`k = (j / n - \tfrac12) (\sin t, \cos t)` for even n, along height and
    width: angle 0 runs along the width, and angles grow towards the last row. One sample of every spoke is the center.

    Parameters
    ----------
    spokes
        Number of spokes. Full sampling of n pixels needs :math:`\pi n / 2`.
    samples
        Samples per spoke, a step of ``1 / samples`` cycles per pixel; usually twice the pixels: an oversampled readout.
    first_angle_rad
        Angle of the first spoke.

    Returns
    -------
        Cycles per pixel, float64 ``(spokes, samples, 2)``.
    """
    _require_counts("radial_trajectory", spokes=spokes, samples=samples)
    return _lines(first_angle_rad + math.pi * torch.arange(spokes, dtype=torch.float64) / spokes, samples)


def golden_angle_trajectory(spokes: int, samples: int, *, first: int = 0) -> Tensor:
    """Spokes through the center, each :data:`GOLDEN_ANGLE_RAD` from the one before: any number covers k-space well.

    Parameters
    ----------
    spokes, samples
        As in :func:`radial_trajectory`.
    first
        Number of the first spoke, for a frame of a longer scan.

    Returns
    -------
        Cycles per pixel, float64 ``(spokes, samples, 2)``.

    References
    ----------
    .. [W] Winkelmann et al., An optimal radial profile order based on the golden ratio for time-resolved MRI, IEEE
       Trans. Med. Imaging 26, 2007.
    """
    _require_counts("golden_angle_trajectory", spokes=spokes, samples=samples)
    return _lines(GOLDEN_ANGLE_RAD * torch.arange(first, first + spokes, dtype=torch.float64), samples)


def spiral_trajectory(
    interleaves: int, samples: int, turns: float, *, center: tuple[float, float] = (0.0, 0.0)
) -> Tensor:
    r"""Archimedean spirals from the center outwards, each turned by an equal part of a full turn.

    The radius grows evenly with the angle to half a cycle per pixel; samples are equally spaced along the curve.

    Parameters
    ----------
    interleaves
        Number of spirals. Full sampling of n pixels needs ``interleaves * turns`` of n / 2.
    samples
        Samples per spiral.
    turns
        Turns of each spiral.
    center
        Turns and radius of a center of its own density: the first ``center[0]`` turns reach the radius ``center[1]``,
        in cycles per pixel.

    Returns
    -------
        Cycles per pixel along height and width, float64 ``(interleaves, samples, 2)``.
    """
    _require_counts("spiral_trajectory", interleaves=interleaves, samples=samples)
    within, edge = center
    if not (math.isfinite(turns) and 0 <= within < turns and 0 <= edge < 0.5 and (within > 0) == (edge > 0)):
        expected = "more turns than those of the center, whose radius is below 0.5"
        raise ValueError(f"spiral_trajectory: turns is {turns}, center {center}, expected {expected}")
    angle, radius, length = _spiral_curve(turns, center)
    at = np.linspace(0, length[-1], samples)
    angles, radii = (torch.from_numpy(np.interp(at, length, values)) for values in (angle, radius))
    turned = angles + 2 * math.pi * torch.arange(interleaves, dtype=torch.float64)[:, None] / interleaves
    return torch.stack((radii * turned.sin(), radii * turned.cos()), dim=-1)


def _spiral_curve(turns: float, center: tuple[float, float]) -> tuple[Array, Array, Array]:
    """Angle, radius and length from the center at points close to each other."""
    angle = np.linspace(0, 2 * math.pi * turns, max(1000, round(400 * turns)))
    radius = np.interp(angle / (2 * math.pi), (0, center[0], turns), (0, center[1], 0.5))
    steps = np.hypot(np.diff(radius), (radius[1:] + radius[:-1]) / 2 * np.diff(angle))
    return angle, radius, np.concatenate(([0.0], np.cumsum(steps)))


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Positions of a scan of an image of known size.

    Parameters
    ----------
    positions
        Cycles per pixel, float64 ``(spokes, samples, 2)``; spirals are spokes, too.
    family
        Key of :data:`TRAJECTORIES`.
    full
        Number of samples of a fully sampled scan of this family.
    center_width
        Edge in Cartesian samples of the square at the center that is fully sampled: coil maps are estimated from it.
    """

    positions: Tensor
    family: str
    full: float
    center_width: int

    @property
    def effective_acceleration(self) -> float:
        """Samples of a fully sampled scan over samples; for radial scans spokes over spokes."""
        return self.full / self.positions[..., 0].numel()


def make_trajectory(family: str, shape: tuple[int, int], acceleration: float) -> Trajectory:
    r"""Trajectory of a scan with ``1 / acceleration`` of the spokes that full sampling needs.

    With n the larger side of the image, full sampling is :math:`\pi n / 2` spokes of 2 n samples, or n / 8 spirals of
    four turns, n samples per cycle along the curve. Spirals sample a center of up to 24 samples fully at any
    acceleration by further turns.

    Parameters
    ----------
    family
        ``radial``, ``golden_angle`` or ``spiral``.
    shape
        ``(height, width)`` of the image.
    acceleration
        At least 1. Spokes are whole numbers and the center of spirals is dense: the effective acceleration differs.

    Raises
    ------
    ValueError
        If the family is unknown or the acceleration below 1.
    """
    if family not in TRAJECTORIES:
        raise ValueError(f"make_trajectory: family is {family!r}, expected one of {', '.join(TRAJECTORIES)}")
    if not (math.isfinite(acceleration) and acceleration >= 1):
        raise ValueError(f"make_trajectory: acceleration is {acceleration}, expected at least 1")
    return TRAJECTORIES[family](max(shape), acceleration)


def _radial(size: int, acceleration: float) -> Trajectory:
    full = math.pi * size / 2
    spokes = _spokes(full, acceleration)
    # Spokes are a sample apart at the radius spokes / pi; the square lies within.
    center = round(math.sqrt(2) * spokes / math.pi)
    return Trajectory(radial_trajectory(spokes, 2 * size), "radial", full * 2 * size, max(1, min(center, size)))


def _golden_angle(size: int, acceleration: float) -> Trajectory:
    full = math.pi * size / 2
    spokes = _spokes(full, acceleration)
    # The largest gap is up to 1.62 times the mean one.
    center = round(math.sqrt(2) * spokes / math.pi / 1.62)
    positions = golden_angle_trajectory(spokes, 2 * size)
    return Trajectory(positions, "golden_angle", full * 2 * size, max(1, min(center, size)))


def _spiral(size: int, acceleration: float) -> Trajectory:
    interleaves, width = _spokes(size / 8, acceleration), min(24, size // 4)
    edge = width / math.sqrt(2) / size
    center = edge * size / interleaves, edge
    turns = center[0] + 8 * (0.5 - edge)
    samples = math.ceil(size * _spiral_curve(turns, center)[2][-1])
    full = size / 8 * size * _spiral_curve(4.0, (0.0, 0.0))[2][-1]
    return Trajectory(spiral_trajectory(interleaves, samples, turns, center=center), "spiral", full, width)


#: Makers of trajectories, called with the larger side of the image and the acceleration, by the value of
#: ``[simulate] sampling``.
TRAJECTORIES: dict[str, Callable[[int, float], Trajectory]] = {
    "radial": _radial,
    "golden_angle": _golden_angle,
    "spiral": _spiral,
}


def require_trajectory(who: str, trajectory: Tensor) -> Tensor:
    """The trajectory in double precision on the CPU, if it is one.

    Raises
    ------
    TypeError, ValueError
        If it is not real, has another shape, or a position is not finite or beyond half a cycle per pixel.
    """
    if not trajectory.is_floating_point():
        raise TypeError(f"{who}: trajectory has dtype {trajectory.dtype}, expected float32 or float64")
    if trajectory.ndim < 3 or trajectory.shape[-1] != 2 or 0 in trajectory.shape:
        expected = "expected (spokes, samples, 2) or (*batch, spokes, samples, 2)"
        raise ValueError(f"{who}: trajectory has shape {tuple(trajectory.shape)}, {expected}")
    positions = constant_of(trajectory)
    if positions is None:
        raise ValueError(
            f"{who}: trajectory is differentiated or an argument of vmap, expected constant positions; detach it"
        )
    with constants():
        own = positions.to("cpu", torch.float64)
        largest = float(own.abs().max())
    # A little room for rounding in the files of scanners.
    if not largest <= 0.5 + 1e-6:
        expected = "expected -0.5 to 0.5 cycles per pixel; divide 1/mm by the pixels per mm, radians by 2 pi"
        raise ValueError(f"{who}: trajectory reaches {largest:.4g}, {expected}")
    return own


def _lines(angles: Tensor, samples: int) -> Tensor:
    radius = (torch.arange(samples, dtype=torch.float64) - samples // 2) / samples
    direction = torch.stack((angles.sin(), angles.cos()), dim=-1)
    return radius[:, None] * direction[:, None, :]


def _spokes(full: float, acceleration: float) -> int:
    return max(1, round(full / acceleration))


def _require_counts(who: str, **counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{who}: {name} is {count}, expected at least 1")
