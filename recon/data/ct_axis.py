"""Whether the object of a CT scan turns about the rotation axis of its geometry."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from physics import Geometry, ParallelBeam, goes_all_round, ray_distances_mm

Array = npt.NDArray[np.floating[Any]]

#: Least distance of the axis that is said, in detector elements, and its largest part that two halves of the views may
#: disagree about.
_LEAST_COLUMNS, _DISAGREE = 1.5, 0.2
#: Least part of the difference between a mean view and its mirror image that the right axis removes.
_EXPLAINED = 0.5
#: Largest deviation of centers of mass from a sine, in elements and in parts of the distance of the axis.
_NO_SINE, _PART_NO_SINE = 1.0, 0.1
#: Part of the detector at either end that sees air, and largest part of the mean view's maximum that is air.
_END, _AIR = 32, 0.05
#: Least ratio of the reaches of the detector on both sides: others are displaced, and do not see the whole object.
_CENTERED = 0.5
#: Fewest views, and least rotation of a parallel beam in degrees.
_FEWEST_VIEWS, _LEAST_ARC = 16, 170.0


def axis_warnings(path: Path, geometry: Geometry, slices: Sequence[Array]) -> list[str]:
    """A line if the rotation axis is off by more than a detector element, with the offset that corrects it.

    The centers of mass of parallel projections lie on a sine about the axis. Over a full turn of a fan beam every line
    is measured from both sides, so the mean view is symmetric about the axis. Nothing is said where this is not so: for
    displaced detectors, parts of a turn and scans whose steps differ.

    Parameters
    ----------
    slices
        Line integrals ``(views, detectors)``. Their ends must be air.
    """
    ends = np.abs(ray_distances_mm(geometry)[[0, -1]])
    if geometry is not geometry.nominal:  # the axis of a scan that wobbles is in no column
        return []
    if not slices or ends.min() < _CENTERED * ends.max() or geometry.shape[0] < _FEWEST_VIEWS:
        return []
    lines = _without_air(np.mean(slices, axis=0, dtype=np.float64))
    if lines is None or (found := _axis_mm(geometry, lines)) is None:
        return []
    columns = found / geometry.pitch_mm
    column = (geometry.detectors - 1) / 2 + (found - geometry.offset_mm) / geometry.pitch_mm
    return [
        f"{path}: rotation axis: found the object turning about a point {abs(columns):.1f} columns beside the axis, "
        f"expected 0; set offset_mm to {geometry.offset_mm - found:.4g}, or axis_column = {column:.1f} in [data] "
        "of Data Exchange files"
    ]


def _without_air(lines: Array) -> Array | None:
    """Line integrals less those at the ends of the detector; None if these are not air."""
    width, mean = max(2, lines.shape[1] // _END), lines.mean(0)
    first, last = float(np.median(mean[:width])), float(np.median(mean[-width:]))
    if max(abs(first), abs(last)) > _AIR * mean.max():
        return None
    less: Array = lines - np.linspace(first, last, lines.shape[1])
    return less


def _axis_mm(geometry: Geometry, lines: Array) -> float | None:
    """Position of the rotation axis on the detector; None if it is where it should be, or cannot be told."""
    if lines.sum() <= 0:
        return None
    parallel = isinstance(geometry, ParallelBeam)
    if not parallel:
        _, once = np.unique((geometry.angles % (2 * math.pi)).round(9), return_index=True)
        geometry, lines = geometry.subset(once), lines[once]
        if not _has_equal_steps(geometry):
            return None
    locate = _axis_of_centers if parallel else _axis_of_mean_view
    halves = [locate(geometry.subset(slice(k, None, 2)), lines[k::2]) for k in range(2)]
    if any(half is None for half in halves):
        return None
    first, second = (float(half) for half in halves if half is not None)
    axis = (first + second) / 2
    sure = abs(axis) > _LEAST_COLUMNS * geometry.pitch_mm and abs(first - second) < _DISAGREE * abs(axis)
    return axis if sure else None


def _axis_of_centers(geometry: Geometry, lines: Array) -> float | None:
    """Constant part of the centers of mass of parallel projections; None if they are on no sine."""
    if math.degrees(np.ptp(geometry.travel_rad)) < _LEAST_ARC or (mass := lines.sum(1)).min() <= 0:
        return None
    centers = lines @ geometry.u_mm / mass
    terms = np.stack((np.ones(len(lines)), np.cos(geometry.angles), np.sin(geometry.angles)), axis=1)
    solution = np.linalg.lstsq(terms, centers, rcond=None)[0]
    deviation = float(np.sqrt(np.mean((terms @ solution - centers) ** 2)))
    axis = float(solution[0])
    return axis if deviation < _NO_SINE * geometry.pitch_mm + _PART_NO_SINE * abs(axis) else None


def _axis_of_mean_view(geometry: Geometry, lines: Array) -> float | None:
    """Middle of the mean view of a full turn; None if the view is not symmetric about it."""
    mean, u = lines.mean(0), geometry.u_mm
    axis = float(mean @ u / mean.sum())

    def asymmetry(middle: float) -> float:
        mirrored = np.interp(2 * middle - u, u, mean, left=0.0, right=0.0)
        return float(np.square(mean - mirrored).sum())

    return axis if asymmetry(axis) < (1 - _EXPLAINED) * asymmetry(0.0) else None


def _has_equal_steps(geometry: Geometry) -> bool:
    """Whether views go through a full turn in equal steps."""
    ring = np.sort(geometry.angles % (2 * math.pi))
    gaps = np.diff(ring, append=ring[0] + 2 * math.pi)
    return goes_all_round(geometry) and bool(gaps.max() < 1.5 * np.median(gaps))
