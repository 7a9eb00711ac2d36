"""CT scans as values: parallel beam and fan beam.

Row 0 of an image is at the top (+y). In view t of a parallel beam, the ray at detector position u is
``x cos t + y sin t = u``. A fan beam has its source at ``R (sin t, -cos t)``, the center of its detector at
``(D - R) (-sin t, cos t)`` and its detector axis u along ``(cos t, sin t)``.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from .grid import Array, finite_number, is_count, length_mm, set_field

logger = logging.getLogger(__name__)

#: Angles that span more turns are rejected: they are most likely in degrees.
_MOST_TURNS = 3
#: Step between views of a scan of more than a turn above which they are most likely in degrees.
_COARSE_RAD = 0.2


class Rays(NamedTuple):
    """Lines in the plane, each given by a point and a unit direction; arrays ``(views, detectors)``, lengths in mm."""

    point_x: Array
    point_y: Array
    direction_x: Array
    direction_y: Array


class Scan:
    """Common part of all scans; each declares these fields in its own order."""

    #: Fields with one value per view.
    PER_VIEW: ClassVar[tuple[str, ...]] = ("angles_rad",)

    angles_rad: tuple[float, ...]
    detectors: int
    pitch_mm: float
    offset_mm: float

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the sinogram, ``(views, detectors)``."""
        return len(self.angles_rad), self.detectors

    @property
    def angles(self) -> Array:
        """The view angles as an array."""
        return np.array(self.angles_rad)

    @property
    def travel_rad(self) -> Array:
        """Rotation that precedes every view, 0 at the first: in the order and sense in which the gantry turned.

        Angles may be stored modulo a turn or beyond it, in either sense. Views that were stored in another order than a
        gantry turns count from the end of their largest gap.
        """
        turn = 2 * math.pi
        steps = (np.diff(self.angles) + math.pi) % turn - math.pi
        steps *= -1.0 if (steps < 0).sum() > (steps > 0).sum() else 1.0
        # A step back of less than 45 degrees is jitter; a larger one is a step forward of more than half a turn.
        beyond = steps < -math.pi / 4
        small, forward = steps[~beyond], np.where(beyond, steps + turn, steps)
        in_order = beyond.mean() < 0.1 and small.sum() >= 0.3 * np.abs(small).sum() if len(steps) else True
        if in_order and (forward.sum() <= turn or np.median(forward) < math.pi / 3):
            travel: Array = np.cumsum(np.r_[0.0, forward])
            return np.asarray(travel - travel.min())
        ring = np.sort(self.angles % turn)
        first = ring[(int(np.diff(ring, append=ring[0] + turn).argmax()) + 1) % len(ring)]
        return np.asarray((self.angles - first) % turn)

    @property
    def u_mm(self) -> Array:
        """Centers of the detector elements along u."""
        return (np.arange(self.detectors) - (self.detectors - 1) / 2) * self.pitch_mm + self.offset_mm

    @property
    def axis_u_mm(self) -> Array:
        """Where the elements are on the detector of :attr:`nominal`, from the axis, ``(detectors,)``.

        Of vectors, ``(views, detectors)``.
        """
        return self.u_mm

    def subset(self, views: slice | Sequence[int] | Sequence[bool] | npt.NDArray[Any]) -> Self:
        """The scan with some of its views, in the given order: sparse views, limited angles.

        Parameters
        ----------
        views
            Slice, indices, or a boolean mask of all views.

        Raises
        ------
        ValueError
            If a view does not exist or none is left.
        """
        try:
            numbers = np.atleast_1d(np.arange(self.shape[0])[views if isinstance(views, slice) else np.asarray(views)])
        except IndexError as error:
            raise ValueError(f"{type(self).__name__}: subset of {self.shape[0]} views: {error}") from None
        chosen = {name: tuple(getattr(self, name)[number] for number in numbers) for name in self.PER_VIEW}
        changed: Self = replace(self, **chosen)  # type: ignore[type-var]
        return changed

    def _check(self) -> None:
        who = type(self).__name__
        set_field(self, "angles_rad", angles_from(who, self.angles_rad))
        if not is_count(self.detectors):
            raise ValueError(f"{who}: detectors is {self.detectors!r}, expected a positive whole number")
        set_field(self, "detectors", int(self.detectors))
        set_field(
            self, "pitch_mm", length_mm(who, "pitch_mm", self.pitch_mm, "the distance between neighboring elements")
        )
        if math.isnan(finite_number(self.offset_mm)):
            raise ValueError(f"{who}: offset_mm is {self.offset_mm!r}, expected a finite number in mm")
        set_field(self, "offset_mm", float(self.offset_mm))

    def __repr__(self) -> str:
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        angles = _angles_text(values.pop("angles_rad"))
        return f"{type(self).__name__}({angles}, {', '.join(f'{key}={value!r}' for key, value in values.items())})"


