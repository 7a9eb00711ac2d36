"""Dead elements of the detector of a DICOM-CT-PD series: equal in all views, or named by the user.

Elements are named ``COLUMN:ROW`` with the numbers of the manual, from 1.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import data_error
from ..ct_checks import evenly_chosen

Mask = npt.NDArray[np.bool_]

#: Views that are looked at, and the fewest that are equal by no chance.
_LOOKED_AT, _FEWEST_VIEWS = 64, 16
#: Least change between views in parts of the largest value: a round object on the axis changes by rounding alone.
_CHANGES = 1e-4
#: Largest part of the elements that is constant in a scan with noise, and line integrals that air may have: elements
#: at the ends of the detector see the same air in all views of a simulated scan without noise.
_NOISY, _AIR = 0.1, 0.02
#: Largest part of the elements that may be dead, and elements that are named.
_MOST, _NAMED = 0.25, 5
_ELEMENT = re.compile(r"(\d{1,6}|all):(\d{1,6}|all)")


def named_elements(told: Sequence[str], columns: int, rows: int, folder: Path) -> Mask:
    """Elements that the user names, ``(columns, rows)`` in the order of :class:`physics.ConeScan`.

    Parameters
    ----------
    told
        ``COLUMN:ROW`` from 1; ``all`` in place of one of the numbers is a whole column or row.

    Raises
    ------
    DataError
        If a name has another form, or the detector has no such element.
    """
    dead = np.zeros((columns, rows), dtype=np.bool_)
    for text in told:
        match = _ELEMENT.fullmatch(text.strip().lower())
        expected = f"COLUMN:ROW of {columns} columns and {rows} rows, from 1, as 12:3 or 12:all"
        if match is None or match.groups() == ("all", "all"):
            raise data_error(folder, "--dead", repr(text), expected, "correct it")
        place = []
        for part, count in zip(match.groups(), (columns, rows), strict=True):
            if part != "all" and not 1 <= int(part) <= count:
                raise data_error(folder, "--dead", repr(text), expected, "correct it")
            # Files number columns against u and rows against z.
            place.append(slice(None) if part == "all" else count - int(part))
        dead[tuple(place)] = True
    return dead


def constant_elements(read: Callable[[int], npt.NDArray[Any]], scale: npt.NDArray[np.float64]) -> Mask:
    """Elements without any change between evenly chosen views, while elements on both sides change.

    In a scan in which nearly all elements change, as noise makes them, also those at the ends of the detector, unless
    they see air. Fewer than 16 views tell nothing.

    Parameters
    ----------
    read
        Stored values of a view ``(columns, rows)``.
    scale
        Slope and intercept of every view, ``(views, 2)``.
    """
    chosen = evenly_chosen(len(scale), _LOOKED_AT)
    stored = np.stack([read(int(view)) for view in chosen])
    spread = np.ptp(stored, axis=0)
    constant, changes = spread == 0, spread > _CHANGES * stored.max()
    if len(chosen) < _FEWEST_VIEWS:
        return np.zeros_like(constant)
    dead: Mask = constant & (_between(changes, 0) | _between(changes, 1))
    if constant.mean() < _NOISY:
        slope, intercept = np.median(scale[chosen], axis=0)
        dead |= constant & (np.abs(slope * stored[0] + intercept) > _AIR)
    return dead


def require_live(folder: Path, dead: Mask) -> None:
    """Refuse a detector of which too much is dead.

    Raises
    ------
    DataError
        If more than a quarter of the elements are dead.
    """
    if (part := float(dead.mean())) > _MOST:
        found = f"{part:.0%} of the elements equal in all views or named as dead"
        raise data_error(folder, "detector", found, f"at most {_MOST:.0%}", "leave the series out")


def dead_line(folder: Path, dead: Mask) -> str:
    """What is said of elements that were found."""
    columns, rows = dead.shape
    names = [f"{columns - column}:{rows - row}" for column, row in np.argwhere(dead)[::-1]]
    shown = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    found = f"{len(names)} dead elements (column:row {shown}), equal in all views"
    advice = "their values are interpolated, rays that they measure have less weight, or none"
    return str(data_error(folder, "detector", found, "values that change between the views", advice))


def _between(some: Mask, axis: int) -> Mask:
    """Whether some stand on both sides of each along an axis."""
    before = np.maximum.accumulate(some, axis=axis)
    after = np.flip(np.maximum.accumulate(np.flip(some, axis), axis=axis), axis)
    both: Mask = before & after
    return both
