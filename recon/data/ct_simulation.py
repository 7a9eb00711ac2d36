"""Retrospective degradation of CT scans: fewer views, a smaller arc, a lower dose, errors of the scanner."""

import math
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from physics import Geometry, Transmission, bowtie_profile, expected_scatter, tube_current, tube_spectrum

from .slices import Seed, generator_for


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
    current_modulation
        Strength of the modulated tube current, :func:`physics.tube_current`; 0: constant. `photons` are the mean over
        the views.
    bowtie_mm
        Diameter of the water for which a bow-tie filter makes the beam even, :func:`physics.bowtie_profile`; None: no
        filter. `photons` are those of a ray through the axis.
    scatter_fraction
        Part of scatter in the counts of the darkest twentieth of the rays, :func:`physics.expected_scatter`.
    gain_error
        Standard deviation of the relative error of the gain of detector elements, the same in all slices of the site.

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
    current_modulation: Annotated[float, Ge(0), Le(1)] = 0.0
    bowtie_mm: Annotated[float, Gt(0)] | None = None
    scatter_fraction: Annotated[float, Ge(0), Lt(1)] = 0.0
    gain_error: Annotated[float, Ge(0), Le(0.2)] = 0.0

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
        for key, most in (("current_modulation", 1), ("scatter_fraction", 0.99), ("gain_error", 0.2)):
            if not 0 <= getattr(self, key) <= most:
                raise ValueError(f"ScanSimulation: {key} is {getattr(self, key)}, expected 0 to {most}")
        if self.bowtie_mm is not None and not 0 < self.bowtie_mm < math.inf:
            raise ValueError(f"ScanSimulation: bowtie_mm is {self.bowtie_mm}, expected more than 0")
        for key in ("current_modulation", "bowtie_mm", "scatter_fraction"):
            if getattr(self, key) and self.photons is None:
                raise ValueError(f"ScanSimulation: {key} is {getattr(self, key)} without photons, state them, too")

    def beam(self, lines: Tensor, geometry: Geometry, mu_water: float) -> Transmission | None:
        """Counts model of a slice with the photons of every ray, without scatter; None: no dose is simulated.

        Parameters
        ----------
        lines
            Line integrals of the slice, ``(views, detectors)``.
        mu_water
            Attenuation of water in 1/mm.
        """
        if self.photons is None:
            return None
        photons: float | Tensor = self.photons
        if self.current_modulation:
            photons = photons * tube_current(lines, self.current_modulation)
        if self.bowtie_mm is not None:
            photons = photons * bowtie_profile(geometry, self.bowtie_mm, mu_water).to(lines)
        return Transmission(photons, self.electronic_noise)

    def counts_of(self, lines: Tensor, beam: Transmission, generator: torch.Generator) -> Tensor:
        """Draw counts from line integrals, those of scatter included; ``beam`` as of :meth:`beam`."""
        return replace(beam, scatter=self._scatter(beam.expected_counts(lines), beam)).counts(lines, generator)

    def thinned(self, counts: Tensor, photons: Tensor, beam: Transmission, generator: torch.Generator) -> Tensor:
        """Draw counts at a lower dose from counts, with scatter and electronic noise.

        Parameters
        ----------
        photons
            Per ray of `counts`, broadcastable.
        beam
            As of :meth:`beam`.

        Raises
        ------
        ValueError
            If the beam has more photons than the counts.
        """
        part = (torch.as_tensor(beam.photons) / photons).to(counts).expand(counts.shape)
        if (most := float(part.max())) > 1:
            raise ValueError(f"photons are {most:.3g} times those of the file in some rays, expected at most as many")
        drawn = torch.binomial(counts.clamp_min(0).round(), part, generator=generator)
        result = drawn + self.electronic_noise * torch.randn(counts.shape, generator=generator)
        if self.scatter_fraction:
            result = result + torch.poisson(torch.as_tensor(self._scatter(drawn, beam)), generator=generator)
        return result

    def _scatter(self, primary: Tensor, beam: Transmission) -> float | Tensor:
        """Mean scattered counts of every ray."""
        photons = torch.as_tensor(beam.photons).to(primary)
        return expected_scatter(primary, photons, self.scatter_fraction) if self.scatter_fraction else 0.0

    def gains(self, site: str, elements: int) -> Tensor | None:
        """Gain of every detector element of a site, relative to its flat field; None: all 1."""
        if not self.gain_error:
            return None
        draw = torch.randn(elements, generator=generator_for("gain", self.seed, site))
        return (1 + self.gain_error * draw).clamp_min(0.1)
