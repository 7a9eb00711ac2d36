"""Beams of many energies: spectra of X-ray tubes, what they measure of water and bone, correction for water.

Low energies are absorbed first, so the beam hardens: the line integral of a thick object is less than proportional to
its length. Images then have a cup, and streaks between bones. A polynomial undoes it for water [H]_.

References
----------
.. [H] Herman, Correction for beam hardening in computed tomography, Phys. Med. Biol. 24, 1979.
.. [NIST] Hubbell and Seltzer, Tables of X-ray mass attenuation coefficients, NISTIR 5632, 1995.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..operator import require_tensor
from .grid import Array, finite_number
from .transmission import require_mu_water

_KEV = (10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0, 150.0)
#: Density in g/cm^3 and mass attenuation in cm^2/g at `_KEV` [NIST]_: water, cortical bone (ICRU-44), aluminium.
_MATERIALS = {
    "water": (1.0, (5.329, 1.673, 0.8096, 0.3756, 0.2683, 0.2269, 0.2059, 0.1837, 0.1707, 0.1505)),
    "bone": (1.92, (28.51, 9.032, 4.001, 1.331, 0.6655, 0.4242, 0.3148, 0.2229, 0.1855, 0.1480)),
    "aluminium": (2.699, (26.23, 7.955, 3.441, 1.128, 0.5685, 0.3681, 0.2778, 0.2018, 0.1704, 0.1378)),
}
#: Least voltage of a tube in kV, the largest one and the largest energy in keV that the tables hold.
LEAST_KVP, LARGEST_KVP = 40.0, 150.0
#: Longest way through water for which a correction is fitted in mm.
_LONGEST_MM = 600.0
#: Line integral of 600 mm of water at usual voltages; where less arrives, a correction has nothing to fit.
_LARGEST_LINE = 13.0


def attenuation_of(material: str, energy_kev: npt.ArrayLike) -> Array:
    """Attenuation of ``water``, ``bone`` or ``aluminium`` in 1/mm from 10 to 150 keV, log-log between the tables.

    Raises
    ------
    ValueError
        If material or energy are not in the tables.
    """
    energies = np.asarray(energy_kev, dtype=np.float64)
    if material not in _MATERIALS:
        raise ValueError(f"attenuation_of: material is {material!r}, expected one of {', '.join(_MATERIALS)}")
    if not ((energies >= _KEV[0]) & (energies <= _KEV[-1])).all():
        raise ValueError(f"attenuation_of: energy is {energy_kev!r:.60}, expected {_KEV[0]:g} to {_KEV[-1]:g} keV")
    density, mass = _MATERIALS[material]
    return np.asarray(np.exp(np.interp(np.log(energies), np.log(_KEV), np.log(mass))) * density / 10)


@dataclass(frozen=True)
class Spectrum:
    r"""Part :math:`s_k` of the detector's signal, without an object, at each energy :math:`E_k`; they add up to one.

    Parameters
    ----------
    energies_kev
        From 10 to 150.
    signal
        As many numbers of 0 or more, in any unit: photons times response of the detector.

    Raises
    ------
    ValueError
        If an energy is not in the tables, or the signal is not positive.
    """

    energies_kev: tuple[float, ...]
    signal: tuple[float, ...]

    def __post_init__(self) -> None:
        attenuation_of("water", self.energies_kev)
        signal = np.asarray(self.signal, dtype=np.float64)
        if signal.shape != (len(self.energies_kev),) or not (signal >= 0).all() or not 0 < signal.sum() < np.inf:
            raise ValueError(
                f"Spectrum: signal has shape {signal.shape} and sum {signal.sum():g}, expected "
                f"{len(self.energies_kev)} finite numbers of 0 or more, not all 0"
            )
        object.__setattr__(self, "energies_kev", tuple(map(float, self.energies_kev)))
        object.__setattr__(self, "signal", tuple((signal / signal.sum()).tolist()))

    @property
    def mu_water(self) -> float:
        """Attenuation of water in 1/mm for a thin object: that of a thick one is lower."""
        return float(np.dot(self.signal, attenuation_of("water", self.energies_kev)))

    def line_integrals(self, water_mm: Tensor, bone_mm: Tensor | None = None) -> Tensor:
        r"""What is measured behind lengths of water and bone, :math:`-\log \sum_k s_k e^{-\mu_k d}`, of their shape.

        Parameters
        ----------
        water_mm, bone_mm
            Lengths of the materials along the rays. Negative lengths are those of noise.
        """
        require_tensor("Spectrum", water_mm, "water_mm")
        exponents = []
        for part, energy in zip(self.signal, self.energies_kev, strict=True):
            if part > 0:
                exponent = math.log(part) - float(attenuation_of("water", energy)) * water_mm
                if bone_mm is not None:
                    exponent = exponent - float(attenuation_of("bone", energy)) * bone_mm
                exponents.append(exponent)
        return -torch.logsumexp(torch.stack(exponents), 0)


def tube_spectrum(kvp: float, aluminium_mm: float = 8.0) -> Spectrum:
    """Spectrum of a tungsten tube by Kramers' law behind a filter, on a detector that adds up energies.

    Without characteristic lines, and with all energy absorbed in the detector.

    Parameters
    ----------
    kvp
        Voltage in kV, 40 to 150.
    aluminium_mm
        Thickness of the filter, all of it as if it were aluminium.

    Raises
    ------
    ValueError
        If voltage or filter are out of range.
    """
    voltage, filtered = finite_number(kvp), finite_number(aluminium_mm)
    if not LEAST_KVP <= voltage <= LARGEST_KVP:
        raise ValueError(f"tube_spectrum: kvp is {kvp!r}, expected a voltage from {LEAST_KVP:g} to {LARGEST_KVP:g} kV")
    if not filtered >= 0:
        raise ValueError(f"tube_spectrum: aluminium_mm is {aluminium_mm!r}, expected 0 or more")
    return _tube_spectrum(voltage, filtered)


@lru_cache(maxsize=32)
def _tube_spectrum(kvp: float, aluminium_mm: float) -> Spectrum:
    energies = np.arange(15.0, kvp, 2.0)
    # Photons fall as (kvp - E) / E; each counts with its energy.
    signal = (kvp - energies) * np.exp(-attenuation_of("aluminium", energies) * aluminium_mm)
    return Spectrum(tuple(energies.tolist()), tuple(signal.tolist()))


def water_correction(spectrum: Spectrum, mu_water: float, degree: int = 5) -> tuple[float, ...]:
    r"""Coefficients :math:`c_1 \ldots c_n` with which :math:`\sum_k c_k p^k` is ``mu_water`` times the length of water.

    Fitted by least squares to up to 600 mm of water, of which at most a hundred-thousandth of the beam is left.

    Parameters
    ----------
    mu_water
        Attenuation of water in 1/mm in the corrected image.

    Raises
    ------
    ValueError
        If ``mu_water`` is in another unit or the degree is not 1 to 8.
    """
    require_mu_water("water_correction", mu_water)
    if degree not in range(1, 9):
        raise ValueError(f"water_correction: degree is {degree!r}, expected 1 to 8")
    length = torch.linspace(0, _LONGEST_MM, 1201, dtype=torch.float64)[1:]
    measured = spectrum.line_integrals(length).numpy()
    powers = measured[:, None] ** np.arange(1, degree + 1)
    # Relative errors: 5 HU are half a percent, in thin objects, too.
    weights = 1 / length.numpy()
    solution = np.linalg.lstsq(powers * weights[:, None], mu_water * length.numpy() * weights, rcond=None)[0]
    return tuple(solution.tolist())


def require_correction(who: str, coefficients: Sequence[float]) -> tuple[float, ...]:
    """Refuse coefficients of a polynomial that does not grow with the line integral, from 0 to 13.

    Raises
    ------
    ValueError
        With the line integral where it falls.
    """
    numbers = tuple(finite_number(c) for c in coefficients)
    expected = "coefficients of p, p^2, ... such as [0.97, 0.023, -0.0023], see physics.water_correction"
    if not numbers or not np.isfinite(numbers).all():
        raise ValueError(f"{who}: water_correction is {list(coefficients)!r:.60}, expected {expected}")
    lines = torch.linspace(0, _LARGEST_LINE, 131, dtype=torch.float64)
    slope = corrected(lines, numbers)[1]
    if not bool((slope > 0).all()):
        falls = float(lines[slope <= 0][0])
        raise ValueError(
            f"{who}: water_correction falls at a line integral of {falls:.3g}, expected a polynomial that grows up to "
            f"{_LARGEST_LINE:g}: {expected}"
        )
    return numbers


def corrected(lines: Tensor, coefficients: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Line integrals after a correction by :func:`water_correction`, and its derivative, by which noise grows.

    Below 0 and from a line integral of 13 on, which no coefficients are fitted to, it continues as a straight line.
    """
    require_tensor("corrected", lines, "lines")
    inside = lines.clamp(0, _LARGEST_LINE)
    value, slope = torch.zeros_like(lines), torch.zeros_like(lines)
    for coefficient in reversed(coefficients):
        slope = slope * inside + value
        value = value * inside + coefficient
    # Horner's rule of the polynomial divided by p: multiply by p once more.
    slope = slope * inside + value
    return value * inside + slope * (lines - inside), slope
