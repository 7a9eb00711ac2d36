"""every ray over the rows of the image."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .geometry import ImageGrid, Rays

Indices = npt.NDArray[np.intp]


#: Columns of zeros at both ends of a row: rays that leave the image go on there.
PAD = 2


#: Sizes of a batch that the kernels are compiled for.
LANES = (1, 2, 4, 8)


#: Most pixels that the torch reference interpolates at a time.
_PIXELS_AT_ONCE = 2**24


@dataclass(frozen=True, eq=False)
class RayTable:
    """Rays over an image of a shape: arrays ``(views, rays)`` in double precision, and who is driven by what.

    In row r a ray is at column ``base + r * slope``; its ``length`` between two rows is in mm. For rays driven by
    columns rows and columns change places. ``by_rows`` says which they are, ``ordered`` whether neighboring rays keep
    their order over any few rows of the image.
    """

    shape: tuple[int, int]
    base: npt.NDArray[np.float64]
    slope: npt.NDArray[np.float64]
    length: npt.NDArray[np.float64]
    by_rows: npt.NDArray[np.bool_]
    ordered: bool

    @cached_property
    def segments(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Runs ``(view, first ray, ray after the last)`` of rays driven by rows, and by columns."""
        views, rays = self.by_rows.shape
        change = np.ones((views, rays + 1), dtype=bool)
        change[:, 1:-1] = self.by_rows[:, 1:] != self.by_rows[:, :-1]
        view, edge = np.nonzero(change)
        same = view[1:] == view[:-1]
        runs = np.stack((view[:-1], edge[:-1], edge[1:]), axis=1)[same].astype(np.int32)
        driven = self.by_rows[runs[:, 0], runs[:, 1]]
        return runs[driven], runs[~driven]

    def arrays(self, dtype: npt.DTypeLike) -> tuple[Any, ...]:
        """``base`` in the padded image, ``slope``, ``length`` in the type of the data, ``ordered``: for the kernels."""
        if dtype not in self._cast:
            self._cast[dtype] = self.length.astype(dtype)
        return self._shifted, self.slope, self._cast[dtype], self.ordered

    @cached_property
    def _cast(self) -> dict[Any, npt.NDArray[Any]]:
        return {}

    @cached_property
    def _shifted(self) -> npt.NDArray[np.float64]:
        return self.base + PAD

    def select(self, views: Indices, rays: slice) -> "RayTable":
        """Some of the rays."""
        base, slope, length = (np.ascontiguousarray(a[views, rays]) for a in (self.base, self.slope, self.length))
        return RayTable(self.shape, base, slope, length, self.by_rows[views, rays], self.ordered)


def trace(grid: ImageGrid, rays: Rays, *, ordered: bool) -> RayTable:
    """Tabulate rays over a grid; ``ordered`` as in :class:`RayTable`."""
    height, width = grid.shape
    by_rows = np.abs(rays.direction_y) >= np.abs(rays.direction_x)
    along = np.where(by_rows, rays.direction_y, rays.direction_x)
    across = np.where(by_rows, rays.direction_x, rays.direction_y)
    tangent = across / along
    # Where the ray meets the first row (column), in pixels from the center; rows go down, columns to the right.
    x = rays.point_x + (grid.y_mm[0] - rays.point_y) * tangent
    y = rays.point_y + (grid.x_mm[0] - rays.point_x) * tangent
    base = np.where(by_rows, x / grid.pixel_mm + (width - 1) / 2, (height - 1) / 2 - y / grid.pixel_mm)
    return RayTable(grid.shape, base, -tangent, grid.pixel_mm / np.abs(along), by_rows, ordered)


def project_reference(table: RayTable, images: Tensor) -> Tensor:
    """:func:`project` in plain torch: any device, any batch; slow, and the oracle of the kernels."""
    sinograms = images.new_zeros(len(images), table.base.size)
    for by_rows, rays, index, weight, length in _chunks(table, images):
        flat = _padded(images, by_rows).flatten(1)
        left, right = flat[:, index], flat[:, index + 1]
        sinograms[:, rays] = (left + weight * (right - left)).sum(-1) * length
    return sinograms.reshape(len(images), *table.base.shape)


def backproject_reference(table: RayTable, sinograms: Tensor) -> Tensor:
    """:func:`backproject` in plain torch."""
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
    """Call a kernel with batches that it is compiled for, the last one filled up with zeros."""
    if len(batch) in LANES:
        return function(batch).contiguous()
    results = []
    for part in batch.split(LANES[-1]):
        count = next(lanes for lanes in LANES if lanes >= len(part))
        filled = part if count == len(part) else torch.cat((part, part.new_zeros(count - len(part), *part.shape[1:])))
        results.append(function(filled)[: len(part)])
    # A new tensor in any case, the batch outermost again.
    return torch.cat(results).contiguous()


def _padded(images: Tensor, by_rows: bool) -> Tensor:
    return torch.nn.functional.pad(images if by_rows else images.transpose(-2, -1), (PAD, PAD)).contiguous()


def _chunks(table: RayTable, like: Tensor) -> Iterator[tuple[bool, Tensor, Tensor, Tensor, Tensor]]:
    """Rays in parts: driven by what, their numbers, left pixels and weights ``(rays, rows)``, and lengths."""
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
