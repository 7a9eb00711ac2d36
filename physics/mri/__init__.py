"""Cartesian MRI: Fourier transform, coil maps, masks, noise."""

from .cartesian import CartesianGram, CartesianMRI, CoilMaps, combine_coils, root_sum_of_squares
from .coil_maps import MAP_ESTIMATES, birdcage_maps, espirit_maps, estimate_maps, low_resolution_maps
from .fourier import FourierTransform, centering_phases, fft2c, ifft2c
from .noise import complex_noise, correlated_noise, estimate_noise_covariance, whiten, whitening_matrix
from .sampling import (
    SAMPLINGS,
    SamplingMask,
    calibration_block,
    calibration_width,
    equispaced_fraction_mask,
    equispaced_mask,
    file_seed,
    gaussian_mask,
    magic_fraction_mask,
    magic_mask,
    make_mask,
    partial_fourier_mask,
    poisson_mask,
    random_mask,
)

__all__ = [
    "MAP_ESTIMATES",
    "SAMPLINGS",
    "CartesianGram",
    "CartesianMRI",
    "CoilMaps",
    "FourierTransform",
    "SamplingMask",
    "birdcage_maps",
    "calibration_block",
    "calibration_width",
    "centering_phases",
    "combine_coils",
    "complex_noise",
    "correlated_noise",
    "equispaced_fraction_mask",
    "equispaced_mask",
    "espirit_maps",
    "estimate_maps",
    "estimate_noise_covariance",
    "fft2c",
    "file_seed",
    "gaussian_mask",
    "ifft2c",
    "low_resolution_maps",
    "magic_fraction_mask",
    "magic_mask",
    "make_mask",
    "partial_fourier_mask",
    "poisson_mask",
    "random_mask",
    "root_sum_of_squares",
    "whiten",
    "whitening_matrix",
]
