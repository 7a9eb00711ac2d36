r"""The Gram of a non-uniform Fourier transform without any such transform.

It is a Toeplitz matrix, :math:`T_{jl} = t(j - l)`: a circular convolution on twice the rows and columns. Frequency
:math:`2 p + a` of the doubled transform of an image is frequency p of the transform of the image times the ramp
:math:`m_a(j) = e^{-\pi i a j / n}`, at the image's own size. So nothing is padded:

.. math:: T = \tfrac14 \sum_{a, b \in \{0, 1\}} \bar m_{ab} F^{-1} L_{ab} F m_{ab},

with real spectra :math:`L_{ab}`. Rows and columns are transformed one after the other, and both a share the transforms
of the rows: six transforms of the image's size instead of eight.

A transform of the columns reads them with strides and returns them contiguous. So a product of the spectrum and what
follows runs on transposed memory, the next transform of the rows returns the original one, and nothing is copied.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from ..autograd.constants import constants

#: Iterations of the estimate of the largest eigenvalue, and what is added to it.
_ITERATIONS, _MARGIN = 30, 1.01


def toeplitz_spectrum(kernel: Tensor) -> Tensor:
    """Spectra :math:`L_{ab}` with the factors of all transforms.

    Parameters
    ----------
    kernel
        :math:`t(d)`, complex, shape ``(2 height, 2 width)``, differences from ``-height`` and ``-width`` on.

    Returns
    -------
        Real, shape ``(2, 2, height, width)``, axes a, b; columns are contiguous, as :func:`convolve` reads them.
    """
    height, width = (n // 2 for n in kernel.shape)
    # The kernel is Hermitian, its spectrum real, but for differences of a whole field of view: no two pixels have them.
    whole = torch.fft.fft2(torch.fft.ifftshift(kernel)).real / (4 * height * width)
    return torch.stack([torch.stack([whole[a::2, b::2].T for b in (0, 1)]) for a in (0, 1)]).mT


@lru_cache(maxsize=16)
def half_sample_ramps(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ramps :math:`m_1` along height ``(height, 1)`` and width ``(width,)``, complex."""
    with constants():
        height, width = (
            torch.polar(torch.ones(n, dtype=torch.float64), -math.pi * torch.arange(n, dtype=torch.float64) / n)
            for n in shape
        )
        return height[:, None].to(device, dtype), width.to(device, dtype)


def convolve(images: Tensor, spectrum: Tensor, ramps: tuple[Tensor, Tensor]) -> Tensor:
    """:math:`T` applied to complex images ``(..., height, width)``.

    Parameters
    ----------
    spectrum
        :math:`L_{ab}`, of the dtype of the images, shape ``(..., 2, 2, height, width)``.
    ramps
        See :func:`half_sample_ramps`.
    """
    down, right = ramps
    # Lazy conjugates would be copied, at the size of an image.
    up, left = down.conj().resolve_conj(), right.conj().resolve_conj()
    halves = []
    for b, moved in ((0, images), (1, images * right)):
        rows = torch.fft.fft(moved)
        even = torch.fft.fft(rows, dim=-2).mul_(spectrum[..., 0, b, :, :])
        even = torch.fft.ifft(even, dim=-2, norm="forward")
        odd = torch.fft.fft(rows.mul_(down), dim=-2).mul_(spectrum[..., 1, b, :, :])
        odd = torch.fft.ifft(odd, dim=-2, norm="forward")
        halves.append(torch.fft.ifft(even.addcmul_(odd, up), norm="forward"))
    whole: Tensor = halves[0].addcmul_(halves[1], left)
    return whole


def toeplitz_norm(spectrum: Tensor) -> float:
    """Square root of the largest eigenvalue of T, by a power iteration on random images, with a margin of 1 %."""
    height, width = spectrum.shape[-2:]
    values = spectrum.to(torch.complex128)
    ramps = half_sample_ramps((height, width), values.dtype, values.device)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(height, width, dtype=torch.complex128, generator=generator)
    for _ in range(_ITERATIONS):
        image = convolve(image / image.norm(), values, ramps)
    return _MARGIN * math.sqrt(float(image.norm()))
