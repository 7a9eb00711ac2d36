"""Multi-coil Cartesian MRI: coil maps, Fourier transform and sampling as one fast operator."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..autograd.constants import constants, is_constant, multiplied, values_of
from ..autograd.differentiable import Differentiable
from ..operator import LinearOperator, reciprocal
from ..solvers import solve_normal
from .fourier_scan import FourierScan
from .multi_coil import MultiCoilGram, require_maps, root_sum_of_squares
from .sampling import calibration_block, samples_center

#: Complex numbers of a stack of coil images that fit into the cache of a core with their transforms.
_IN_CACHE = 2**18


class CoilMaps(LinearOperator):
    """Multiply an image by coil sensitivity maps, ``(height, width) -> (coils, height, width)``.

    Parameters
    ----------
    maps
        Complex, shape ``(*batch, coils, height, width)``.
    """

    maps: Tensor

    def __init__(self, maps: Tensor) -> None:
        require_maps("CoilMaps", maps)
        super().__init__(tuple(maps.shape[-2:]), tuple(maps.shape[-3:]))
        self.register_buffer("maps", maps, persistent=False)

    def _forward(self, x: Tensor) -> Tensor:
        return self.maps * x.unsqueeze(-3)

    def _adjoint(self, y: Tensor) -> Tensor:
        return (self.maps.conj() * y).sum(-3)

    @property
    def norm(self) -> Tensor:
        return root_sum_of_squares(self.maps).amax((-2, -1))

    @classmethod
    def example(cls, generator: torch.Generator) -> "CoilMaps":
        return cls(torch.randn(3, 6, 5, dtype=torch.complex128, generator=generator))


class CartesianMRI(FourierScan):
    r"""Multi-coil Cartesian acquisition, :math:`y_c = M F (S_c x)`.

    F is the centered orthonormal Fourier transform, a plain FFT between two phase ramps (signs for even sizes). The
    ramps are multiplied into maps and mask once, so that no call shifts an array; into the image where the maps are
    learned, so that no step of a training multiplies all maps. For a mask along the phase axis alone, :attr:`gram`
    needs 1-D transforms only.

    Parameters
    ----------
    maps
        Coil sensitivity maps :math:`S_c`, complex, shape ``(*batch, coils, height, width)``. They may require a
        gradient.
    mask
        Sampling mask M, boolean (or 0/1), shape ``(width,)`` along the phase axis, or ``(*batch, height | 1, width)``
        with the batch axes of the maps and no coil axis. ``(*batch, 1, width)`` keeps the 1-D Gram.

    Raises
    ------
    TypeError
        If the maps are not complex.
    ValueError
        If mask and maps disagree in shape, the mask holds values other than 0 and 1, or it samples nothing.

    Notes
    -----
    Axes are ``(batch, coils, readout, phase)``. Measurements are zero where the mask is zero.
    """

    def __init__(self, maps: Tensor, mask: Tensor) -> None:
        require_maps("CartesianMRI", maps)
        super().__init__(maps, tuple(maps.shape[-2:]))
        self._measure(maps, self._normalized_mask(maps, mask))

    @staticmethod
    def _normalized_mask(maps: Tensor, mask: Tensor) -> Tensor:
        height, width = maps.shape[-2:]
        expected = f"expected ({width},) or (*batch, {height} | 1, {width}) without a coil axis"
        shape = tuple(mask.shape)
        if mask.ndim == 1:
            mask = mask.unsqueeze(0)
        if mask.ndim == 0 or mask.shape[-1] != width or mask.shape[-2] not in (1, height):
            raise ValueError(f"CartesianMRI: mask has shape {shape}, {expected}")
        batch = maps.shape[:-3]
        if mask.ndim > 2 and mask.shape[:-2] != batch:
            raise ValueError(
                f"CartesianMRI: mask has batch axes {shape[:-2]}, the maps have {tuple(batch)}; {expected}"
            )
        if mask.dtype != torch.bool:
            values = values_of(mask)
            if not ((values == 0) | (values == 1)).all():
                raise ValueError(
                    "CartesianMRI: mask holds values other than 0 and 1; multiply weights into maps and data"
                )
            mask = mask != 0
        if not values_of(mask).any():
            raise ValueError("CartesianMRI: the mask samples nothing; expected at least one measured position")
        return mask.to(maps.device)

    @property
    def gram(self) -> LinearOperator:
        return CartesianGram(self)

    def start(self, y: Tensor) -> Tensor:
        """CG-SENSE, 6 iterations, lightly damped: aliasing of the coils is undone, noise is not yet amplified."""
        return solve_normal(self, self.adjoint(y), 0.01 * self.norm**2, max_iterations=6, gradient="unrolled")

    def zero_filled(self, y: Tensor) -> Tensor:
        r"""Least-squares combination of the coil images, :math:`A^H y / \sum_c |S_c|^2` in every pixel.

        See :func:`combine_coils`. Fully sampled it is the image itself; undersampled it is about as bright if the
        center of k-space is sampled, whatever the coils and their noise.
        """
        return self.adjoint(y) * reciprocal(self.rss**2)

    def estimate_noise_std(self, y: Tensor) -> Tensor:
        r"""Noise per sample, :math:`\sqrt{E |n|^2}`: the smallest one of three bounds, ``(*batch,)``.

        - The mean power of the quietest 3 of 64 blocks of k-space. Signal may still be there.
        - The mean power at the quietest 3 of 64 parts of the readout, after the Fourier transform along it: beside the
          object there is noise alone. Left out below a hundredth of the first bound: a background set to zero. It is
          too small where a filter of the receiver damps the ends of the readout.
        - The residual :math:`\|A x - y\|` of the start image, with as many degrees of freedom as there are more samples
          than pixels. It holds errors of the maps; left out where a tenth of the samples or fewer are in excess.

        Positions that are zero in all coils count as not sampled. 0 for an empty measurement.
        """
        with torch.no_grad():
            n_coils, batch = self.range_shape[0], y.shape[:-3]
            power = y.abs().square().sum(-3).reshape(-1, 1, *y.shape[-2:])
            measured = (power > 0).to(power.dtype)
            quiet = _quietest_blocks(power, measured, n_coils, (8, 8))
            by_place = torch.fft.ifft(y, dim=-2, norm="ortho").abs().square().sum(-3).reshape(power.shape)
            beside = _quietest_blocks(by_place, measured.mean(-2, keepdim=True).expand_as(power), n_coils, (64, 1))
            quiet = torch.where(beside > 1e-4 * quiet, torch.minimum(quiet, beside), quiet)
            x = self.start(y)
            residual = ((self(x) - y).abs().square().sum(-3).reshape(power.shape) * measured).sum((-3, -2, -1))
            samples = n_coils * measured.sum((-3, -2, -1))
            free = samples - y.shape[-2] * y.shape[-1]
            fit = torch.where(free > 0.1 * samples, residual / free.clamp_min(1), torch.inf)
            return torch.minimum(quiet, fit).sqrt().reshape(batch)

    @property
    def sampled(self) -> Tensor:
        return self.mask.unsqueeze(-3)

    def hold_out_candidates(self) -> Tensor:
        """Sampled positions outside the calibration block, for all coils: columns, or points of a 2-D mask."""
        masks = self.mask.reshape(-1, *self.mask.shape[-2:])
        return torch.stack([_outside_calibration(mask) for mask in masks]).reshape(self.mask.shape).unsqueeze(-3)

    def restrict(self, keep: Tensor) -> "CartesianMRI":
        """The operator whose mask is ``mask & keep``.

        Parameters
        ----------
        keep
            Bool, a shape that ``mask`` may have, with or without a coil axis of size 1.
        """
        keep = keep.unsqueeze(0) if keep.ndim == 1 else keep
        keep = keep.squeeze(-3) if keep.ndim > self.mask.ndim and keep.shape[-3] == 1 else keep
        return CartesianMRI(self.maps, self.mask & keep)

    @classmethod
    def example(cls, generator: torch.Generator) -> "CartesianMRI":
        maps = torch.randn(3, 6, 5, dtype=torch.complex128, generator=generator)
        return cls(maps, torch.tensor([True, False, True, True, False]))


class CartesianGram(MultiCoilGram):
    r"""Closed form of :math:`A^H A` of :class:`CartesianMRI`, in which the phase ramps of k-space cancel."""

    operator: CartesianMRI
    mask: Tensor

    def __init__(self, operator: CartesianMRI) -> None:
        super().__init__(operator)
        column_mask = operator.mask.shape[-2] == 1
        self.axes = (-1,) if column_mask else (-2, -1)
        with constants() if is_constant(operator.mask) else nullcontext():
            self.register_buffer("mask", operator.mask.to(operator.maps.dtype).unsqueeze(-3), persistent=False)
        # Asked once: solvers call a small Gram many times.
        self._is_constant = operator._encode is not None and is_constant(operator._encode) and is_constant(self.mask)

    def _forward(self, x: Tensor) -> Tensor:
        A = self.operator
        A.require_batch(x, len(A.domain_shape), "image")
        if not self._is_constant or torch.compiler.is_compiling():
            kspace = multiplied(torch.fft.fftn(A._coil_images(x), dim=self.axes), self.mask)
            return A._combined(torch.fft.ifftn(kspace, dim=self.axes))
        if x.requires_grad and torch.is_grad_enabled():
            return _SelfAdjoint.of(x, self._apply_once)
        return self._apply_once(x)

    def _apply_once(self, x: Tensor) -> Tensor:
        """The Gram without a graph: the stack of coil images is changed in place, with a column mask by blocks of rows.

        Blocks stay in the cache of a core, which halves the time at 15 coils 640x368.
        """
        A = self.operator
        rows = A.maps.shape[-2]
        if self.axes == (-1,) and x.device.type == "cpu":
            rows = max(1, _IN_CACHE * torch.get_num_threads() * rows // A.maps.numel())
        images = [
            self._apply_rows(x[..., top : top + rows, :], slice(top, top + rows))
            for top in range(0, A.maps.shape[-2], rows)
        ]
        return images[0] if len(images) == 1 else torch.cat(images, -2)

    def _apply_rows(self, x: Tensor, rows: slice) -> Tensor:
        A = self.operator
        assert A._encode is not None and A._decode is not None
        encode, decode = A._encode[..., rows, :], A._decode[..., rows, :]
        kspace = torch.fft.fftn(encode * x.unsqueeze(-3), dim=self.axes).mul_(self.mask)
        image: Tensor = torch.fft.ifftn(kspace, dim=self.axes).mul_(decode).sum(-3)
        return image

    @classmethod
    def example(cls, generator: torch.Generator) -> "CartesianGram":
        return cls(CartesianMRI.example(generator))


class _SelfAdjoint(Differentiable):
    """A Hermitian map, ``apply(x, map)``: the backward pass applies it again, for derivatives of any order."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, hermitian: Callable[[Tensor], Tensor]) -> Tensor:
        return hermitian(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Callable[[Tensor], Tensor]], output: Tensor) -> None:
        ctx.hermitian, ctx.shape = inputs[1], inputs[0].shape

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        hermitian = ctx.hermitian
        return _SelfAdjoint.of(grads[0], hermitian).sum_to_size(ctx.shape), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _SelfAdjoint.of(tangents[0], ctx.hermitian)


