"""Trajectories through k-space: radial, golden-angle and spiral."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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


def spiral_trajectory(interleaves: int, samples: int, turns: float) -> Tensor:
    r"""Archimedean spirals from the center outwards, each turned by an equal part of a full turn.

    The radius grows with the angle, to half a cycle per pixel; samples are equally spaced along the curve.

    Parameters
    ----------
    interleaves
        Number of spirals. Full sampling of n pixels needs ``interleaves * turns`` of n / 2.
    samples
        Samples per spiral; :math:`\pi n\, \mathtt{turns} / 2` are a step of one Cartesian sample.
    turns
        Turns of each spiral.

    Returns
    -------
        Cycles per pixel along height and width, float64 ``(interleaves, samples, 2)``.
    """
    _require_counts("spiral_trajectory", interleaves=interleaves, samples=samples)
    if not (math.isfinite(turns) and turns > 0):
        raise ValueError(f"spiral_trajectory: turns is {turns}, expected a positive number")
    last = 2 * math.pi * turns
    fine = np.linspace(0, last, max(1000, round(200 * turns)))
    length = fine * np.sqrt(1 + fine**2) + np.arcsinh(fine)  # of the curve r = angle, up to a factor
    angles = torch.from_numpy(np.interp(np.linspace(0, length[-1], samples), length, fine))
    radius = 0.5 * angles / last
    turned = angles + 2 * math.pi * torch.arange(interleaves, dtype=torch.float64)[:, None] / interleaves
    return torch.stack((radius * turned.sin(), radius * turned.cos()), dim=-1)


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
        Number of spokes of a fully sampled scan.
    """

    positions: Tensor
    family: str
    full: float

    @property
    def effective_acceleration(self) -> float:
        """Spokes of a fully sampled scan over spokes."""
        return self.full / self.positions.shape[0]


def make_trajectory(family: str, shape: tuple[int, int], acceleration: float) -> Trajectory:
    r"""Trajectory of a scan with ``1 / acceleration`` of the spokes that full sampling needs.

    With n the larger side of the image, full sampling is :math:`\pi n / 2` spokes of 2 n samples, or n / 8 spirals of
    four turns.

    Parameters
    ----------
    family
        ``radial``, ``golden_angle`` or ``spiral``.
    shape
        ``(height, width)`` of the image.
    acceleration
        At least 1; spokes are whole numbers, so that the effective acceleration differs a little.

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
    return Trajectory(radial_trajectory(_spokes(full, acceleration), 2 * size), "radial", full)


def _golden_angle(size: int, acceleration: float) -> Trajectory:
    full = math.pi * size / 2
    return Trajectory(golden_angle_trajectory(_spokes(full, acceleration), 2 * size), "golden_angle", full)


def _spiral(size: int, acceleration: float) -> Trajectory:
    turns, full = 4.0, size / 8
    samples = math.ceil(math.pi * size * turns / 2)
    return Trajectory(spiral_trajectory(_spokes(full, acceleration), samples, turns), "spiral", full)


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
    own = trajectory.detach().to("cpu", torch.float64)
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
