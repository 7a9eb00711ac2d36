from .checks import OPERATORS as OPERATORS
from .checks import OperatorError as OperatorError
from .checks import check_operator as check_operator
from .ct import (
    LODOPAB_MU_MAX as LODOPAB_MU_MAX,
)
from .ct import (
    MU_AIR as MU_AIR,
)
from .ct import (
    MU_WATER as MU_WATER,
)
from .ct import (
    WINDOWS as WINDOWS,
)
from .ct import (
    FanBeam as FanBeam,
)
from .ct import (
    Geometry as Geometry,
)
from .ct import (
    ImageGrid as ImageGrid,
)
from .ct import (
    ParallelBeam as ParallelBeam,
)
from .ct import (
    RadonOperator as RadonOperator,
)
from .ct import (
    ScanPreset as ScanPreset,
)
from .ct import (
    Transmission as Transmission,
)
from .ct import (
    attenuation_to_hu as attenuation_to_hu,
)
from .ct import (
    evenly_spaced as evenly_spaced,
)
from .ct import (
    field_of_view_radius_mm as field_of_view_radius_mm,
)
from .ct import (
    filtered_backprojection as filtered_backprojection,
)
from .ct import (
    htc2022 as htc2022,
)
from .ct import (
    hu_to_attenuation as hu_to_attenuation,
)
from .ct import (
    hyperfed as hyperfed,
)
from .ct import (
    lodopab as lodopab,
)
from .ct import (
    lodopab_observation as lodopab_observation,
)
from .ct import (
    redundancy_weights as redundancy_weights,
)
from .ct import (
    simulate_counts as simulate_counts,
)
from .ct import (
    transmitted as transmitted,
)
from .ct import (
    view_angles as view_angles,
)
from .mri import (
    MAP_ESTIMATES as MAP_ESTIMATES,
)
from .mri import (
    SAMPLINGS as SAMPLINGS,
)
from .mri import (
    CartesianGram as CartesianGram,
)
from .mri import (
    CartesianMRI as CartesianMRI,
)
from .mri import (
    CoilMaps as CoilMaps,
)
from .mri import (
    FourierTransform as FourierTransform,
)
from .mri import (
    SamplingMask as SamplingMask,
)
from .mri import (
    birdcage_maps as birdcage_maps,
)
from .mri import (
    calibration_block as calibration_block,
)
from .mri import (
    calibration_width as calibration_width,
)
from .mri import (
    centering_phases as centering_phases,
)
from .mri import (
    combine_coils as combine_coils,
)
from .mri import (
    complex_noise as complex_noise,
)
from .mri import (
    correlated_noise as correlated_noise,
)
from .mri import (
    equispaced_fraction_mask as equispaced_fraction_mask,
)
from .mri import (
    equispaced_mask as equispaced_mask,
)
from .mri import (
    espirit_maps as espirit_maps,
)
from .mri import (
    estimate_maps as estimate_maps,
)
from .mri import (
    estimate_noise_covariance as estimate_noise_covariance,
)
from .mri import (
    fft2c as fft2c,
)
from .mri import (
    file_seed as file_seed,
)
from .mri import (
    gaussian_mask as gaussian_mask,
)
from .mri import (
    ifft2c as ifft2c,
)
from .mri import (
    low_resolution_maps as low_resolution_maps,
)
from .mri import (
    magic_fraction_mask as magic_fraction_mask,
)
from .mri import (
    magic_mask as magic_mask,
)
from .mri import (
    make_mask as make_mask,
)
from .mri import (
    partial_fourier_mask as partial_fourier_mask,
)
from .mri import (
    poisson_mask as poisson_mask,
)
from .mri import (
    random_mask as random_mask,
)
from .mri import (
    root_sum_of_squares as root_sum_of_squares,
)
from .mri import (
    samples_center as samples_center,
)
from .mri import (
    whiten as whiten,
)
from .mri import (
    whitening_matrix as whitening_matrix,
)
from .operator import (
    Adjoint as Adjoint,
)
from .operator import (
    Composition as Composition,
)
from .operator import (
    LinearOperator as LinearOperator,
)
from .operator import (
    Sampling as Sampling,
)
from .operator import (
    Scaled as Scaled,
)
from .operator import (
    Sum as Sum,
)
from .operator import (
    per_sample as per_sample,
)
from .operator import (
    reciprocal as reciprocal,
)
from .phantoms import (
    BODY_FAMILIES as BODY_FAMILIES,
)
from .phantoms import (
    PHANTOM_FAMILIES as PHANTOM_FAMILIES,
)
from .phantoms import (
    EllipsePhantom as EllipsePhantom,
)
from .phantoms import (
    body_phantom as body_phantom,
)
from .phantoms import (
    body_volume as body_volume,
)
from .phantoms import (
    brain_phantom as brain_phantom,
)
from .phantoms import (
    phantom_volume as phantom_volume,
)
from .phantoms import (
    shepp_logan as shepp_logan,
)
from .registry import Registry as Registry
from .registry import options_of as options_of
from .solvers import conjugate_gradient as conjugate_gradient
from .solvers import power_iteration as power_iteration
from .solvers import solve_normal as solve_normal
