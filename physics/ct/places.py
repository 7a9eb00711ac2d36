"""Where a pixel meets the detector in every view of a scan, as numbers for kernels that run over pixels."""

from typing import Any, NamedTuple

import numpy as np

from .beams import FanBeam, ParallelBeam
from .geometry import Geometry
from .grid import Array
from .vectors import ParallelVectors

#: Kinds of detector.
PARALLEL, FLAT, CURVED = 0, 1, 2


class Places(NamedTuple):
    """Position of the pixels on the detector.

    A pixel projects to element ``gain * place + shift``, where ``place`` is a position u, a ratio of u to depth or an
    angle, for parallel, flat and curved detectors. The source is at ``lateral`` along u and R ahead of the axis;
    ``off_u`` and ``off_n`` are its distances from the focus of a curved detector in radii of the detector.

    Parameters
    ----------
    kind
        `PARALLEL`, `FLAT` or `CURVED`.
    directions
        Cosine and sine of the views, ``(views, 2)``.
    beams
        ``(R, lateral, gain, shift, off_u, off_n)`` of every view, ``(views, 6)``.
    """

    kind: int
    directions: Array
    beams: Array


def places_of(geometry: Geometry, first: float = 0.0) -> Places:
    """Where pixels meet the detector of a scan, whose first element has the number ``first``."""
    angles = np.array(geometry.ray_angles_rad) if isinstance(geometry, ParallelVectors) else geometry.angles
    kind, numbers = _beams_of(geometry, first - geometry.u_mm[0] / geometry.pitch_mm)
    beams = np.stack([np.broadcast_to(number, angles.shape) for number in numbers], axis=1)
    return Places(kind, np.stack((np.cos(angles), np.sin(angles)), axis=1), beams)


def _beams_of(geometry: Geometry, shift: float) -> tuple[int, tuple[Any, ...]]:
    if isinstance(geometry, ParallelBeam):
        return PARALLEL, (0.0, 0.0, 1 / geometry.pitch_mm, shift, 0.0, 0.0)
    if isinstance(geometry, ParallelVectors):
        # u starts at the middle of the detector, the place at the axis.
        return PARALLEL, (0.0, 0.0, geometry.gains, shift - geometry.distances_mm * geometry.gains, 0.0, 0.0)
    kind = FLAT if geometry.detector == "flat" else CURVED
    if isinstance(geometry, FanBeam):
        gain = geometry.source_to_detector_mm / geometry.pitch_mm
        return kind, (geometry.source_to_axis_mm, 0.0, gain, shift, 0.0, 0.0)
    R, lateral = geometry.depths_mm, geometry.laterals_mm
    if geometry.arc_radius_mm is not None:
        return kind, (R, lateral, geometry.arc_radius_mm / geometry.pitch_mm, shift, *geometry.off_focus)
    shifts = shift + (lateral - geometry.middles_mm) / geometry.pitch_mm
    return kind, (R, lateral, geometry.distances_mm / geometry.pitch_mm, shifts, 0.0, 0.0)
