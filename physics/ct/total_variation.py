"""Penalized weighted least squares with total variation for real images."""

import torch
from torch import Tensor

from ..operator import LinearOperator, per_sample, reciprocal


def penalized_tv(y: Tensor, A: LinearOperator, threshold: float | Tensor, x: Tensor, iterations: int) -> Tensor:
    r"""Minimize :math:`\tfrac12 \|A x - y\|^2 + t \|A\|^2 \, \mathrm{TV}(x)` over :math:`x \ge 0`, TV isotropic.

    Accelerated proximal gradients with restart [BT]_, [OC]_.

    Parameters
    ----------
    y
        Real measurement, ``(*batch, *A.range_shape)``.
    threshold
        t, the weight in units of the squared norm, broadcastable to ``x``.
    x
        Start image, ``(*batch, height, width)``.
    iterations
        200 suffice for full scans at the best weight; limited angles improve up to 1000.

    References
    ----------
    .. [BT] Beck and Teboulle, Fast gradient-based algorithms for constrained total variation image denoising and
       deblurring problems, IEEE Trans. Image Process. 18, 2009.
    .. [OC] O'Donoghue and Candes, Adaptive restart for accelerated gradient schemes, Found. Comput. Math. 15, 2015.
    """
    step = reciprocal(per_sample(A.norm**2, 2))
    x = x.clamp_min(0)
    z, momentum, dual = x, 1.0, x.new_zeros(2, *x.shape)
    for _ in range(iterations):
        new, dual = _tv_step(z - step * A.adjoint(A(z) - y), threshold, dual)
        # Restart where the momentum points uphill.
        if float(((z - new) * (new - x)).sum()) > 0:
            momentum = 1.0
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        z = new + (momentum - 1) / following * (new - x)
        x, momentum = new, following
    return x


def _tv_step(image: Tensor, weight: float | Tensor, dual: Tensor, iterations: int = 8) -> tuple[Tensor, Tensor]:
    r""":math:`\arg\min_x \tfrac12 \|x - b\|^2 + w \mathrm{TV}(x)`, :math:`x \ge 0`, from the last dual variable."""
    for _ in range(iterations):
        gradient = _differences((image - weight * _divergence(dual)).clamp_min(0))
        dual = dual + gradient / (8 * weight)
        dual = dual / dual.square().sum(0).sqrt().clamp_min(1)
    return (image - weight * _divergence(dual)).clamp_min(0), dual


def _differences(image: Tensor) -> Tensor:
    """Forward differences along rows and columns, zero at the end, ``(2, *image.shape)``."""
    down, right = torch.zeros_like(image), torch.zeros_like(image)
    down[..., :-1, :] = image[..., 1:, :] - image[..., :-1, :]
    right[..., :-1] = image[..., 1:] - image[..., :-1]
    return torch.stack((down, right))


def _divergence(dual: Tensor) -> Tensor:
    """The transpose of :func:`_differences`."""
    down, right = dual
    image = torch.zeros_like(down)
    image[..., :-1, :] -= down[..., :-1, :]
    image[..., 1:, :] += down[..., :-1, :]
    image[..., :-1] -= right[..., :-1]
    image[..., 1:] += right[..., :-1]
    return image
