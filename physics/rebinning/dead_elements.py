"""Values of dead elements of a cylindrical detector, interpolated from the live elements beside them."""

from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]

#: Length in mm that is added where an axis has a live element on one side alone: the other axis is taken if it can be.
_ONE_SIDE = 1e6


class AcrossDead:
    """Fills in the dead elements of a view, along the axis of the detector on which live elements are nearer.

    The value is on a straight line between the live elements on both sides. At an end of the detector, where an axis
    has a live element on one side alone, the other axis is taken; in a corner, the nearest live element. Where a dead
    row and a dead column cross, values that were filled in before are taken.

    Parameters
    ----------
    dead
        Which elements are dead, ``(columns, rows)``.
    pitch_mm, row_mm
        Distances of neighboring columns and rows.

    Raises
    ------
    ValueError
        If all elements are dead.
    """

    def __init__(self, dead: Mask, pitch_mm: float, row_mm: float) -> None:
        if dead.all():
            raise ValueError("AcrossDead: all elements are dead, expected live ones")
        n = dead.shape[1]
        first, second, part, gap = _beside(dead, pitch_mm)
        below, above, share, other = _beside(dead.T, row_mm)
        nearer, each = gap > other.T, n * np.arange(len(dead))[:, None]
        crossing = dead & ~np.isfinite(np.minimum(gap, other.T))
        self._at = at = np.nonzero(dead & ~crossing)
        self._first = np.where(nearer, below.T + each, first * n + np.arange(n))[at]
        self._second = np.where(nearer, above.T + each, second * n + np.arange(n))[at]
        self._part = np.where(nearer, share.T, part)[at]
        self._crossing = AcrossDead(crossing, pitch_mm, row_mm) if crossing.any() else None

    def __call__(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The view with its dead elements filled in, of the same type; whole numbers are rounded.

        Parameters
        ----------
        values
            ``(columns, rows)``; those of dead elements are not looked at.
        """
        flat, filled = values.reshape(-1), values.copy()
        between = flat[self._first] * (1 - self._part) + flat[self._second] * self._part
        filled[self._at] = between if values.dtype.kind == "f" else np.round(between)
        return filled if self._crossing is None else self._crossing(filled)


def _beside(dead: Mask, step_mm: float) -> tuple[Indices, Indices, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Live elements before and after each along the first axis, the share of the latter, and the gap in mm."""
    n, place = len(dead), np.arange(len(dead))[:, None]
    before = np.maximum.accumulate(np.where(dead, -1, place), axis=0)
    after = np.minimum.accumulate(np.where(dead, n, place)[::-1], axis=0)[::-1]
    left, right = np.where(before < 0, after, before), np.where(after >= n, before, after)
    nearest = np.abs(place - np.where(before < 0, after, before))
    gap = np.where((before >= 0) & (after < n), after - before, nearest) * step_mm
    gap = gap + np.where((before < 0) ^ (after >= n), _ONE_SIDE, 0.0)
    gap[(before < 0) & (after >= n)] = np.inf
    part = (place - left) / np.maximum(right - left, 1)
    return np.clip(left, 0, n - 1), np.clip(right, 0, n - 1), np.clip(part, 0.0, 1.0), gap
