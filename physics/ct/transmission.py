"""Photon counts of an X-ray detector, and the line integrals and statistical weights that follow from them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..operator import require_tensor
from .geometry import Geometry
from .grid import ImageGrid, finite_number
from .projector import projector_of

#: Attenuation of water and air in 1/mm, as in LoDoPaB-CT.
MU_WATER = 0.02
MU_AIR = 2e-5
#: Attenuation at 3071 HU in 1/mm: unit of LoDoPaB-CT's images and sinograms.
LODOPAB_MU_MAX = MU_WATER + 3.071 * (MU_WATER - MU_AIR)


#: Counts in units of their noise squared, from which the logarithm of a mean needs no wider one.
ENOUGH_COUNTS = 20.0
#: Neighbors on each side that are averaged.
_REACHES = (0, 1, 2, 4, 8, 16)
#: Neighbors on each side whose mean says how many are needed.
_PILOT = 4
#: Least part of the counts that is primary photons.
_LEAST_PRIMARY = 0.05
#: Attenuation of water in 1/mm from 20 to 1000 keV, with a margin: other numbers are in another unit.
LEAST_MU_WATER, LARGEST_MU_WATER = 0.005, 0.1


def hu_to_attenuation(hu: Tensor, mu_water: float = MU_WATER) -> Tensor:
    """Hounsfield units to 1/mm, linear between air at -1000 and water at 0.

    Parameters
    ----------
    mu_water
        Attenuation of water in 1/mm at the energy of the scan; that of air is a thousandth.

    Raises
    ------
    ValueError
        If ``mu_water`` is in another unit.
    """
    return mu_water + hu / 1000 * (mu_water - _air(mu_water))


def attenuation_to_hu(attenuation: Tensor, mu_water: float = MU_WATER) -> Tensor:
    """1/mm to Hounsfield units, the inverse of :func:`hu_to_attenuation`; parameters and errors as there."""
    return (attenuation - mu_water) * (1000 / (mu_water - _air(mu_water)))


def require_mu_water(who: str, mu_water: float) -> float:
    """Refuse an attenuation of water that is not in 1/mm.

    Raises
    ------
    ValueError
        With the range that is possible.
    """
    number = finite_number(mu_water)
    if not LEAST_MU_WATER <= number <= LARGEST_MU_WATER:
        raise ValueError(
            f"{who}: mu_water is {mu_water!r}, expected the attenuation of water in 1/mm, from {LEAST_MU_WATER} to "
            f"{LARGEST_MU_WATER}; divide 1/cm by 10"
        )
    return number


def _air(mu_water: float) -> float:
    return require_mu_water("attenuation of water", mu_water) / MU_WATER * MU_AIR


@dataclass(frozen=True, eq=False)
class Transmission:
    r"""Counts of a monochromatic beam, :math:`I \sim \mathrm{Poisson}(N e^{-p} + S) + \mathcal{N}(0, \sigma^2)`.

    Parameters
    ----------
    photons
        N, photons per ray before the object: a number, or a tensor that broadcasts to ``(views, detectors)`` for a
        bow-tie filter or a modulated tube current.
    electronic_noise
        Standard deviation :math:`\sigma` in counts.
    floor
        Lower bound of the counts in the logarithm; 0.1 as in LoDoPaB-CT.
    scatter
        S, mean counts of scattered photons per ray, broadcastable as `photons` or to the counts. They are subtracted
        before the logarithm, down to a twentieth of the counts, and their noise stays.

    Raises
    ------
    ValueError
        If photons or floor are not positive, or noise or scatter are negative.
    """

    photons: float | Tensor
    electronic_noise: float = 0.0
    floor: float = 0.1
    scatter: float | Tensor = 0.0

    def __post_init__(self) -> None:
        try:
            photons = torch.as_tensor(self.photons, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            found = f"{self.photons!r}"
            raise ValueError(f"Transmission: photons are {found:.60}, expected a number or a tensor") from None
        if not bool((photons > 0).all()) or not bool(photons.isfinite().all()):
            raise ValueError(f"Transmission: photons reach {float(photons.min())}, expected finite numbers above 0")
        if not 0 <= self.electronic_noise < math.inf:
            raise ValueError(f"Transmission: electronic_noise is {self.electronic_noise}, expected 0 or more")
        if not 0 < self.floor < math.inf:
            raise ValueError(f"Transmission: floor is {self.floor}, expected more than 0")
        scatter = torch.as_tensor(self.scatter)
        if not bool(((scatter >= 0) & scatter.isfinite()).all()):
            raise ValueError(f"Transmission: scatter reaches {float(scatter.min())}, expected finite numbers from 0")

    def counts(self, line_integrals: Tensor, generator: torch.Generator) -> Tensor:
        """Draw counts, shape of ``line_integrals``."""
        require_tensor("Transmission", line_integrals, "line_integrals")
        return self.detected((-line_integrals).exp(), generator)

    def expected_counts(self, line_integrals: Tensor) -> Tensor:
        """Mean counts for these line integrals."""
        require_tensor("Transmission", line_integrals, "line_integrals")
        return self._photons(line_integrals) * (-line_integrals).exp() + self._scatter(line_integrals)

    def detected(self, transmitted: Tensor, generator: torch.Generator) -> Tensor:
        """Draw counts from the transmitted fraction of the beam."""
        mean = self._photons(transmitted) * transmitted + self._scatter(transmitted)
        counts = torch.poisson(mean, generator=generator)
        if self.electronic_noise > 0:
            noise = torch.randn(counts.shape, dtype=counts.dtype, device=counts.device, generator=generator)
            counts = counts + self.electronic_noise * noise
        return counts

    def line_integrals(self, counts: Tensor) -> Tensor:
        r""":math:`-\log(\max(I - S, \mathrm{floor}) / N)`; value and gradient are finite for any counts."""
        self._require_counts(counts)
        return (self._photons(counts) / self._primary(counts).clamp_min(self.floor)).log()

    def without_log_bias(self, counts: Tensor) -> Tensor:
        r"""Counts whose logarithm is right on average, averaged along the detector where few photons arrive.

        The mean of :math:`\log I` is below the logarithm of the mean, by :math:`\operatorname{var} I/2\bar I^2`; zero
        counts make line integrals too small. An element is averaged with as many neighbors as together measure
        :data:`ENOUGH_COUNTS` in units of their noise (33 at most) [H]_, and half of the relative variance is added.
        Elements with many photons gain half a photon and stay as sharp as they are.

        Parameters
        ----------
        counts
            ``(..., views, detectors)``.

        References
        ----------
        .. [H] Hsieh, Adaptive streak artifact reduction in computed tomography resulting from excessive x-ray photon
           noise, Med. Phys. 25, 1998.
        """
        self._require_counts(counts)
        photons, noise, scatter = self._photons(counts), self.electronic_noise**2, self._scatter(counts)
        # Of the transmitted part, in which a bow-tie filter and a modulated current are no structure.
        part = (counts - scatter) / photons

        def mean_of(reach: int) -> tuple[Tensor, Tensor]:
            """Mean without scatter, and its bound from below by its own standard deviation, for denominators."""
            mean, many = running_means(part, reach) * photons, 2 * reach + 1
            return mean, mean.maximum(((mean.clamp_min(1 / many) + scatter + noise) / many).sqrt())

        _, pilot = mean_of(_PILOT)
        needed = ENOUGH_COUNTS * (pilot + scatter + noise) / pilot.square()
        result = counts + (pilot + scatter + noise) / (2 * pilot)
        for reach in _REACHES[1:]:
            mean, least = mean_of(reach)
            unbiased = mean + scatter + (least + scatter + noise) / (2 * (2 * reach + 1) * least)
            result = torch.where(needed > 2 * (reach // 2) + 1, unbiased, result)
        return result

    def ray_weights(self, counts: Tensor) -> Tensor:
        r"""Square roots of the statistical weights of the line integrals, with root mean square 1 per sinogram.

        The variance of :math:`-\log((I - S)/N)` is about :math:`(I + \sigma^2) / (I - S)^2` [TW]_.

        References
        ----------
        .. [TW] Thibault et al., A recursive filter for noise reduction in statistical iterative tomographic imaging,
           Proc. SPIE 6065, 2006.
        """
        weights = 1 / self.noise_std(counts)
        return weights / weights.square().mean((-2, -1), keepdim=True).sqrt()

    def noise_std(self, counts: Tensor) -> Tensor:
        """Standard deviation of the line integrals for these counts."""
        self._require_counts(counts)
        primary = self._primary(counts).clamp_min(max(self.floor, 1.0))
        return (primary + self._scatter(counts) + self.electronic_noise**2).sqrt() / primary

    def _photons(self, like: Tensor) -> Tensor:
        return torch.as_tensor(self.photons, dtype=like.dtype, device=like.device)

    def _primary(self, counts: Tensor) -> Tensor:
        """Counts without scatter; as an estimate may be too large, at least a twentieth of the counts."""
        return (counts - self._scatter(counts)).maximum(_LEAST_PRIMARY * counts)

    def _scatter(self, like: Tensor) -> Tensor:
        return torch.as_tensor(self.scatter, dtype=like.dtype, device=like.device)

    def _require_counts(self, counts: Tensor) -> None:
        require_tensor("Transmission", counts, "counts")
        if bool(counts.isnan().any()):
            raise ValueError("Transmission: counts hold NaN, expected photon counts; give dead elements weight zero")


def running_means(rays: Tensor, reach: int) -> Tensor:
    """Mean of every element and up to ``reach`` neighbors on each side, fewer at the ends of the detector."""
    total = torch.nn.functional.pad(rays.double().cumsum(-1), (1, 0))
    place = torch.arange(rays.shape[-1], device=rays.device)
    first, last = (place - reach).clamp_min(0), (place + reach + 1).clamp_max(rays.shape[-1])
    return ((total[..., last] - total[..., first]) / (last - first)).to(rays.dtype)


def lodopab_observation(attenuation: Tensor, project: Callable[[Tensor], Tensor], generator: torch.Generator) -> Tensor:
    r"""The measurement of LoDoPaB-CT: :math:`-\log(\max(0.1, \mathrm{Poisson}(4096 e^{-p}))/4096) / \mu_{max}`.

    Parameters
    ----------
    attenuation
        Image in 1/mm, ``(..., height, width)``.
    project
        Line integrals; the data set took them on a grid of 1000x1000 pixels.

    Returns
    -------
        ``(..., views, detectors)`` in mm, because line integrals are divided by :data:`LODOPAB_MU_MAX`. The data set
        stores them in m.
    """
    model = Transmission(4096.0)
    return model.line_integrals(model.counts(project(attenuation), generator)) / LODOPAB_MU_MAX


def simulate_counts(
    attenuation: Tensor,
    grid: ImageGrid,
    geometry: Geometry,
    transmission: Transmission,
    generator: torch.Generator,
    *,
    rays_per_detector: int = 3,
) -> Tensor:
    """Counts of an object on a fine grid; a detector element averages the intensities of several rays.

    No inverse crime: reconstruction uses a coarser grid and one ray per element.

    Parameters
    ----------
    attenuation
        1/mm, ``(..., height, width)`` on ``grid``.
    grid
        At least twice as fine as the image to be reconstructed, see :meth:`ImageGrid.refined`.
    rays_per_detector
        Rays, evenly spread over an element.

    Returns
    -------
        ``(..., views, detectors)``.
    """
    return transmission.detected(transmitted(attenuation, grid, geometry, rays_per_detector), generator)


def transmitted(attenuation: Tensor, grid: ImageGrid, geometry: Geometry, rays_per_detector: int = 3) -> Tensor:
    """Transmitted fraction of the beam per element, mean of several rays; parameters as :func:`simulate_counts`."""
    require_tensor("transmitted", attenuation, "attenuation")
    if tuple(attenuation.shape[-2:]) != grid.shape:
        raise ValueError(
            f"transmitted: attenuation has trailing shape {tuple(attenuation.shape[-2:])}, expected {grid.shape}"
        )
    if rays_per_detector < 1:
        raise ValueError(f"transmitted: rays_per_detector is {rays_per_detector}, expected at least 1")
    images = attenuation.reshape(-1, *grid.shape)
    total = attenuation.new_zeros(len(images), *geometry.shape)
    for ray in range(rays_per_detector):
        shift = ((ray + 0.5) / rays_per_detector - 0.5) * geometry.pitch_mm
        moved = replace(geometry, offset_mm=geometry.offset_mm + shift)
        total += (-projector_of(grid, moved).project(images)).exp() / rays_per_detector
    return total.reshape(*attenuation.shape[:-2], *geometry.shape)


def estimate_ray_noise(lines: Tensor) -> Tensor:
    """Standard deviation of white noise from the median second difference along the detector.

    Parameters
    ----------
    lines
        Line integrals, weighted or not, ``(*batch, views, detectors)`` with at least 3 detector elements.

    Returns
    -------
        ``(*batch,)``. Differences that are exactly zero are left out: rays of weight zero and rays beside the object of
        a noise-free simulation. 0 if all are.
    """
    require_tensor("estimate_ray_noise", lines, "lines")
    second = (lines[..., 2:] - 2 * lines[..., 1:-1] + lines[..., :-2]).detach().abs()
    batch = second.shape[:-2]
    medians = [
        found.median() if len(found := one[one > 0]) else one.new_zeros(())
        for one in second.flatten(-2).reshape(math.prod(batch), -1)
    ]
    return torch.stack(medians).reshape(batch) / (0.6745 * math.sqrt(6))
