"""Image quality of CT: bias and noise in Hounsfield units, noise texture, sharpness, contrast and detectability.

A network is not linear, so its resolution and noise depend on the object. They are measured around one slice, which is
simulated with a few draws of noise: as it is, with a faint disc at every draw, and with a disc of more contrast at the
first draw. The differences of the reconstructions are the noise and the images of the discs; anatomy cancels.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from physics import MU_AIR, MU_WATER, ImageGrid, RadonOperator, Transmission, attenuation_to_hu, transmitted

from ..data import CT_SCALE, Sample, collate
from ..method import apply, require_operator, to_device_of
from .detectability import dog_channels, hotelling_detectability

Array = npt.NDArray[np.floating[Any]]

#: Ranges of Hounsfield units of the reference, by region.
REGIONS: dict[str, tuple[float, float]] = {
    "lung": (-950.0, -600.0),
    "soft tissue": (0.0, 200.0),
    "bone": (350.0, 3000.0),
}
#: Contrast of the disc in Hounsfield units, and its radius in pixels.
DISC_HU, DISC_PIXELS = 100.0, 6.0
#: Contrast of the disc to be detected, and draws of noise. Noise around the disc is taken in steps of its radius, from
#: twice the radius on one side to as much on the other.
FAINT_HU, _DRAWS, _STEPS = 10.0, 4, (-2, -1, 0, 1, 2)
#: Refinement of the grid on which the probe is simulated, and rays per detector element.
_REFINED, _RAYS = 2, 3


@dataclass(frozen=True)
class Quality:
    """Image quality of one method at one site; Hounsfield units, frequencies in line pairs per cm.

    ``bias`` and ``noise`` are mean and standard deviation of the error by region, for the regions in the images.
    ``nps`` is the radial noise power spectrum as pairs ``(frequency, power in HU^2 mm^2)``, ``mtf`` the modulation
    transfer function at the edge of the disc as pairs ``(frequency, value)``, ``mtf50`` the frequency at which it falls
    to one half, ``cnr`` the contrast of the disc divided by the noise. ``detectability`` is that of a disc of
    :data:`FAINT_HU`, :math:`d'` of the channelized Hotelling observer; from four draws of noise it is known to a tenth.
    """

    bias: dict[str, float]
    noise: dict[str, float]
    nps: tuple[tuple[float, float], ...]
    mtf: tuple[tuple[float, float], ...]
    mtf50: float | None
    contrast_hu: float | None
    cnr: float | None
    detectability: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The values as plain numbers."""
        return {
            "bias_hu": self.bias,
            "noise_hu": self.noise,
            "nps": [list(point) for point in self.nps],
            "nps_mean_lp_per_cm": _mean_frequency(self.nps),
            "mtf": [list(point) for point in self.mtf],
            "mtf50_lp_per_cm": self.mtf50,
            "disc_contrast_hu": self.contrast_hu,
            "disc_cnr": self.cnr,
            "disc_detectability": self.detectability,
        }


@dataclass(frozen=True, eq=False)
class Probe:
    """One slice simulated with several draws of noise.

    Attributes
    ----------
    absent, faint
        The slice, and the slice with a disc of :data:`FAINT_HU`, at every draw.
    disc
        The slice with a disc of :data:`DISC_HU` at the first draw.
    center
        Row and column of the discs.
    """

    absent: tuple[Sample, ...]
    faint: tuple[Sample, ...]
    disc: Sample
    center: tuple[float, float]

    @property
    def plain(self) -> Sample:
        """The slice at the first draw."""
        return self.absent[0]

    @property
    def again(self) -> Sample:
        """The slice at the second draw."""
        return self.absent[1]

    @classmethod
    def of(cls, sample: Sample, transmission: Transmission) -> "Probe | None":
        """Simulate the probe from a slice with a reference; None if no region is uniform enough for the disc."""
        operator, reference = require_operator("Probe", sample.operator, RadonOperator), sample.reference
        if reference is None:
            return None
        grid, mu_water = operator.grid, float(sample.scale)
        center = _most_uniform(reference, _relative(grid.spacing_mm))
        if center is None:
            return None
        fine_grid = grid.refined(_REFINED)
        fine = torch.nn.functional.interpolate(
            reference[None, None] * mu_water, scale_factor=float(_REFINED), mode="bilinear", align_corners=False
        )[0, 0]
        unit = (mu_water - MU_AIR / MU_WATER * mu_water) / 1000
        disc = _disc(fine_grid, _position_mm(grid, center), DISC_PIXELS * max(grid.spacing_mm)) * unit
        generator = torch.Generator().manual_seed(0)
        drawn = [torch.randn(operator.range_shape, generator=generator) for _ in range(_DRAWS)]

        def simulated(hu: float, draws: list[Tensor]) -> tuple[Sample, ...]:
            """The slice with a disc, at some draws of noise."""
            samples = []
            photons = torch.as_tensor(transmission.photons, dtype=torch.float32)
            mean = photons * transmitted(fine + hu * disc, fine_grid, operator.geometry, _RAYS)
            for noise in draws:
                # Gaussian noise with the variance of the counts: Poisson noise cannot be equal for two objects.
                counts = mean + (mean + transmission.electronic_noise**2).sqrt() * noise
                lines = transmission.line_integrals(counts) / mu_water
                weights = None if operator.ray_weights is None else transmission.ray_weights(counts)
                measurement = lines if weights is None else weights * lines
                scan = RadonOperator(grid, operator.geometry, weights)
                samples.append(replace(sample, measurement=measurement, operator=scan))
            return tuple(samples)

        return cls(simulated(0.0, drawn), simulated(FAINT_HU, drawn), simulated(DISC_HU, drawn[:1])[0], center)


