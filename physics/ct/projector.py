"""The projection matrix of a scan for batches of any size; symmetries of the scan make single images fast."""

import itertools
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .beams import FanBeam, ParallelBeam
from .geometry import Geometry, rays_of
from .gpu import GpuRays, runs_kernels
from .grid import ImageGrid
from .joseph import backproject, project
from .rays import RayTable, backproject_reference, by_lanes, project_reference, trace
from .vectors import ParallelVectors

Indices = npt.NDArray[np.intp]

#: Pixels between source and image with which rays are ordered: in the 64 rows of a block of the kernels, a ray that is
#: driven by rows gets at most sqrt(2) * 64 away from a source beside them, so it does not reach the image there.
CLEAR_PIXELS = 96
#: Angles that differ by less are equal up to rounding.
_SAME_ANGLE_RAD = 1e-13


class Move(NamedTuple):
    """One of the eight symmetries of a square: transpose, then flip rows and columns."""

    transpose: bool
    flip_rows: bool
    flip_columns: bool

    def apply(self, images: Tensor) -> Tensor:
        """Move images ``(..., height, width)``."""
        return (images.transpose(-2, -1) if self.transpose else images).flip(self._axes)

    def undo(self, images: Tensor) -> Tensor:
        """Inverse and transpose of :meth:`apply`."""
        images = images.flip(self._axes)
        return images.transpose(-2, -1) if self.transpose else images

    @property
    def _axes(self) -> list[int]:
        return [axis for axis, flip in zip((-2, -1), (self.flip_rows, self.flip_columns), strict=True) if flip]

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """Maps a point (x, y) of the moved image to its origin in the image."""
        flips = np.diag([-1.0 if self.flip_columns else 1.0, -1.0 if self.flip_rows else 1.0])
        # Row i is at y = c - i and column j at x = j - c: a transpose exchanges x and -y.
        return np.array([[0.0, -1.0], [-1.0, 0.0]]) @ flips if self.transpose else flips


