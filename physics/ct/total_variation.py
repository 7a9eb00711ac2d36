"""Penalized weighted least squares with total variation for real images."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..operator import LinearOperator, per_sample

#: Least entry of the metric, in units of its largest.
_LEAST_METRIC = 0.01


def penalized_tv(y: Tensor, A: LinearOperator, threshold: float | Tensor, x: Tensor, iterations: int) -> Tensor:
    r"""Minimize :math:`\tfrac12 \|A x - y\|^2 + \|A\|^2 \sum_j t_j |\nabla x|_j` over :math:`x \ge 0`, TV isotropic.

    Accelerated proximal gradients with restart [BT]_, [OC]_ in the metric :math:`D = \operatorname{diag}(A^T A 1)` of
    SIRT: a matrix without negative numbers has :math:`A^T A \le D`. Where rays have weights, those through the body
    have small ones. One step length for all pixels would then be too short in the middle of the body.

    Parameters
    ----------
    y
        Real measurement, ``(*batch, *A.range_shape)``.
    A
        Operator whose matrix has no negative numbers, such as :class:`physics.RadonOperator`.
    threshold
        t, the weight in units of the squared norm, broadcastable to ``x``: of the image or of each pixel.
    x
        Start image, ``(*batch, height, width)``. It is smoothed: few views and a low dose leave noise many times the
        image in a filtered back-projection, which takes more iterations to vanish than structure to appear.
    iterations
        200 suffice for full scans at the best weight, with weights of the rays and without; limited angles improve up
        to 1000.

    References
    ----------
    .. [BT] Beck and Teboulle, Fast gradient-based algorithms for constrained total variation image denoising and
       deblurring problems, IEEE Trans. Image Process. 18, 2009.
    .. [OC] O'Donoghue and Candes, Adaptive restart for accelerated gradient schemes, Found. Comput. Math. 15, 2015.
    """
    metric = A.adjoint(A(torch.ones_like(x)))
    # Pixels that no ray meets keep a finite step.
    metric = torch.maximum(metric, _LEAST_METRIC * metric.amax((-2, -1), keepdim=True).clamp_min(1e-30))
    bound = threshold * per_sample(A.norm**2, 2)
    x = _smoothed(x).clamp_min(0)
    z, momentum, dual = x, 1.0, x.new_zeros(2, *x.shape)
    for _ in range(iterations):
        new, dual = _tv_step(z - A.adjoint(A(z) - y) / metric, bound, metric, dual)
        # Restart where the momentum points uphill.
        if float((metric * (z - new) * (new - x)).sum()) > 0:
            momentum = 1.0
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        z = new + (momentum - 1) / following * (new - x)
        x, momentum = new, following
    return x


def _smoothed(image: Tensor) -> Tensor:
    """Means over squares of 5 pixels, of fewer at the border."""
    flat = image.reshape(-1, 1, *image.shape[-2:])
    return avg_pool2d(flat, 5, 1, 2, count_include_pad=False).reshape(image.shape)


def _tv_step(image: Tensor, bound: Tensor, metric: Tensor, dual: Tensor, iterations: int = 8) -> tuple[Tensor, Tensor]:
    r"""Minimize :math:`\tfrac12 \|x - b\|_D^2 + \sum_j w_j |\nabla x|_j`, :math:`x \ge 0`; from the last dual."""
    step = _least_neighbor(metric) / 8
    for _ in range(iterations):
        dual = dual + step * _differences((image - _divergence(dual) / metric).clamp_min(0))
        length = dual.square().sum(0).sqrt()
        # A weight of zero leaves a dual of zero.
        dual = dual * (bound / torch.maximum(length, bound).clamp_min(torch.finfo(length.dtype).tiny))
    return (image - _divergence(dual) / metric).clamp_min(0), dual


def _least_neighbor(image: Tensor) -> Tensor:
    """The least of each pixel, the one below and the one to the right."""
    least = image.clone()
    least[..., :-1, :] = torch.minimum(least[..., :-1, :], image[..., 1:, :])
    least[..., :-1] = torch.minimum(least[..., :-1], image[..., 1:])
    return least


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