def measure_quality(
    method: nn.Module, probe: Probe | None, images: Array, references: Array, pixel_mm: float | tuple[float, float]
) -> Quality:
    """Image quality of one method.

    Parameters
    ----------
    method
        Called as ``method(y, A)``.
    probe
        Slice for noise power, sharpness and contrast; None leaves these out.
    images, references
        Reconstructions and references of the test set in scaled units, ``(slices, height, width)``, for bias and noise.
    pixel_mm
        Edge of a pixel, or those of its rows and columns ``(dy, dx)``. Lengths in pixels are then in the longer edge.
    """
    spacing = pixel_mm if isinstance(pixel_mm, tuple) else (pixel_mm, pixel_mm)
    error = (images - references) * (1000 * CT_SCALE / (MU_WATER - MU_AIR))
    hu = attenuation_to_hu(torch.from_numpy(references * CT_SCALE)).numpy()
    bias, noise = {}, {}
    for name, (low, high) in REGIONS.items():
        inside = np.stack([_eroded((slice_ > low) & (slice_ < high)) for slice_ in hu])
        if inside.sum() >= 50:
            bias[name], noise[name] = float(error[inside].mean()), float(error[inside].std())
    if probe is None:
        return Quality(bias, noise, (), (), None, None, None)
    method.eval()
    with torch.no_grad():
        plain, again, disc = _images_hu(method, [probe.plain, probe.again, probe.disc])
        more, faint = _images_hu(method, probe.absent[2:]), _images_hu(method, probe.faint)
    nps = _noise_power((plain - again) / math.sqrt(2), spacing)
    added = disc - plain
    radius = _radius(added.shape, probe.center, _relative(spacing))
    mtf = _edge_response(added, radius, max(spacing))
    inside, around = radius < DISC_PIXELS - 2, (radius > DISC_PIXELS + 2) & (radius < 2 * DISC_PIXELS)
    contrast = float(added[inside].mean() - added[around].mean())
    spread = float(((plain - again) / math.sqrt(2))[radius < 2 * DISC_PIXELS].std())
    found = detectability(np.stack((plain, again, *more)), faint, probe.center, _relative(spacing))
    return Quality(bias, noise, nps, mtf, _half(mtf), contrast, contrast / spread if spread > 0 else None, found)


def _images_hu(method: nn.Module, samples: Sequence[Sample]) -> Array:
    """Reconstructions in HU, ``(samples, height, width)``."""
    images = apply(method, to_device_of(method, collate(samples)))
    return attenuation_to_hu(images * CT_SCALE).cpu().numpy().astype(np.float64)


def detectability(
    absent: Array, present: Array, center: tuple[float, float], edges: tuple[float, float]
) -> float | None:
    """Detectability of the difference of images at equal noise, in the noise around it.

    Parameters
    ----------
    absent, present
        Images without and with the signal at several draws of noise, ``(draws, height, width)``.
    center
        Row and column of the signal.
    edges
        Edges of a pixel in units of the longer one.
    """
    noise = absent - absent.mean(0)
    signal, samples = (present - absent).mean(0), []
    for down, right in itertools.product(_STEPS, _STEPS):
        place = center[0] + down * DISC_PIXELS / edges[0], center[1] + right * DISC_PIXELS / edges[1]
        channels = dog_channels(_radius(signal.shape, place, edges)).reshape(-1, signal.size)
        samples.append(noise.reshape(len(noise), -1) @ channels.T)
        if down == right == 0:
            known = channels @ signal.ravel()
    return hotelling_detectability(known, np.concatenate(samples), len(samples) * (len(noise) - 1))


def _relative(spacing: tuple[float, float]) -> tuple[float, float]:
    """Edges of a pixel in units of the longer one."""
    return spacing[0] / max(spacing), spacing[1] / max(spacing)


