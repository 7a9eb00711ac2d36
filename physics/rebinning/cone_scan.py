"""A cone-beam CT scan as a value: the source of every view and the cylindrical detector that turns with it.

View angles are those of :class:`physics.FanBeam`: without shifts the source is at ``R (sin t, -cos t)``, and the axis u
of the detector is along ``(cos t, sin t)``. Rows and columns of the detector increase with z and u.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.intp]

#: Most positions of a flying focal spot: two along the detector times two along z, with room for a third.
_MOST_SPOTS = 9
#: Shifts of the focal spot count as one position if they differ by less: parts of a column or a row, and mm of radius.
_SAME_PART, _SAME_RADIUS_MM = 0.05, 0.05
#: A step between views that is this many times the usual one begins another rotation.
_LARGE_STEP = 2.5


@dataclass(frozen=True, eq=False)
class ConeScan:
    """Views of a helical or axial scan with a cylindrical detector, in the order in which they were measured.

    The detector is an arc about its focal center, which is at ``source_to_axis_mm`` from the axis and at ``z_mm``. The
    source is there, too, or beside it by the shifts of a flying focal spot; the detector does not move with it.

    Parameters
    ----------
    angles_rad
        View angles ``(views,)``, unwrapped: they go on beyond a turn, in either sense.
    z_mm
        Position of the focal center along the axis in every view.
    columns, rows
        Elements of the detector.
    pitch_mm, row_mm
        Distance between neighboring elements along the arc and along z, at the detector.
    source_to_axis_mm, source_to_detector_mm
        Distances of the focal center from the axis and from the detector.
    offset_mm, row_offset_mm
        Position of the middle of the detector along u and z, relative to the focal center.
    shift_rad, shift_radius_mm, shift_z_mm
        Angle, distance from the axis and z of the source, less those of the focal center, per view; None: zero.

    Raises
    ------
    ValueError
        If an array has another length or is not finite, a length is not positive, or the focal spot has more positions
        than a flying one.
    """

    angles_rad: Array
    z_mm: Array
    columns: int
    rows: int
    pitch_mm: float
    row_mm: float
    source_to_axis_mm: float
    source_to_detector_mm: float
    offset_mm: float = 0.0
    row_offset_mm: float = 0.0
    shift_rad: Array | None = None
    shift_radius_mm: Array | None = None
    shift_z_mm: Array | None = None

    def __post_init__(self) -> None:
        views = np.size(self.angles_rad)
        for name in ("angles_rad", "z_mm", "shift_rad", "shift_radius_mm", "shift_z_mm"):
            value = getattr(self, name)
            array = np.zeros(views) if value is None else np.asarray(value, dtype=np.float64)
            if array.shape != (views,) or views < 2 or not np.isfinite(array).all():
                found = f"shape {array.shape}" if array.shape != (views,) else "a value that is not finite"
                raise ValueError(f"ConeScan: {name} has {found}, expected ({max(views, 2)},) finite numbers")
            object.__setattr__(self, name, array)
        for name in ("columns", "rows", "pitch_mm", "row_mm", "source_to_axis_mm", "source_to_detector_mm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"ConeScan: {name} is {getattr(self, name)}, expected more than 0")
        if self.source_to_detector_mm < self.source_to_axis_mm:
            raise ValueError(
                f"ConeScan: source_to_detector_mm is {self.source_to_detector_mm}, expected at least the distance to "
                f"the axis, {self.source_to_axis_mm}"
            )
        if np.abs(self.fan_angles).max() >= math.pi / 2:
            raise ValueError("ConeScan: rays reach 90 degrees from the central one; check pitch_mm and columns")
        if len(self.spots) > _MOST_SPOTS:
            raise ValueError(
                f"ConeScan: the focal spot has {len(self.spots)} positions, expected at most {_MOST_SPOTS} that repeat"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(views, columns, rows)``."""
        return len(self.angles_rad), self.columns, self.rows

    @property
    def u_mm(self) -> Array:
        """Centers of the columns along the arc."""
        return (np.arange(self.columns) - (self.columns - 1) / 2) * self.pitch_mm + self.offset_mm

    @property
    def v_mm(self) -> Array:
        """Centers of the rows along z, relative to the focal center."""
        return (np.arange(self.rows) - (self.rows - 1) / 2) * self.row_mm + self.row_offset_mm

    @property
    def fan_angles(self) -> Array:
        """Angle of every column from the central ray, seen from the focal center."""
        return self.u_mm / self.source_to_detector_mm

    @property
    def row_at_axis_mm(self) -> float:
        """Height of a row at the axis."""
        return self.row_mm * self.source_to_axis_mm / self.source_to_detector_mm

    @property
    def cone_angle_rad(self) -> float:
        """Angle between the plane of the focal center and the outer edge of the detector: half the cone."""
        return math.atan((np.abs(self.v_mm).max() + self.row_mm / 2) / self.source_to_detector_mm)

    @cached_property
    def spots(self) -> Array:
        """Positions of the focal spot, ``(spots, 3)``: mean shifts of angle, distance from the axis, and z."""
        return np.array(
            [self._shifts[self.spot_of_view == spot].mean(0) for spot in range(self.spot_of_view.max() + 1)]
        )

    @cached_property
    def spot_of_view(self) -> Indices:
        """Index into :attr:`spots` for every view."""
        left = np.full(len(self.angles_rad), -1, dtype=np.intp)
        same = np.array(
            [_SAME_PART * self.pitch_mm / self.source_to_detector_mm, _SAME_RADIUS_MM, _SAME_PART * self.row_mm]
        )
        for spot in range(_MOST_SPOTS + 1):
            open_views = np.flatnonzero(left < 0)
            if len(open_views) == 0:
                break
            near = (np.abs(self._shifts[open_views] - self._shifts[open_views[0]]) <= same).all(1)
            left[open_views[near]] = spot
        left[left < 0] = _MOST_SPOTS
        return left

    @property
    def _shifts(self) -> Array:
        assert self.shift_rad is not None and self.shift_radius_mm is not None and self.shift_z_mm is not None
        return np.stack((self.shift_rad, self.shift_radius_mm, self.shift_z_mm), axis=1)

    @property
    def spots_in_plane(self) -> list[list[int]]:
        """Spots that differ in angle alone, together."""
        groups: dict[tuple[int, int], list[int]] = {}
        for spot, (_, farther, higher) in enumerate(self.spots):
            key = round(farther / (2 * _SAME_RADIUS_MM)), round(higher / (2 * _SAME_PART * self.row_mm))
            groups.setdefault(key, []).append(spot)
        return list(groups.values())

    @property
    def flies_in_plane(self) -> bool:
        """Whether the focal spot moves along the detector, so that rays at the axis lie between each other."""
        moved = max(float(np.ptp(self.spots[group, 0])) for group in self.spots_in_plane)
        at_axis = moved * (self.source_to_detector_mm - self.source_to_axis_mm)
        return at_axis > 0.2 * self.pitch_mm

    @property
    def feed_mm(self) -> float:
        """Travel of the table per rotation, 0 or more; 0 for an axial scan."""
        steps_z, steps = np.diff(self.z_mm), np.diff(self.angles_rad)
        moved = np.median(steps_z)
        return 0.0 if moved == 0 else abs(float(moved / np.median(steps))) * 2 * math.pi

    @property
    def pitch(self) -> float:
        """Feed per rotation over the height of the detector at the axis."""
        return self.feed_mm / (self.rows * self.row_at_axis_mm)

    @cached_property
    def rotations(self) -> list[tuple[int, Indices]]:
        """Spot and views, by increasing angle, of every part of the scan in which the gantry turns without a gap."""
        steps, moves = np.abs(np.diff(self.angles_rad)), np.abs(np.diff(self.z_mm))
        jump = steps > _LARGE_STEP * np.median(steps) + 1e-6
        jump |= moves > _LARGE_STEP * np.median(moves) + 0.1 * self.row_at_axis_mm
        run = np.concatenate(([0], np.cumsum(jump)))
        parts = []
        for number in range(run[-1] + 1):
            for spot in range(len(self.spots)):
                views = np.flatnonzero((run == number) & (self.spot_of_view == spot))
                if len(views) > 1:
                    parts.append((spot, views[np.argsort(self.angles_rad[views], kind="stable")]))
        return parts

    @cached_property
    def step_rad(self) -> float:
        """Usual angle between neighboring views of one focal spot."""
        _, views = self.rotations[0]
        return float(np.median(np.diff(self.angles_rad[views])))

    def spot_rays(self, spot: int) -> tuple[Array, Array, Array, Array]:
        """Rays of one focal spot through all columns, projected on the plane of rotation, relative to the view angle.

        Returns
        -------
            Angle of the ray's direction from that of the central ray; distance from the axis, positive towards +u;
            distances from the source to the point nearest to the axis, and to the detector.
        """
        turned, farther, _ = self.spots[spot]
        radius, D = self.source_to_axis_mm + farther, self.source_to_detector_mm
        source_x, source_y = radius * math.sin(turned), -radius * math.cos(turned)
        x = D * np.sin(self.fan_angles) - source_x
        y = -self.source_to_axis_mm + D * np.cos(self.fan_angles) - source_y
        length = np.hypot(x, y)
        return (
            np.arctan2(-x, y),
            (source_x * y - source_y * x) / length,
            -(source_x * x + source_y * y) / length,
            length,
        )

    def rays(self, view: int) -> tuple[Array, Array]:
        """Position of the source ``(3,)`` and unit directions ``(columns, rows, 3)`` of the rays of a view, in mm."""
        angle, (turned, farther, higher) = self.angles_rad[view], self._shifts[view]
        radius, R, D = self.source_to_axis_mm + farther, self.source_to_axis_mm, self.source_to_detector_mm
        source = np.array(
            [radius * math.sin(angle + turned), -radius * math.cos(angle + turned), self.z_mm[view] + higher]
        )
        fan = self.fan_angles - angle
        ends = np.empty((self.columns, self.rows, 3))
        ends[..., 0] = (R * math.sin(angle) + D * np.sin(fan))[:, None]
        ends[..., 1] = (-R * math.cos(angle) + D * np.cos(fan))[:, None]
        ends[..., 2] = self.z_mm[view] + self.v_mm
        directions = ends - source
        return source, directions / np.linalg.norm(directions, axis=-1, keepdims=True)


