"""Pixel-driven back-projection of filtered views on the CPU, and its transpose; used only by :mod:`physics.ct.fbp`.

Every pixel takes from every view the linearly interpolated value at the point where its ray meets the detector. Views
have `PAD` zeros at both ends, rows of the image are padded to whole blocks. Threads share the back-projection by image
rows, its transpose by views.
"""

import math
from typing import Any

import numpy as np

from ..rays import PAD
from .compiled import kernel
from .lanes import ROWS, interpolate, place_pixels, spread

#: Kinds of detector.
PARALLEL, FLAT, CURVED = 0, 1, 2
#: Image rows for which a view is read once.
_TILE = 8


@kernel
def _place(
    kind: int, x: float, y: float, step: float, cos: float, sin: float, beam: Any, offsets: Any, weights: Any,
    scales: Any, elements: int, count: int,
) -> None:  # fmt: skip
    """Offsets, weights and scales of the pixels at ``x + r * step``, see `lanes.place_pixels`.

    ``beam`` is ``(R, lateral, gain, shift, off_u, off_n)``, see `physics.ct.fbp`.
    """
    R, gain, shift, last = beam[0], beam[2], beam[3], elements + PAD
    across, across_step = x * cos + y * sin - beam[1], step * cos
    if kind == PARALLEL:
        place_pixels(across, across_step, 1.0, 0.0, gain, shift, last, count, offsets, weights, scales)
        return
    along, along_step = R - x * sin + y * cos, -step * sin
    if kind == FLAT:
        place_pixels(across, across_step, along, along_step, gain, shift, last, count, offsets, weights, scales)
        return
    for r in range(ROWS):
        lateral, depth = across + r * across_step, along + r * along_step
        scale, angle = 1.0 / (lateral * lateral + depth * depth), math.atan2(lateral, depth)
        if beam[4] != 0.0 or beam[5] != 0.0:
            angle += math.asin((beam[4] * depth - beam[5] * lateral) * math.sqrt(scale))
        place = min(max(gain * angle + shift, 0.0), float(last))
        left = int(place)
        offsets[r], weights[r] = left * count, place - left
        scales[r] = scale


@kernel
def backproject(
    kind: int, sinogram: Any, angles: Any, beams: Any, elements: int, image: Any, xs: Any, ys: Any, rows: Any, like: Any
) -> None:  # fmt: skip
    """Add all views to the image rows ``range(*rows)``.

    Parameters
    ----------
    kind
        `PARALLEL`, `FLAT` or `CURVED`.
    sinogram
        Flat, ``(views, elements + 2 PAD, batch)``.
    angles
        ``(views, 2)``, cosine and sine.
    beams, elements
        ``(views, 6)``, see :func:`_place`; number of detector elements.
    image
        Flat, ``(height, width, batch)``, the width a multiple of `ROWS`.
    xs, ys
        Centers of columns and rows in mm.
    like
        A tuple of the length of the batch.
    """
    count, width = len(like), len(xs)
    offsets, weights = np.empty(ROWS, np.int32), np.empty(ROWS, image.dtype)
    scales = np.empty(ROWS, image.dtype)
    bins, step = (elements + 2 * PAD) * count, xs[1] - xs[0]
    for top in range(rows[0], rows[1], _TILE):
        for view in range(len(angles)):
            for row in range(top, min(top + _TILE, rows[1])):
                for k in range(0, width, ROWS):
                    cos, sin = angles[view, 0], angles[view, 1]
                    _place(kind, xs[k], ys[row], step, cos, sin, beams[view], offsets, weights, scales, elements, count)
                    pixel = (row * width + k) * count
                    interpolate(sinogram, view * bins, offsets, weights, scales, image, pixel, like)


@kernel
def transpose(
    kind: int, sinogram: Any, angles: Any, beams: Any, elements: int, image: Any, xs: Any, ys: Any, views: Any,
    like: Any,
) -> None:  # fmt: skip
    """Add the image to ``range(*views)`` with the transpose of :func:`backproject`."""
    count, width = len(like), len(xs)
    offsets, weights = np.empty(ROWS, np.int32), np.empty(ROWS, image.dtype)
    scales = np.empty(ROWS, image.dtype)
    bins, step = (elements + 2 * PAD) * count, xs[1] - xs[0]
    for view in range(views[0], views[1]):
        for row in range(len(ys)):
            for k in range(0, width, ROWS):
                cos, sin = angles[view, 0], angles[view, 1]
                _place(kind, xs[k], ys[row], step, cos, sin, beams[view], offsets, weights, scales, elements, count)
                pixel = (row * width + k) * count
                spread(sinogram, view * bins, offsets, weights, scales, image, pixel, like)
