"""Weights of views and rays in filtered back-projection: any angles, short scans, displaced detectors."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .beams import ParallelBeam, fan_angles_at
from .geometry import Geometry, field_of_view_radius_mm, is_displaced
from .grid import Array, ImageGrid

#: A missing angular range exceeds the typical gap by this factor and angle, and the gap on one of its sides twofold.
_TYPICAL_GAPS, _LEAST_MISSING_RAD = 2.25, math.radians(1)
#: Missing ranges are at most an eighth of the gaps, or four, and at most this number; if there are more than two, the
#: other gaps fill more than this part of the circle. Else they are the steps of views that are measured several times.
_FEWEST_GAPS, _MOST_MISSING, _LEAST_MEASURED = 8, 16, 0.02
#: The largest of random gaps exceeds the next one by the mean gap on average, and once in 3000 scans by 8 mean gaps.
_CHANCE = 8.0
#: Missing ranges that exceed the typical gap by less than this angle have no influence on the weights of the rays.
_LEAST_WEIGHTED_RAD = math.radians(6)
#: Missing ranges up to this angle belong to the views at their ends: 10 degrees without views darken an image by 5 %.
_BRIDGED_RAD = math.radians(12)
#: Views whose angles differ by less than this part of the largest gap are repetitions of one view.
_SAME = 1e-6
#: Largest angle over which the weights of a short scan rise from zero to one at either end.
_TAPER_RAD = math.radians(10)


def view_angles(geometry: Geometry) -> Array:
    """Angular width of every view in rad, ``(views,)``: half of the gaps to its two neighbors.

    Repetitions of a view share its width. Angles are taken modulo half a turn for parallel beams, modulo a full turn
    for fan beams and displaced detectors. A missing angular range, as in a limited-angle or short scan, belongs to no
    view.
    """
    ring = _ring(geometry)
    gaps = np.where(ring.unbridged, ring.typical, ring.gaps)
    widths = (gaps + np.roll(gaps, 1)) / 2
    # Zero gaps join the repetitions of a view; the last view may repeat the first, across the end of the period.
    apart = np.roll(ring.gaps > _SAME * ring.gaps.max(), 1)
    group = np.cumsum(apart) % max(int(apart.sum()), 1)
    shared = np.bincount(group, widths) / np.bincount(group)
    angles = np.empty(len(gaps))
    angles[ring.order] = shared[group]
    return angles


def redundancy_weights(geometry: Geometry) -> Array:
    """Weights of the rays, ``(views, detectors)``: all measurements of one line in a fan beam add up to one.

    A fan beam measures the line of view t and fan angle g once more in view ``t + pi - 2 g``, at fan angle -g; with a
    displaced detector, some lines of a full turn are measured once and others twice. Opposite views of a parallel beam
    already share their angular width (:func:`view_angles`) unless the detector is displaced, so their weights add up
    to two.
    """
    u, geometry = geometry.axis_u_mm, geometry.nominal
    # The weights of a detector that moves end where it ends in some view.
    low, high = float(u[..., 0].max()), float(u[..., -1].min())
    u, displaced = np.clip(u, low, high), is_displaced(geometry)
    ends = low - geometry.pitch_mm / 2, high + geometry.pitch_mm / 2
    here, opposite = (_detector_taper(side, ends, geometry.pitch_mm) for side in (u, -u))
    across = np.broadcast_to(here / (here + opposite), geometry.shape)
    turn = _Ring(geometry.angles, 2 * math.pi)
    if isinstance(geometry, ParallelBeam) and not displaced:
        return np.ones(geometry.shape) if turn.weighted.any() else 2 * across
    gaps = turn.unbridged if displaced or turn.unbridged.any() else turn.weighted
    if not gaps.any():
        return across
    if not displaced:
        here, opposite = np.ones_like(u), (opposite > 0).astype(float)
    fan = 0.0 if isinstance(geometry, ParallelBeam) else fan_angles_at(geometry, u)
    back = geometry.angles[:, None] + math.pi - 2 * fan
    first, there = turn.taper(geometry.angles, gaps)[:, None] * here, turn.taper(back, gaps) * opposite
    weights: Array = first / (first + there)
    return weights


@lru_cache(maxsize=64)
def goes_all_round(geometry: Geometry) -> bool:
    """Whether the views of a scan go through a full turn."""
    turn = _Ring(geometry.nominal.angles, 2 * math.pi)
    return len(turn.distinct) > 1 and not bool(turn.weighted.any())


class Coverage(NamedTuple):
    """Rotation in degrees that a scan covers, that it needs, and the part of it that is missing."""

    covered: float
    needed: float
    missing: float

    @property
    def is_complete(self) -> bool:
        """Whether no more than a hundredth is missing."""
        return self.missing <= 0.01 * self.needed


@lru_cache(maxsize=64)
def scan_coverage(geometry: Geometry, grid: ImageGrid) -> Coverage:
    """How far a scan turns: with no rotation missing, every line through the image is measured.

    A parallel beam needs half a turn, a fan beam also the angle of the fan that meets the image, a displaced detector
    a full turn.
    """
    geometry = geometry.nominal
    turn, radius = _Ring(geometry.angles, 2 * math.pi), grid.corner_radius_mm
    if is_displaced(geometry) and field_of_view_radius_mm(geometry) < radius:
        needed, missing = 2 * math.pi, 2 * math.pi - turn.covered
    elif isinstance(geometry, ParallelBeam):
        needed, missing = math.pi, math.pi - _Ring(geometry.angles, math.pi).covered
    else:
        seen = math.asin(min(radius / geometry.source_to_axis_mm, 1.0))
        fan = min(seen, float(np.abs(geometry.fan_angles).max()))
        needed = math.pi + 2 * fan
        center, rim = turn.unmeasured(0.0) / 2, turn.unmeasured(fan)
        missing = max(center, min(rim, center + 2 * fan))
    if len(turn.distinct) < 2:  # one view
        missing = needed
    return Coverage(*(math.degrees(angle) for angle in (needed - missing, needed, missing)))


@dataclass(frozen=True, eq=False)
class _Ring:
    """View angles on a circle of ``period`` rad, and the angular ranges that no view measures."""

    angles: Array
    period: float

    @cached_property
    def order(self) -> npt.NDArray[np.intp]:
        """Views sorted by angle."""
        return np.argsort(self.angles % self.period, kind="stable")

    @cached_property
    def sorted(self) -> Array:
        """Angles of the sorted views, from 0 to the period."""
        ring: Array = (self.angles % self.period)[self.order]
        return ring

    @cached_property
    def gaps(self) -> Array:
        """Gap after each sorted view."""
        return np.diff(self.sorted, append=self.sorted[0] + self.period)

    @cached_property
    def distinct(self) -> npt.NDArray[np.intp]:
        """Gaps between views of different angle."""
        return np.flatnonzero(self.gaps > _SAME * self.gaps.max())

    @cached_property
    def missing(self) -> npt.NDArray[np.bool_]:
        """Which gaps are missing angular ranges: the largest ones, if the others explain none of them.

        The typical gap is the median of the others, the step of a scan with equal steps. A single lost view, the
        unequal gaps of golden angles, and views that become sparse over several steps leave no missing range.
        """
        gaps, found = self.gaps[self.distinct], np.zeros(len(self.gaps), dtype=bool)
        falling, beside = np.argsort(-gaps, kind="stable"), np.minimum(np.roll(gaps, 1), np.roll(gaps, -1))
        most = min(len(gaps) // 2, _MOST_MISSING, max(4, len(gaps) // _FEWEST_GAPS))
        for count in range(1, 1 + most):
            some, others = falling[:count], gaps[falling[count:]]
            if count > 2 and others.sum() < _LEAST_MEASURED * self.period:
                break
            typical = float(np.median(others))
            # Random angles have exponential gaps; of these, half exceed the median, by the mean gap on average.
            mean = 2 * float((others - typical).clip(0).mean())
            least = max(typical + _LEAST_MISSING_RAD, _TYPICAL_GAPS * typical, others[0] + mean * _CHANCE)
            if (gaps[some] > (1 + _SAME) * np.maximum(least, 2 * beside[some])).all():
                found[self.distinct[some]] = True
        return found

    @property
    def weighted(self) -> npt.NDArray[np.bool_]:
        """Which gaps are missing angular ranges that the weights of the rays take into account."""
        return self.missing & (self.gaps > self.typical + _LEAST_WEIGHTED_RAD)

    @property
    def unbridged(self) -> npt.NDArray[np.bool_]:
        """Which gaps are missing angular ranges that belong to no view."""
        return self.missing & (self.gaps > _BRIDGED_RAD)

    @cached_property
    def typical(self) -> float:
        """Median gap between neighboring views."""
        return float(np.median(self.gaps[self.distinct][~self.missing[self.distinct]]))

    @property
    def covered(self) -> float:
        """Total length of the measured ranges."""
        return self.period - float((self.gaps - self.typical)[self.missing].sum())

    def taper(self, angles: Array, ends: npt.NDArray[np.bool_]) -> Array:
        """One in the ranges between some of the gaps, zero in these gaps; rises at either end, from above zero.

        A range reaches half a typical gap beyond its first and last views.
        """
        weights, after, largest = np.zeros(np.shape(angles)), np.flatnonzero(ends), float(self.gaps[~ends].max())
        # Unequal steps need several views within the rise.
        rise = max(_TAPER_RAD, 4 * largest) if largest > 2 * self.typical else _TAPER_RAD
        for end, before in zip(after, np.roll(after, 1), strict=True):
            first, last = self.sorted[(before + 1) % len(self.gaps)], self.sorted[end]
            along = (angles - first + self.typical / 2) % self.period
            length = (last - first) % self.period + self.typical
            inside = np.clip(np.minimum(along, length - along) / min(rise, length / 4), 0, 1)
            weights += np.where(along <= length, np.sin(math.pi / 2 * inside) ** 2 + 1e-9, 0.0)
        return weights

    def unmeasured(self, fan: float) -> float:
        """Part of the turn in which lines of a fan angle are measured neither in a view nor in the opposite one."""
        if not self.missing.any():
            return 0.0
        views = np.linspace(0, self.period, 7200, endpoint=False)
        opposite = views + math.pi - 2 * fan
        missing = [self.taper(angles, self.missing) == 0 for angles in (views, opposite)]
        return self.period * float((missing[0] & missing[1]).mean())


def _ring(geometry: Geometry) -> _Ring:
    """Views among those that measure the same lines."""
    geometry = geometry.nominal
    same_lines = isinstance(geometry, ParallelBeam) and not is_displaced(geometry)
    return _Ring(geometry.angles, math.pi if same_lines else 2 * math.pi)


def _detector_taper(u: Array, ends: tuple[float, float], pitch: float) -> Array:
    """One on the detector, zero off it; the rise at either end takes at most a quarter of the detector."""
    low, high = ends
    inside = np.minimum(u - low, high - u) / min(max(min(-low, high), pitch), (high - low) / 4)
    rise: Array = np.sin(math.pi / 2 * np.clip(inside, 0, 1)) ** 2
    return rise
