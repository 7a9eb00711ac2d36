"""Bounds on the change of parameters between two messages; server and site measure it alike."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..methods import Contribution
from ..serialization import MessageError, SiteUpdate, State

#: A tensor counts as at least so large per entry, so that zeros may grow: parameters, and tensors beside them. Control
#: variates are gradients, here below 0.02; moments of features are of order one.
FLOOR, AUX_FLOOR = 0.1, 1.0


def largest_change(after: State, before: State, floor: float = FLOOR) -> tuple[str, float]:
    """Name of the tensor with the largest relative change, and that change; no name and 0 without tensors."""
    changes = {name: _relative(tensor - before[name], before[name], floor) for name, tensor in after.items()}
    worst = max(changes, key=lambda name: changes[name], default="")
    return worst, changes.get(worst, 0.0)


def _relative(change: Tensor, before: Tensor, floor: float) -> float:
    """Norm of a change over the norm before, which counts as at least ``floor`` per entry."""
    # In float64: a sum of squares of large float32 numbers is infinite.
    length, norm = (float(torch.linalg.vector_norm(t, dtype=torch.float64)) for t in (change, before))
    return length / max(norm, floor * math.sqrt(before.numel()))


@dataclass(frozen=True)
class UpdateBounds:
    """The server's bounds on an update.

    ``maximum_change`` is the largest relative change of a tensor against the broadcast, and the largest relative size
    of a tensor beside the parameters; ``maximum_weight`` the largest number of training slices that a site may report,
    ``maximum_steps`` the largest number of steps, None without a limit.
    """

    maximum_change: float
    maximum_weight: int
    maximum_steps: int | None = None

    def __call__(self, update: SiteUpdate | Contribution, broadcast: State, aux: State) -> None:
        """Check an update against the parameters of its broadcast and the tensors beside them.

        Raises
        ------
        MessageError
            If the update exceeds a bound.
        """
        if update.n_samples > self.maximum_weight:
            raise MessageError(f"update: n_samples is {update.n_samples}, expected at most {self.maximum_weight}")
        if self.maximum_steps is not None and not 1 <= update.n_steps <= self.maximum_steps:
            raise MessageError(f"update: n_steps is {update.n_steps}, expected 1 to {self.maximum_steps}")
        for name, tensor in update.aux.items():
            size = _relative(tensor, aux[name], AUX_FLOOR)
            if size > self.maximum_change:
                raise MessageError(
                    f"update: {name} beside the parameters is {size:.3g} times as large as that of the broadcast, "
                    f"expected at most {self.maximum_change:g}"
                )
        name, change = largest_change(update.shared, broadcast)
        if change > self.maximum_change:
            raise MessageError(
                f"update: {name} changed by {change:.2f} of its norm, expected at most {self.maximum_change:g}"
            )