class _Matches(NamedTuple):
    """For every view of the moved image the equal view of the image, and whether its rays run backwards."""

    views: Indices
    backwards: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Symmetry:
    """Symmetries of a scan: some of its rays through all moved images are all of its rays.

    ``table`` holds these rays. ``source`` is the flat index in ``(moves, *table)`` of every ray of the scan.
    """

    moves: tuple[Move, ...]
    table: RayTable
    source: Indices

    @classmethod
    def of(cls, grid: ImageGrid, geometry: Geometry, table: RayTable) -> Self | None:
        """The symmetries of a scan, None if it has none, as scans of vectors and images beside the axis."""
        if any(grid.center_mm) or not isinstance(geometry, ParallelBeam | FanBeam):
            return None
        transposes = (False, True) if grid.shape[0] == grid.shape[1] and grid.is_square else (False,)
        every = (Move(*flags) for flags in itertools.product(transposes, (False, True), (False, True)))
        matches = {move: found for move in every if (found := _matches(geometry, move.matrix)) is not None}
        if len(matches) == 1:
            return None
        views, rays = geometry.shape
        # Of views at the same angle a match names one; unmoved, every view is its own.
        matches[Move(False, False, False)] = _Matches(np.arange(views), np.zeros(views, dtype=bool))
        # Half a turn reverses every parallel view: half of its rays are enough.
        itself = np.arange(views)
        halved = any(found.backwards.all() and np.array_equal(found.views, itself) for found in matches.values())
        some = np.arange((rays + 1) // 2 if halved else rays)
        chosen, done = [], np.zeros(views, dtype=bool)
        for view in range(views):
            if not done[view]:
                chosen.append(view)
                done[[found.views[view] for found in matches.values()]] = True
        target = np.stack(
            [
                found.views[chosen, None] * rays + np.where(found.backwards[chosen, None], rays - 1 - some, some)
                for found in matches.values()
            ]
        )
        source = np.full(views * rays, -1)
        # Several moves may give the same ray; forward and adjoint use the same one of them.
        source[target.reshape(-1)] = np.arange(target.size)
        if (source < 0).any():
            return None  # some ray is no image of another: no symmetry
        return cls(tuple(matches), table.select(np.array(chosen), slice(len(some))), source)

    def project(self, images: Tensor) -> Tensor:
        """Line integrals of the whole scan, ``(batch, height, width) -> (batch, views * rays)``."""
        moved = torch.stack([move.apply(images) for move in self.moves], dim=1).flatten(0, 1)
        parts = by_lanes(lambda some: project(self.table, some), moved)
        return parts.reshape(len(images), -1)[:, torch.from_numpy(self.source)]

    def backproject(self, sinograms: Tensor) -> Tensor:
        """Transpose of :meth:`project`."""
        parts = sinograms.new_zeros(len(sinograms), len(self.moves) * self.table.base.size)
        parts[:, torch.from_numpy(self.source)] = sinograms
        parts = parts.reshape(-1, *self.table.base.shape)
        images = by_lanes(lambda some: backproject(self.table, some), parts)
        images = images.reshape(len(sinograms), len(self.moves), *self.table.shape)
        return torch.stack([move.undo(images[:, number]) for number, move in enumerate(self.moves)]).sum(0)


@dataclass(frozen=True, eq=False)
class Projector:
    """Joseph's matrix of a scan, ``(batch, height, width) <-> (batch, views, detectors)``; see :mod:`.joseph`."""

    grid: ImageGrid
    geometry: Geometry

    @cached_property
    def table(self) -> RayTable:
        """All rays, one per detector element."""
        return trace(self.grid, rays_of(self.geometry), ordered=rays_are_ordered(self.grid, self.geometry))

    @cached_property
    def symmetry(self) -> Symmetry | None:
        """Symmetries of the scan, used for single images: batches fill the kernels' vectors without them."""
        return Symmetry.of(self.grid, self.geometry, self.table)

    @cached_property
    def _on_gpus(self) -> dict[torch.device, GpuRays]:
        return {}

    def on_gpu(self, device: torch.device) -> GpuRays:
        """The rays in the memory of a GPU, 33 bytes each."""
        if device not in self._on_gpus:
            self._on_gpus[device] = GpuRays.of(self.grid, self.geometry, self.table, device)
        return self._on_gpus[device]

    def project(self, images: Tensor) -> Tensor:
        """Line integrals."""
        if runs_kernels(images.device):
            return self.on_gpu(images.device).project(images)
        if images.device.type != "cpu":
            return project_reference(self.table, images)
        if len(images) > 1 or self.symmetry is None:
            return by_lanes(lambda some: project(self.table, some), images)
        return self.symmetry.project(images).reshape(len(images), *self.geometry.shape)

    def backproject(self, sinograms: Tensor) -> Tensor:
        """Transpose of :meth:`project`."""
        if runs_kernels(sinograms.device):
            return self.on_gpu(sinograms.device).backproject(sinograms)
        if sinograms.device.type != "cpu":
            return backproject_reference(self.table, sinograms)
        if len(sinograms) > 1 or self.symmetry is None:
            return by_lanes(lambda some: backproject(self.table, some), sinograms)
        return self.symmetry.backproject(sinograms.flatten(1))


@lru_cache(maxsize=16)
def projector_of(grid: ImageGrid, geometry: Geometry) -> Projector:
    """The projector of a scan, shared by all operators of the scan because its tables are large."""
    return Projector(grid, geometry)


def rays_are_ordered(grid: ImageGrid, geometry: Geometry) -> bool:
    """Whether the rays of a view cross nowhere in a block of rows: the source is far enough from the image."""
    if isinstance(geometry, ParallelBeam | ParallelVectors):
        return True
    nearest = geometry.source_to_axis_mm if isinstance(geometry, FanBeam) else float(geometry.depths_mm.min())
    return nearest > grid.corner_radius_mm + CLEAR_PIXELS * max(grid.spacing_mm)


def _matches(geometry: ParallelBeam | FanBeam, matrix: npt.NDArray[np.float64]) -> _Matches | None:
    """Equal views of the image for all views of the moved image, None unless every view has one."""
    angles = geometry.angles
    direction = matrix @ np.stack((-np.sin(angles), np.cos(angles)))
    seen_from = np.arctan2(-direction[0], direction[1])
    mirrored = bool(np.linalg.det(matrix) < 0)
    views = np.full(len(angles), -1)
    backwards = np.zeros(len(angles), dtype=bool)
    # A parallel view at t + pi is the view at t with its rays in reverse order.
    turns = ((0.0, mirrored), (np.pi, not mirrored)) if isinstance(geometry, ParallelBeam) else ((0.0, mirrored),)
    for turn, reverse in turns:
        if reverse and geometry.offset_mm != 0:
            continue
        missing = np.flatnonzero(views < 0)
        found = _nearest_view(angles, seen_from[missing] + turn)
        views[missing], backwards[missing] = found, reverse & (found >= 0)
    return None if (views < 0).any() else _Matches(views, backwards)


def _nearest_view(angles: npt.NDArray[np.floating[Any]], wanted: npt.NDArray[np.floating[Any]]) -> Indices:
    """Indices of the views at the wanted angles modulo a turn, -1 where there is none."""
    turn = 2 * np.pi
    order = np.argsort(angles % turn)
    ring = (angles % turn)[order]
    after = np.searchsorted(ring, wanted % turn)
    found = np.full(len(wanted), -1)
    for position in ((after - 1) % len(ring), after % len(ring)):
        distance = np.abs((ring[position] - wanted + np.pi) % turn - np.pi)
        found = np.where(distance < _SAME_ANGLE_RAD, order[position], found)
    return found
