"""Classical MRI reconstruction."""

import numpy as np
import torch
from torch import Tensor, nn

from physics import CartesianMRI, LinearOperator, Registry, solve_normal

from .by_slice import SliceMethod
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


class L1Wavelet(SliceMethod):
    """Sparsity of Daubechies wavelet coefficients, ``sigpy.mri.app.L1WaveletRecon``, accelerated proximal gradients."""

    def __init__(self, weight: float = 1e-2, iterations: int = 100) -> None:
        super().__init__(weight, iterations)

    def of_slice(self, y: Tensor, A: CartesianMRI) -> Tensor:
        if not y.any():
            return y.new_zeros(A.domain_shape)
        import sigpy.mri.app  # late: its import takes seconds

        # sigpy starts its power iteration from numpy's global generator: without a fixed seed the step sizes, and with
        # them the image, would differ from call to call.
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(0)  # noqa: NPY002
        try:
            # sigpy multiplies by sqrt(weights); a 0/1 mask is its own square root.
            weights = A.sampled.expand(A.range_shape).cpu().numpy().astype(np.float32)
            arrays, options = (y.cpu().numpy(), A.maps.cpu().numpy()), {"max_iter": self.iterations, "show_pbar": False}
            image = sigpy.mri.app.L1WaveletRecon(*arrays, self.weight, weights=weights, **options).run()
        finally:
            np.random.set_state(state)  # noqa: NPY002
        return torch.from_numpy(np.asarray(sigpy.to_device(image), dtype=np.complex64)).to(y.device)


#: Classical methods of MRI by the name of their arm in a report.
MRI_METHODS: Registry[nn.Module] = Registry(
    "classical method of MRI",
    {"zero_filled": ZeroFilled, "cg_sense": CGSense, "tv": TotalVariation, "l1_wavelet": L1Wavelet},
)
