"""Facts that hold for all slices of a volume: mask, scale, covariance of the noise."""

import hashlib
import math
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from physics import (
    calibration_block,
    crop_readout,
    estimate_noise_covariance,
    ifft2c,
    mix_coils,
    root_sum_of_squares,
    samples_center,
    whitening_matrix,
)

from .mri_checks import KSpaceContent
from .mri_reduction import Reduction, center_gram, shown_rows
from .mri_volume import KSpaceVolume
from .sample import center_crop

#: Largest number of slices, evenly spaced, that scale, image maximum and noise of a volume are measured on.
PROBED_SLICES = 16


@dataclass(frozen=True, eq=False)
class VolumeFacts:
    """Facts of one volume under one mask, in units of the file.

    Samples hold the ``rows`` center rows of the image. ``compression`` is the matrix from coils to virtual coils; None:
    the coils stay. ``added_noise`` is the covariance of the simulated noise between coils, complex128 ``(coils,
    coils)``; None: no noise is added. ``noise_is_white`` says whether noise is white before compression. ``whitening``
    is the matrix for data and maps of (virtual) coils; None: their noise is white already, or samples hold raw coils.
    ``noise_std`` is the level after whitening, and the root mean square over raw coils; where neither file nor
    simulation state it, ``noise_is_estimated`` and it is an upper bound.
    ``warnings`` are those of :class:`KSpaceContent` on the slices that were read.
    """

    rows: int
    mask: Tensor
    compression: Tensor | None
    added_noise: Tensor | None
    noise_is_white: bool
    whitening: Tensor | None
    noise_std: float
    noise_is_estimated: bool
    scale: float
    acceleration: float
    center_fraction: float
    warnings: tuple[str, ...]

    def reduced(self, kspace: Tensor) -> Tensor:
        """k-space ``(coils, height, width)`` as samples hold it: compressed, whitened, without oversampling."""
        mixed = self.mixed(kspace)
        return mixed if self.rows == kspace.shape[-2] else crop_readout(mixed, self.rows)

    def mixed(self, samples: Tensor) -> Tensor:
        """Samples ``(coils, ...)`` of whitened virtual coils."""
        matrix = self.whitening
        if self.compression is not None:
            matrix = self.compression if matrix is None else matrix.to(self.compression.dtype) @ self.compression
        return samples if matrix is None else mix_coils(samples, matrix)


def effective_acceleration(volume: KSpaceVolume, mask: Tensor) -> float:
    """Encoded positions over sampled ones; padding columns count as neither."""
    return int(volume.acquired.sum()) * mask.shape[0] / int(mask.sum())


def probe_volume(volume: KSpaceVolume, mask: Tensor, noise_std: float, reduction: Reduction) -> VolumeFacts:
    """Measure the facts of a volume on up to `PROBED_SLICES` slices.

    A process reads a file once, as long as the file does not change.

    Parameters
    ----------
    volume
        The file.
    mask
        Sampled positions, bool ``(1 | height, width)``.
    noise_std
        Simulated noise relative to the maximum of the volume's root-sum-of-squares image.
    reduction
        How samples are made smaller.

    Raises
    ------
    DataError
        If the file is gone, or a slice cannot be read or used.
    """
    file = (volume.path.resolve(), volume.version)
    digest = hashlib.sha256(repr(mask.shape).encode() + mask.numpy().tobytes()).digest()
    return _probed(_Probe(file, digest, noise_std, reduction, volume, mask))


def forget_volumes() -> None:
    """Forget the facts of all volumes, in a process that reads many files once."""
    _probed.cache_clear()


@dataclass(frozen=True)
class _Probe:
    """Key of the cache, with the volume and the mask that it stands for."""

    file: tuple[Path, tuple[int, int, int]]
    mask_digest: bytes
    noise_std: float
    reduction: Reduction
    volume: KSpaceVolume = field(compare=False)
    mask: Tensor = field(compare=False)


