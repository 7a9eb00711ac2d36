from .cartesian import (
    CartesianGram as CartesianGram,
)
from .cartesian import (
    CartesianMRI as CartesianMRI,
)
from .cartesian import (
    CoilMaps as CoilMaps,
)
from .cartesian import (
    combine_coils as combine_coils,
)
from .cartesian import (
    root_sum_of_squares as root_sum_of_squares,
)
from .coil_maps import (
    MAP_ESTIMATES as MAP_ESTIMATES,
)
from .coil_maps import (
    birdcage_maps as birdcage_maps,
)
from .coil_maps import (
    espirit_maps as espirit_maps,
)
from .coil_maps import (
    estimate_maps as estimate_maps,
)
from .coil_maps import (
    low_resolution_maps as low_resolution_maps,
)
from .fourier import (
    FourierTransform as FourierTransform,
)
from .fourier import (
    centering_phases as centering_phases,
)
from .fourier import (
    fft2c as fft2c,
)
from .fourier import (
    ifft2c as ifft2c,
)
from .noise import (
    complex_noise as complex_noise,
)
from .noise import (
    correlated_noise as correlated_noise,
)
from .noise import (
    estimate_noise_covariance as estimate_noise_covariance,
)
from .noise import (
    whiten as whiten,
)
from .noise import (
    whitening_matrix as whitening_matrix,
)
from .sampling import (
    SAMPLINGS as SAMPLINGS,
)
from .sampling import (
    SamplingMask as SamplingMask,
)
from .sampling import (
    calibration_block as calibration_block,
)
from .sampling import (
    calibration_width as calibration_width,
)
from .sampling import (
    equispaced_fraction_mask as equispaced_fraction_mask,
)
from .sampling import (
    equispaced_mask as equispaced_mask,
)
from .sampling import (
    file_seed as file_seed,
)
from .sampling import (
    gaussian_mask as gaussian_mask,
)
from .sampling import (
    magic_fraction_mask as magic_fraction_mask,
)
from .sampling import (
    magic_mask as magic_mask,
)
from .sampling import (
    make_mask as make_mask,
)
from .sampling import (
    partial_fourier_mask as partial_fourier_mask,
)
from .sampling import (
    poisson_mask as poisson_mask,
)
from .sampling import (
    random_mask as random_mask,
)
from .sampling import (
    samples_center as samples_center,
)
