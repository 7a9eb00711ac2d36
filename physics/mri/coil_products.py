"""Products of coil maps that carry a gradient: autograd alone would copy conjugates of all of them."""

from typing import Any

import torch
from torch import Tensor

from ..autograd.differentiable import Differentiable


def coil_images(maps: Tensor, x: Tensor) -> Tensor:
    """Images of the coils, ``maps * x``, shape ``(*batch, coils, height, width)``.

    Parameters
    ----------
    maps
        Complex, shape ``(*batch, coils, height, width)``.
    x
        Image, shape ``(*batch, height, width)``, real or complex.
    """
    if torch.compiler.is_compiling() or not x.is_complex():
        return maps * x.unsqueeze(-3)
    return _Product.of(maps, x)


def combined(maps: Tensor, images: Tensor) -> Tensor:
    """Adjoint of :func:`coil_images`, the sum of ``conj(maps) * images`` over the coils, an image."""
    if torch.compiler.is_compiling():
        total: Tensor = (maps.conj() * images).sum(-3)
        return total
    return _Sum.of(maps, images)


class _Bilinear(Differentiable):
    """A product of maps and something else; its derivatives are such products."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)


class _Product(_Bilinear):
    @staticmethod
    def forward(maps: Tensor, x: Tensor) -> Tensor:
        return maps * x.unsqueeze(-3)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        maps, x = ctx.saved_tensors
        of_maps = (grads[0] * x.conj().unsqueeze(-3)).sum_to_size(maps.shape) if ctx.needs_input_grad[0] else None
        of_image = _Sum.of(maps, grads[0]).sum_to_size(x.shape) if ctx.needs_input_grad[1] else None
        return of_maps, of_image

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        maps, x = ctx.saved_tensors
        return _both(_Product, (tangents[0], x), (maps, tangents[1]))


class _Sum(_Bilinear):
    @staticmethod
    def forward(maps: Tensor, images: Tensor) -> Tensor:
        if torch._C._are_functorch_transforms_active():
            return (maps.conj() * images).sum(-3)
        # Coil by coil: the conjugate of one map stays in a CPU's cache.
        total: Tensor | None = None
        for coil, image in zip(maps.unbind(-3), images.unbind(-3), strict=True):
            total = coil.conj() * image if total is None else total.addcmul_(coil.conj(), image)
        assert total is not None
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        maps, images = ctx.saved_tensors
        of_maps = (images * grads[0].conj().unsqueeze(-3)).sum_to_size(maps.shape) if ctx.needs_input_grad[0] else None
        of_images = _Product.of(maps, grads[0]).sum_to_size(images.shape) if ctx.needs_input_grad[1] else None
        return of_maps, of_images

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        maps, images = ctx.saved_tensors
        return _both(_Sum, (tangents[0], images), (maps, tangents[1]))


def _both(product: type[_Bilinear], *pairs: tuple[Tensor | None, Tensor | None]) -> Tensor:
    """Sum of a product of two pairs, without those of a tangent that is zero."""
    first, *rest = [product.of(*pair) for pair in pairs if pair[0] is not None and pair[1] is not None]
    return first + rest[0] if rest else first
