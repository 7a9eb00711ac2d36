"""Bounds on the change of parameters between two messages; server and site measure it alike."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..serialization import MessageError, SiteUpdate, State


def largest_change(after: State, before: State) -> tuple[str, float]:
    """Name of the tensor with the largest relative change, and that change."""
    changes = {name: _relative(tensor, before[name]) for name, tensor in after.items()}
    worst = max(changes, key=lambda name: changes[name])
    return worst, changes[worst]


def _relative(after: Tensor, before: Tensor) -> float:
    """Norm of the change over the norm before, which counts as at least 0.1 per entry: zeros may grow."""
    floor = 0.1 * math.sqrt(before.numel())
    change, norm = (float(torch.linalg.vector_norm(t)) for t in (after - before, before))
    return change / max(norm, floor)


@dataclass(frozen=True)
class UpdateBounds:
    """The server's bounds on an update.

    ``maximum_change`` is the largest relative change of a tensor against the broadcast, ``maximum_weight`` the largest
    number of training slices that a site may report.
    """

    maximum_change: float
    maximum_weight: int

    def __call__(self, update: SiteUpdate, broadcast: State) -> None:
        """Check an update.

        Raises
        ------
        MessageError
            If the update exceeds a bound.
        """
        if update.n_samples > self.maximum_weight:
            raise MessageError(f"update: n_samples is {update.n_samples}, expected at most {self.maximum_weight}")
        name, change = largest_change(update.shared, broadcast)
        if change > self.maximum_change:
            raise MessageError(
                f"update: {name} changed by {change:.2f} of its norm, expected at most {self.maximum_change:g}"
            )
