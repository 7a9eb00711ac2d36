"""One step between a site's update and what travels: the base class of all transforms, and the checks they share."""

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
    """One step between an update and what travels.

    An update is a ``State``: parameters after training minus those of the broadcast. Dense transforms (stage 0) map
    an update to another. Codecs map it to a few flat tensors: stage 1 leaves out numbers, stage 2 shortens each.

    ``invariants`` says what holds for every update d, with D = decode(encode(d)):

    - ``"lossless"``: D(d) = d
    - ``"unbiased"``: E D(d) = d over the generator
    - ``"idempotent"``: D(D(d)) = D(d)
    - ``"zero"``: D(0) = 0
    - ``"scale"``: D(c d) = c D(d) for c > 0
    - ``"name_order"``: the order of the names in the state changes no bit
    - ``"contraction"``: ||D(d) - d||^2 <= q ||d||^2 with a q < 1, which error feedback needs to converge
    """

    invariants: ClassVar[frozenset[str]]
    stage: ClassVar[int] = 0

    @abstractmethod
    def encode(self, delta: State, generator: torch.Generator, context: State) -> State:
        """Make what travels from an update, or from the payload of a codec before.

        Parameters
        ----------
        delta
            Tensors by name.
        generator
            All randomness.
        context
            The broadcast parameters.
        """

    def carries(self, layout: Layout) -> Layout:
        """The floating-point tensors of the payload of an update of ``layout``."""
        return layout

    def check_payload(self, payload: State, layout: Layout) -> None:
        """Refuse what no update of ``layout`` is encoded as.

        Raises
        ------
        MessageError
            If names, shapes, dtypes or values are wrong.
        """
        check_tensors(payload, self.carries(layout), type(self).__name__)

    def decode(self, payload: State, layout: Layout) -> State:
        """Read a payload that passed :meth:`check_payload`; :meth:`Chain.decode` sees to that."""
        return payload


def is_number(value: object) -> bool:
    """Whether an option is a number, which a truth value is not."""
    return type(value) in (int, float)


def n_entries(layout: Layout) -> int:
    """How many numbers an update of ``layout`` has."""
    return sum(math.prod(shape) for shape, _ in layout.values())


def check_tensors(found: State, expected: Layout, what: str) -> None:
    """Refuse tensors with other names, shapes or dtypes than expected, or numbers that are not finite."""
    if found.keys() != expected.keys():
        raise MessageError(f"{what}: found tensors {some_of(found)}, expected {some_of(expected)}")
    for name, (shape, dtype) in expected.items():
        if tuple(found[name].shape) != shape or found[name].dtype != dtype:
            raise MessageError(f"{what}: {name} is {tensor_text(found[name])}, expected {dtype} {shape}")
    check_finite({name: tensor for name, tensor in found.items() if tensor.is_floating_point()}, what)


def tensor_text(tensor: Tensor) -> str:
    """Dtype and shape, for messages."""
    return f"{tensor.dtype} {tuple(tensor.shape)}"


def some_of(names: Iterable[str]) -> str:
    """The first five names, and how many more there are, for messages."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 5} more" if len(ordered) > 5 else ""
    return (", ".join(ordered[:5]) or "none") + more
