"""Classical MRI reconstruction."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from physics import CartesianMRI, LinearOperator, Registry, per_sample, solve_normal

from ..method import image_scale, require_operator
from .total_variation import TotalVariation
from .tuning import ClassicalMethod


class ZeroFilled(ClassicalMethod):
    """The measurement with zeros where nothing was sampled: coil images combined by least squares in every pixel.

    Networks with ``start = "adjoint"`` start from another image, the adjoint over the squared norm of the operator.
    """

    def forward(self, y: Tensor, A: LinearOperator) -> Tensor:
        return A.zero_filled(y)


class CGSense(ClassicalMethod):
    r"""Least squares with Tikhonov damping, :math:`\min \|A x - y\|^2 + w \|A\|^2 \|x\|^2`.

    Parameters
    ----------
    weight
        Relative damping ``w``.
    iterations
        Conjugate-gradient iterations.

    References
    ----------
    .. [CG-SENSE] Pruessmann et al., Advances in sensitivity encoding with arbitrary k-space trajectories, 2001.
    """

    candidates = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)

    def __init__(self, weight: float = 1e-2, iterations: int = 20) -> None:
        super().__init__()
        self.weight, self.iterations = weight, iterations

    def forward(self, y: Tensor, A: LinearOperator) -> Tensor:
        damping = self.weight * torch.where(A.norm > 0, A.norm**2, 1.0)
        return solve_normal(A, A.adjoint(y), damping, max_iterations=self.iterations, gradient="unrolled")


class L1Wavelet(ClassicalMethod):
    """Sparsity of Daubechies wavelet coefficients, ``sigpy.mri.app.L1WaveletRecon``, accelerated proximal gradients.

    Applied slice by slice to data of order one: the same weight fits every scanner.

    Parameters
    ----------
    weight
        Regularization weight for images whose robust maximum is 1.
    iterations
        Iterations of the solver.
    """

    candidates_key = "tv_weights"

    def __init__(self, weight: float = 1e-2, iterations: int = 100) -> None:
        super().__init__()
        self.weight, self.iterations = weight, iterations

    def forward(self, y: Tensor, A: LinearOperator) -> Tensor:
        """Reconstruct ``(*batch, coils, height, width) -> (*batch, height, width)``; not differentiable.

        Raises
        ------
        TypeError
            If ``A`` is not a :class:`physics.CartesianMRI`.
        """
        scan = require_operator(type(self).__name__, A, CartesianMRI)
        scale = image_scale(A.start(y))
        coils = A.range_shape
        # sigpy multiplies by sqrt(weights); a 0/1 mask is its own square root.
        mask = scan.sampled.expand(scan.maps.shape).reshape(-1, *coils)
        data = (y / per_sample(scale, 3)).reshape(-1, *coils)
        maps = scan.maps.expand(y.shape).reshape(-1, *coils)
        images = [self._slice(*(t.cpu().numpy() for t in item)) for item in zip(data, maps, mask, strict=True)]
        return torch.stack(images).to(y.device).reshape(*y.shape[:-3], *A.domain_shape) * per_sample(scale, 2)

    def _slice(self, y: np.ndarray[Any, Any], maps: np.ndarray[Any, Any], mask: np.ndarray[Any, Any]) -> Tensor:
        if not y.any():
            return torch.zeros(y.shape[-2:], dtype=torch.complex64)
        import sigpy.mri.app  # late: its import takes seconds

        # sigpy starts its power iteration from numpy's global generator: without a fixed seed the step sizes, and with
        # them the image, would differ from call to call.
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(0)  # noqa: NPY002
        try:
            weights, options = mask.astype(np.float32), {"max_iter": self.iterations, "show_pbar": False}
            image = sigpy.mri.app.L1WaveletRecon(y, maps, self.weight, weights=weights, **options).run()
        finally:
            np.random.set_state(state)  # noqa: NPY002
        return torch.from_numpy(np.asarray(sigpy.to_device(image), dtype=np.complex64))


#: Classical methods of MRI by the name of their arm in a report.
MRI_METHODS: Registry[nn.Module] = Registry(
    "classical method of MRI",
    {"zero_filled": ZeroFilled, "cg_sense": CGSense, "tv": TotalVariation, "l1_wavelet": L1Wavelet},
)
