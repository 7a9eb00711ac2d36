"""Differentiable forward operators, sampling, coil maps, noise, phantoms and solvers. Knows nothing of networks.

Conventions, stated here once:

- Complex tensors are native. Fourier transforms are centered (zero frequency at ``n // 2``) and orthonormal.
- Axes: k-space ``(*batch, coils, readout, phase)``, images ``(*batch, height, width)``, row 0 at the top. The
  readout is the height, the phase-encoding direction the width. Trailing axes belong to the operator.
- Lengths in mm, angles in rad, attenuation in 1/mm, field strength in T.
- A noise level is ``sqrt(E |n|^2)`` per complex sample.
"""

from .checks import OperatorError, check_operator
from .coils import MAP_ESTIMATES, birdcage_maps, espirit_maps, estimate_maps, low_resolution_maps
from .fourier import FourierTransform, centering_phases, fft2c, ifft2c
from .mri import CartesianGram, CartesianMRI, CoilMaps, combine_coils, root_sum_of_squares
from .noise import complex_noise, correlated_noise, estimate_noise_covariance, whiten, whitening_matrix
from .operator import Adjoint, Composition, LinearOperator, Sampling, Scaled, Sum, per_sample, reciprocal
from .phantoms import PHANTOM_FAMILIES, EllipsePhantom, brain_phantom, phantom_volume, shepp_logan
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
from .solvers import conjugate_gradient, power_iteration, solve_normal

#: Every operator that can be plugged in; each gets the property tests for free.
OPERATORS: dict[str, type[LinearOperator]] = {
    operator.__name__: operator
    for operator in (
        Adjoint,
        CartesianGram,
        CartesianMRI,
        CoilMaps,
        Composition,
        FourierTransform,
        Sampling,
        Scaled,
        Sum,
    )
}

__all__ = [
    "MAP_ESTIMATES",
    "OPERATORS",
    "PHANTOM_FAMILIES",
    "SAMPLINGS",
    "Adjoint",
    "CartesianGram",
    "CartesianMRI",
    "CoilMaps",
    "Composition",
    "EllipsePhantom",
    "FourierTransform",
    "LinearOperator",
    "OperatorError",
    "Sampling",
    "SamplingMask",
    "Scaled",
    "Sum",
    "birdcage_maps",
    "brain_phantom",
    "calibration_block",
    "calibration_width",
    "centering_phases",
    "check_operator",
    "combine_coils",
    "complex_noise",
    "conjugate_gradient",
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
    "per_sample",
    "phantom_volume",
    "poisson_mask",
    "power_iteration",
    "random_mask",
    "reciprocal",
    "root_sum_of_squares",
    "shepp_logan",
    "solve_normal",
    "whiten",
    "whitening_matrix",
]
