"""Differentiable forward operators, sampling, coil maps, noise, phantoms and solvers. Knows nothing of networks.

Conventions, stated here once:

- Complex tensors are native. Fourier transforms are centered (zero frequency at ``n // 2``) and orthonormal.
- Axes: k-space ``(*batch, coils, readout, phase)``, images ``(*batch, height, width)``, row 0 at the top. The
  readout is the height, the phase-encoding direction the width. Trailing axes belong to the operator.
- CT sinograms are ``(*batch, views, detectors)``; a parallel ray is ``x cos t + y sin t = u`` with +y at the top.
- Lengths in mm, angles in rad, attenuation in 1/mm, field strength in T.
- A noise level is ``sqrt(E |n|^2)`` per complex sample.
"""

from .body_phantoms import BODY_FAMILIES, body_phantom, body_volume
from .checks import OperatorError, check_operator
from .coils import MAP_ESTIMATES, birdcage_maps, espirit_maps, estimate_maps, low_resolution_maps
from .fbp import WINDOWS, filtered_backprojection, redundancy_weights, view_angles
from .fourier import FourierTransform, centering_phases, fft2c, ifft2c
from .geometry import (
    FanBeam,
    Geometry,
    ImageGrid,
    ParallelBeam,
    ScanPreset,
    evenly_spaced,
    field_of_view_radius_mm,
    htc2022,
    hyperfed,
    lodopab,
)
from .mri import CartesianGram, CartesianMRI, CoilMaps, combine_coils, root_sum_of_squares
from .noise import complex_noise, correlated_noise, estimate_noise_covariance, whiten, whitening_matrix
from .operator import Adjoint, Composition, LinearOperator, Sampling, Scaled, Sum, per_sample, reciprocal
from .phantoms import PHANTOM_FAMILIES, EllipsePhantom, brain_phantom, phantom_volume, shepp_logan
from .radon import RadonOperator
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
from .transmission import (
    LODOPAB_MU_MAX,
    MU_AIR,
    MU_WATER,
    Transmission,
    attenuation_to_hu,
    hu_to_attenuation,
    lodopab_observation,
    simulate_counts,
    transmitted,
)

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
        RadonOperator,
        Sampling,
        Scaled,
        Sum,
    )
}

__all__ = [
    "BODY_FAMILIES",
    "LODOPAB_MU_MAX",
    "MAP_ESTIMATES",
    "MU_AIR",
    "MU_WATER",
    "OPERATORS",
    "PHANTOM_FAMILIES",
    "SAMPLINGS",
    "WINDOWS",
    "Adjoint",
    "CartesianGram",
    "CartesianMRI",
    "CoilMaps",
    "Composition",
    "EllipsePhantom",
    "FanBeam",
    "FourierTransform",
    "Geometry",
    "ImageGrid",
    "LinearOperator",
    "OperatorError",
    "ParallelBeam",
    "RadonOperator",
    "Sampling",
    "SamplingMask",
    "Scaled",
    "ScanPreset",
    "Sum",
    "Transmission",
    "attenuation_to_hu",
    "birdcage_maps",
    "body_phantom",
    "body_volume",
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
    "evenly_spaced",
    "fft2c",
    "field_of_view_radius_mm",
    "file_seed",
    "filtered_backprojection",
    "gaussian_mask",
    "htc2022",
    "hu_to_attenuation",
    "hyperfed",
    "ifft2c",
    "lodopab",
    "lodopab_observation",
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
    "redundancy_weights",
    "root_sum_of_squares",
    "shepp_logan",
    "simulate_counts",
    "solve_normal",
    "transmitted",
    "view_angles",
    "whiten",
    "whitening_matrix",
]
