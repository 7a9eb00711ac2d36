"""Base class of the classical methods, and the choice of their one parameter on validation data."""

from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

import numpy as np
from torch import nn

Method = TypeVar("Method")


class ClassicalMethod(nn.Module):
    """Reconstruction without learning, called as ``method(y, A)`` like a network.

    ``candidates`` are the values of its first argument that are tried on validation data; without any it is not tuned.
    ``candidates_key`` names the key of a recipe's ``[evaluation]`` that lists them instead.
    """

    candidates: ClassVar[Sequence[float]] = ()
    candidates_key: ClassVar[str] = ""


def tune(
    make: Callable[[float], Method], weights: Sequence[float], score: Callable[[Method], float]
) -> tuple[Method, float, list[float]]:
    """Choose the weight of the highest validation score.

    Returns
    -------
        The method with the best weight, that weight, and the score of every weight (for the report).
    """
    if not weights:
        raise ValueError("tune: no weights given, expected at least one")
    scores = [score(make(weight)) for weight in weights]
    best = weights[int(np.nanargmax(scores))]
    return make(best), best, scores