def _most_uniform(reference: Tensor, edges: tuple[float, float]) -> tuple[float, float] | None:
    """Row and column of the most uniform square of soft tissue that holds the disc, None if there is none."""
    height, width = (2 * int(2 * DISC_PIXELS / edge) + 1 for edge in edges)
    if reference.shape[0] < 2 * height or reference.shape[1] < 2 * width:
        return None
    hu = attenuation_to_hu(reference * CT_SCALE)[None, None]
    mean = torch.nn.functional.avg_pool2d(hu, (height, width), stride=1)
    variance = torch.nn.functional.avg_pool2d(hu**2, (height, width), stride=1) - mean**2
    variance = torch.where((mean > -150) & (mean < 250), variance, math.inf)[0, 0]
    best = int(variance.argmin())
    row, column = divmod(best, variance.shape[1])
    if not math.isfinite(float(variance[row, column])):
        return None
    return row + height // 2, column + width // 2


def _position_mm(grid: ImageGrid, center: tuple[float, float]) -> tuple[float, float]:
    return float(grid.x_mm[int(center[1])]), float(grid.y_mm[int(center[0])])


def _disc(grid: ImageGrid, center: tuple[float, float], radius: float) -> Tensor:
    """Pixel means of a disc."""
    fine = grid.refined(4)
    x, y = torch.from_numpy(fine.x_mm - center[0]), torch.from_numpy(fine.y_mm - center[1])
    inside = (torch.hypot(x[None, :], y[:, None]) <= radius).float()
    return torch.nn.functional.avg_pool2d(inside[None], 4)[0]


def _radius(shape: tuple[int, ...], center: tuple[float, float], edges: tuple[float, float]) -> Array:
    rows, columns = np.indices(shape)
    radius: Array = np.hypot((rows - center[0]) * edges[0], (columns - center[1]) * edges[1])
    return radius


def _eroded(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The mask without its border pixels, which are mixtures of two regions."""
    padded = np.pad(mask, 1)
    return padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def _noise_power(noise: Array, spacing: tuple[float, float]) -> tuple[tuple[float, float], ...]:
    """Radial mean of the noise power spectrum, averaged over overlapping tiles of the central half of the image."""
    height, width = noise.shape
    side = min(height, width) // 4
    power = np.zeros((side, side))
    tiles = 0
    for top in range(height // 4, 3 * height // 4 - side + 1, side // 2):
        for left in range(width // 4, 3 * width // 4 - side + 1, side // 2):
            tile = noise[top : top + side, left : left + side]
            power += np.abs(np.fft.fft2(tile - tile.mean())) ** 2
            tiles += 1
    power *= spacing[0] * spacing[1] / (side**2 * max(tiles, 1))
    vertical, horizontal = (np.fft.fftfreq(side, edge / 10) for edge in spacing)
    radial = np.hypot(vertical[:, None], horizontal[None, :])
    edges = np.linspace(0, 5 / max(spacing), side // 2 + 1)
    return tuple(
        (float((low + high) / 2), float(power[inside].mean()))
        for low, high in itertools.pairwise(edges)
        if (inside := (radial > low) & (radial <= high)).any()
    )


def _mean_frequency(nps: tuple[tuple[float, float], ...]) -> float | None:
    # The power in a ring grows with its radius.
    total = math.fsum(power * frequency for frequency, power in nps)
    return math.fsum(power * frequency**2 for frequency, power in nps) / total if total > 0 else None


def _edge_response(added: Array, radius: Array, pixel_mm: float) -> tuple[tuple[float, float], ...]:
    """MTF at the edge of the disc: radial profile in quarter-pixel bins, differentiated, Fourier transformed."""
    step, reach = 0.25, DISC_PIXELS - 1
    edges = np.arange(-reach, reach + step / 2, step)
    distance = radius - DISC_PIXELS
    which = np.digitize(distance.ravel(), edges) - 1
    count = len(edges) - 1
    valid = (which >= 0) & (which < count)
    total = np.bincount(which[valid], added.ravel()[valid], count)
    number = np.bincount(which[valid], minlength=count)
    centers = (edges[:-1] + edges[1:]) / 2
    profile = np.interp(centers, centers[number > 0], total[number > 0] / number[number > 0])
    from scipy.signal.windows import tukey  # late: half a second

    line = -np.diff(profile) * tukey(count - 1, 0.3)
    spectrum = np.abs(np.fft.rfft(line, 8 * count))
    if spectrum[0] <= 0:
        return ()
    frequency = np.fft.rfftfreq(8 * count, step * pixel_mm / 10)
    shown = frequency <= 5 / pixel_mm
    return tuple(zip(frequency[shown].tolist(), (spectrum / spectrum[0])[shown].tolist(), strict=True))


def _half(mtf: tuple[tuple[float, float], ...]) -> float | None:
    """Frequency at which the MTF falls to one half, by linear interpolation."""
    for (low, a), (high, b) in itertools.pairwise(mtf):
        if a >= 0.5 > b:
            return low + (high - low) * (a - 0.5) / (a - b)
    return None
