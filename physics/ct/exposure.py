"""Photons that differ between rays: the modulated current of the tube and the bow-tie filter."""

import math

import numpy as np
import torch
from torch import Tensor

from ..operator import require_tensor
from .geometry import Geometry, ray_distances_mm
from .transmission import require_mu_water

#: Part of the rays of a view with larger line integrals than the one that sets its current: noise and metal.
_ABOVE = 0.05


def tube_current(lines: Tensor, strength: float) -> Tensor:
    r"""Photons of every view relative to the mean: :math:`e^{\alpha P_v}`, where P is nearly the largest line integral.

    The automatic exposure control of scanners: views through more tissue get more photons, at equal dose in all.
    With :math:`\alpha = 1/2` the noise in the middle of the image is least [G]_; with 1 all views count equally many
    photons behind the body.

    Parameters
    ----------
    lines
        Line integrals, ``(..., views, detectors)``.
    strength
        :math:`\alpha`, from 0, a constant current, to 1.

    Returns
    -------
        ``(..., views, 1)``, mean 1.

    References
    ----------
    .. [G] Gies, Kalender, Wolf, Suess and Madsen, Dose reduction in CT by anatomically adapted tube current modulation:
       I. Simulation studies, Med. Phys. 26, 1999.
    """
    require_tensor("tube_current", lines, "lines")
    if not 0 <= strength <= 1:
        raise ValueError(f"tube_current: strength is {strength}, expected 0 to 1")
    thickest = lines.quantile(1 - _ABOVE, dim=-1, keepdim=True)
    current = (strength * (thickest - thickest.amax(-2, keepdim=True))).exp()
    return current / current.mean(-2, keepdim=True)


def bowtie_profile(geometry: Geometry, water_mm: float, mu_water: float) -> Tensor:
    """Photons of every element relative to a ray through the axis, behind a bow-tie filter.

    The filter makes the beam even behind a cylinder of water on the axis: it takes away from the outer rays what the
    cylinder takes away from the middle alone.

    Parameters
    ----------
    water_mm
        Diameter of the cylinder. Rays beside it get :math:`e^{-\\mu d}`.
    mu_water
        Attenuation of water in 1/mm.

    Returns
    -------
        ``(detectors,)``, at most 1.
    """
    require_mu_water("bowtie_profile", mu_water)
    if not 0 < water_mm < math.inf:
        raise ValueError(f"bowtie_profile: water_mm is {water_mm}, expected more than 0")
    chords = 2 * np.sqrt(np.clip((water_mm / 2) ** 2 - ray_distances_mm(geometry) ** 2, 0, None))
    return torch.from_numpy(np.exp(mu_water * (chords - water_mm)))
