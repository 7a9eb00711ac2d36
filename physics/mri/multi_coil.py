"""What Cartesian and non-Cartesian scans by several coils have in common."""

import copy
from typing import Self

import torch
from torch import Tensor

from ..autograd.constants import constants, is_constant
from ..operator import LinearOperator, Shape


class MultiCoilMRI(LinearOperator):
    """A 2-D MRI scan by several coils, ``(height, width) -> (coils, ...)``.

    Parameters
    ----------
    maps
        Coil sensitivity maps, complex, shape ``(*batch, coils, height, width)``.
    positions_shape
        Trailing shape of the measurement of one coil.
    """

    maps: Tensor
    _decode: Tensor | None

    def __init__(self, maps: Tensor, positions_shape: Shape) -> None:
        super().__init__(tuple(maps.shape[-2:]), (maps.shape[-3], *positions_shape))
        self.register_buffer("maps", maps, persistent=False)

    def _use(self, maps: Tensor) -> None:
        """Take the maps, at the end of `__init__`. Learned ones are not copied: that takes longer than a product."""
        self.register_buffer("maps", maps, persistent=False)
        decode = maps.conj().resolve_conj() if is_constant(maps) else None
        self.register_buffer("_decode", decode, persistent=False)
        # Every layer of a network needs it; computed at each call where the maps are learned.
        self._norm: Tensor | None = None

    def require_batch(self, tensor: Tensor, n_axes: int, what: str) -> None:
        """Refuse a tensor whose batch axes, all but the last ``n_axes``, do not broadcast with those of the maps.

        Also refuse maps whose derivative would be lost, because the operator was made when they had none.
        """
        if self._decode is not None and self.maps.requires_grad:
            raise RuntimeError(
                f"{type(self).__name__}: the maps require a gradient since the operator was made, expected before; "
                "make it again, A.with_maps(A.maps)"
            )
        mine, other = self.maps.shape[:-3], tensor.shape[: tensor.ndim - n_axes]
        if mine == other:
            return  # torch.broadcast_shapes takes longer than a small transform
        try:
            torch.broadcast_shapes(mine, other)
        except RuntimeError:
            raise ValueError(
                f"{type(self).__name__}: {what} has batch axes {tuple(other)}, which do not broadcast with those of "
                f"the maps, {tuple(mine)}"
            ) from None

    def gpu_memory(self, batch: int = 1) -> int:
        """See :meth:`LinearOperator.gpu_memory`: on a GPU all coils are transformed at once, as eight of their images.

        Four spectra of the size of the image are those of non-Cartesian scans.
        """
        coils, (height, width) = self.maps.shape[-3], self.domain_shape
        itemsize = torch.empty((), dtype=self.maps.dtype).element_size()
        return super().gpu_memory(batch) + (8 * coils + 4) * batch * height * width * itemsize

    @property
    def rss(self) -> Tensor:
        """Root sum of squares of the maps, real, shape ``(*batch, height, width)``."""
        return root_sum_of_squares(self.maps)

    @property
    def norm(self) -> Tensor:
        if not is_constant(self.maps):
            return self._largest()
        found, maps = self._norm, self.maps
        if found is None or (found.device, found.dtype) != (maps.device, maps.real.dtype):
            with constants():
                self._norm = found = self._largest()
        return found

    def _largest(self) -> Tensor:
        """The norm; that of a transform of norm one unless overridden."""
        return self.rss.amax((-2, -1))

    @property
    def support(self) -> Tensor:
        return self.rss > 0

    def with_maps(self, maps: Tensor) -> Self:
        """The same acquisition with other coil maps of the same shape, in a fraction of the time of a new operator.

        Raises
        ------
        ValueError
            If the maps have another shape.
        """
        if maps.shape != self.maps.shape:
            raise ValueError(
                f"{type(self).__name__}.with_maps: maps have shape {tuple(maps.shape)}, expected "
                f"{tuple(self.maps.shape)}; make a new operator"
            )
        require_maps(type(self).__name__, maps)
        other = copy.copy(self)
        other._buffers = {
            name: None if buffer is None else buffer.to(maps.device) for name, buffer in self._buffers.items()
        }
        other._use(maps)
        return other


def root_sum_of_squares(coil_images: Tensor) -> Tensor:
    """Magnitude over the coil axis, ``(..., coils, height, width) -> (..., height, width)``, real."""
    return coil_images.abs().square().sum(-3).sqrt()


class MultiCoilGram(LinearOperator):
    r""":math:`A^H A` of a scan by several coils, by a shorter way than its forward and adjoint."""

    operator: LinearOperator

    def __init__(self, operator: LinearOperator) -> None:
        super().__init__(operator.domain_shape, operator.domain_shape)
        self.operator = operator

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._forward(y)

    @property
    def H(self) -> LinearOperator:
        return self

    @property
    def norm(self) -> Tensor:
        return self.operator.norm**2


def require_maps(who: str, maps: Tensor) -> None:
    """Refuse maps that are not complex or have no coil axis."""
    if not maps.is_complex():
        raise TypeError(f"{who}: maps have dtype {maps.dtype}, expected complex64 or complex128")
    if maps.ndim < 3:
        raise ValueError(f"{who}: maps have shape {tuple(maps.shape)}, expected (*batch, coils, height, width)")
