"""Forward and adjoint of a table of rays on the CPU; used only by :mod:`physics.ct.joseph`.

Memory layout of an image: rows, columns, images of the batch (innermost), with `PAD` columns of zeros at both ends of a
row, so that rays need no border test. Index and weight of a pixel are computed once for the batch. Both directions work
on blocks of `rows_of` rows that fit the cache. Threads share the forward by rays and the adjoint by blocks, so that no
two threads write to the same values.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..rays import PAD
from .compiled import kernel
from .lanes import ROWS, SINGLE_ROWS, add_scaled, gather, load_scaled, place, rows_of, scatter

#: Views for which a block of the image is read once.
VIEWS = 8


@kernel
def _first(base: Any, slope: Any, start: int, stop: int, row: int, growing: bool, limit: float, leaving: bool) -> int:
    """Ray in ``range(start, stop)`` at which the test of a limit changes its result, by bisection.

    The test is whether the ray's largest column in `ROWS` rows is above the limit; with ``leaving``, whether its
    smallest column is below. ``growing``: columns increase with the index of the ray.
    """
    while start < stop:
        middle = (start + stop) // 2
        top = base[middle] + row * slope[middle]
        bottom = top + (ROWS - 1) * slope[middle]
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
    """Range of the rays of a segment that meet a block; the whole segment if rays may cross.

    Rays are ordered in `ROWS` rows, not in all of a taller block.
    """
    if not ordered:
        return start, stop
    first, after = stop, start
    for part in range(row, row + rows, ROWS):
        last = stop - 1
        growing = base[last] + part * slope[last] >= base[start] + part * slope[start]
        enter = _first(base, slope, start, stop, part, growing, PAD - 1.0, False)
        leave = _first(base, slope, start, stop, part, growing, float(PAD + width), True)
        low, high = (enter, leave) if growing else (leave, enter)
        if low < high:
            first, after = min(first, low), max(after, high)
    return first, after


@kernel
def _place(x: float, slope: float, width: int, offsets: Any, weights: Any, like: Any) -> None:
    start = math.floor(min(x, x + (len(weights) - 1) * slope))
    real = weights.dtype.type
    place(real(x - start), real(slope), start, width + PAD, (width + 2 * PAD) * len(like), offsets, weights, like)


@kernel
def project(
    image: Any, width: int, segments: Any, base: Any, slope: Any, length: Any, ordered: bool, sinogram: Any, like: Any
) -> None:
    """Add the integrals of the rays in ``segments`` to ``sinogram``.

    Parameters
    ----------
    image
        Flat, from :func:`padded`.
    width
        Columns of the image without padding.
    segments
        Rows ``(view, first ray, ray after the last)``.
    base, slope, length, ordered
        The rays, see :class:`physics.ct.rays.RayTable`; ``length`` has the dtype of the image.
    sinogram
        Flat, ``(views, rays, batch)``.
    like
        A tuple of the length of the batch.
    """
    count, n_rays = len(like), base.shape[1]
    rows = SINGLE_ROWS if count == 1 else ROWS
    offsets, weights = np.empty(rows, np.int32), np.empty(rows, image.dtype)
    block = rows * (width + 2 * PAD) * count
    for first in range(0, len(segments), VIEWS):
        for number in range(len(image) // block):
            row = number * rows
            for s in range(first, min(first + VIEWS, len(segments))):
                view = segments[s, 0]
                start, stop = _covered(
                    base[view], slope[view], segments[s, 1], segments[s, 2], row, rows, width, ordered
                )
                for ray in range(start, stop):
                    step = slope[view, ray]
                    _place(base[view, ray] + row * step, step, width, offsets, weights, like)
                    value = gather(image, number * block, offsets, weights, like)
                    add_scaled(sinogram, (view * n_rays + ray) * count, length[view, ray], value)


@kernel
def backproject(
    image: Any, width: int, blocks: Any, segments: Any, base: Any, slope: Any, length: Any, ordered: bool,
    sinogram: Any, like: Any,
) -> None:  # fmt: skip
    """Add the sinogram to blocks ``range(*blocks)`` of ``image`` with the transpose of :func:`project`."""
    count, n_rays = len(like), base.shape[1]
    rows = SINGLE_ROWS if count == 1 else ROWS
    offsets, weights = np.empty(rows, np.int32), np.empty(rows, image.dtype)
    block = rows * (width + 2 * PAD) * count
    for number in range(blocks[0], blocks[1]):
        row = number * rows
        for s in range(len(segments)):
            view = segments[s, 0]
            start, stop = _covered(base[view], slope[view], segments[s, 1], segments[s, 2], row, rows, width, ordered)
            for ray in range(start, stop):
                step = slope[view, ray]
                _place(base[view, ray] + row * step, step, width, offsets, weights, like)
                value = load_scaled(sinogram, (view * n_rays + ray) * count, length[view, ray], like)
                scatter(image, number * block, offsets, weights, value)


def padded(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Flat copy of images ``(height, width, batch)`` with zeros at the sides and below, as the kernels need them."""
    out = blank(images.shape, images.dtype)
    unpadded(out, images.shape)[:] = images
    return out


def blank(shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray[Any, Any]:
    """Padded images of zeros, see :func:`padded`."""
    height, width, count = shape
    return np.zeros(-(-height // rows_of(count)) * rows_of(count) * (width + 2 * PAD) * count, dtype)


def unpadded(flat: np.ndarray[Any, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """View of the images ``(height, width, batch)`` in the flat array of :func:`padded`."""
    height, width, count = shape
    return flat.reshape(-1, width + 2 * PAD, count)[:height, PAD : PAD + width]
