"""Weights of views and rays in filtered back-projection: any angles, short scans, displaced detectors."""

import math

import numpy as np
import numpy.typing as npt

from .geometry import Array, Geometry, ParallelBeam

#: A gap between views that exceeds the typical gap by this factor is a missing angular range.
_MISSING = 4.0
#: Largest angle over which the weights of a short scan rise from zero to one at either end.
_TAPER_RAD = math.radians(10)


def view_angles(geometry: Geometry) -> Array:
    """Angular width of every view in rad, ``(views,)``: half of the gaps to its two neighbors.

    Angles are taken modulo half a turn for parallel beams, modulo a full turn for fan beams. A missing angular range,
    as in a limited-angle or short scan, belongs to no view.
    """
    order, gaps, missing = _gaps(geometry, math.pi if isinstance(geometry, ParallelBeam) else 2 * math.pi)
    gaps = np.where(missing, _typical(gaps), gaps)
    angles = np.empty(len(order))
    angles[order] = (gaps + np.roll(gaps, 1)) / 2
    return angles


def redundancy_weights(geometry: Geometry) -> Array:
    """Weights of the rays, ``(views, detectors)``: all measurements of one line in a fan beam add up to one.

    A fan beam measures the line of view t and fan angle g once more in view ``t + pi - 2 g``, at fan angle -g; with a
    displaced detector, some lines of a full turn are measured once and others twice. Opposite views of a parallel beam
    already share their angular width (:func:`view_angles`), so their weights add up to two.
    """
    u = geometry.u_mm
    here, opposite = _detector_taper(geometry, u), _detector_taper(geometry, -u)
    across = np.broadcast_to(here / (here + opposite), geometry.shape)
    order, gaps, missing = _gaps(geometry, 2 * math.pi)
    if isinstance(geometry, ParallelBeam):
        return np.ones(geometry.shape) if missing.any() else 2 * across
    if not missing.any():
        return across
    # The scan covers half a typical gap beyond its first and its last view.
    typical, first = _typical(gaps), order[(int(gaps.argmax()) + 1) % len(order)]
    arc = 2 * math.pi - float(gaps.max()) + typical
    turned = (geometry.angles - geometry.angles[first] + typical / 2)[:, None] % (2 * math.pi)
    back = (turned + math.pi - 2 * geometry.fan_angles) % (2 * math.pi)
    there = (opposite > 0) * _scan_taper(back, arc)
    weights: Array = _scan_taper(turned, arc) / (_scan_taper(turned, arc) + there)
    return weights


def _gaps(geometry: Geometry, period: float) -> tuple[npt.NDArray[np.intp], Array, npt.NDArray[np.bool_]]:
    """Views sorted by angle, the gap after each of them, and which gaps are missing angular ranges."""
    angles = geometry.angles % period
    order = np.argsort(angles, kind="stable")
    gaps = np.diff(angles[order], append=angles[order[0]] + period)
    return order, gaps, gaps > _MISSING * _typical(gaps)


def _typical(gaps: Array) -> float:
    """Median gap between views of different angle."""
    return float(np.median(gaps[gaps > 1e-6 * gaps.max()]))


def _detector_taper(geometry: Geometry, u: Array) -> Array:
    """One on the detector, zero off it; the rise at either end takes at most a quarter of the detector."""
    low, high = geometry.u_mm[0] - geometry.pitch_mm / 2, geometry.u_mm[-1] + geometry.pitch_mm / 2
    inside = np.minimum(u - low, high - u) / min(max(min(-low, high), geometry.pitch_mm), (high - low) / 4)
    rise: Array = np.sin(math.pi / 2 * np.clip(inside, 0, 1)) ** 2
    return rise


def _scan_taper(angle: Array, arc: float) -> Array:
    """One in the scan, zero outside; rises at either end, from a small positive value."""
    inside = np.clip(np.minimum(angle, arc - angle) / min(_TAPER_RAD, arc / 4), 0, 1)
    return np.where(angle <= arc, np.sin(math.pi / 2 * inside) ** 2 + 1e-9, 0.0)
