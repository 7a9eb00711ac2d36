"""Base class of the classical methods, and the tuning of one parameter on validation data."""

from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

import numpy as np
from torch import Tensor, nn

from physics import LinearOperator

from ..method import require_operator

Method = TypeVar("Method")


class ClassicalMethod(nn.Module):
    """Reconstruction without learning, called as ``method(y, A)`` like a network.

    ``candidates`` are values of its first argument; the best one on validation data is used; empty: the method is not
    tuned. ``candidates_key`` is the key of ``[evaluation]`` in a recipe that lists them instead. A call refuses a
    measurement that is no tensor or does not fit the operator, with one line for all methods.
    """

    candidates: ClassVar[Sequence[float]] = ()
    candidates_key: ClassVar[str] = ""

    def __call__(self, y: Tensor, A: LinearOperator) -> Tensor:
        operator = require_operator(type(self).__name__, A, LinearOperator)  # type: ignore[type-abstract]
        operator.require_measurement(y)
        image: Tensor = super().__call__(y, A)
        return image


def tune(
    make: Callable[[float], Method], weights: Sequence[float], score: Callable[[Method], float]
) -> tuple[Method, float]:
    """The method with the highest score among some weights, and its weight."""
    if not weights:
        raise ValueError("tune: no weights given, expected at least one")
    best = weights[int(np.nanargmax([score(make(weight)) for weight in weights]))]
    return make(best), best
