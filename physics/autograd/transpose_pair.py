"""Derivatives of any order for a linear map and its transpose that autograd cannot differentiate, such as kernels."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from .constants import constants
from .differentiable import Differentiable

Map = Callable[[Tensor], Tensor]


class Transposed(Differentiable):
    """Apply a linear map of ``(batch, rows, columns)``; the backward pass applies its transpose, and vice versa.

    Called as ``Transposed.of(tensor, forward, transpose)``; leading axes of the tensor are batch. Also under the
    transforms of `torch.func`.
    """

    @staticmethod
    def forward(tensor: Tensor, forward: Map, transpose: Map) -> Tensor:
        return _batched(forward, tensor)

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


class TransposePair(ABC):
    """A linear map of ``(batch, rows, columns)`` and its transpose: :meth:`project` and :meth:`backproject`.

    :meth:`forward` and :meth:`transpose` have derivatives of any order and work in graphs of `torch.compile`, which
    find the pair by its number: a tensor, so that one graph serves all pairs.

    Parameters
    ----------
    domain_shape, range_shape
        ``(rows, columns)`` of both sides.
    """

    def __init__(self, domain_shape: tuple[int, int], range_shape: tuple[int, int]) -> None:
        self.domain_shape, self.range_shape = domain_shape, range_shape
        self._register()

    def _register(self) -> None:
        number = next(_NUMBERS)
        _PAIRS[number] = self
        with constants():
            self.number = torch.tensor(number)

    @abstractmethod
    def project(self, images: Tensor) -> Tensor:
        """Apply the map, ``(batch, *domain_shape) -> (batch, *range_shape)``."""

    @abstractmethod
    def backproject(self, data: Tensor) -> Tensor:
        """Apply the transpose, ``(batch, *range_shape) -> (batch, *domain_shape)``."""

    def forward(self, tensor: Tensor) -> Tensor:
        """The map of a tensor with any leading axes."""
        if torch.compiler.is_compiling():
            result: Tensor = _apply(tensor, self.number, False, self.domain_shape, self.range_shape)
            return result
        return Transposed.of(tensor, self.project, self.backproject)

    def transpose(self, tensor: Tensor) -> Tensor:
        """The transpose of a tensor with any leading axes."""
        if torch.compiler.is_compiling():
            result: Tensor = _apply(tensor, self.number, True, self.domain_shape, self.range_shape)
            return result
        return Transposed.of(tensor, self.backproject, self.project)

    def __deepcopy__(self, memo: object) -> "TransposePair":
        return self

    def __getstate__(self) -> dict[str, Any]:
        # What begins with _ is stored to be fast, and made again.
        return {name: None if name[0] == "_" else value for name, value in self.__dict__.items() if name != "number"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._register()


_NUMBERS = count()
_PAIRS: WeakValueDictionary[int, TransposePair] = WeakValueDictionary()


def _batched(function: Map, tensor: Tensor) -> Tensor:
    out = function(tensor.reshape(-1, *tensor.shape[-2:]))
    return out.reshape(*tensor.shape[:-2], *out.shape[-2:])


@torch.library.custom_op(
    "fedrecon::transpose_pair",
    mutates_args=(),
    schema="(Tensor tensor, Tensor number, bool transposed, SymInt[] domain_shape, SymInt[] range_shape) -> Tensor",
)
def _apply(
    tensor: Tensor, number: Tensor, transposed: bool, domain_shape: Sequence[int], range_shape: Sequence[int]
) -> Tensor:
    """A pair, or its transpose, as an operation of a graph; ``number`` is that of the pair.

    Raises
    ------
    RuntimeError
        If the pair is gone: a graph does not keep its operator.
    """
    pair = _PAIRS.get(int(number))
    if pair is None:
        raise RuntimeError("a compiled graph: its operator is gone, expected it; keep it until the backward pass")
    return _batched(pair.backproject if transposed else pair.project, tensor)


@_apply.register_fake
def _(
    tensor: Tensor, number: Tensor, transposed: bool, domain_shape: Sequence[int], range_shape: Sequence[int]
) -> Tensor:
    return tensor.new_empty((*tensor.shape[:-2], *(domain_shape if transposed else range_shape)))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, number, *ctx.rest = inputs
    ctx.save_for_backward(number)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    transposed, *shapes = ctx.rest
    return _apply(grad, *ctx.saved_tensors, not transposed, *shapes), None, None, None, None


_apply.register_autograd(_backward, setup_context=_setup_context)
