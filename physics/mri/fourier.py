"""Centered orthonormal Fourier transforms over the last two axes, with shifts or with phase ramps."""

import math

import torch
from torch import Tensor

from ..operator import LinearOperator


def fft2c(image: Tensor) -> Tensor:
    r"""Centered orthonormal 2-D Fourier transform, image to k-space.

    :math:`k_{pq} = (HW)^{-1/2} \sum_{ij} x_{ij} e^{-2\pi i ((i-c_H)(p-c_H)/H + (j-c_W)(q-c_W)/W)}` with
    :math:`c_n = \lfloor n/2 \rfloor`.

    Parameters
    ----------
    image
        Real or complex, shape ``(..., height, width)``.

    Returns
    -------
        k-space, complex, same shape; the zero frequency is at ``(height // 2, width // 2)``.
    """
    shifted = torch.fft.ifftshift(image, dim=(-2, -1))
    kspace: Tensor = torch.fft.fftshift(torch.fft.fft2(shifted, norm="ortho"), dim=(-2, -1))
    return kspace


def ifft2c(kspace: Tensor) -> Tensor:
    """Inverse (and adjoint) of :func:`fft2c`, k-space to image, shape ``(..., height, width)``."""
    shifted = torch.fft.ifftshift(kspace, dim=(-2, -1))
    image: Tensor = torch.fft.fftshift(torch.fft.ifft2(shifted, norm="ortho"), dim=(-2, -1))
    return image


def crop_readout(kspace: Tensor, height: int) -> Tensor:
    """k-space of the center rows of the image alone: removes readout oversampling.

    The readout is transformed to the image, cut as by center crop, and transformed back. Both transforms are
    orthonormal: the values of the image and the noise per sample stay. Where every row of k-space was sampled alike,
    the rows of the image do not depend on each other, and a reconstruction of the cut k-space is the cut
    reconstruction.

    Parameters
    ----------
    kspace
        Complex, shape ``(..., readout, phase)``, every row sampled.
    height
        Number of rows that are kept.

    Returns
    -------
        Shape ``(..., height, phase)``.
    """
    if not 1 <= height <= kspace.shape[-2]:
        raise ValueError(f"crop_readout: {height} rows of k-space {tuple(kspace.shape)}, expected 1 to all")
    top = (kspace.shape[-2] - height) // 2
    shifted = torch.fft.ifftshift(kspace, dim=-2)
    rows = torch.fft.fftshift(torch.fft.ifft(shifted, dim=-2, norm="ortho"), dim=-2)[..., top : top + height, :]
    cut: Tensor = torch.fft.fftshift(torch.fft.fft(torch.fft.ifftshift(rows, dim=-2), dim=-2, norm="ortho"), dim=-2)
    return cut


def centering_phases(n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    r"""Phase ramps that turn a plain DFT of length ``n`` into a centered one.

    With :math:`c = \lfloor n/2 \rfloor`, expanding :math:`(j-c)(k-c)` gives
    :math:`F_c = \mathrm{diag}(b) \, F \, \mathrm{diag}(a)`, :math:`a_j = e^{2\pi i cj/n}` and
    :math:`b_k = e^{2\pi i c(k-c)/n}`. For even ``n`` both are checkerboard signs (times the sign
    :math:`(-1)^{n/2}` in ``b``), for odd ``n`` complex.

    Returns
    -------
        ``(a, b)``, complex, shape ``(n,)`` each.
    """
    center = n // 2
    # Integer arithmetic modulo n: the phases are exact to rounding at any n.
    index = torch.arange(n, dtype=torch.int64)
    turns = torch.stack(((center * index) % n, (center * (index - center)) % n)).to(torch.float64)
    angle = turns * (2.0 * math.pi / n)
    phases = torch.complex(angle.cos(), angle.sin())
    if n % 2 == 0:  # cos(pi) and sin(pi) are off by 1e-16; signs are exact
        phases = torch.complex(phases.real.round(), torch.zeros_like(phases.imag))
    phases = phases.to(dtype=dtype, device=device)
    return phases[0], phases[1]


class FourierTransform(LinearOperator):
    """Centered orthonormal 2-D Fourier transform as an operator; unitary, so its Gram is the identity.

    Parameters
    ----------
    shape
        ``(height, width)`` of image and k-space.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__(shape, shape)

    def _forward(self, x: Tensor) -> Tensor:
        return fft2c(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return ifft2c(y)

    @property
    def norm(self) -> Tensor:
        return torch.ones(())

    @classmethod
    def example(cls, generator: torch.Generator) -> "FourierTransform":
        return cls((6, 5))
