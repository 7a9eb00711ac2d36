"""Base class of the server rules, with their input and means in float64."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..serialization import State

#: Properties that a rule or weighting may declare, with its default options:
#: ``order``: the order of the contributions does not matter;
#: ``one_site``: with one site, the result is that site's parameters, so that a federation of one is local training;
#: ``equal_sites``: sites with equal parameters give these parameters;
#: ``fixed_point``: if all sites return the broadcast unchanged, the result is the broadcast;
#: ``scale_free_weights``: a constant factor on all weights changes nothing;
#: ``memory_round_trip``: saved and loaded memory gives the same next round.
INVARIANTS = frozenset(
    {"order", "one_site", "equal_sites", "fixed_point", "scale_free_weights", "memory_round_trip"},
)


@dataclass(frozen=True, eq=False)
class Contribution:
    """Update of one site, as input of a rule or weighting.

    Parameters
    ----------
    shared
        The site's shared parameters after training; may be read from disk on demand.
    n_samples, n_steps
        Number of training samples of the site, and of its optimizer steps in this round.
    score_before, score_after
        Validation score of the broadcast parameters, and of the trained ones; higher is better.
    loss
        Mean training loss.
    aux
        Tensors beside the parameters, at least those of :meth:`ServerRule.aux_layout`.
    n_sites
        Number of sites whose weighted mean this is: 1, except under a secure sum.
    """

    site: str
    shared: State
    n_samples: int
    n_steps: int
    score_before: float | None
    score_after: float | None
    loss: float | None = None
    aux: State = field(default_factory=dict)
    n_sites: int = 1


@dataclass(frozen=True, eq=False)
class RoundInput:
    """Checked input of a rule; contributions in the order of the sites' names."""

    shared: State
    memory: State
    contributions: Sequence[Contribution]
    weights: Mapping[str, float]
    n_sites: int

    def mean(self, weights: Mapping[str, float], origin: State | None = None) -> dict[str, Tensor]:
        """Weighted mean in float64 of the sites' parameters, or of their differences to ``origin``."""
        return mean_state({c.site: c.shared for c in self.contributions}, weights, origin)

    def step(self, weights: Mapping[str, float], length: float = 1.0) -> dict[str, Tensor]:
        """``x + length * (mean - x)``; length 1 is the mean, bit for bit."""
        mean = self.mean(weights)
        return cast_like(
            {name: torch.lerp(x.to(torch.float64), mean[name], length) for name, x in self.shared.items()}, self.shared
        )

    def stack(self, name: str) -> Tensor:
        """The tensor ``name`` of all sites, ``(sites, ...)``."""
        return torch.stack([c.shared[name] for c in self.contributions])


@dataclass(frozen=True)
class ServerRule(ABC):
    """Computes the parameters of the next round from the broadcast ones and those of the sites.

    Pure and deterministic; sums over sites are float64, in the order of the sites' names. A subclass writes
    :meth:`_combine`, and in ``invariants`` declares the :data:`INVARIANTS` that it has with its default options. One
    that needs no more than the weighted mean of the contributions sets ``needs_mean_only = True``: it can be used with
    a secure sum, where it gets one contribution with the mean of all sites.
    """

    invariants: ClassVar[frozenset[str]]
    #: Whether the rule looks at ``score_after`` of the contributions; if not, sites validate once per round.
    uses_score_after: ClassVar[bool] = True
    needs_mean_only: ClassVar[bool] = False

    def minimum_sites(self) -> int:
        """The fewest contributions that the rule can combine."""
        return 1

    def start(self, shared: State) -> State:
        """The memory before round 0, tensors by name."""
        return {}

    def aux_down(self, memory: State) -> State:
        """Tensors to broadcast beside the parameters; same names, shapes and dtypes in every round."""
        return {}

    def aux_layout(self, shared: State) -> State:
        """Tensors beside the broadcast of round 0; replies hold tensors of the same names, shapes and dtypes."""
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
            Broadcast parameters.
        memory
            Memory of :meth:`start` or of the round before.
        contributions
            One per participant, in any order.
        weights
            A positive number for each participant; only their ratios matter.
        n_sites
            Number of sites of the federation, participants or not.

        Raises
        ------
        ValueError
            If contributions are too few, or if sites, weights, names or memory do not agree.
        """
        ordered = sorted(contributions, key=lambda contribution: contribution.site)
        round_ = RoundInput(shared, memory, ordered, weights, n_sites)
        self._check(round_)
        combined: object = self._combine(round_)
        if not isinstance(combined, tuple) or len(combined) != 2:
            raise ValueError(f"{type(self).__name__}: _combine gives no pair, expected the parameters and the memory")
        return combined

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
    """Check a numerical option of a rule or weighting.

    Raises
    ------
    ValueError
        If the field ``name`` of ``owner`` is not a finite number that passes ``is_right``.
    """
    value = getattr(owner, name)
    if type(value) not in (int, float) or not math.isfinite(value) or not is_right(value):
        raise ValueError(f"{type(owner).__name__}: {name} is {value!r}, expected {expected}")


def mean_state(
    states: Mapping[str, State], weights: Mapping[str, float], origin: State | None = None
) -> dict[str, Tensor]:
    r"""Weighted mean :math:`\sum_s w_s x_s / \sum_s w_s` in float64, or that of the differences to ``origin``."""
    sums: dict[str, Tensor] = {}
    for site in sorted(states):
        # items() reads a state on disk once.
        for name, tensor in states[site].items():
            value = tensor.to(torch.float64)
            term = weights[site] * (value if origin is None else value - origin[name].to(torch.float64))
            sums[name] = sums[name] + term if name in sums else term
    total = sum(weights[site] for site in sorted(states))
    return {name: value / total for name, value in sums.items()}


def cast_like(values: State, like: State) -> dict[str, Tensor]:
    """The values in the order and with the dtypes of ``like``."""
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