def _quietest_blocks(power: Tensor, measured: Tensor, n_coils: int, blocks: tuple[int, int]) -> Tensor:
    """Mean power per sample in the quietest 3 of 64 blocks, ``(batch, 1, height, width) -> (batch,)``."""
    sums, counts = (adaptive_avg_pool2d(image, blocks).flatten(1) for image in (power, measured))
    # Blocks with hardly a measured position are no estimate.
    means = torch.where(counts > 0.05, sums / counts.clamp_min(1e-6), torch.inf)
    lowest = means.topk(3, largest=False).indices
    found, number, valid = sums.gather(-1, lowest), counts.gather(-1, lowest), means.gather(-1, lowest).isfinite()
    number = (number * valid).sum(-1)
    mean = (found * valid).sum(-1) / number.clamp_min(1e-6) / n_coils
    # The lowest of many means lie below their expectation: by 1.7 standard deviations if half of the blocks are noise.
    per_block = number / 3 * power[0].numel() / 64 * n_coils
    return mean / (1 - 1.7 * per_block.clamp_min(1).rsqrt()).clamp_min(0.5)


def combine_coils(coil_images: Tensor, maps: Tensor) -> Tensor:
    r"""Least-squares coil combination :math:`\sum_c \bar S_c m_c / \sum_c |S_c|^2`, zero where the maps are zero.

    Parameters
    ----------
    coil_images
        Images :math:`m_c`, complex, shape ``(..., coils, height, width)``.
    maps
        Coil sensitivity maps :math:`S_c` of the same trailing shape.
    """
    return (maps.conj() * coil_images).sum(-3) * reciprocal(maps.abs().square().sum(-3))


def _outside_calibration(mask: Tensor) -> Tensor:
    """The mask ``(1 | height, width)`` without its calibration block, which coil maps are estimated from."""
    outside = mask.clone()
    if samples_center(mask):
        block = calibration_block(mask)
        rows, columns = (slice(None), block[0]) if len(block) == 1 else block
        outside[rows, columns] = False
    return outside
