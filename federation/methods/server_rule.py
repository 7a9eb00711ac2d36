"""What a server rule sees of a round and what it gives: the base class of all rules, and means in float64."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..serialization import State

#: What a rule or weighting may promise of itself with its default options:
#: ``order`` of the contributions does not matter; ``one_site`` alone gives its own parameters, local training;
#: ``equal_sites``, all with the same parameters, give these; the broadcast is a ``fixed_point`` where all sites
#: return it unchanged; ``scale_free_weights`` times a constant change nothing; ``memory_round_trip``: memory that
#: was saved and loaded gives the same next round.
INVARIANTS = frozenset(
    {"order", "one_site", "equal_sites", "fixed_point", "scale_free_weights", "memory_round_trip"},
)


@dataclass(frozen=True, eq=False)
class Contribution:
    """What a rule sees of one site.

    Parameters
    ----------
    shared
        The site's parameters after training; may be read from disk when asked for.
    n_samples, n_steps
        Training samples of the site, and optimizer steps that it made in this round.
    score_before, score_after
        Validation score of the broadcast parameters and of those after training, higher is better.
    loss
        Mean training loss.
    aux
        What the method sends beside the parameters, at least the tensors of :meth:`ServerRule.aux_layout`.
    """

    site: str
    shared: State
    n_samples: int
    n_steps: int
    score_before: float | None
    score_after: float | None
    loss: float | None = None
    aux: State = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class RoundInput:
    """What is combined, checked; the contributions in the order of their sites."""

    shared: State
    memory: State
    contributions: Sequence[Contribution]
    weights: Mapping[str, float]
    n_sites: int

    def mean(self, weights: Mapping[str, float], origin: State | None = None) -> dict[str, Tensor]:
        """Weighted mean of the parameters in float64, or of their differences to ``origin``."""
        return mean_state({c.site: c.shared for c in self.contributions}, weights, origin)

    def step(self, weights: Mapping[str, float], length: float = 1.0) -> dict[str, Tensor]:
        """``x + length * (mean - x)``; length 1 is the mean, bit for bit."""
        mean = self.mean(weights)
        return cast_like(
            {name: torch.lerp(x.to(torch.float64), mean[name], length) for name, x in self.shared.items()}, self.shared
        )

    def stack(self, name: str) -> Tensor:
        """One tensor of all sites, ``(sites, ...)``."""
        return torch.stack([c.shared[name] for c in self.contributions])


@dataclass(frozen=True)
class ServerRule(ABC):
    """From the broadcast parameters and the sites' own to those of the next round.

    Pure and deterministic; sums over sites are float64, in the order of the sites' names. ``invariants`` are what
    the rule promises with its default options, some of :data:`INVARIANTS`.
    """

    invariants: ClassVar[frozenset[str]]

    def minimum_sites(self) -> int:
        """The fewest contributions that the rule can combine."""
        return 1

    def start(self, shared: State) -> State:
        """The memory before round 0, tensors by name."""
        return {}

    def aux_down(self, memory: State) -> State:
        """What is broadcast beside the parameters; of the same names, shapes and dtypes in every round."""
        return {}

    def aux_layout(self, shared: State) -> State:
        """What is broadcast in round 0; the sites reply with tensors of the same names, shapes and dtypes."""
        return self.aux_down(self.start(shared))

    def combine(
        self,
        shared: State,
        memory: State,
        contributions: Sequence[Contribution],
        weights: Mapping[str, float],
        *,
        n_sites: int,
    ) -> tuple[State, State]:
        """New shared parameters and new memory.

        Parameters
        ----------
        shared
            What was broadcast.
        memory
            That of :meth:`start`, or of the round before.
        contributions
            One of each participant, in any order.
        weights
            A positive number for each participant; only their ratios matter.
        n_sites
            Sites of the federation, participants or not.

        Raises
        ------
        ValueError
            If there are too few contributions, or if sites, weights, names or memory do not fit.
        """
        ordered = sorted(contributions, key=lambda contribution: contribution.site)
        round_ = RoundInput(shared, memory, ordered, weights, n_sites)
        self._check(round_)
        return self._combine(round_)

    @abstractmethod
    def _combine(self, round_: RoundInput) -> tuple[State, State]: ...

    def _check(self, round_: RoundInput) -> None:
        name, count = type(self).__name__, len(round_.contributions)
        sites = [contribution.site for contribution in round_.contributions]
        if count < self.minimum_sites():
            raise ValueError(
                f"{name}: {count} sites sent parameters, expected at least {self.minimum_sites()}; "
                "let more sites take part, or choose other options or another rule"
            )
        if len(set(sites)) < count or round_.n_sites < count:
            raise ValueError(f"{name}: contributions of {sites}, expected one per site and {round_.n_sites} at most")
        _check_weights(name, round_.weights, sites)
        aux_names = self.aux_layout(round_.shared).keys()
        for contribution in round_.contributions:
            _check_names(f"{name}: parameters of {contribution.site}", contribution.shared, round_.shared)
            missing = sorted(aux_names - contribution.aux.keys())
            if missing:
                raise ValueError(f"{name}: {contribution.site} sent no {missing[:3]}; all sites need the same recipe")
        _check_names(f"{name}: memory", round_.memory, self.start(round_.shared))


def check_number(owner: object, name: str, is_right: Callable[[float], bool], expected: str) -> None:
    """Check an option that is a number.

    Raises
    ------
    ValueError
        If the field ``name`` of ``owner`` is no finite number, or not a right one.
    """
    value = getattr(owner, name)
    if type(value) not in (int, float) or not math.isfinite(value) or not is_right(value):
        raise ValueError(f"{type(owner).__name__}: {name} is {value!r}, expected {expected}")


def mean_state(
    states: Mapping[str, State], weights: Mapping[str, float], origin: State | None = None
) -> dict[str, Tensor]:
    """Weighted mean in float64, or that of the differences to ``origin``."""
    sums: dict[str, Tensor] = {}
    for site in sorted(states):
        # By items: a state on disk is then read once.
        for name, tensor in states[site].items():
            value = tensor.to(torch.float64)
            term = weights[site] * (value if origin is None else value - origin[name].to(torch.float64))
            sums[name] = sums[name] + term if name in sums else term
    total = sum(weights[site] for site in sorted(states))
    return {name: value / total for name, value in sums.items()}


def cast_like(values: State, like: State) -> dict[str, Tensor]:
    """Values in the order and the dtypes of ``like``."""
    return {name: values[name].to(tensor.dtype) for name, tensor in like.items()}


def _check_weights(what: str, weights: Mapping[str, float], sites: Collection[str]) -> None:
    if not sites or weights.keys() != set(sites):
        raise ValueError(f"{what}: states of {sorted(sites)}, weights of {sorted(weights)}, expected the same")
    if not all(0 < weight < math.inf for weight in weights.values()):
        raise ValueError(f"{what}: weights are {dict(weights)}, expected positive numbers")


def _check_names(what: str, found: State, expected: State) -> None:
    if found.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
        raise ValueError(f"{what}: {missing[:3]} missing, {extra[:3]} unexpected; recipe and network must be the same")
