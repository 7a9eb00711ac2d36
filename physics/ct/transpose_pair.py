"""Derivatives of any order for a linear map and its transpose that autograd cannot differentiate, such as kernels."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


class Transposed(torch.autograd.Function):
    """Apply a linear map of ``(batch, rows, columns)``; the backward pass applies its transpose, and vice versa.

    Called as ``Transposed.apply(tensor, forward, transpose)``; leading axes of the tensor are batch.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, forward: Map, transpose: Map) -> Tensor:
        ctx.maps = forward, transpose
        out = forward(tensor.reshape(-1, *tensor.shape[-2:]))
        return out.reshape(*tensor.shape[:-2], *out.shape[-2:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        forward, transpose = ctx.maps
        return Transposed.apply(grads[0], transpose, forward), None, None
