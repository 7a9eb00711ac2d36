"""CT geometry: the kinds of scan, their rays, and what they see of the plane.

Row 0 of an image is at the top (+y). In view t of a parallel beam, the ray at detector position u is
``x cos t + y sin t = u``. A fan beam has its source at ``R (sin t, -cos t)``, the center of its detector at
``(D - R) (-sin t, cos t)`` and its detector axis u along ``(cos t, sin t)``.
"""

import numpy as np
import numpy.typing as npt

from .beams import FanBeam, ParallelBeam, Rays, fan_angles_at
from .grid import Array, ImageGrid
from .vectors import FanVectors, ParallelVectors

Geometry = ParallelBeam | FanBeam | ParallelVectors | FanVectors


def require_scan(who: str, grid: object, geometry: object) -> None:
    """Refuse a grid that is no :class:`ImageGrid` and a geometry that is no scan.

    Raises
    ------
    TypeError
        If one of them is of another class.
    """
    if not isinstance(grid, ImageGrid):
        raise TypeError(f"{who}: grid is {f'{grid!r}':.60}, expected an ImageGrid((height, width), pixel_mm)")
    if not isinstance(geometry, Geometry):
        raise TypeError(f"{who}: geometry is {f'{geometry!r}':.60}, expected a ParallelBeam or a FanBeam")


def rays_of(geometry: Geometry) -> Rays:
    """The rays of a scan through the centers of the detector elements."""
    return geometry.rays


def ray_distances_mm(geometry: Geometry) -> Array:
    """Signed distance of the rays of every view from the axis, ``(detectors,)``, positive towards +u.

    Of a scan of vectors, those of its nominal beam.
    """
    beam = geometry.nominal
    if isinstance(beam, ParallelBeam):
        return beam.u_mm
    distances: Array = beam.source_to_axis_mm * np.sin(beam.fan_angles)
    return distances


def rays_beside(geometry: Geometry, grid: ImageGrid) -> npt.NDArray[np.bool_]:
    """Rays that pass the image at a distance of a pixel or more, ``(views, detectors)``."""
    rays, (y, x) = rays_of(geometry), grid.center_mm
    half_height, half_width = ((n / 2 + 1) * edge for n, edge in zip(grid.shape, grid.spacing_mm, strict=True))
    reach = half_width * np.abs(rays.direction_y) + half_height * np.abs(rays.direction_x)
    distance = (rays.point_x - x) * rays.direction_y - (rays.point_y - y) * rays.direction_x
    beside: npt.NDArray[np.bool_] = np.abs(distance) > reach
    return beside


def field_of_view_radius_mm(geometry: Geometry) -> float:
    """Radius of the largest circle around the axis that every view covers; 0 if there is none."""
    return _ray_radius_mm(geometry, max(min(_reaches_mm(geometry)), 0.0))


def covered_radius_mm(geometry: Geometry) -> float:
    """Radius of the largest circle around the axis that some views of a full turn cover: of the longer side."""
    return _ray_radius_mm(geometry, max(*_reaches_mm(geometry), 0.0))


def hole_radius_mm(geometry: Geometry) -> float:
    """Radius of the circle around the axis that no ray meets, as the detector ends before the axis; mostly 0."""
    return _ray_radius_mm(geometry, max(-min(_reaches_mm(geometry)), 0.0))


def is_displaced(geometry: Geometry) -> bool:
    """Whether one side of the detector reaches less than four fifths as far from the axis as the other (half fan).

    The lines beyond the short side are measured once per turn, in one of two opposite views.
    """
    return min(_reaches_mm(geometry)) < 0.8 * max(_reaches_mm(geometry))


def _reaches_mm(geometry: Geometry) -> tuple[float, float]:
    """How far the detector reaches from the axis, towards -u and towards +u; negative if it ends before the axis."""
    beam = geometry.nominal
    half = beam.pitch_mm / 2
    return half - float(beam.u_mm[0]), half + float(beam.u_mm[-1])


def _ray_radius_mm(geometry: Geometry, u: float) -> float:
    """Distance from the axis of the ray to a position on the detector."""
    beam = geometry.nominal
    if isinstance(beam, ParallelBeam):
        return u
    return beam.source_to_axis_mm * float(np.sin(fan_angles_at(beam, np.array(u))))
