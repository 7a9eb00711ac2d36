"""Scans of given images by random scanners, simulated on the fly: training data for weights that suit many scanners."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from physics import (
    CartesianMRI,
    birdcage_maps,
    calibration_block,
    combine_coils,
    complex_noise,
    correlated_noise,
    estimate_maps,
    fft2c,
    ifft2c,
    make_mask,
    whiten,
    whitening_matrix,
)

from .image_contrast import draw_from_labels, vary_contrast
from .image_phase import with_realistic_phase, with_smooth_phase
from .mri_simulation import coil_covariance
from .sample import Sample, SampleMeta
from .scan_features import condition_vector, mask_family, mri_features
from .slices import generator_for

#: Samplings with their probabilities, and the range of accelerations.
_LINES: tuple[tuple[str, float], ...] = (("random", 0.3), ("equispaced", 0.3), ("partial_fourier", 0.15))
_PLANES: tuple[tuple[str, float], ...] = (("poisson", 0.15), ("gaussian", 0.1))
_LINE_RATES, _PLANE_RATES = (2.0, 6.0), (2.5, 10.0)


@dataclass(frozen=True, eq=False)
class RandomScans:
    r"""MRI scans of images, each by another random scanner: phase, contrast, coils, sampling and noise are drawn.

    Every scan is measured as a site measures its own: coil maps are estimated from the sampled center, correlated noise
    is whitened, the reference is combined with the estimated maps. The noise :math:`\sqrt{E |n|^2}` is log-uniform
    from 0.002 to 0.06 of the image's maximum, the acceleration 2 to 6 for lines and 2.5 to 10 for points; one in ten
    scans has one coil, the others have 2 to 12.

    Parameters
    ----------
    images
        Magnitude images, real, or maps of anatomical labels, integers, which get a random contrast; each
        ``(height, width)``.
    count
        Number of scans.
    seed
        Equal seeds give equal scans.
    phase
        ``"realistic"`` or ``"smooth"``: phase of the images, :func:`with_realistic_phase` or :func:`with_smooth_phase`.
    site
        Name of the site, for :class:`SampleMeta`.
    """

    images: Sequence[Tensor]
    count: int
    seed: int = 0
    phase: Literal["realistic", "smooth"] = "realistic"
    site: str = "random"

    def __post_init__(self) -> None:
        if not self.images or self.count < 1:
            raise ValueError(f"RandomScans: got {len(self.images)} images, {self.count} scans, expected some")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(f"RandomScans: index {index}, expected less than {self.count}")
        generator = generator_for("random scan", self.seed, index)
        with_phase = with_realistic_phase if self.phase == "realistic" else with_smooth_phase
        image = with_phase(self._magnitude(generator), random_seed(generator))
        shape = (image.shape[-2], image.shape[-1])
        n_coils = 1 if uniform(generator, 0, 1) < 0.1 else int(uniform(generator, 2, 13))
        true_maps = birdcage_maps(n_coils, shape, seed=random_seed(generator), radius=uniform(generator, 1.3, 2.0))
        mask = _random_mask(shape, n_coils, generator)
        noise_std = 0.002 * 30 ** uniform(generator, 0, 1)
        kspace = fft2c(true_maps * image)
        covariance, correlated = torch.eye(n_coils, dtype=torch.complex128), uniform(generator, 0, 1) < 0.5
        if correlated and n_coils > 1:
            covariance = coil_covariance(n_coils, random_seed(generator))
            noise = noise_std * correlated_noise(kspace.shape, covariance, generator).to(torch.complex64)
        else:
            noise = complex_noise(kspace.shape, noise_std, generator)
        measured = (kspace + noise) * mask
        matrix = whitening_matrix(covariance)
        maps = whiten(estimate_maps(measured, mask), matrix)
        left = matrix.to(covariance.dtype)
        gain = float((left @ covariance @ left.mH).diagonal().real.mean().sqrt())
        acceleration, center = mask.numel() / float(mask.sum()), calibration_block(mask)[-1]
        features = mri_features(
            acceleration=acceleration,
            center_fraction=(center.stop - center.start) / shape[1],
            n_coils=n_coils,
            noise_std=noise_std * gain,
            family=mask_family(mask),
        )
        return Sample(
            measurement=whiten(measured, matrix),
            operator=CartesianMRI(maps, mask),
            noise_std=torch.tensor(noise_std * gain),
            reference=combine_coils(ifft2c(whiten(kspace, matrix)), maps),
            scale=torch.tensor(1.0),
            condition=condition_vector(features),
            meta=(SampleMeta(self.site, "random", index, acceleration, "coil_combined"),),
        )

    def _magnitude(self, generator: torch.Generator) -> Tensor:
        """One of the images with another contrast, flipped and transposed at random, maximum 1."""
        image = self.images[int(uniform(generator, 0, len(self.images)))]
        if not image.is_floating_point():
            image = draw_from_labels(image, random_seed(generator))
        elif uniform(generator, 0, 1) < 0.6:
            image = vary_contrast(image, random_seed(generator), inversion=0.3)
        for axis in (-1, -2):
            if uniform(generator, 0, 1) < 0.5:
                image = image.flip(axis)
        if uniform(generator, 0, 1) < 0.5:
            image = image.mT
        return image.contiguous() / image.max().clamp_min(torch.finfo(torch.float32).tiny)


def _random_mask(shape: tuple[int, int], n_coils: int, generator: torch.Generator) -> Tensor:
    """A mask of a random family with 8 lines or more in the center, 4 in those of points, ``(1 | height, width)``."""
    kinds = _LINES + _PLANES
    chosen = int(torch.multinomial(torch.tensor([weight for _, weight in kinds]), 1, generator=generator))
    family, center = kinds[chosen][0], uniform(generator, 0.06, 0.14)
    low, high = _LINE_RATES if chosen < len(_LINES) else _PLANE_RATES
    # One coil cannot undo aliasing: nobody scans it fast.
    rate = uniform(generator, low, high if n_coils > 2 else (low + high) / 2)
    if family in ("equispaced", "partial_fourier"):
        rate = float(round(rate))
    seed = random_seed(generator)
    mask = make_mask(family, shape, rate, center, seed).mask
    return mask if mask.ndim == 2 else mask[None]


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """A number between two others."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def random_seed(generator: torch.Generator) -> int:
    """A seed of 31 bits."""
    return int(torch.randint(2**31 - 1, (), generator=generator))
