"""Base class of the penalties: terms added to the loss of the task."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from ..data import Sample, Samples

#: Named tensors.
State = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class RoundStart:
    """What a site knows when a round of local training begins.

    Parameters
    ----------
    network
        The network with the broadcast parameters.
    shared
        The broadcast parameters by name.
    previous
        The shared parameters as the last local training of the site left them; empty in its first round.
    received
        Tensors that were broadcast for this penalty, see :meth:`Penalty.sends`.
    round
        Number of the round, from 0.
    """

    network: nn.Module
    shared: State
    previous: State
    received: State
    round: int


class Penalty(ABC):
    """A term that is added to the loss of the task, its weight included.

    A recipe names its weight in ``[objective]`` and its other options in ``[objective.options]``. Only
    :meth:`__call__` must be written; the class methods serve penalties that need more than the weight.
    """

    #: Whether the site must store its own shared parameters for the next round, see :attr:`RoundStart.previous`.
    needs_previous: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, network: nn.Module, batch: Sample, image: Tensor) -> Tensor:
        """Penalty of ``network``, which made ``image`` from ``batch``; a scalar."""

    @classmethod
    def for_round(cls, weight: float, at: RoundStart) -> "Penalty | None":
        """The penalty in one round, None where there is nothing to act on yet.

        Keyword arguments beside these two are its options in a recipe.
        """
        make: Any = cls
        penalty: Penalty = make(weight)
        return penalty

    @classmethod
    def sends(cls, network: nn.Module) -> State:
        """Tensors of the names and shapes that the site sends for it, and receives as their mean over the sites.

        Takes the options of :meth:`for_round`, as :meth:`measure` does.
        """
        return {}

    @classmethod
    def measure(cls, network: nn.Module, samples: Samples) -> State:
        """The tensors that the site sends after training."""
        return {}

    def watch(self, network: nn.Module) -> AbstractContextManager[None]:
        """Context of the training, for a penalty that looks inside the network."""
        return nullcontext()