@dataclass(frozen=True, repr=False)
class ParallelBeam(Scan):
    """Parallel rays; one projection per view angle.

    Parameters
    ----------
    angles_rad
        Any finite angles in any order, see :func:`evenly_spaced`; at least one.
    detectors
        Number of detector elements, independent of the image size.
    pitch_mm
        Distance between neighboring elements.
    offset_mm
        Shift of the detector towards +u: an error of the rotation axis, or a quarter-element offset.

    Raises
    ------
    ValueError
        If an argument is invalid, or the angles span more than three turns (degrees?). A few views over more than a
        turn are logged, as they are most likely in degrees, too.
    """

    angles_rad: tuple[float, ...]
    detectors: int
    pitch_mm: float
    offset_mm: float = 0.0

    def __post_init__(self) -> None:
        self._check()

    @property
    def nominal(self) -> "ParallelBeam":
        """The scan itself; see :attr:`ParallelVectors.nominal`."""
        return self

    @property
    def rays(self) -> Rays:
        """The rays through the centers of the elements."""
        cos, sin = np.cos(self.angles)[:, None], np.sin(self.angles)[:, None]
        u = self.u_mm[None, :]
        return _whole(self, (u * cos, u * sin, -sin, cos))


@dataclass(frozen=True, repr=False)
class FanBeam(Scan):
    """Rays from a point source to a line or an arc of detector elements.

    Parameters
    ----------
    angles_rad, detectors
        As for :class:`ParallelBeam`.
    pitch_mm
        Distance between neighboring elements at the detector; along the arc for a curved detector.
    source_to_axis_mm
        Distance R from the source to the axis of rotation.
    source_to_detector_mm
        Distance D from the source to the detector, at least R.
    detector
        ``"flat"``, or ``"curved"``: an equiangular arc about the source.
    offset_mm
        Shift of the detector towards +u, measured at the detector; along the arc for a curved detector.

    Raises
    ------
    ValueError
        As for :class:`ParallelBeam`; if D is less than R, the detector is unknown or rays leave at 90 degrees or more.
    """

    angles_rad: tuple[float, ...]
    detectors: int
    pitch_mm: float
    source_to_axis_mm: float
    source_to_detector_mm: float
    detector: Literal["flat", "curved"] = "flat"
    offset_mm: float = 0.0

    def __post_init__(self) -> None:
        self._check()
        for name, end in (("source_to_axis_mm", "the axis"), ("source_to_detector_mm", "the detector")):
            set_field(
                self, name, length_mm("FanBeam", name, getattr(self, name), f"the distance from the source to {end}")
            )
        if self.source_to_detector_mm < self.source_to_axis_mm:
            raise ValueError(
                f"FanBeam: source_to_detector_mm is {self.source_to_detector_mm}, expected at least the distance to "
                f"the axis, {self.source_to_axis_mm}; is it the distance from axis to detector? Add the two"
            )
        if self.detector not in ("flat", "curved"):
            raise ValueError(f"FanBeam: detector is {self.detector!r}, expected 'flat' or 'curved'")
        if np.abs(self.fan_angles).max() >= math.pi / 2:
            raise ValueError(
                f"FanBeam: rays reach {math.degrees(np.abs(self.fan_angles).max()):.0f} degrees from the central one, "
                "expected less than 90; check pitch_mm, detectors and source_to_detector_mm"
            )

    @property
    def fan_angles(self) -> Array:
        """Angle between each ray and the central ray in rad, positive towards +u."""
        return fan_angles_at(self, self.u_mm)

    @property
    def nominal(self) -> "FanBeam":
        """The scan itself; see :attr:`FanVectors.nominal`."""
        return self

    @property
    def rays(self) -> Rays:
        """The rays through the centers of the elements."""
        cos, sin = np.cos(self.angles)[:, None], np.sin(self.angles)[:, None]
        R, fan = self.source_to_axis_mm, self.fan_angles[None, :]
        # The central ray runs along (-sin, cos); a positive fan angle turns it towards (cos, sin).
        toward_x = cos * np.sin(fan) - sin * np.cos(fan)
        toward_y = sin * np.sin(fan) + cos * np.cos(fan)
        return _whole(self, (R * sin, -R * cos, toward_x, toward_y))


