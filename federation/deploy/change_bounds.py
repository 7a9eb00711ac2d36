"""Bounds on what parameters may do between two messages; the same measure at server and site."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..serialization import MessageError, SiteUpdate, State


def largest_change(after: State, before: State) -> tuple[str, float]:
    """The tensor that changed most, and by how much of its norm."""
    changes = {name: _relative(tensor, before[name]) for name, tensor in after.items()}
    worst = max(changes, key=lambda name: changes[name])
    return worst, changes[worst]


def _relative(after: Tensor, before: Tensor) -> float:
    """Change by the norm before, or by that of numbers of 0.1 where it was smaller: what starts at zero may grow."""
    floor = 0.1 * math.sqrt(before.numel())
    change, norm = (float(torch.linalg.vector_norm(t)) for t in (after - before, before))
    return change / max(norm, floor)


@dataclass(frozen=True)
class UpdateGuard:
    """What the server bounds in an update beyond its form.

    ``maximum_change`` of any tensor against what was broadcast; ``maximum_weight``, the slices that a site may claim.
    """

    maximum_change: float
    maximum_weight: int

    def __call__(self, update: SiteUpdate, broadcast: State) -> None:
        """Refuse an update.

        Raises
        ------
        MessageError
            Saying what was found and what is expected.
        """
        if update.n_samples > self.maximum_weight:
            raise MessageError(f"update: n_samples is {update.n_samples}, expected at most {self.maximum_weight}")
        name, change = largest_change(update.shared, broadcast)
        if change > self.maximum_change:
            raise MessageError(
                f"update: {name} changed by {change:.2f} of its norm, expected at most {self.maximum_change:g}"
            )
