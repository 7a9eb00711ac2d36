"""What a site does with its data in a round: the task, what goes into its training and what comes out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import nn

from ..privacy import PrivateSteps
from ..serialization import Layout, State


@dataclass(frozen=True, eq=False)
class RoundContext:
    """Start of local training, beside the network.

    ``shared`` and ``aux`` are the tensors of the broadcast. ``previous`` holds the shared parameters after the site's
    last training, if the method needs them. ``optimizer_state`` and ``memory`` come from the site's last result; in the
    first round they are None and empty.
    """

    shared: State
    aux: State
    previous: State
    optimizer_state: State | None
    memory: State


@dataclass(frozen=True, eq=False)
class LocalResult:
    """Result of local training.

    The loss of each step, the optimizer's tensors by any name, the number of training samples, which may weigh the
    update; tensors that the method remembers at the site, and those that it sends beside the parameters.
    ``change`` is what training has added to the shared parameters in float64, for a secure sum that must not hold their
    rounding to float32; empty: the difference of the parameters.
    """

    losses: Sequence[float]
    optimizer_state: State
    n_samples: int
    memory: State = field(default_factory=dict)
    aux: State = field(default_factory=dict)
    change: State = field(default_factory=dict)


class SiteTask(Protocol):
    """Training and validation on the data of a site; built for one round and released after it."""

    def network(self) -> nn.Module:
        """A new network; random numbers come from torch's global generator alone."""

    def aux(self, network: nn.Module, shared: State) -> Layout:
        """Layout of the tensors that travel beside the parameters, in both directions."""

    def train(self, network: nn.Module, *, round: int, steps: int, seed: int, context: RoundContext) -> LocalResult:
        """Train in place; ``seed`` decides all randomness but secret noise, ``round`` the learning rate."""

    def validate(self, network: nn.Module) -> float | None:
        """Score on the validation data, higher is better; None if there is no score."""

    def private_steps(self, steps: int) -> PrivateSteps:
        """What so many steps cost the patients; asked only where :attr:`SiteSpec.delta` is set."""
