"""Table of rays for Joseph's method, and its projections in plain torch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .beams import Rays
from .grid import ImageGrid

Indices = npt.NDArray[np.intp]

#: Columns of zeros at either end of a row, for the rays that leave the image.
PAD = 2
#: Shears of the kernels per unit of slope, and the rows of their blocks.
SHEARS = 16
#: Batch sizes for which kernels are compiled.
LANES = (1, 2, 4, 8)
#: Largest number of pixels that the torch reference interpolates at a time.
_PIXELS_AT_ONCE = 2**24
#: Bytes of a position that the images of a batch share: double precision, index and weight.
_BYTES_OF_A_POSITION = 48


@dataclass(frozen=True, eq=False)
class RayTable:
    """Rays through an image of ``shape``: arrays ``(views, rays)``.

    In row r, a ray is at column ``base + r * slope``; ``length`` is its length between two rows in mm. Where
    ``by_rows`` is False, rows and columns change places. ``ordered``: the rays of a view do not cross within a block of
    rows of the image.
    """

    shape: tuple[int, int]
    base: npt.NDArray[np.float64]
    slope: npt.NDArray[np.float64]
    length: npt.NDArray[np.float64]
    by_rows: npt.NDArray[np.bool_]
    ordered: bool

    @cached_property
    def segments(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Runs ``(shear, view, first ray, ray after the last)`` of rays by rows, and of rays by columns.

        A run has one shear, the slope in sixteenths; runs come in the order of their shears and slopes.
        """
        views, rays = self.by_rows.shape
        shears = np.rint(self.slope * SHEARS).astype(np.int32)
        change = np.ones((views, rays + 1), dtype=bool)
        change[:, 1:-1] = (self.by_rows[:, 1:] != self.by_rows[:, :-1]) | (shears[:, 1:] != shears[:, :-1])
        view, edge = np.nonzero(change)
        same = view[1:] == view[:-1]
        view, start, stop = view[:-1][same], edge[:-1][same], edge[1:][same]
        runs = np.stack((shears[view, start], view, start, stop), axis=1).astype(np.int32)
        runs = runs[np.argsort(self.slope[view, start], kind="stable")]
        runs = runs[np.argsort(runs[:, 0], kind="stable")]
        driven = self.by_rows[runs[:, 1], runs[:, 2]]
        return runs[driven], runs[~driven]

    def arrays(self, dtype: npt.DTypeLike) -> tuple[Any, ...]:
        """Arguments of a kernel: ``base``, ``slope``, ``length`` cast to ``dtype``, ``ordered``, rays of a view.

        The arrays are flat, and longer by some rays, because kernels read several rays at a time.
        """
        if dtype not in self._cast:
            self._cast[dtype] = _longer(self.length.astype(dtype))
        return *self._flat, self._cast[dtype], self.ordered, self.base.shape[1]

    @cached_property
    def _cast(self) -> dict[Any, npt.NDArray[Any]]:
        return {}

    @cached_property
    def _flat(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        return _longer(self.base), _longer(self.slope)

    def select(self, views: Indices, rays: slice) -> "RayTable":
        """Table of some of the views and rays."""
        base, slope, length = (np.ascontiguousarray(a[views, rays]) for a in (self.base, self.slope, self.length))
        return RayTable(self.shape, base, slope, length, self.by_rows[views, rays], self.ordered)


def _longer(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate((array.reshape(-1), np.zeros(SHEARS, array.dtype)))


def trace(grid: ImageGrid, rays: Rays, *, ordered: bool) -> RayTable:
    """Tabulate rays over a grid; ``ordered`` as in :class:`RayTable`."""
    height, width = grid.shape
    (dy, dx), (center_y, center_x) = grid.spacing_mm, grid.center_mm
    # In pixels, a ray moves by at most one column from row to row, also if pixels are not square.
    by_rows = np.abs(rays.direction_y) * (dx / dy) >= np.abs(rays.direction_x)
    along = np.where(by_rows, rays.direction_y, rays.direction_x)
    across = np.where(by_rows, rays.direction_x, rays.direction_y)
    tangent = across / along
    # Intersection with the first row (column) in mm, then in pixels; rows go down, columns to the right.
    x = rays.point_x + (grid.y_mm[0] - rays.point_y) * tangent
    y = rays.point_y + (grid.x_mm[0] - rays.point_x) * tangent
    base = np.where(by_rows, (x - center_x) / dx + (width - 1) / 2, (height - 1) / 2 - (y - center_y) / dy)
    slope = -tangent * np.where(by_rows, dy / dx, dx / dy)
    return RayTable(grid.shape, base, slope, np.where(by_rows, dy, dx) / np.abs(along), by_rows, ordered)


def plain_memory(shape: tuple[int, int], n_rays: int, batch: int, itemsize: int) -> int:
    """Most bytes of :func:`project_reference` or :func:`backproject_reference` of a batch, without the argument."""
    longest = max(shape)
    # Parts are rounded to whole rays.
    crossed = min(2 * max(_PIXELS_AT_ONCE // batch, longest), longest * n_rays)
    images = batch * (shape[0] + 2 * PAD) * (shape[1] + 2 * PAD)
    return crossed * (_BYTES_OF_A_POSITION + 4 * batch * itemsize) + (4 * images + 3 * batch * n_rays) * itemsize


def project_reference(table: RayTable, images: Tensor) -> Tensor:
    """`joseph.project` in plain torch: for any device and batch, and the reference of the kernels' tests."""
    sinograms = images.new_zeros(len(images), table.base.size)
    for by_rows, rays, index, weight, length in _chunks(table, images):
        flat = _padded(images, by_rows).flatten(1)
        left, right = flat[:, index], flat[:, index + 1]
        sinograms[:, rays] = (left + weight * (right - left)).sum(-1) * length
    return sinograms.reshape(len(images), *table.base.shape)


def backproject_reference(table: RayTable, sinograms: Tensor) -> Tensor:
    """`joseph.backproject` in plain torch."""
    images = sinograms.new_zeros(len(sinograms), *table.shape)
    for by_rows, rays, index, weight, length in _chunks(table, sinograms):
        value = (sinograms.flatten(1)[:, rays] * length).unsqueeze(-1)
        right = value * weight
        total = torch.zeros_like(_padded(images, by_rows))
        total.flatten(1).index_add_(1, index.flatten(), (value - right).flatten(1))
        total.flatten(1).index_add_(1, index.flatten() + 1, right.flatten(1))
        image = total[..., PAD:-PAD]
        images += image if by_rows else image.transpose(-2, -1)
    return images


def by_lanes(function: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """Call a kernel on parts of a batch whose sizes are in `LANES`; the last part is padded with zeros."""
    if len(batch) in LANES:
        return function(batch).contiguous()
    results = []
    for part in batch.split(LANES[-1]):
        count = next(lanes for lanes in LANES if lanes >= len(part))
        filled = part if count == len(part) else torch.cat((part, part.new_zeros(count - len(part), *part.shape[1:])))
        results.append(function(filled)[: len(part)])
    # A kernel returns the batch innermost; torch expects it outermost.
    return torch.cat(results).contiguous()


def _padded(images: Tensor, by_rows: bool) -> Tensor:
    return torch.nn.functional.pad(images if by_rows else images.transpose(-2, -1), (PAD, PAD)).contiguous()


def _chunks(table: RayTable, like: Tensor) -> Iterator[tuple[bool, Tensor, Tensor, Tensor, Tensor]]:
    """In parts: whether by rows, indices of the rays, left pixels and weights ``(rays, rows)``, lengths."""
    for by_rows in (True, False):
        height, width = table.shape if by_rows else table.shape[::-1]
        numbers = np.flatnonzero(table.by_rows == by_rows)
        for part in np.array_split(numbers, max(1, len(numbers) * height * len(like) // _PIXELS_AT_ONCE)):
            base, slope, length = (
                torch.from_numpy(array.flat[part]).to(like.device) for array in (table.base, table.slope, table.length)
            )
            rows = torch.arange(height, device=like.device)
            column = (base[:, None] + PAD + rows * slope[:, None]).clamp(0, width + PAD)
            left = column.floor()
            index = rows * (width + 2 * PAD) + left.long()
            yield (
                by_rows,
                torch.from_numpy(part).to(like.device),
                index,
                (column - left).to(like.dtype),
                length.to(like.dtype),
            )
