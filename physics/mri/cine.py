"""Multi-coil Cartesian MRI of a moving object: frames with a mask each, and coil maps that they share."""

from contextlib import nullcontext

import torch
from torch import Tensor

from ..autograd.constants import constants, is_constant, multiplied, values_of
from ..operator import reciprocal
from ..solvers import solve_normal
from .cartesian import CartesianMRI
from .fourier_scan import FourierScan
from .multi_coil import MultiCoilGram, require_maps


class CineMRI(FourierScan):
    r"""Cartesian acquisition of frames, :math:`y_{t,c} = M_t F (S_c x_t)`.

    Every frame is a scan of :class:`CartesianMRI`; the maps are held once. Axes are ``(batch, frames, readout, phase)``
    of an image and ``(batch, frames, coils, readout, phase)`` of a measurement.

    Parameters
    ----------
    maps
        Coil sensitivity maps :math:`S_c`, complex, shape ``(*batch, coils, height, width)``.
    mask
        Sampling masks :math:`M_t`, boolean (or 0/1), shape ``(*batch, frames, height | 1, width)`` with the batch axes
        of the maps, or ``(frames, height | 1, width)`` for all of them. Column masks keep the 1-D Gram.

    Raises
    ------
    TypeError
        If the maps are not complex.
    ValueError
        If mask and maps disagree in shape, the mask holds values other than 0 and 1, or a frame samples nothing.
    """

    def __init__(self, maps: Tensor, mask: Tensor) -> None:
        require_maps("CineMRI", maps)
        mask = _normalized_mask(maps, mask)
        n_frames, (n_coils, height, width) = mask.shape[-3], maps.shape[-3:]
        super().__init__(maps, (height, width))
        self.domain_shape, self.range_shape = (n_frames, height, width), (n_frames, n_coils, height, width)
        self._measure(maps, mask)

    def _of_images(self, maps: Tensor) -> Tensor:
        return maps.unsqueeze(-4)  # shared by the frames

    @property
    def gram(self) -> "CineGram":
        return CineGram(self)

    @property
    def by_frame(self) -> CartesianMRI:
        """The same scan with the frames as the last axis of the batch; it holds the maps once for each frame."""
        maps = self.maps.unsqueeze(-4)
        batch = (*self.maps.shape[:-3], self.domain_shape[0])
        mask = self.mask.expand(*batch, *self.mask.shape[-2:])
        return CartesianMRI(maps.expand(*batch, *maps.shape[-3:]), mask)

    def start(self, y: Tensor) -> Tensor:
        """CG-SENSE of all frames, 6 iterations, lightly damped, as of :class:`CartesianMRI`."""
        return solve_normal(self, self.adjoint(y), 0.01 * self.norm**2, max_iterations=6, gradient="unrolled")

    def zero_filled(self, y: Tensor) -> Tensor:
        r"""Least-squares combination of the coil images of every frame, :math:`A^H y / \sum_c |S_c|^2`."""
        return self.adjoint(y) * reciprocal(self.rss**2).unsqueeze(-3)

    def estimate_noise_std(self, y: Tensor) -> Tensor:
        """Root mean square over the frames of :meth:`CartesianMRI.estimate_noise_std`, ``(*batch,)``."""
        with torch.no_grad():
            estimate: Tensor = self.by_frame.estimate_noise_std(y).square().mean(-1).sqrt()
            return estimate

    @property
    def support(self) -> Tensor:
        return super().support.unsqueeze(-3)

    @property
    def sampled(self) -> Tensor:
        return self.mask.unsqueeze(-3)

    def hold_out_candidates(self) -> Tensor:
        """Those of every frame: sampled positions outside its calibration block, for all coils."""
        return self.by_frame.hold_out_candidates()

    def restrict(self, keep: Tensor) -> "CineMRI":
        """The operator whose masks are ``mask & keep``.

        Parameters
        ----------
        keep
            Bool, broadcastable to the mask, with a coil axis of size 1 before the last two axes.
        """
        return CineMRI(self.maps, self.mask & keep.squeeze(-3))

    @classmethod
    def example(cls, generator: torch.Generator) -> "CineMRI":
        maps = torch.randn(3, 6, 5, dtype=torch.complex128, generator=generator)
        mask = torch.tensor([[True, False, True, True, False], [False, True, True, False, True]])
        return cls(maps, mask.unsqueeze(-2))


class CineGram(MultiCoilGram):
    r"""Closed form of :math:`A^H A` of :class:`CineMRI`, with 1-D transforms for column masks."""

    operator: CineMRI
    mask: Tensor

    def __init__(self, operator: CineMRI) -> None:
        super().__init__(operator)
        self.axes = (-1,) if operator.mask.shape[-2] == 1 else (-2, -1)
        with constants() if is_constant(operator.mask) else nullcontext():
            self.register_buffer("mask", operator.mask.to(operator.maps.dtype).unsqueeze(-3), persistent=False)

    def _forward(self, x: Tensor) -> Tensor:
        A = self.operator
        A.require_batch(x, len(A.domain_shape), "image")
        kspace = multiplied(torch.fft.fftn(A._coil_images(x), dim=self.axes), self.mask)
        return A._combined(torch.fft.ifftn(kspace, dim=self.axes))

    @classmethod
    def example(cls, generator: torch.Generator) -> "CineGram":
        return cls(CineMRI.example(generator))


def _normalized_mask(maps: Tensor, mask: Tensor) -> Tensor:
    height, width = maps.shape[-2:]
    expected = f"expected (*batch, frames, {height} | 1, {width}) without a coil axis"
    if mask.ndim < 3 or mask.shape[-1] != width or mask.shape[-2] not in (1, height):
        raise ValueError(f"CineMRI: mask has shape {tuple(mask.shape)}, {expected}")
    if mask.ndim > 3 and mask.shape[:-3] != maps.shape[:-3]:
        found = f"batch axes {tuple(mask.shape[:-3])}, the maps have {tuple(maps.shape[:-3])}"
        raise ValueError(f"CineMRI: mask has {found}; {expected}")
    if mask.dtype != torch.bool:
        values = values_of(mask)
        if not ((values == 0) | (values == 1)).all():
            raise ValueError("CineMRI: mask holds values other than 0 and 1; multiply weights into maps and data")
        mask = mask != 0
    if not values_of(mask).any(-1).any(-1).all():
        raise ValueError("CineMRI: a frame samples nothing; expected at least one measured position in each")
    return mask.to(maps.device)
