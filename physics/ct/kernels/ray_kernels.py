"""Forward and adjoint of a table of rays on the CPU; used only by :mod:`physics.ct.joseph`.

Both directions work on blocks of `ROWS` rows, sheared to the slope of the rays, see :mod:`.ray_lanes`. Rays come in the
order of their slopes; from one slope to the next, a block is sheared further in place, by a column at most. In the
adjoint, so are the sums. Threads share the forward by rays and the adjoint by blocks, so that no two threads write to
the same values.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from .compiled import kernel
from .ray_lanes import MARGIN, PLACED, ROWS, add_scaled, gather, load_scaled, place, rays_at_once, scatter, shear_column, strips_of

_EXACT = np.arange(-ROWS, ROWS + 1)[:, None, None] * np.arange(ROWS) / ROWS + np.array([[0.0], [0.5]])
#: Columns by which the rows of a block are moved, ``(shears, phases, rows)``; and what is missing to the slope.
_MOVED = np.floor(_EXACT).astype(np.int64)
_FRACTIONS = _EXACT - _MOVED
#: Rows that are moved by one more column in the next shear, and in the second phase.
_NEXT, _SECOND = np.diff(_MOVED, axis=0).astype(np.int8), (_MOVED[:, 1] - _MOVED[:, 0]).astype(np.int8)


@kernel
def _first(
    base: Any, slope: Any, start: int, stop: int, row: int, rows: int, growing: bool, limit: float, leaving: bool
) -> int:
    """Ray in ``range(start, stop)`` at which the test of a limit changes its result, by bisection.

    The test is whether the ray's largest column in the ``rows`` rows is above the limit; with ``leaving``, whether its
    smallest column is below. ``growing``: columns increase with the index of the ray.
    """
    while start < stop:
        middle = (start + stop) // 2
        top = base[middle] + row * slope[middle]
        bottom = top + (rows - 1) * slope[middle]
        passed = min(top, bottom) < limit if leaving else max(top, bottom) > limit
        if passed == (growing != leaving):
            stop = middle
        else:
            start = middle + 1
    return start


@kernel
def _covered(base: Any, slope: Any, start: int, stop: int, row: int, rows: int, width: int, ordered: bool) -> tuple[int, int]:
    """Range of the rays of a segment that meet a block; the whole segment if rays may cross."""
    if not ordered:
        return start, stop
    last = stop - 1
    growing = base[last] + row * slope[last] >= base[start] + row * slope[start]
    enter = _first(base, slope, start, stop, row, rows, growing, -1.0, False)
    leave = _first(base, slope, start, stop, row, rows, growing, float(width), True)
    return (enter, leave) if growing else (leave, enter)


@kernel
def _aligned(size: int, dtype: Any) -> Any:
    """Uninitialized array that begins at a cache line: a column that lies in two of them takes twice as long to read."""
    array = np.empty(size + 64, dtype)
    start = -array.ctypes.data % 64 // array.itemsize
    return array[start : start + size]


@kernel
def _shear(block: Any, columns: int, stride: int, moves: Any, table: int) -> None:
    """Move rows of one phase of a block by one column; ``moves`` as in :func:`shear_column`."""
    for start in range(0, (columns - 1) * stride, ROWS):
        shear_column(block, start, stride, moves, table)


@kernel
def _next(block: Any, columns: int, stride: int, shear: int, wanted: int, moves: Any) -> None:
    """Shear both phases of a block from ``shear`` to ``wanted``."""
    for k in range(shear, wanted):
        for part in range(len(block) // (columns * stride)):
            _shear(block[part * columns * stride :], columns, stride, moves, ((k + ROWS) * 2 + part % 2) * ROWS)


@kernel
def _fill(
    image: Any, row: int, shear: int, block: Any, columns: int, stride: int, moved: Any, second: Any
) -> None:
    """Fill both phases of a block with the rows of an image ``(batch, height, width)``."""
    count, height, width = image.shape
    half = columns * stride
    block[:] = 0
    for strip in range(len(block) // (2 * half)):
        part, top = block[strip * 2 * half : (strip + 1) * 2 * half], row + strip * ROWS
        for b in range(count):
            for r in range(min(ROWS, height - top)):
                to = (MARGIN - moved[shear + ROWS, 0, r]) * stride + b * ROWS + r
                for column in range(width):
                    part[to + column * stride] = image[b, top + r, column]
        part[half:] = part[:half]
        _shear(part[half:], columns, stride, second, (shear + ROWS) * ROWS)


@kernel
def _collect(
    image: Any, row: int, shear: int, block: Any, columns: int, stride: int, moved: Any
) -> None:
    """Transpose of :func:`_fill`, into an image of zeros."""
    count, height, width = image.shape
    for part in range(len(block) // (columns * stride)):
        phase, top = part % 2, row + part // 2 * ROWS
        for b in range(count):
            for r in range(min(ROWS, height - top)):
                start = (part * columns + MARGIN - moved[shear + ROWS, phase, r]) * stride + b * ROWS + r
                for column in range(width):
                    image[b, top + r, column] += block[start + column * stride]


@kernel
def project(
    image: Any, segments: Any, base: Any, slope: Any, length: Any, ordered: bool, tables: Any, sinogram: Any, like: Any
) -> None:
    """Add the integrals of the rays in ``segments`` to ``sinogram``.

    Parameters
    ----------
    image
        ``(batch, height, width)``, with any strides.
    segments
        Rows ``(shear, view, first ray, ray after the last)``, the shears in ascending order.
    base, slope, length, ordered
        The rays, see :class:`physics.ct.rays.RayTable`; flat, ``length`` has the dtype of the image.
    sinogram
        Flat, ``(views, rays, batch)``.
    like
        A tuple of the length of the batch.
    """
    count, rays = len(like), rays_at_once(len(like))
    _, height, width = image.shape
    moved, fractions, moves, second, n_rays = tables
    columns, stride = width + 2 * MARGIN, count * ROWS
    strips = strips_of(count)
    block, rest = _aligned(strips * 2 * columns * stride, image.dtype), np.empty(rays * count, image.dtype)
    offsets, at = np.empty(strips * PLACED, np.int32), np.empty(strips * PLACED, np.int32)
    shifts, steps = np.empty(strips * PLACED, image.dtype), np.empty(PLACED, image.dtype)
    for row in range(0, height, strips * ROWS):
        shear = segments[0, 0]
        _fill(image, row, shear, block, columns, stride, moved, second)
        for s in range(len(segments)):
            _next(block, columns, stride, shear, segments[s, 0], moves)
            shear, begin = segments[s, 0], segments[s, 1] * n_rays
            start, stop = _covered(
                base[begin:], slope[begin:], segments[s, 2], segments[s, 3], row, strips * ROWS, width, ordered
            )
            for ray in range(begin + start, begin + stop, PLACED):
                place(base, slope, ray, row, shear, columns - 3, stride, columns * stride, offsets, at, shifts, steps, like)
                for first in range(0, min(PLACED, begin + stop - ray), rays):
                    value = gather(block, offsets, at, shifts, steps, first, fractions, like)
                    number = ray + first
                    if number + rays <= begin + stop:
                        add_scaled(sinogram, number * count, length, number, value, like)
                    else:
                        rest[:] = 0
                        add_scaled(rest, 0, length, number, value, like)
                        for i in range((begin + stop - number) * count):
                            sinogram[number * count + i] += rest[i]


@kernel
def backproject(
    image: Any, blocks: Any, segments: Any, base: Any, slope: Any, length: Any, ordered: bool, tables: Any,
    sinogram: Any, like: Any,
) -> None:  # fmt: skip
    """Add the sinogram to blocks ``range(*blocks)`` of ``image`` with the transpose of :func:`project`."""
    count, rays = len(like), rays_at_once(len(like))
    _, height, width = image.shape
    moved, fractions, moves, second, n_rays = tables
    columns, stride = width + 2 * MARGIN, count * ROWS
    strips = strips_of(count)
    block, rest = _aligned(strips * 2 * columns * stride, image.dtype), np.empty(rays * count, image.dtype)
    offsets, at = np.empty(strips * PLACED, np.int32), np.empty(strips * PLACED, np.int32)
    shifts, steps = np.empty(strips * PLACED, image.dtype), np.empty(PLACED, image.dtype)
    for row in range(blocks[0] * strips * ROWS, min(blocks[1] * strips * ROWS, height), strips * ROWS):
        shear = segments[0, 0]
        block[:] = 0
        for s in range(len(segments)):
            _next(block, columns, stride, shear, segments[s, 0], moves)
            shear, begin = segments[s, 0], segments[s, 1] * n_rays
            start, stop = _covered(
                base[begin:], slope[begin:], segments[s, 2], segments[s, 3], row, strips * ROWS, width, ordered
            )
            for ray in range(begin + start, begin + stop, PLACED):
                place(base, slope, ray, row, shear, columns - 3, stride, columns * stride, offsets, at, shifts, steps, like)
                for first in range(0, min(PLACED, begin + stop - ray), rays):
                    number = ray + first
                    if number + rays <= begin + stop:
                        value = load_scaled(sinogram, number * count, length, number, like)
                    else:
                        rest[:] = 0
                        for i in range((begin + stop - number) * count):
                            rest[i] = sinogram[number * count + i]
                        value = load_scaled(rest, 0, length, number, like)
                    scatter(block, offsets, at, shifts, steps, first, fractions, value, like)
        _collect(image, row, shear, block, columns, stride, moved)


def tables(dtype: npt.DTypeLike, n_rays: int) -> tuple[Any, ...]:
    """Numbers of the shears, and the rays of a view, as the kernels take them."""
    return _MOVED, _FRACTIONS.astype(dtype).reshape(-1), _NEXT.reshape(-1), _SECOND.reshape(-1), n_rays