def _whole(scan: Scan, parts: tuple[Array, Array, Array, Array]) -> Rays:
    return Rays(*(np.broadcast_to(part, scan.shape).copy() for part in parts))


def evenly_spaced(views: int, step_rad: float, start_rad: float = 0.0) -> tuple[float, ...]:
    """View angles ``start + k * step`` for ``k`` in ``range(views)``."""
    if not is_count(views):
        raise ValueError(f"evenly_spaced: views is {views!r}, expected a positive whole number")
    for name, angle in (("step_rad", step_rad), ("start_rad", start_rad)):
        if math.isnan(finite_number(angle)):
            raise ValueError(f"evenly_spaced: {name} is {angle!r}, expected a finite number in rad")
    return tuple((start_rad + np.arange(views) * step_rad).tolist())


def fan_angles_at(geometry: FanBeam, u: Array) -> Array:
    ratio = u / geometry.source_to_detector_mm
    angles: Array = np.arctan(ratio) if geometry.detector == "flat" else ratio
    return angles


def angles_from(who: str, given: Any) -> tuple[float, ...]:
    try:
        numbers = np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
    except ValueError as error:  # lists of unequal length
        raise ValueError(f"{who}: angles_rad is no array of numbers in rad ({error})") from None
    if numbers.dtype.kind not in "iuf":
        raise ValueError(f"{who}: angles_rad is {f'{given!r}':.60}, expected numbers in rad; see numpy.deg2rad")
    angles = numbers.astype(np.float64)
    if angles.ndim != 1 or angles.size == 0:
        raise ValueError(f"{who}: angles_rad has shape {angles.shape}, expected (views,) with at least one view")
    if not np.isfinite(angles).all():
        raise ValueError(f"{who}: angles_rad holds NaN or infinity, expected finite angles in rad")
    turns = np.ptp(angles) / (2 * math.pi)
    if turns > _MOST_TURNS:
        raise ValueError(
            f"{who}: angles_rad spans {np.ptp(angles):.4g} rad, {turns:.0f} turns, expected at most {_MOST_TURNS}; "
            "convert degrees with numpy.deg2rad, or take angles modulo 2 pi"
        )
    # Tilts of a few degrees, as in tomosynthesis, would be one to three turns with very few views.
    if turns > 1.05 and np.ptp(angles) > _COARSE_RAD * len(angles):
        logger.warning(
            "%s: angles_rad spans %.4g rad with only %d views: are these degrees? Then convert them with numpy.deg2rad",
            who,
            np.ptp(angles),
            len(angles),
        )
    return tuple(angles.tolist())


def _angles_text(angles: tuple[float, ...]) -> str:
    """Python expression that gives exactly these angles."""
    views = len(angles)
    if views > 2:
        # Rounding of the angles is smaller in the mean step than in the first step.
        for step in (angles[1] - angles[0], (angles[-1] - angles[0]) / (views - 1)):
            if evenly_spaced(views, step, angles[0]) == angles:
                start = f", {angles[0]!r}" if angles[0] else ""
                return f"evenly_spaced({views}, {step!r}{start})"
    return repr(angles)