# Training makes a new dataset of the same volumes in every round.
@lru_cache(maxsize=4096)
def _probed(probe: _Probe) -> VolumeFacts:
    volume, mask, noise_std = probe.volume, probe.mask, probe.noise_std
    n_slices, n_coils = volume.shape[:2]
    available = volume.available
    estimate = noise_std == 0 and volume.noise_covariance is None
    covariance, gram = torch.zeros(2, n_coils, n_coils, dtype=torch.complex128)
    image_maximum, pixels, content = 0.0, [], KSpaceContent(volume)
    probed = torch.linspace(0, n_slices - 1, min(n_slices, PROBED_SLICES)).round().int().tolist()
    for i in probed:
        kspace = volume.read_slice(i)
        content.look(i, kspace)
        sampled = kspace * mask
        pixels.append(_rss_image(sampled, volume.crop_shape).flatten())
        if noise_std > 0:
            image_maximum = max(image_maximum, float(_rss_image(kspace * available, volume.crop_shape).max()))
        if estimate:
            covariance += estimate_noise_covariance(sampled, mask) / len(probed)
        gram += center_gram(sampled)
    added = None
    if noise_std > 0 and image_maximum > 0:
        added = (noise_std * image_maximum) ** 2 * _coil_coupling(volume)
        covariance = covariance + added
    if volume.noise_covariance is not None:
        covariance = covariance + volume.noise_covariance
    whitening, variance = whitening_of(covariance)
    noise_is_white = whitening is None
    if not probe.reduction.whitens:
        whitening, variance = None, float(covariance.diagonal().real.mean())
    # An estimate from the edges of k-space may be signal, which would weigh the coils.
    noise = torch.zeros_like(covariance) if estimate else covariance
    if (matrix := probe.reduction.matrix(gram, noise)) is not None:
        whitening, variance = whitening_of(matrix @ covariance @ matrix.mH)
    rows = volume.shape[2]
    # An asymmetric echo is measured on a part of the readout alone: its rows of k-space are not alike.
    if probe.reduction.remove_oversampling and not content.lacks_readout:
        rows = shown_rows(volume, mask)
    return VolumeFacts(
        rows=rows,
        mask=mask if rows == volume.shape[2] else mask[:1],
        compression=matrix,
        added_noise=added,
        noise_is_white=noise_is_white,
        whitening=whitening,
        noise_std=math.sqrt(variance),
        noise_is_estimated=estimate,
        scale=robust_maximum(torch.cat(pixels)),
        acceleration=effective_acceleration(volume, mask),
        center_fraction=_center_fraction(mask),
        warnings=tuple(content.warnings()),
    )


def _rss_image(kspace: Tensor, crop: tuple[int, int]) -> Tensor:
    return center_crop(root_sum_of_squares(ifft2c(kspace)), crop)


def _coil_coupling(volume: KSpaceVolume) -> Tensor:
    """Covariance of simulated noise at mean variance 1: proportional to the covariance in the file, or white."""
    stated = volume.noise_covariance
    if stated is None or not stated.any():
        return torch.eye(volume.shape[1], dtype=torch.complex128)
    return stated / stated.diagonal().real.mean()


def whitening_of(covariance: Tensor) -> tuple[Tensor | None, float]:
    """Whitening matrix (None: the noise is white or absent) and the variance after whitening."""
    variance = float(covariance.diagonal().real.mean())
    white = variance * torch.eye(len(covariance), dtype=covariance.dtype)
    if (covariance - white).abs().max() <= 1e-6 * variance:
        return None, variance
    matrix = whitening_matrix(covariance)
    left = matrix.to(covariance.dtype)
    return matrix, float((left @ covariance @ left.mH).diagonal().real.mean())


def robust_maximum(pixels: Tensor) -> float:
    """0.999 quantile; the maximum where that is zero, as for a tiny object; 1 for an empty volume."""
    rank = max(math.ceil(0.999 * len(pixels)), 1)
    return float(pixels.kthvalue(rank).values) or float(pixels.max()) or 1.0


def _center_fraction(mask: Tensor) -> float:
    """Fraction of the columns in the calibration block; 0 where the center is not sampled."""
    if not samples_center(mask):
        return 0.0
    columns = calibration_block(mask)[-1]
    return int(columns.stop - columns.start) / mask.shape[-1]
