"""Forward and adjoint of a table of rays on the CPU, compiled by numba; only :mod:`.joseph` calls them.

The image lies in memory row by row, pixels next to pixels, the images of a batch innermost, with `PAD` columns of zeros
at both ends, so that no ray needs a test for the border. Index and weight of a pixel are computed once for the batch.
Both directions walk over blocks of `ROWS` rows that fit the cache: the forward is shared between threads by rays, the
adjoint by blocks, so that no two threads write to one place.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..rays import PAD
from .compiled import kernel
from .lanes import ROWS, add_scaled, gather, load_scaled, place, scatter

#: Views that share one pass over the blocks of an image.
VIEWS = 8


@kernel
def _first(base: Any, slope: Any, start: int, stop: int, row: int, growing: bool, limit: float, leaving: bool) -> int:
    """First ray from ``start`` on that is past the limit in some row of the block (``leaving``: not yet there)."""
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
def _covered(base: Any, slope: Any, start: int, stop: int, row: int, width: int, ordered: bool) -> tuple[int, int]:
    """The rays of a segment that meet a block; all of them where they may cross inside a block."""
    if not ordered:
        return start, stop
    last = stop - 1
    growing = base[last] + row * slope[last] >= base[start] + row * slope[start]
    enter = _first(base, slope, start, stop, row, growing, PAD - 1.0, False)
    leave = _first(base, slope, start, stop, row, growing, float(PAD + width), True)
    return (enter, leave) if growing else (leave, enter)


@kernel
def _place(x: float, slope: float, width: int, count: int, offsets: Any, weights: Any) -> None:
    start = math.floor(min(x, x + (ROWS - 1) * slope))
    real = weights.dtype.type
    place(real(x - start), real(slope), start, width + PAD, (width + 2 * PAD) * count, count, offsets, weights)


@kernel
def project(
    image: Any, width: int, segments: Any, base: Any, slope: Any, length: Any, ordered: bool, sinogram: Any, like: Any
) -> None:
    """Add to ``sinogram`` the integrals of the rays in ``segments``.

    Parameters
    ----------
    image
        Flat, from :func:`padded`.
    width
        Columns of the image without padding.
    segments
        Rows ``(view, first ray, ray after the last)``.
    base, slope, length, ordered
        Of the rays, see :class:`.joseph.RayTable`; ``length`` has the type of the image.
    sinogram
        Flat, ``(views, rays, batch)``.
    like
        A tuple as long as the batch.
    """
    count, rays = len(like), base.shape[1]
    offsets, weights = np.empty(ROWS, np.int32), np.empty(ROWS, image.dtype)
    block = ROWS * (width + 2 * PAD) * count
    for first in range(0, len(segments), VIEWS):
        for number in range(len(image) // block):
            row = number * ROWS
            for s in range(first, min(first + VIEWS, len(segments))):
                view = segments[s, 0]
                start, stop = _covered(base[view], slope[view], segments[s, 1], segments[s, 2], row, width, ordered)
                for ray in range(start, stop):
                    step = slope[view, ray]
                    _place(base[view, ray] + row * step, step, width, count, offsets, weights)
                    value = gather(image, number * block, offsets, weights, like)
                    add_scaled(sinogram, (view * rays + ray) * count, length[view, ray], value)


@kernel
def backproject(
    image: Any,
    width: int,
    blocks: Any,
    segments: Any,
    base: Any,
    slope: Any,
    length: Any,
    ordered: bool,
    sinogram: Any,
    like: Any,
) -> None:
    """Add to the ``blocks`` (first, after the last) of ``image`` the transpose of :func:`project`."""
    count, rays = len(like), base.shape[1]
    offsets, weights = np.empty(ROWS, np.int32), np.empty(ROWS, image.dtype)
    block = ROWS * (width + 2 * PAD) * count
    for number in range(blocks[0], blocks[1]):
        row = number * ROWS
        for s in range(len(segments)):
            view = segments[s, 0]
            start, stop = _covered(base[view], slope[view], segments[s, 1], segments[s, 2], row, width, ordered)
            for ray in range(start, stop):
                step = slope[view, ray]
                _place(base[view, ray] + row * step, step, width, count, offsets, weights)
                value = load_scaled(sinogram, (view * rays + ray) * count, length[view, ray], like)
                scatter(image, number * block, offsets, weights, value)


def padded(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Images ``(height, width, batch)`` with zeros at the sides and below, flat, as the kernels take them."""
    out = blank(images.shape, images.dtype)
    unpadded(out, images.shape)[:] = images
    return out


def blank(shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray[Any, Any]:
    """:func:`padded` images of zeros."""
    height, width, count = shape
    return np.zeros(-(-height // ROWS) * ROWS * (width + 2 * PAD) * count, dtype)


def unpadded(flat: np.ndarray[Any, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """The images ``(height, width, batch)`` in what :func:`padded` made."""
    height, width, count = shape
    return flat.reshape(-1, width + 2 * PAD, count)[:height, PAD : PAD + width]
