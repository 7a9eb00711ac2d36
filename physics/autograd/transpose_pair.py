"""Derivatives of any order for a linear map and its transpose that autograd cannot differentiate, such as kernels."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .differentiable import Differentiable

Map = Callable[[Tensor], Tensor]


class Transposed(Differentiable):
    """Apply a linear map of ``(batch, rows, columns)``; the backward pass applies its transpose, and vice versa.

    Called as ``Transposed.of(tensor, forward, transpose)``; leading axes of the tensor are batch. Also under the
    transforms of `torch.func`.
    """

    @staticmethod
    def forward(tensor: Tensor, forward: Map, transpose: Map) -> Tensor:
        out = forward(tensor.reshape(-1, *tensor.shape[-2:]))
        return out.reshape(*tensor.shape[:-2], *out.shape[-2:])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Map, Map], output: Tensor) -> None:
        ctx.maps = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        forward, transpose = ctx.maps
        return Transposed.of(grads[0], transpose, forward), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return Transposed.of(tangents[0], *ctx.maps)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None, None], tensor: Tensor, *maps: Map) -> tuple[Tensor, int]:
        return Transposed.of(tensor.movedim(in_dims[0], 0), *maps), 0
