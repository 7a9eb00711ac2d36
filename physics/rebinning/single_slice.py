"""Single-slice rebinning of helical and axial cone-beam scans to fan-beam slices, upright or tilted with the helix."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..ct import FanBeam, evenly_spaced
from .cone_scan import Array, ConeScan
from .cone_views import ConeViews
from .tables import RayTables, ViewOrder, ray_tables, view_order

#: Distance in z at which a source has no weight in a slice, relative to the farthest that is needed or measured.
_BEYOND = 1.2
#: Angle from the middle of a tilted plane, in rad, at which it meets the helix: half of the sources between are on
#: either side.
_MEETS = math.pi / 3


@dataclass(frozen=True, eq=False)
class Rebinned:
    """One slice.

    ``lines`` are its line integrals and ``photons`` the number per ray with the same noise, float32
    ``(views, columns)``; ``extrapolated`` is the part of the rays that no row of the detector met. ``slope`` is the
    rise of the plane of the slice per mm along x and y. ``live`` ``(views, columns)`` is the part of every ray that
    live elements measured, 0 to 1: the rest was interpolated. None: no element is dead.
    """

    lines: npt.NDArray[np.float32]
    photons: npt.NDArray[np.float32]
    extrapolated: float
    slope: tuple[float, float] = (0.0, 0.0)
    live: npt.NDArray[np.float32] | None = None


class SliceRebinning:
    r"""Fan-beam slices of a cone-beam scan by single-slice rebinning [N]_.

    A ray of the slice is measured by rays that have the same projection on the plane of rotation and cross the slice at
    the point nearest to the axis. Their integrals, times the cosine of their angle with the slice, are averaged: those
    of a helix in both senses, with weights :math:`1 - |z - z_s| / H` that fall with the distance of the slice from the
    source. Every slice has a full turn of views. A slab of some thickness is the mean of planes a row apart.

    A ray is too high or too low by :math:`l (z - z_s) / R` at a distance l from its point nearest to the axis. Nothing
    is wrong on the axis and for objects that do not change along z; elsewhere rays of sources on both sides of the
    slice blur it along z.

    **Tilted planes.** The plane of a slice may be tilted, so that it follows the helix over half a turn (advanced
    single-slice rebinning [K]_). Sources are then nearer to the plane, and the weights fall with that distance. The
    image is that of the tilted plane, in the coordinates x and y of its points; every slice is tilted in another
    direction.

    With a flying focal spot the true source of every view is used. If it moves along the detector, slices have twice as
    many columns.

    Parameters
    ----------
    scan
        The scan.
    radius_mm
        Radius of the object, or of the image; rays beyond it may be extrapolated.
    views
        Views of a slice; None: as many as a turn of one focal spot has, at their angles.
    tilted
        Whether planes are tilted; for helical scans.

    Raises
    ------
    ValueError
        If views are too few for a turn, the pitch is too high for the radius, no part of the scan is complete, or
        planes of an axial scan are to be tilted.

    References
    ----------
    .. [K] Kachelriess, Schaller and Kalender, Advanced single-slice rebinning in cone-beam spiral CT, Med. Phys. 27,
       2000.
    .. [N] Noo, Defrise and Clackdoyle, Single-slice rebinning method for helical cone-beam CT, Phys. Med. Biol. 44,
       1999.
    """

    def __init__(self, scan: ConeScan, radius_mm: float, views: int | None = None, *, tilted: bool = False) -> None:
        self.scan, self.radius_mm, self.tilted = scan, radius_mm, tilted
        if tilted and scan.feed_mm == 0:
            raise ValueError("SliceRebinning: planes of an axial scan cannot be tilted, expected a helical scan")
        self.fine = scan.flies_in_plane
        covered = scan.source_to_axis_mm * math.sin(min(-scan.fan_angles[0], scan.fan_angles[-1], math.pi / 2))
        if not 0 < radius_mm < scan.source_to_axis_mm:
            raise ValueError(f"SliceRebinning: radius_mm is {radius_mm:g}, expected less than the source's distance")
        self._fan = math.asin(min(radius_mm, max(covered, 1e-3)) / scan.source_to_axis_mm)
        per_turn = 2 * math.pi / scan.step_rad
        count = round(per_turn) if views is None else views
        if count < 3 or per_turn < 3:
            raise ValueError(f"SliceRebinning: {count} views of {per_turn:.3g} per turn, expected at least 3")
        _, order = scan.rotations[0]
        start = float(scan.angles_rad[order[0]] % (2 * math.pi))
        columns, pitch = scan.columns, scan.pitch_mm
        if self.fine:
            columns, pitch = 2 * columns, pitch / 2
        self.geometry = FanBeam(
            evenly_spaced(count, 2 * math.pi / count, start), columns, pitch, scan.source_to_axis_mm,
            scan.source_to_detector_mm, "curved", scan.offset_mm,
        )  # fmt: skip
        if self.usable_radius_mm < 0.5 * min(radius_mm, covered):
            raise ValueError(
                f"SliceRebinning: pitch is {scan.pitch:.2f}, with which {scan.rows} rows cover a radius of "
                f"{self.usable_radius_mm:.0f} mm, expected at least half of {min(radius_mm, covered):.0f} mm"
            )

    @property
    def half_gap_mm(self) -> float:
        """Largest distance in z from a slice to the nearest source that measures a ray, in either sense."""
        return self.scan.feed_mm * (0.25 + self._fan / (2 * math.pi))

    @property
    def reach_mm(self) -> float:
        """Distance in z from which a source has no weight: all rows count, the outermost ones little."""
        if self.scan.feed_mm > 0:
            return _BEYOND * max(self.half_gap_mm, self._height_mm)
        return 4 * self.scan.rows * self.scan.row_at_axis_mm

    @property
    def plane_reach_mm(self) -> float:
        """Distance in z from the plane of a slice at which a source has no weight."""
        if not self.tilted:
            return self.reach_mm
        last = math.pi / 2 + self._fan
        return _BEYOND * self.scan.feed_mm / (2 * math.pi) * (last - _MEETS / math.sin(_MEETS) * math.sin(last))

    def slope_at(self, z_mm: float) -> tuple[float, float]:
        """Rise of the plane of a slice per mm along x and y: it meets the helix sixty degrees before and after."""
        if not self.tilted:
            return 0.0, 0.0
        scan, order = self.scan, np.argsort(self.scan.z_mm)
        angle = float(np.interp(z_mm, scan.z_mm[order], scan.angles_rad[order]))
        sense = math.copysign(1.0, float((scan.z_mm[-1] - scan.z_mm[0]) * (scan.angles_rad[-1] - scan.angles_rad[0])))
        slope = sense * scan.feed_mm / (2 * math.pi * scan.source_to_axis_mm) * _MEETS / math.sin(_MEETS)
        return slope * math.cos(angle), slope * math.sin(angle)

    @property
    def usable_radius_mm(self) -> float:
        """Radius within which the rows of the detector measure all rays of a slice."""
        height = self._height_mm
        if self.scan.feed_mm == 0:
            return self.radius_mm
        fans = np.linspace(0, self._fan, 200)
        enough = self.scan.feed_mm * (0.25 + fans / (2 * math.pi)) <= height * np.cos(fans)
        return self.scan.source_to_axis_mm * math.sin(float(fans[enough].max(initial=0.0)))

    @property
    def tilt_rad(self) -> float:
        """Largest angle between a ray and the slice that it is taken for."""
        return math.atan(self._height_mm / (self.scan.source_to_axis_mm * math.cos(self._fan)))

    @property
    def _height_mm(self) -> float:
        """Least distance at the axis from the source's plane to the edge of the detector."""
        v, scan = self.scan.v_mm, self.scan
        height = float(min(v[-1], -v[0])) + scan.row_mm / 2
        return height * scan.source_to_axis_mm / scan.source_to_detector_mm

    def ranges_mm(self) -> list[tuple[float, float]]:
        """Parts of the z axis in which all rays of a plane are measured, increasing; one per position of the table."""
        scan = self.scan
        if scan.feed_mm > 0:
            z = scan.z_mm + scan.spots[scan.spot_of_view, 2]
            found = [(float(z.min()) + self.half_gap_mm, float(z.max()) - self.half_gap_mm)]
        else:
            height = self._height_mm * math.cos(self._fan)
            places = np.unique(np.round([scan.z_mm[views].mean() for _, views in scan.rotations], 3))
            found = [(float(z) - height, float(z) + height) for z in places]
            # Where the detector covers two positions of the table, both are used.
            for i in range(len(found) - 1, 0, -1):
                if found[i][0] <= found[i - 1][1]:
                    found[i - 1 : i + 1] = [(found[i - 1][0], found[i][1])]
        return [part for part in found if part[1] > part[0]]

    def slices_mm(self, thickness_mm: float, spacing_mm: float | None = None) -> Array:
        """Centers of slices of this thickness, from the middle of the complete parts.

        Parameters
        ----------
        thickness_mm
            Thickness of a slice.
        spacing_mm
            Distance between two; None: one beside the other.

        Raises
        ------
        ValueError
            If no slice fits.
        """
        centers: list[float] = []
        step = thickness_mm if spacing_mm is None else spacing_mm
        for low, high in self.ranges_mm():
            room = high - low - thickness_mm
            count = int(room / step + 1e-6) + 1 if room > -1e-6 * thickness_mm else 0
            centers += ((np.arange(count) - (count - 1) / 2) * step + (low + high) / 2).tolist()
        if not centers:
            found = ", ".join(f"{high - low:.3g} mm" for low, high in self.ranges_mm()) or "nothing"
            raise ValueError(f"SliceRebinning: {found} is covered along z, expected {thickness_mm:g} mm for one slice")
        return np.array(centers)

    def rebin(self, views: ConeViews, z_mm: float, thickness_mm: float) -> Rebinned:
        """The slab of a thickness in mm about ``z_mm``; 0: one plane.

        Parameters
        ----------
        views
            Gives the stored values of views.
        """
        from ..ct.kernels.compiled import parts, run_threads
        from .kernel import MOST_PLANES, NO_SAMPLE, rebin  # numba loads slowly

        count = min(max(1, math.ceil(thickness_mm / self.scan.row_at_axis_mm - 1e-6)), MOST_PLANES)
        planes = z_mm + ((np.arange(count) + 0.5) / count - 0.5) * thickness_mm
        tables, order = self._tables, self._order
        low, high = planes[0] - 1.25 * self.reach_mm, planes[-1] + 1.25 * self.reach_mm
        needed = order.view[(order.z >= low) & (order.z <= high)]
        data, photons, slots, scale = views.window(needed)
        rotations, of_window = order.cut(low, high)
        shape = self.geometry.shape
        lines, variance = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        faults, live = np.zeros(shape, np.uint8), np.ones(shape, np.float32)
        dead = np.zeros((0, 0), np.bool_) if views.dead is None else views.dead
        targets, slope = self.geometry.angles, self.slope_at(z_mm)
        window = order.view[of_window]
        arguments = (
            data, slots[window], scale[window], photons, order.angle[of_window], order.z[of_window], rotations, targets,
            tables.column, tables.base, tables.near, tables.far, tables.shares, self.scan.spots[:, 2].copy(),
            self.scan.row_mm, (self.scan.rows - 1) / 2 - self.scan.row_offset_mm / self.scan.row_mm, planes,
            self.geometry.fan_angles, self.scan.source_to_axis_mm, *slope, self.reach_mm, self.plane_reach_mm, dead,
            lines, variance, faults, live,
        )  # fmt: skip
        run_threads(rebin, [(first, last, *arguments) for first, last in parts(shape[0])])
        inside = np.abs(self.geometry.fan_angles) <= self._fan
        missing = np.where(faults == NO_SAMPLE, count, faults)[:, inside]
        equivalent = np.divide(1, variance, out=np.full(shape, np.float32(1)), where=variance > 0)
        extrapolated = float(missing.mean() / count) if inside.any() else 0.0
        return Rebinned(lines, equivalent, extrapolated, slope, None if views.dead is None else live)

    @cached_property
    def _tables(self) -> RayTables:
        return ray_tables(self.scan, self.geometry, merged=self.fine)

    @cached_property
    def _order(self) -> ViewOrder:
        return view_order(self.scan)
