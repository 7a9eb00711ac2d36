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
    """State of a site when a round of local training begins.

    Parameters
    ----------
    network
        The network with the broadcast parameters.
    shared
        The broadcast parameters by name.
    previous
        The shared parameters after the last local training of the site; empty in its first round.
    received
        Means over the sites of the tensors that were sent for this penalty, see :meth:`Penalty.sends`.
    round
        Number of the round, from 0.
    """

    network: nn.Module
    shared: State
    previous: State
    received: State
    round: int


class Penalty(ABC):
    """A term added to the loss of the task, weight included.

    A recipe gives the weight in ``[objective]`` and other options in ``[objective.options]``. A subclass implements
    :meth:`__call__`; one that needs more than its weight also overrides the class methods.
    """

    #: Whether the site stores its shared parameters for the next round, see :attr:`RoundStart.previous`.
    needs_previous: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, network: nn.Module, batch: Sample, image: Tensor) -> Tensor:
        """Penalty, a scalar, of a network that made an image from a batch."""

    @classmethod
    def for_round(cls, weight: float, at: RoundStart, *_: Any, **options: Any) -> "Penalty | None":
        """The penalty in one round; None: it begins in a later round.

        Its options in a recipe are the arguments of the class after the weight, those of an override after ``at``.
        """
        make: Any = cls
        penalty: Penalty = make(weight, **options)
        return penalty

    @classmethod
    def sends(cls, network: nn.Module, **options: Any) -> State:
        """Layout of :meth:`measure` as tensors of zeros; both methods take the options of :meth:`for_round`."""
        return {}

    @classmethod
    def measure(cls, network: nn.Module, samples: Samples, **options: Any) -> State:
        """Tensors that the site sends after training; every site receives their mean over the sites."""
        return {}

    def watch(self, network: nn.Module) -> AbstractContextManager[None]:
        """Context of the training, for a penalty on features inside the network."""
        return nullcontext()
