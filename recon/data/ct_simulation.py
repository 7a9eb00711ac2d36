"""Retrospective degradation of CT scans: fewer views, a smaller arc, a lower dose, errors of the scanner."""

import math
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

from physics import tube_spectrum

from .slices import Seed


@dataclass(frozen=True)
class ScanSimulation:
    """Retrospective degradation of a CT scan.

    Parameters
    ----------
    views
        Number of views, evenly chosen in the order of the acquisition; None: all.
    arc_deg
        Only the views of the first part of the rotation, in degrees, however the angles are stored; None: all.
    photons
        Photons per ray: line integrals receive noise, counts are thinned. None: the dose of the file.
    electronic_noise
        Standard deviation in counts; needs photons.
    seed
        Seed of the noise.
    kvp
        Voltage of an X-ray tube in kV whose beam hardens, :func:`physics.tube_spectrum`: line integrals become those of
        as much water. None: one energy.
    axis_error_mm
        Error of the rotation axis in the operator, measured at the detector; the data stay right.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    views: Annotated[int, Ge(1)] | None = None
    arc_deg: Annotated[float, Gt(0), Le(360)] | None = None
    photons: Annotated[float, Gt(0)] | None = None
    electronic_noise: Annotated[float, Ge(0)] = 0.0
    seed: Seed = 0
    kvp: Annotated[float, Ge(40), Le(150)] | None = None
    axis_error_mm: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.axis_error_mm):
            raise ValueError(f"ScanSimulation: axis_error_mm is {self.axis_error_mm}, expected a finite number")
        if self.views is not None and self.views < 1:
            raise ValueError(f"ScanSimulation: views is {self.views}, expected at least 1")
        if self.arc_deg is not None and not 0 < self.arc_deg <= 360:
            raise ValueError(f"ScanSimulation: arc_deg is {self.arc_deg}, expected more than 0 and at most 360")
        if self.photons is not None and not 0 < self.photons < math.inf:
            raise ValueError(f"ScanSimulation: photons is {self.photons}, expected more than 0")
        if self.kvp is not None:
            tube_spectrum(self.kvp)
        if self.electronic_noise and (self.photons is None or not self.electronic_noise > 0):
            raise ValueError(
                f"ScanSimulation: electronic_noise is {self.electronic_noise} with photons {self.photons}, expected 0 "
                "or more, and photons to go with it"
            )
