"""CT scans with a position of source and detector of its own in every view: flying focal spots, wobble, tilts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from .beams import FanBeam, ParallelBeam, Rays, Scan, angles_from
from .grid import Array, length_mm, set_field

Points = tuple[tuple[float, float], ...]
#: Relative difference of the lengths of ASTRA's detector vectors that is rounding.
_SAME_PITCH = 1e-6


class _Vectors(Scan):
    """Common part: the detector of view t lies at ``detector_mm`` along ``(cos t, sin t)``."""

    detector_mm: Points

    @cached_property
    def _along(self) -> tuple[Array, Array]:
        """Unit vectors along the detector and across it, away from the source, each ``(views, 2)``."""
        cos, sin = np.cos(self.angles), np.sin(self.angles)
        return np.stack((cos, sin), 1), np.stack((-sin, cos), 1)

    @classmethod
    def _from_rows(cls, vectors: npt.ArrayLike, detectors: int) -> tuple[Array, Array, float, Array]:
        """First pair, angles along u, pitch and detector middles of ASTRA's rows of six numbers."""
        rows = np.asarray(vectors, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != 6 or not np.isfinite(rows).all():
            raise ValueError(f"{cls.__name__}: vectors have shape {rows.shape}, expected finite numbers, (views, 6)")
        pitches = np.hypot(rows[:, 4], rows[:, 5])
        if np.ptp(pitches) > _SAME_PITCH * pitches.max():
            found = f"{pitches.min():g} to {pitches.max():g} mm"
            raise ValueError(f"{cls.__name__}: elements are {found} apart, expected the same distance in every view")
        return rows[:, :2], np.arctan2(rows[:, 5], rows[:, 4]), float(pitches.mean()), rows[:, 2:4]


@dataclass(frozen=True, repr=False)
class ParallelVectors(_Vectors):
    """Parallel rays whose direction and detector may move in every view: an axis that wobbles, a tilted detector.

    In view t, element u of the detector is at ``detector_mm + u (cos t, sin t)``; its rays run along
    ``(-sin b, cos b)`` at the angle b of the view in ``ray_angles_rad``.

    Parameters
    ----------
    angles_rad, detectors, pitch_mm
        As for :class:`ParallelBeam`; the angles are those of the detector.
    ray_angles_rad
        View angles of the rays; equal to ``angles_rad`` where the detector is not tilted.
    detector_mm
        Middle of the detector in every view, ``(x, y)``.
    offset_mm
        Shift of the detector along u in all views.

    Raises
    ------
    ValueError
        If an argument is invalid, or rays run along the detector or reach it from behind.
    """

    angles_rad: tuple[float, ...]
    detectors: int
    pitch_mm: float
    ray_angles_rad: tuple[float, ...]
    detector_mm: Points
    offset_mm: float = 0.0

    PER_VIEW = ("angles_rad", "ray_angles_rad", "detector_mm")

    def __post_init__(self) -> None:
        self._check()
        set_field(self, "ray_angles_rad", angles_from("ParallelVectors: ray_angles_rad", self.ray_angles_rad))
        set_field(self, "detector_mm", _points(self, "detector_mm"))
        if len(self.ray_angles_rad) != len(self.angles_rad):
            found = f"{len(self.ray_angles_rad)} views"
            raise ValueError(f"ParallelVectors: ray_angles_rad has {found}, expected {len(self.angles_rad)}")
        if not (self._cosines > 0.01).all():
            raise ValueError(
                "ParallelVectors: rays run along the detector or reach it from behind; at angle 0, +u points along +x "
                "and rays along +y: reverse the elements"
            )

    @classmethod
    def from_vectors(cls, vectors: npt.ArrayLike, detectors: int) -> Self:
        """The scan of ASTRA's ``parallel_vec``: per view ``(rayX, rayY, dX, dY, uX, uY)``."""
        rays, angles, pitch, middles = cls._from_rows(vectors, detectors)
        ray_angles = np.arctan2(-rays[:, 0], rays[:, 1])
        # A line has no sense: rays run towards the side on which the detector's normal points.
        backwards = np.cos(ray_angles - angles) < 0
        return cls(
            tuple(angles.tolist()), detectors, pitch, tuple((ray_angles + math.pi * backwards).tolist()), _rows(middles)
        )

    @property
    def rays(self) -> Rays:
        """The rays through the centers of the elements."""
        (along, _), beta = self._along, np.array(self.ray_angles_rad)[:, None]
        x, y = (np.array(self.detector_mm)[:, None, k] + self.u_mm * along[:, None, k] for k in range(2))
        return Rays(x, y, *(np.broadcast_to(part, self.shape).copy() for part in (-np.sin(beta), np.cos(beta))))

    @cached_property
    def nominal(self) -> ParallelBeam:
        """The parallel beam nearest to the scan, for everything that needs no exact positions."""
        pitch = self.pitch_mm * float(self._cosines.mean())
        offset = float((self.distances_mm + self.offset_mm * self._cosines).mean())
        return ParallelBeam(self.ray_angles_rad, self.detectors, pitch, offset)

    @property
    def axis_u_mm(self) -> Array:
        """Where the elements of every view are on the detector of :attr:`nominal`, from the axis."""
        return np.asarray(self.u_mm * self._cosines[:, None] + self.distances_mm[:, None])

    @property
    def departure(self) -> float:
        """Largest relative difference of the distance between rays from that of :attr:`nominal`."""
        return float(np.abs(self._cosines / self._cosines.mean() - 1).max())

    @cached_property
    def distances_mm(self) -> Array:
        """Signed distance of the ray through ``detector_mm`` from the axis, ``(views,)``."""
        cos, sin = np.cos(self.ray_angles_rad), np.sin(self.ray_angles_rad)
        x, y = np.array(self.detector_mm).T
        return np.asarray(x * cos + y * sin)

    @cached_property
    def gains(self) -> Array:
        """Elements per mm across the rays, ``(views,)``."""
        return np.asarray(1 / (self.pitch_mm * self._cosines))

    @cached_property
    def _cosines(self) -> Array:
        return np.asarray(np.cos(self.angles - np.array(self.ray_angles_rad)))


@dataclass(frozen=True, repr=False)
class FanVectors(_Vectors):
    """Rays from a source to a detector that may both move in every view: flying focal spots, wobble, tilted detectors.

    In view t, the detector is along u = ``(cos t, sin t)`` with the source on the side of ``(sin t, -cos t)``. A flat
    one has element u at ``detector_mm + u (cos t, sin t)``. A curved one is an arc about a fixed focus, which need not
    be the source; ``detector_mm`` is its middle.

    Parameters
    ----------
    angles_rad, detectors, pitch_mm
        As for :class:`FanBeam`; the angles are those of the detector, not of the source.
    source_mm, detector_mm
        Source and middle of the detector in every view, ``(x, y)``.
    arc_radius_mm
        Radius of a curved detector; None: flat.
    offset_mm
        Shift of the detector along u in all views.

    Raises
    ------
    ValueError
        If an argument is invalid, a source is not ahead of its detector, or axis and source do not lie as in a scan
        around the axis.
    """

    angles_rad: tuple[float, ...]
    detectors: int
    pitch_mm: float
    source_mm: Points
    detector_mm: Points
    arc_radius_mm: float | None = None
    offset_mm: float = 0.0

    PER_VIEW = ("angles_rad", "source_mm", "detector_mm")

    def __post_init__(self) -> None:
        self._check()
        for name in ("source_mm", "detector_mm"):
            set_field(self, name, _points(self, name))
        if self.arc_radius_mm is not None:
            radius = length_mm("FanVectors", "arc_radius_mm", self.arc_radius_mm, "the radius of the detector")
            set_field(self, "arc_radius_mm", radius)
        if not (self.distances_mm > 0).all() or not (self.depths_mm > 0).all():
            view = int(np.argmin(np.minimum(self.distances_mm, self.depths_mm)))
            raise ValueError(
                f"FanVectors: in view {view} the source is {self.depths_mm[view]:.4g} mm ahead of the axis and "
                f"{self.distances_mm[view]:.4g} mm ahead of the detector, expected more than 0; at angle 0, +u points "
                "along +x, the source is at -y: reverse the elements, or exchange source and detector"
            )
        _ = self.nominal  # refuses what is no scan around the axis

    @classmethod
    def from_vectors(cls, vectors: npt.ArrayLike, detectors: int) -> Self:
        """The scan of ASTRA's ``fanflat_vec``: per view ``(srcX, srcY, dX, dY, uX, uY)``."""
        sources, angles, pitch, middles = cls._from_rows(vectors, detectors)
        return cls(tuple(angles.tolist()), detectors, pitch, _rows(sources), _rows(middles))

    @property
    def detector(self) -> str:
        """``"flat"`` or ``"curved"``."""
        return "flat" if self.arc_radius_mm is None else "curved"

    @property
    def rays(self) -> Rays:
        """The rays from the source to the centers of the elements."""
        (along, away), middle, source = self._along, np.array(self.detector_mm), np.array(self.source_mm)
        radius = self.arc_radius_mm
        if radius is None:
            across, depth = self.u_mm, np.zeros(self.detectors)
        else:
            across, depth = radius * np.sin(self.u_mm / radius), radius * (np.cos(self.u_mm / radius) - 1)
        toward_x, toward_y = (
            (middle - source)[:, None, k] + across * along[:, None, k] + depth * away[:, None, k] for k in range(2)
        )
        length = np.hypot(toward_x, toward_y)
        x, y = (np.broadcast_to(source[:, None, k], self.shape).copy() for k in range(2))
        return Rays(x, y, toward_x / length, toward_y / length)

    @cached_property
    def nominal(self) -> FanBeam:
        """The fan beam nearest to the scan, for everything that needs no exact positions."""
        source = np.array(self.source_mm)
        turned = np.arctan2(source[:, 0], -source[:, 1]) - self.angles
        angles = self.angles + (turned + math.pi) % (2 * math.pi) - math.pi
        R, D = float(np.hypot(*source.T).mean()), float(self.distances_mm.mean())
        kind: Any = self.detector
        reach = D if self.arc_radius_mm is None else self.arc_radius_mm
        offset = self.offset_mm - float(self._axis_mm.mean())
        return FanBeam(tuple(angles.tolist()), self.detectors, self.pitch_mm, R, reach, kind, offset)

    @property
    def axis_u_mm(self) -> Array:
        """Where the elements of every view are on the detector of :attr:`nominal`, from the axis."""
        return self.u_mm - self._axis_mm[:, None]

    @property
    def departure(self) -> float:
        """Largest deviation of a view from :attr:`nominal`: relative lengths, and angles of the detector in rad."""
        R, D = self.nominal.source_to_axis_mm, self.nominal.source_to_detector_mm
        parts = (self.depths_mm / R - 1, self.distances_mm / D - 1, self.laterals_mm / self.depths_mm)
        return float(max(np.abs(part).max() for part in parts))

    @cached_property
    def laterals_mm(self) -> Array:
        """Position of the source along u, ``(views,)``."""
        return np.asarray((np.array(self.source_mm) * self._along[0]).sum(1))

    @cached_property
    def depths_mm(self) -> Array:
        """Distance from the source to the axis across the detector, ``(views,)``."""
        return np.asarray(-(np.array(self.source_mm) * self._along[1]).sum(1))

    @cached_property
    def distances_mm(self) -> Array:
        """Distance from the source to the detector across it, ``(views,)``."""
        away = np.array(self.detector_mm) - np.array(self.source_mm)
        return np.asarray((away * self._along[1]).sum(1))

    @cached_property
    def middles_mm(self) -> Array:
        """Position of the middle of the detector along u, ``(views,)``."""
        return np.asarray((np.array(self.detector_mm) * self._along[0]).sum(1))

    @cached_property
    def off_focus(self) -> tuple[Array, Array]:
        """Source minus the focus of a curved detector, along u and across, in radii, ``(views,)`` each; 0 if flat."""
        if self.arc_radius_mm is None:
            return np.zeros(self.shape[0]), np.zeros(self.shape[0])
        across = self.laterals_mm - self.middles_mm
        return across / self.arc_radius_mm, 1 - self.distances_mm / self.arc_radius_mm

    @property
    def _axis_mm(self) -> Array:
        """Where the ray through the axis meets the detector, from its middle without offset, ``(views,)``."""
        if self.arc_radius_mm is None:
            seen = self.laterals_mm * (1 - self.distances_mm / self.depths_mm)
            return np.asarray(seen - self.middles_mm)
        angle = np.arctan2(-self.laterals_mm, self.depths_mm)
        across, away = self.off_focus
        return np.asarray(self.arc_radius_mm * (angle + np.arcsin(across * np.cos(angle) - away * np.sin(angle))))


def moved_fan(
    geometry: FanBeam,
    *,
    source_mm: Sequence[tuple[float, float]] | npt.ArrayLike = (0.0, 0.0),
    detector_mm: Sequence[tuple[float, float]] | npt.ArrayLike = (0.0, 0.0),
    tilt_rad: npt.ArrayLike = 0.0,
) -> FanVectors:
    """A fan beam whose source and detector are off their places, in all views or in each.

    Parameters
    ----------
    source_mm
        Shift of the focal spot along u and away from the axis, ``(2,)`` or ``(views, 2)``.
    detector_mm
        Shift of the detector along u and away from the axis, ``(2,)`` or ``(views, 2)``.
    tilt_rad
        Rotation of the detector about its middle, counter-clockwise, a number or ``(views,)``.

    Raises
    ------
    ValueError
        If a shape does not fit the views.
    """
    views = geometry.shape[0]
    cos, sin = np.cos(geometry.angles), np.sin(geometry.angles)
    along, away = np.stack((cos, sin), 1), np.stack((-sin, cos), 1)
    R, D = geometry.source_to_axis_mm, geometry.source_to_detector_mm
    try:
        source, detector = (np.broadcast_to(np.asarray(given, float), (views, 2)) for given in (source_mm, detector_mm))
        tilt = np.broadcast_to(np.asarray(tilt_rad, float), (views,))
    except ValueError as error:
        raise ValueError(f"moved_fan: {error}; expected (2,) or ({views}, 2), and tilts ({views},)") from None
    sources = source[:, :1] * along - (R + source[:, 1:]) * away
    middles = detector[:, :1] * along + (D - R + detector[:, 1:]) * away
    radius = D if geometry.detector == "curved" else None
    angles = tuple((geometry.angles + tilt).tolist())
    return FanVectors(
        angles, geometry.detectors, geometry.pitch_mm, _rows(sources), _rows(middles), radius, geometry.offset_mm
    )


def _points(scan: _Vectors, name: str) -> Points:
    views, given = len(scan.angles_rad), getattr(scan, name)
    try:
        points = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.empty(0)
    if points.shape != (views, 2) or not np.isfinite(points).all():
        found = f"{type(scan).__name__}: {name} has shape {points.shape}"
        raise ValueError(f"{found}, expected finite numbers in mm, ({views}, 2), one (x, y) per view")
    return _rows(points)


def _rows(points: Array) -> Points:
    return tuple((float(x), float(y)) for x, y in points)
