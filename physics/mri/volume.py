"""Multi-coil Cartesian MRI of a volume: two phase-encoded axes beside the readout."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..autograd.constants import multiplied, values_of
from ..operator import LinearOperator, reciprocal
from ..solvers import solve_normal
from .fourier import centering_phases
from .multi_coil import MultiCoilGram


class VolumeMRI(LinearOperator):
    r"""Cartesian 3-D acquisition, :math:`y_c = M F (S_c x)` with the Fourier transform along all three axes.

    Axes are ``(batch, coils, readout, phase, partition)``. The readout is sampled fully, so the mask needs the two
    phase-encoded axes alone, and the Gram transforms along these.

    Parameters
    ----------
    maps
        Coil sensitivity maps :math:`S_c`, complex, shape ``(*batch, coils, depth, height, width)``.
    mask
        Sampling mask M, boolean (or 0/1), shape ``(height, width)``, or ``(*batch, height, width)`` with the batch axes
        of the maps.

    Raises
    ------
    TypeError
        If the maps are not complex.
    ValueError
        If mask and maps disagree in shape, the mask holds values other than 0 and 1, or it samples nothing.
    """

    maps: Tensor
    mask: Tensor
    _encode: Tensor
    _decode: Tensor
    _sample: Tensor

    def __init__(self, maps: Tensor, mask: Tensor) -> None:
        if not maps.is_complex():
            raise TypeError(f"VolumeMRI: maps have dtype {maps.dtype}, expected complex64 or complex128")
        if maps.ndim < 4:
            found = f"shape {tuple(maps.shape)}"
            raise ValueError(f"VolumeMRI: maps have {found}, expected (*batch, coils, depth, height, width)")
        super().__init__(tuple(maps.shape[-3:]), tuple(maps.shape[-4:]))
        mask = self._normalized_mask(mask, tuple(maps.shape[:-4]))
        sizes = [n for n in self.domain_shape]
        phases = [centering_phases(n, maps.dtype, maps.device) for n in sizes]
        before, after = (a[:, None, None] * b[:, None] * c for a, b, c in zip(*phases, strict=True))
        encode = maps * before
        self.register_buffer("maps", maps, persistent=False)
        self.register_buffer("mask", mask.to(maps.device), persistent=False)
        self.register_buffer("_encode", encode, persistent=False)
        self.register_buffer("_decode", encode.conj().resolve_conj(), persistent=False)
        self.register_buffer("_sample", self.sampled.to(maps.dtype) * after, persistent=False)

    def _normalized_mask(self, mask: Tensor, batch: tuple[int, ...]) -> Tensor:
        _, height, width = self.domain_shape
        expected = f"expected ({height}, {width}), with the batch axes of the maps or none"
        if tuple(mask.shape[-2:]) != (height, width) or tuple(mask.shape[:-2]) not in ((), batch):
            raise ValueError(f"VolumeMRI: mask has shape {tuple(mask.shape)}, {expected}")
        if mask.dtype != torch.bool:
            values = values_of(mask)
            if not ((values == 0) | (values == 1)).all():
                raise ValueError("VolumeMRI: mask holds values other than 0 and 1; multiply weights into maps and data")
            mask = mask != 0
        if not values_of(mask).any():
            raise ValueError("VolumeMRI: the mask samples nothing; expected at least one measured position")
        return mask

    def _forward(self, x: Tensor) -> Tensor:
        kspace = torch.fft.fftn(self._encode * x.unsqueeze(-4), dim=(-3, -2, -1), norm="ortho")
        return multiplied(kspace, self._sample)

    def _adjoint(self, y: Tensor) -> Tensor:
        images = torch.fft.ifftn(y * self._sample.conj(), dim=(-3, -2, -1), norm="ortho")
        x: Tensor = (images * self._decode).sum(-4)
        return x

    @property
    def gram(self) -> "VolumeGram":
        return VolumeGram(self)

    @property
    def rss(self) -> Tensor:
        """Root sum of squares of the maps, real, shape ``(*batch, depth, height, width)``."""
        return self.maps.abs().square().sum(-4).sqrt()

    @property
    def norm(self) -> Tensor:
        return self.rss.amax((-3, -2, -1))

    @property
    def support(self) -> Tensor:
        return self.rss > 0

    @property
    def sampled(self) -> Tensor:
        return self.mask.unsqueeze(-3).unsqueeze(-3)

    def start(self, y: Tensor) -> Tensor:
        """CG-SENSE, 6 iterations, lightly damped, as of :class:`CartesianMRI`."""
        return solve_normal(self, self.adjoint(y), 0.01 * self.norm**2, max_iterations=6, gradient="unrolled")

    def zero_filled(self, y: Tensor) -> Tensor:
        r"""Least-squares combination of the coil images, :math:`A^H y / \sum_c |S_c|^2` in every voxel."""
        return self.adjoint(y) * reciprocal(self.rss**2)

    @classmethod
    def collate(cls, operators: Sequence["VolumeMRI"]) -> "VolumeMRI":
        """Join operators of equal shape."""
        if len({operator.range_shape for operator in operators}) != 1:
            shapes = sorted({operator.range_shape for operator in operators})
            raise ValueError(f"VolumeMRI.collate: operators have shapes {shapes}, expected one; batch by shape")
        return cls(torch.stack([A.maps for A in operators]), torch.stack([A.mask for A in operators]))

    @classmethod
    def example(cls, generator: torch.Generator) -> "VolumeMRI":
        maps = torch.randn(2, 3, 4, 5, dtype=torch.complex128, generator=generator)
        mask = torch.rand(4, 5, generator=generator) < 0.5
        mask[2, 2] = True
        return cls(maps, mask)


class VolumeGram(MultiCoilGram):
    r"""Closed form of :math:`A^H A` of :class:`VolumeMRI`: 2-D transforms along the phase-encoded axes."""

    operator: VolumeMRI
    mask: Tensor

    def __init__(self, operator: VolumeMRI) -> None:
        super().__init__(operator)
        self.register_buffer("mask", operator.sampled.to(operator.maps.dtype), persistent=False)

    def _forward(self, x: Tensor) -> Tensor:
        A = self.operator
        kspace = multiplied(torch.fft.fft2(A._encode * x.unsqueeze(-4)), self.mask)
        image: Tensor = (torch.fft.ifft2(kspace) * A._decode).sum(-4)
        return image

    @classmethod
    def example(cls, generator: torch.Generator) -> "VolumeGram":
        return cls(VolumeMRI.example(generator))
