"""What the trajectory of a measured scan samples: family, acceleration, fully sampled center."""

import math

import numpy as np
from torch import Tensor

from .trajectories import Array, Trajectory, require_trajectory

#: Largest distance of the samples of a spoke from a line through the center, in Cartesian samples.
_STRAIGHT = 0.5
#: Directions in radians that are one: those of repeated spokes.
_SAME_DIRECTION = 1e-4
#: Distance to the nearest sample up to which k-space counts as sampled, in Cartesian samples: half the distance of two
#: Cartesian lines, with room for samples half a Cartesian sample apart.
_NEAR = 0.55
#: Part of the square at the center that may be further from all samples: single gaps between spokes do not end it.
_GAPS = 0.01


def measured_trajectory(positions: Tensor, shape: tuple[int, int]) -> Trajectory:
    r"""What a trajectory samples of an image of known size, told from the positions alone.

    A radial scan, whose readouts are straight lines through the center, is compared with :math:`\pi n / 2` spokes as in
    :func:`make_trajectory`; repeated spokes count once, half spokes as halves. Of all other scans the acceleration is
    the area of the sampled disc over the part of it that has a sample nearby.

    Parameters
    ----------
    positions
        Cycles per pixel along height and width, real ``(spokes, samples, 2)``.
    shape
        ``(height, width)`` of the image.

    Returns
    -------
        The family is ``radial`` or ``other``; the center is the largest square in which hardly a gap is wider
        than a Cartesian sample.

    Raises
    ------
    TypeError, ValueError
        If the positions are no trajectory, see :class:`NonCartesianMRI`.
    """
    own = require_trajectory("measured_trajectory", positions)
    cells = own.numpy() * np.array(shape)
    radius = float(own.square().sum(-1).max().sqrt())  # of the sampled disc, in cycles per pixel
    reach, near = radius * max(shape), _Nearest(_dense(cells))
    diameters = _diameters(cells, reach)
    width = max(1, min(near.full_square(min(shape)), *shape))
    if diameters is None:
        return _trajectory(own, "other", max(1.0, 1 / near.share_of_disc(radius, shape)), width)
    return _trajectory(own, "radial", math.pi * reach / diameters, width)


def _trajectory(positions: Tensor, family: str, acceleration: float, width: int) -> Trajectory:
    return Trajectory(positions, family, acceleration * positions[..., 0].numel(), width)


def _diameters(cells: Array, reach: float) -> float | None:
    """Different spokes, in diameters of the sampled disc; None: the scan is not radial."""
    ends = cells[:, [0, -1]]
    along = ends[:, 1] - ends[:, 0]
    length = np.hypot(along[:, 0], along[:, 1])
    if cells.shape[1] < 2 or (length < 0.5 * reach).any():
        return None
    unit = along / length[:, None]
    across = np.abs(cells[..., 0] * unit[:, None, 1] - cells[..., 1] * unit[:, None, 0])
    radius = (cells * unit[:, None]).sum(-1)
    if across.max() > _STRAIGHT or (radius.min(1) > _STRAIGHT).any() or (radius.max(1) < -_STRAIGHT).any():
        return None
    # The angle of a whole spoke is known modulo half a turn, that of a half spoke modulo a turn.
    sides = np.stack((-radius.min(1), radius.max(1)))
    whole = sides.min(0) > 0.5 * sides.max(0)
    angle = np.arctan2(unit[:, 0], unit[:, 1])
    angle = np.where(whole, angle % math.pi, angle % (2 * math.pi))
    found = 0.0
    for kind, part in ((whole, 1.0), (~whole, 0.5)):
        found += part * len(np.unique(np.round(angle[kind] / _SAME_DIRECTION)))
    return found


def _dense(cells: Array) -> Array:
    """Positions with further ones between consecutive samples, at most half a Cartesian sample apart."""
    steps = np.abs(np.diff(cells, axis=1)).max(initial=0.0)
    parts = max(1, math.ceil(2 * float(steps)))
    between = [cells[:, :-1] + (cells[:, 1:] - cells[:, :-1]) * (part / parts) for part in range(1, parts)]
    return np.concatenate([cells, *between], axis=1).reshape(-1, 2)


class _Nearest:
    """Distances from positions of k-space to the nearest sample, in Cartesian samples."""

    def __init__(self, samples: Array) -> None:
        from scipy.spatial import KDTree  # late: only scans of other trajectories need it

        self._tree = KDTree(samples)

    def _near(self, half: int) -> tuple[Array, Array]:
        """Grid of half Cartesian samples up to ``half`` of them, and whether a sample is near."""
        axis = np.arange(-2 * half, 2 * half + 1) / 2
        grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
        distance, _ = self._tree.query(grid.reshape(-1, 2), distance_upper_bound=1.0)
        return grid, (distance <= _NEAR).reshape(grid.shape[:-1])

    def share_of_disc(self, radius: float, shape: tuple[int, int]) -> float:
        """Part of the sampled disc, of a radius in cycles per pixel, that has a sample nearby."""
        grid, near = self._near(math.ceil(radius * max(shape)))
        disc = np.hypot(grid[..., 0] / shape[0], grid[..., 1] / shape[1]) <= radius
        return max(float(near[disc].mean()), 1e-6)

    def full_square(self, size: int) -> int:
        """Edge of the largest square around the center that is nowhere far from samples, but for `_GAPS` of it."""
        grid, near = self._near(size // 2)
        ring = np.abs(2 * grid).max(-1).astype(int).ravel()  # half Cartesian samples from the center
        count, far = np.bincount(ring), np.bincount(ring, ~near.ravel())
        full = np.flatnonzero(far.cumsum() <= _GAPS * count.cumsum())
        return int(full[-1]) if len(full) else 1