def helical_scan(
    *,
    views_per_turn: int,
    turns: float,
    columns: int,
    rows: int,
    pitch: float,
    pitch_mm: float = 1.2858,
    row_mm: float = 1.0947,
    source_to_axis_mm: float = 595.0,
    source_to_detector_mm: float = 1085.6,
    start_rad: float = 0.0,
    spots: tuple[tuple[float, float, float], ...] = ((0.0, 0.0, 0.0),),
    **others: Any,
) -> ConeScan:
    """A scan along a helix about z = 0, with lengths like those of a clinical scanner.

    Parameters
    ----------
    pitch
        Feed per rotation over the height of the detector at the axis; 0: one axial rotation after the other at z = 0.
    start_rad
        Angle of the first view.
    spots
        Shifts of a flying focal spot, taken in turn from view to view: angle, distance from the axis, z.
    others
        Further fields of :class:`ConeScan`.
    """
    count = round(views_per_turn * turns)
    turn = np.arange(count) / views_per_turn
    feed = pitch * rows * row_mm * source_to_axis_mm / source_to_detector_mm
    shifts = np.array(spots)[np.arange(count) % len(spots)]
    return ConeScan(
        start_rad + 2 * math.pi * turn, (turn - turn.mean()) * feed, columns, rows, pitch_mm, row_mm,
        source_to_axis_mm, source_to_detector_mm,
        shift_rad=shifts[:, 0], shift_radius_mm=shifts[:, 1], shift_z_mm=shifts[:, 2], **others,
    )  # fmt: skip
