"""Training losses on magnitude images, shape ``(batch, height, width)`` or ``(batch, frames, height, width)``."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]


def l1_loss(image: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference."""
    return (image - target).abs().mean()


def mse_loss(image: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference."""
    return (image - target).square().mean()


def psnr_loss(image: Tensor, target: Tensor) -> Tensor:
    r"""Minus a tenth of PSNR, plus 8: :math:`\log_{10} (1 + 10^8 \cdot \mathrm{MSE} / \max^2)`, mean over slices.

    A decibel counts alike in a clean scan and in a noisy one; with the other losses the worst scans decide. The data
    range is the maximum of each target slice. Above 70 dB a smaller error hardly counts any more. Of complex images it
    is the error of real and imaginary part together.
    """
    data_range = target.abs().amax((-2, -1))
    # An empty slice: any positive range keeps the loss finite.
    data_range = torch.where(data_range > 0, data_range, 1.0)
    error = (image - target).abs().square().mean((-2, -1)) / data_range.square()
    return (1e8 * error).log1p().mean() / math.log(10)


def ssim_loss(image: Tensor, target: Tensor) -> Tensor:
    """One minus the mean structural similarity: 7x7 uniform window, data range the maximum of each target slice.

    Sample covariance, K1 = 0.01, K2 = 0.03, without a border of 3 pixels, as in the metric; but the data range of the
    metric is the maximum of the volume.

    Raises
    ------
    ValueError
        If an image is smaller than the window.

    References
    ----------
    .. [SSIM] Wang et al., Image quality assessment: from error visibility to structural similarity, 2004.
    """
    window = 7
    if min(target.shape[-2:]) < window:
        raise ValueError(f"ssim_loss: images of {tuple(target.shape[-2:])} pixels, expected at least 7x7")
    image, target = (values.reshape(-1, *values.shape[-2:]) for values in (image, target))
    unbiased = window**2 / (window**2 - 1)

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values.unsqueeze(1), window, stride=1).squeeze(1)

    data_range = target.amax((-2, -1), keepdim=True)
    # An empty slice: any positive range keeps the loss finite.
    data_range = torch.where(data_range > 0, data_range, 1.0)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_x, mean_y = mean(image), mean(target)
    var_x = unbiased * (mean(image * image) - mean_x**2)
    var_y = unbiased * (mean(target * target) - mean_y**2)
    cov = unbiased * (mean(image * target) - mean_x * mean_y)
    similarity = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    similarity = similarity / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return 1 - similarity.mean()


def l1_ssim_loss(image: Tensor, target: Tensor) -> Tensor:
    """``10 L1 + SSIM``: both terms matter on images of order one."""
    return 10 * l1_loss(image, target) + ssim_loss(image, target)


#: Losses by the name used in recipes.
LOSSES: dict[str, Loss] = {
    "l1": l1_loss,
    "mse": mse_loss,
    "psnr": psnr_loss,
    "ssim": ssim_loss,
    "l1_ssim": l1_ssim_loss,
}
