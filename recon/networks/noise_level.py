"""The noise of an image per pixel, which noise-aware regularizers are told."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from physics import LinearOperator, per_sample

#: Edge in pixels of the square over which the noise of one replica is averaged.
_WINDOW = 15


def noise_map(A: LinearOperator, noise_std: Tensor) -> Tensor:
    r"""Standard deviation of the noise in the start image, per pixel.

    One pseudo replica [R]_: white noise of unit variance, sampled as the scan, is reconstructed by ``A.start``; the
    root mean square over squares of 15 pixels, times the noise of the scan, is the map. In MRI it holds acceleration
    and g-factor, in CT the back-projected variance of the rays. The replica is the same in every call.

    Parameters
    ----------
    A
        Forward operator of the batch.
    noise_std
        :math:`\sqrt{E |n|^2}` per number of the measurement, shape ``(*batch,)``.

    Returns
    -------
        Real, shape ``(*batch, height, width)``. The error of one replica is about ten percent.

    References
    ----------
    .. [R] Robson et al., Comprehensive quantification of signal-to-noise ratio and g-factor for image-based and
       k-space-based parallel imaging reconstructions, Magn. Reson. Med. 60, 2008.
    """
    with torch.no_grad():
        batch = noise_std.shape
        replica = _replica(A.range_shape, A.dtype.is_complex, noise_std.device)
        image = A.start((replica * A.sampled).expand(*batch, *A.range_shape).contiguous())
        power = image.abs().square().reshape(-1, 1, *image.shape[-2:])
        mean = _box(power) / _box(torch.ones_like(power[:1]))
        return mean.sqrt().reshape(image.shape) * per_sample(noise_std, image.ndim - noise_std.ndim)


@lru_cache(maxsize=64)
def _replica(shape: tuple[int, ...], is_complex: bool, device: torch.device) -> Tensor:
    """White noise of unit variance."""
    dtype = torch.complex64 if is_complex else torch.float32
    # Autograd refuses tensors that were made in inference mode, and the cache may return this one later.
    with torch.inference_mode(False):
        return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0)).to(device)


def _box(power: Tensor) -> Tensor:
    """Mean over a square around each pixel; pixels beyond the border count as zero."""
    half = _WINDOW // 2
    rows = F.avg_pool2d(power, (_WINDOW, 1), 1, (half, 0))
    return F.avg_pool2d(rows, (1, _WINDOW), 1, (0, half))
