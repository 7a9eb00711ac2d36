"""Scan geometries of published data sets."""

import math
from typing import NamedTuple

import numpy as np

from .beams import FanBeam, ParallelBeam, evenly_spaced
from .geometry import Geometry
from .grid import ImageGrid


class ScanPreset(NamedTuple):
    """A published scan: grid, geometry, and photons per ray of its noise model (None: measured data)."""

    grid: ImageGrid
    geometry: Geometry
    photons: float | None


def lodopab() -> ScanPreset:
    """LoDoPaB-CT: 362x362 pixels on 26 cm, parallel beam, 1000 views centered in equal parts of half a turn.

    References
    ----------
    .. [LoDoPaB] Leuschner et al., LoDoPaB-CT, a benchmark dataset for low-dose computed tomography reconstruction,
       Sci. Data 8, 2021.
    """
    grid = ImageGrid((362, 362), 260.0 / 362)
    step = math.pi / 1000
    return ScanPreset(grid, ParallelBeam(evenly_spaced(1000, step, step / 2), 513, 260 * math.sqrt(2) / 513), 4096.0)


#: Views, detectors, pixel, pitch, source to axis, axis to detector (lengths in 100 mm), photons, angle step in rad.
_HYPERFED = (
    (512, 368, 0.0133, 0.025716, 5.95, 4.906, 5.0e4, 0.012268),
    (512, 315, 0.014, 0.03, 4.5, 3.5, 6.875e4, 0.012268),
    (384, 330, 0.0139, 0.026, 4.0, 3.0, 8.75e4, 0.0164),
    (400, 350, 0.012, 0.022, 4.0, 3.5, 1.0625e5, 0.0157),
    (384, 350, 0.014, 0.025, 5.0, 3.0, 1.25e5, 0.0164),
)


def hyperfed(protocol: int) -> ScanPreset:
    """One of the five fan-beam protocols of HyperFed, 256x256 pixels.

    The views of protocols 3 and 5 extend a little beyond a turn. The detectors cover the inscribed circle of the image
    and not its corners; they are assumed flat.

    Parameters
    ----------
    protocol
        1 to 5.

    References
    ----------
    .. [HyperFed] Yang et al., Hypernetwork-based physics-driven personalized federated learning for CT imaging, IEEE
       Trans. Neural Netw. Learn. Syst., 2023.
    """
    if protocol not in range(1, len(_HYPERFED) + 1):
        raise ValueError(f"hyperfed: protocol is {protocol!r}, expected 1 to {len(_HYPERFED)}")
    views, detectors, pixel, pitch, source, axis, photons, step = _HYPERFED[protocol - 1]
    geometry = FanBeam(evenly_spaced(views, step), detectors, 100 * pitch, 100 * source, 100 * (source + axis))
    return ScanPreset(ImageGrid((256, 256), 100 * pixel), geometry, photons)


def htc2022() -> ScanPreset:
    """Helsinki Tomography Challenge 2022: central row of a cone beam, 721 views, the last a repetition of the first.

    References
    ----------
    .. [HTC] Meaney, Moura and Siltanen, Helsinki Tomography Challenge 2022, open tomographic dataset.
    """
    angles = tuple(np.deg2rad(np.arange(721) * 0.5).tolist())
    return ScanPreset(ImageGrid((512, 512), 0.1483223), FanBeam(angles, 560, 0.2, 410.66, 553.74), None)
