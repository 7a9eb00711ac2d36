"""Base class of the transforms of an update, with the checks that they share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..serialization import Layout, MessageError, State, check_finite


@dataclass(frozen=True)
class Transform(ABC):
    """One transform of a site's update before it travels.

    An update is a ``State``: parameters after training minus broadcast parameters. Dense transforms (stage 0) map an
    update to an update. Codecs map it to a payload of a few flat tensors: stage 1 leaves out numbers, stage 2 shortens
    each number.

    ``invariants`` declares properties for every update d, with D = decode(encode(d)):

    - ``"lossless"``: D(d) = d
    - ``"unbiased"``: E D(d) = d over the generator
    - ``"idempotent"``: D(D(d)) = D(d)
    - ``"zero"``: D(0) = 0
    - ``"scale"``: D(c d) = c D(d) for c > 0
    - ``"name_order"``: the order of the names in the state changes no bit
    - ``"contraction"``: ||D(d) - d||^2 <= q ||d||^2 with q < 1; error feedback needs it to converge
    """

    invariants: ClassVar[frozenset[str]]
    stage: ClassVar[int] = 0

    @abstractmethod
    def encode(self, delta: State, generator: torch.Generator, context: State) -> State:
        """The transformed update, or its payload.

        Parameters
        ----------
        delta
            The update, or the payload of the codec before this one.
        generator
            Source of all randomness.
        context
            The broadcast parameters.
        """

    def payload_layout(self, layout: Layout) -> Layout:
        """Layout of the floating-point tensors of a payload, for an update of ``layout``."""
        return layout

    def check_payload(self, payload: State, layout: Layout) -> None:
        """Refuse a payload that is not of an update of ``layout``.

        Raises
        ------
        MessageError
            If names, shapes, dtypes or values are wrong.
        """
        check_tensors(payload, self.payload_layout(layout), type(self).__name__)

    def decode(self, payload: State, layout: Layout) -> State:
        """The update, from a payload that passed :meth:`check_payload`."""
        return payload


def is_number(value: object) -> bool:
    """Whether an option is a number; a truth value is not."""
    return type(value) in (int, float)


def n_entries(layout: Layout) -> int:
    """Number of entries of an update of ``layout``."""
    return sum(math.prod(shape) for shape, _ in layout.values())


def check_tensors(found: State, expected: Layout, what: str) -> None:
    """Refuse names, shapes or dtypes other than the expected ones, and numbers that are not finite."""
    if found.keys() != expected.keys():
        raise MessageError(f"{what}: found tensors {some_of(found)}, expected {some_of(expected)}")
    for name, (shape, dtype) in expected.items():
        if tuple(found[name].shape) != shape or found[name].dtype != dtype:
            raise MessageError(f"{what}: {name} is {tensor_text(found[name])}, expected {dtype} {shape}")
    check_finite({name: tensor for name, tensor in found.items() if tensor.is_floating_point()}, what)


def tensor_text(tensor: Tensor) -> str:
    """Dtype and shape, for error texts."""
    return f"{tensor.dtype} {tuple(tensor.shape)}"


def some_of(names: Iterable[str]) -> str:
    """The first five names and the number of further ones, for error texts."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 5} more" if len(ordered) > 5 else ""
    return (", ".join(ordered[:5]) or "none") + more
