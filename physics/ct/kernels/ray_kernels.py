"""Forward and adjoint of a table of rays on the CPU; used only by :mod:`physics.ct.joseph`.

Both directions work on blocks of rows, sheared to the slopes of the rays, see :mod:`.ray_lanes`. Rays come in the order
of their shears. From one shear to the next, a block is sheared in place, by a column at most. So are the sums of the
adjoint. Threads share the forward by rays and the adjoint by strips, so that no two threads write to the same values.

The adjoint lists the rays of all views that have the shear by the columns that they cross, see :mod:`.ray_lanes`.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .compiled import kernel
from .ray_lanes import (
    MARGIN,
    PLACED,
    ROWS,
    add_scaled,
    copy_scaled,
    enlist,
    gather,
    move_rows,
    place,
    rays_at_once,
    scatter_few,
    scatter_many,
    strips_of,
)

#: Records of rays in lists: about as many rays as twenty views have in a strip, and fewer than fit the second cache.
RECORDS = 8192
#: Records per column from which lists are long: two per list, because a strip has two phases.
LONG = 4


class Shears(NamedTuple):
    """What the shears from ``-ROWS`` to `ROWS` do to the rows of a strip, in both phases.

    Parameters
    ----------
    moved
        Columns by which a row is moved, ``(shears, phases, rows)``.
    fractions
        What the shear lacks to whole columns, flat, with the dtype of the images.
    to_next, to_second
        1 where a row is moved by one more column in the next shear, ``(shears - 1, phases, rows)``, and in the second
        phase, ``(shears, rows)``; flat.
    """

    moved: npt.NDArray[np.int64]
    fractions: npt.NDArray[Any]
    to_next: npt.NDArray[np.int8]
    to_second: npt.NDArray[np.int8]

    @classmethod
    def of(cls, dtype: npt.DTypeLike) -> "Shears":
        slopes = np.arange(-ROWS, ROWS + 1)[:, None, None] / ROWS
        exact = slopes * np.arange(ROWS) + np.array([[0.0], [0.5]])
        moved = np.floor(exact).astype(np.int64)
        to_next, to_second = np.diff(moved, axis=0), np.diff(moved, axis=1)
        flat = (to_next.astype(np.int8).reshape(-1), to_second.astype(np.int8).reshape(-1))
        return cls(moved, (exact - moved).astype(dtype).reshape(-1), *flat)


@kernel
def _first(
    base: Any, slope: Any, start: int, stop: int, row: int, rows: int, growing: bool, limit: float, leaving: bool
) -> int:
    """Ray in ``range(start, stop)`` at which the test of a limit changes its result, by bisection.

    The test is whether the ray's largest column in some rows from ``row`` on is above the limit; with ``leaving``,
    whether its smallest column is below. ``growing``: columns increase with the index of the ray.
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
def _covered(
    base: Any, slope: Any, start: int, stop: int, row: int, rows: int, width: int, ordered: bool
) -> tuple[int, int]:
    """Range of the rays of a segment that meet a block; the whole segment if rays may cross."""
    if not ordered:
        return start, stop
    last = stop - 1
    growing = base[last] + row * slope[last] >= base[start] + row * slope[start]
    enter = _first(base, slope, start, stop, row, rows, growing, -1.0, False)
    leave = _first(base, slope, start, stop, row, rows, growing, float(width), True)
    return (enter, leave) if growing else (leave, enter)


@kernel
def _aligned(size: int, like: Any) -> Any:
    """Array of zeros that begins at a cache line: a vector that lies in two of them takes twice as long to read."""
    array = np.zeros(size + 64, like.dtype)
    start = -array.ctypes.data % 64 // array.itemsize
    return array[start : start + size]


@kernel
def _scratch(width: int, like: Any, images: Any) -> Any:
    """A block for images of some width, and the arrays of `place`: offsets, phases, shifts, steps."""
    count = len(like)
    strips = strips_of(count)
    block = _aligned(strips * 2 * (width + 2 * MARGIN) * count * ROWS, images)
    whole = np.empty(2 * strips * PLACED, np.int32)
    real = np.empty((strips + 1) * PLACED, images.dtype)
    return (
        block,
        whole[: strips * PLACED],
        whole[strips * PLACED :],
        real[: strips * PLACED],
        real[strips * PLACED :],
    )


@kernel
def _move(strip: Any, stride: int, moves: Any, first: int) -> None:
    """Move rows of one phase of a strip by one column, see `move_rows`."""
    for start in range(0, len(strip) - stride, ROWS):
        move_rows(strip, start, stride, moves, first)


