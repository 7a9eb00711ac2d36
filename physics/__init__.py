"""Differentiable forward operators, sampling, coil maps, noise, phantoms and solvers. Knows nothing of networks.

Conventions, stated here once:

- Complex tensors are native. Fourier transforms are centered (zero frequency at ``n // 2``) and orthonormal.
- Axes: k-space ``(*batch, coils, readout, phase)``, images ``(*batch, height, width)``, row 0 at the top. The
  readout is the height, the phase-encoding direction the width. Trailing axes belong to the operator.
- Lengths in mm, angles in rad, attenuation in 1/mm, field strength in T.
- A noise level is ``sqrt(E |n|^2)`` per complex sample.
"""

from .checks import OperatorError, check_operator
from .fourier import FourierTransform, centering_phases, fft2c, ifft2c
from .mri import CartesianGram, CartesianMRI, CoilMaps, combine_coils, root_sum_of_squares
from .operator import Adjoint, Composition, LinearOperator, Sampling, Scaled, Sum, per_sample, reciprocal
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
    "OPERATORS",
    "Adjoint",
    "CartesianGram",
    "CartesianMRI",
    "CoilMaps",
    "Composition",
    "FourierTransform",
    "LinearOperator",
    "OperatorError",
    "Sampling",
    "Scaled",
    "Sum",
    "centering_phases",
    "check_operator",
    "combine_coils",
    "conjugate_gradient",
    "fft2c",
    "ifft2c",
    "per_sample",
    "power_iteration",
    "reciprocal",
    "root_sum_of_squares",
    "solve_normal",
]
