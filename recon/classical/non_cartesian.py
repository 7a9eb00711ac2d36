"""Classical reconstruction of radial and spiral scans.

Weights are in units of the mean sampling density, not of the squared norm of the operator: that is the density of the
center, up to a hundred times the mean one.
"""

import torch
from torch import Tensor, nn

from physics import LinearOperator, NonCartesianMRI, Registry, per_sample, solve_normal

from ..method import image_scale, require_operator
from .mri import CGSense, ZeroFilled
from .total_variation import total_variation
from .tuning import ClassicalMethod


class NonCartesianCG(CGSense):
    r"""Least squares with Tikhonov damping from the gridded image, :math:`\min \|A x - y\|^2 + w d \|x\|^2`.

    d is the mean sampling density times the largest squared root sum of squares of the maps.

    Parameters
    ----------
    weight
        Relative damping ``w``.
    iterations
        Conjugate-gradient iterations.
    """

    candidates = (1e-2, 3e-2, 1e-1, 3e-1, 1.0)

    def __init__(self, weight: float = 1e-1, iterations: int = 15) -> None:
        super().__init__(weight, iterations)

    def forward(self, y: Tensor, A: LinearOperator) -> Tensor:
        scan = require_operator("NonCartesianCG", A, NonCartesianMRI)
        density = scan.density * scan.rss.square().amax((-2, -1))
        damping = self.weight * torch.where(density > 0, density, 1.0)
        b, x0 = A.adjoint(y), scan.zero_filled(y)
        return solve_normal(A, b, damping, x0=x0, max_iterations=self.iterations, gradient="unrolled")


class NonCartesianTV(ClassicalMethod):
    r"""Anisotropic total variation, :math:`\min_x \tfrac1{2d} \|A x - y\|^2 + w \sum |D x|`, slice by slice.

    d is the mean sampling density: equal weights smooth as much as in :class:`TotalVariation`.

    Parameters
    ----------
    weight
        ``w``, for images whose robust maximum is 1.
    iterations, tolerance
        As in :class:`TotalVariation`.
    """

    candidates_key = "tv_weights"

    def __init__(self, weight: float = 1e-2, iterations: int = 40, tolerance: float = 1e-3) -> None:
        super().__init__()
        if not weight > 0:
            raise ValueError(f"NonCartesianTV: weight is {weight}, expected a positive number")
        self.weight, self.iterations, self.tolerance = weight, iterations, tolerance

    def forward(self, y: Tensor, A: LinearOperator) -> Tensor:
        scan = require_operator("NonCartesianTV", A, NonCartesianMRI)
        batch = y.shape[:-3]
        with torch.no_grad():
            starts = scan.start(y)
            scale = image_scale(starts)
            b, x = (image / per_sample(scale, 2) for image in (scan.adjoint(y), starts))
            slices = zip(
                scan.separate(batch), b.reshape(-1, *scan.domain_shape), x.reshape(-1, *scan.domain_shape), strict=True
            )
            images = [self._of_slice(*parts) for parts in slices]
            return torch.stack(images).reshape(*batch, *scan.domain_shape) * per_sample(scale, 2)

    def _of_slice(self, A: NonCartesianMRI, b: Tensor, x: Tensor) -> Tensor:
        per_density = A.density.reciprocal()
        return total_variation(per_density * A.gram, per_density * b, self.weight, x, self.iterations, self.tolerance)


#: Classical methods of non-Cartesian MRI by the name of their arm in a report.
NON_CARTESIAN_METHODS: Registry[nn.Module] = Registry(
    "classical method of non-Cartesian MRI",
    {"zero_filled": ZeroFilled, "cg_sense": NonCartesianCG, "tv": NonCartesianTV},
)