@kernel
def _shear(block: Any, size: int, stride: int, shear: int, wanted: int, to_next: Any) -> None:
    """Shear a block from one shear to another; ``size`` is that of a phase of a strip."""
    for k in range(shear, wanted):
        for part in range(len(block) // size):
            first = ((k + ROWS) * 2 + part % 2) * ROWS
            _move(block[part * size : (part + 1) * size], stride, to_next, first)


@kernel
def _fill(image: Any, row: int, shear: int, block: Any, size: int, stride: int, shears: Any) -> None:
    """Fill a block with the rows of images ``(batch, height, width)`` from ``row`` on."""
    count, height, width = image.shape
    block[:] = 0
    for strip in range(len(block) // (2 * size)):
        first, second = block[2 * strip * size : (2 * strip + 1) * size], block[(2 * strip + 1) * size :][:size]
        top = row + strip * ROWS
        for b in range(count):
            for r in range(min(ROWS, height - top)):
                start = (MARGIN - shears.moved[shear + ROWS, 0, r]) * stride + b * ROWS + r
                for column in range(width):
                    first[start + column * stride] = image[b, top + r, column]
        # Not by slices: numba would compile the message of an error of shapes, which takes seconds.
        for i in range(size):
            second[i] = first[i]
        _move(second, stride, shears.to_second, (shear + ROWS) * ROWS)


@kernel
def _collect(image: Any, row: int, shear: int, block: Any, size: int, stride: int, shears: Any) -> None:
    """Transpose of :func:`_fill`: add a block to images."""
    count, height, width = image.shape
    for part in range(len(block) // size):
        top = row + part // 2 * ROWS
        # Some columns at a time, which fit the first cache.
        for left in range(0, width, ROWS):
            for b in range(count):
                for r in range(min(ROWS, height - top)):
                    start = part * size + (MARGIN - shears.moved[shear + ROWS, part % 2, r]) * stride + b * ROWS + r
                    for column in range(left, min(left + ROWS, width)):
                        image[b, top + r, column] += block[start + column * stride]


@kernel
def project(
    image: Any, segments: Any, base: Any, slope: Any, length: Any, ordered: bool, n_rays: int, shears: Any,
    sinogram: Any, like: Any,
) -> None:  # fmt: skip
    """Add the integrals of the rays in ``segments`` to ``sinogram``.

    Parameters
    ----------
    image
        ``(batch, height, width)``.
    segments
        Rows ``(shear, view, first ray, ray after the last)``, the shears in ascending order.
    base, slope, length, ordered
        The rays, flat, see :meth:`physics.ct.rays.RayTable.arrays`; ``length`` has the dtype of the image.
    n_rays
        Rays of a view.
    shears
        See :class:`Shears`.
    sinogram
        Flat, ``(views, rays, batch)``.
    like
        A tuple of the length of the batch.
    """
    count, rays, rows = len(like), rays_at_once(len(like)), strips_of(len(like)) * ROWS
    _, height, width = image.shape
    columns, stride = width + 2 * MARGIN, count * ROWS
    size = columns * stride
    block, offsets, phases, shifts, steps = _scratch(width, like, image)
    rest = np.empty(rays * count, image.dtype)
    for row in range(0, height, rows):
        shear = segments[0, 0]
        _fill(image, row, shear, block, size, stride, shears)
        for s in range(len(segments)):
            _shear(block, size, stride, shear, segments[s, 0], shears.to_next)
            shear, view = segments[s, 0], segments[s, 1] * n_rays
            start, stop = _covered(base[view:], slope[view:], segments[s, 2], segments[s, 3], row, rows, width, ordered)
            for ray in range(view + start, view + stop, PLACED):
                place(base, slope, ray, row, shear, columns, offsets, phases, shifts, steps, like)
                for first in range(0, min(PLACED, view + stop - ray), rays):
                    number = ray + first
                    values = gather(block, offsets, phases, shifts, steps, first, shears.fractions, like)
                    if number + rays <= view + stop:
                        add_scaled(sinogram, number * count, length, number, like, values)
                    else:
                        rest[:] = 0
                        add_scaled(rest, 0, length, number, like, values)
                        for i in range((view + stop - number) * count):
                            sinogram[number * count + i] += rest[i]


@kernel
def backproject(
    image: Any, blocks: Any, segments: Any, base: Any, slope: Any, length: Any, ordered: bool, n_rays: int, shears: Any,
    sinogram: Any, like: Any,
) -> None:  # fmt: skip
    """Add the sinogram to strips ``range(*blocks)`` of ``image`` with the transpose of :func:`project`.

    ``sinogram`` has `PLACED` rays more at its end, which are not used.
    """
    count, last = len(like), len(segments)
    _, height, width = image.shape
    columns, stride = width + 2 * MARGIN, count * ROWS
    size = columns * stride
    strip, lists = _aligned(2 * size, image), np.zeros(2 * columns + 1, np.int32)
    records = max(RECORDS, n_rays + PLACED) + PLACED
    nexts, shifts, steps = np.zeros(records, np.int32), np.zeros(records, image.dtype), np.zeros(records, image.dtype)
    values = np.zeros(records * count, image.dtype)
    for row in range(blocks[0] * ROWS, min(blocks[1] * ROWS, height), ROWS):
        shear, run = segments[0, 0], 0
        strip[:] = 0
        while run < last:
            _shear(strip, size, stride, shear, segments[run, 0], shears.to_next)
            shear, record = segments[run, 0], PLACED
            while run < last and segments[run, 0] == shear:
                view, first, after = segments[run, 1] * n_rays, segments[run, 2], segments[run, 3]
                start, stop = _covered(base[view:], slope[view:], first, after, row, ROWS, width, ordered)
                if record + stop - start + PLACED > records:
                    break
                for ray in range(view + start, view + stop, PLACED):
                    valid = view + stop - ray
                    enlist(base, slope, ray, valid, row, shear, columns, record, lists, nexts, shifts, steps)
                    copy_scaled(values, record, sinogram, length, ray, like)
                    record += PLACED
                run += 1
            many = record > LONG * columns
            for number in range(2 * columns):
                record = int(lists[number])
                lists[number] = 0
                phase = ((shear + ROWS) * 2 + (number >= columns)) * ROWS
                while record and many:
                    record = scatter_many(
                        strip, number * stride, record, nexts, shifts, steps, shears.fractions, phase, values, like
                    )
                while record:
                    record = scatter_few(
                        strip, number * stride, record, nexts, shifts, steps, shears.fractions, phase, values, like
                    )
        _collect(image, row, shear, strip, size, stride, shears)


def blocks_of(height: int) -> int:
    """Blocks of `backproject` in images of some height."""
    return -(-height // ROWS)
