"""Units of the positions of samples in ISMRMRD files: the standard fixes none, so they are told from the data."""

import math
from pathlib import Path
from typing import get_args

import numpy as np

from ...errors import data_error
from ..complex_values import Array
from .ismrmrd_encoding import Encoding
from .ismrmrd_selection import TrajectoryUnit

#: Where the outermost samples lie, in parts of the half width of k-space.
_LEAST, _MOST = 0.9, 1.001
#: Relative difference of two scales that are the same one.
_EQUAL = 1e-3


def pixel_mm(encoding: Encoding) -> float | None:
    """Size of an encoded pixel along the readout; None: the header states no field of view."""
    return None if encoding.fov_mm is None else encoding.fov_mm[0] / encoding.size[0]


def image_shape(encoding: Encoding) -> tuple[int, int]:
    """Pixels ``(height, width)`` of the reconstructed field of view at the encoded resolution.

    Readout oversampling enlarges the encoded field of view, not the resolution. The encoded size along the phase is not
    used: scanners write the number of spokes there.
    """
    pixel = pixel_mm(encoding)
    if pixel is None or encoding.recon_fov_mm is None:
        return encoding.recon_size[0], encoding.recon_size[1]
    return max(round(encoding.recon_fov_mm[0] / pixel), 1), max(round(encoding.recon_fov_mm[1] / pixel), 1)


def cycles_per_pixel(
    path: Path, positions: Array, encoding: Encoding, unit: TrajectoryUnit | None
) -> tuple[Array, TrajectoryUnit]:
    """Positions in cycles per encoded pixel, and their unit.

    Parameters
    ----------
    positions
        ``(..., 2)`` along the readout (height) and phase (width) of the header.
    unit
        None: the only unit in which the outermost samples lie at the edge of k-space.

    Raises
    ------
    DataError
        If no unit fits or several do, a unit needs a field of view that is not stated, or positions lie beyond the
        edge.
    """
    scales = _scales(encoding)
    largest = {name: float(np.abs(positions * scale).max()) for name, scale in scales.items()}
    key, option = "data traj", "name it with the option trajectory_unit"
    if unit is not None:
        if unit not in (known := get_args(TrajectoryUnit)):
            raise data_error(path, "trajectory_unit", repr(unit), f"one of {', '.join(known)}", "correct it")
        if unit not in scales:
            expected = "fieldOfView_mm of encodedSpace"
            raise data_error(path, "ismrmrd_header", f"no field of view for positions in {unit}", expected, "add it")
        if largest[unit] > 0.5 * _MOST:
            found = f"positions up to {2 * largest[unit]:.3g} of the half width of k-space, in {unit}"
            raise data_error(path, key, found, "at most 1", "correct the unit or encodedSpace/matrixSize/x")
        return _clipped(positions * scales[unit]), unit
    extent = f"positions up to {float(np.abs(positions).max()):.4g}"
    fitting = [name for name, most in largest.items() if _LEAST <= 2 * most <= _MOST]
    if not fitting:
        places = ", ".join(f"{0.5 / np.max(scale):.4g} in {name}" for name, scale in scales.items())
        raise data_error(path, key, extent, f"the edge of k-space: {places}", option)
    first = np.asarray(scales[fitting[0]])
    if any(np.abs(np.asarray(scales[name]) / first - 1).max() > _EQUAL for name in fitting[1:]):
        raise data_error(path, key, f"{extent}: {' or '.join(fitting)}", "one unit that fits", option)
    return _clipped(positions * scales[fitting[0]]), fitting[0]


def _clipped(positions: Array) -> Array:
    return np.clip(positions, -0.5, 0.5)


def _scales(encoding: Encoding) -> dict[TrajectoryUnit, Array]:
    """Cycles per pixel in one unit, along both axes."""
    one = np.ones(2)
    scales: dict[TrajectoryUnit, Array] = {
        "cycles/pixel": one,
        "rad/pixel": one / (2 * math.pi),
        "cycles/fov": 1 / np.array(image_shape(encoding), np.float64),
        "cycles/encoded_fov": one / encoding.size[0],
    }
    if (pixel := pixel_mm(encoding)) is not None:
        scales |= {"1/mm": one * pixel, "1/m": one * pixel / 1000}
        scales |= {"rad/mm": one * pixel / (2 * math.pi), "rad/m": one * pixel / (2000 * math.pi)}
    return scales
