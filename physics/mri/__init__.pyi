from .cartesian import (
    CartesianGram as CartesianGram,
    CartesianMRI as CartesianMRI,
    CoilMaps as CoilMaps,
    combine_coils as combine_coils,
    root_sum_of_squares as root_sum_of_squares,
)
from .coil_maps import (
    MAP_ESTIMATES as MAP_ESTIMATES,
    birdcage_maps as birdcage_maps,
    espirit_maps as espirit_maps,
    estimate_maps as estimate_maps,
    low_resolution_maps as low_resolution_maps,
)
from .fourier import (
    FourierTransform as FourierTransform,
    centering_phases as centering_phases,
    fft2c as fft2c,
    ifft2c as ifft2c,
)
from .noise import (
    complex_noise as complex_noise,
    correlated_noise as correlated_noise,
    estimate_noise_covariance as estimate_noise_covariance,
    whiten as whiten,
    whitening_matrix as whitening_matrix,
)
from .sampling import (
    SAMPLINGS as SAMPLINGS,
    SamplingMask as SamplingMask,
    calibration_block as calibration_block,
    calibration_width as calibration_width,
    equispaced_fraction_mask as equispaced_fraction_mask,
    equispaced_mask as equispaced_mask,
    file_seed as file_seed,
    gaussian_mask as gaussian_mask,
    magic_fraction_mask as magic_fraction_mask,
    magic_mask as magic_mask,
    make_mask as make_mask,
    partial_fourier_mask as partial_fourier_mask,
    poisson_mask as poisson_mask,
    random_mask as random_mask,
    samples_center as samples_center,
)
