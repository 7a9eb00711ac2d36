"""How the server combines what the sites send back: one class per rule, its fields the options of a recipe."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .messages import State

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
class _Round:
    """What is combined, checked; the contributions in the order of their sites."""

    shared: State
    memory: State
    contributions: Sequence[Contribution]
    weights: Mapping[str, float]
    n_sites: int

    def mean(self, weights: Mapping[str, float], origin: State | None = None) -> dict[str, Tensor]:
        """Weighted mean of the parameters in float64, or of their differences to ``origin``."""
        return _mean({c.site: c.shared for c in self.contributions}, weights, origin)

    def step(self, weights: Mapping[str, float], length: float = 1.0) -> dict[str, Tensor]:
        """``x + length * (mean - x)``; length 1 is the mean, bit for bit."""
        mean = self.mean(weights)
        return _cast(
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
        round_ = _Round(shared, memory, ordered, weights, n_sites)
        self._check(round_)
        return self._combine(round_)

    @abstractmethod
    def _combine(self, round_: _Round) -> tuple[State, State]: ...

    def _check(self, round_: _Round) -> None:
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


@dataclass(frozen=True)
class Mean(ServerRule):
    """Federated averaging: the weighted mean of the sites' parameters.

    References
    ----------
    .. [FedAvg] McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017.
    """

    invariants = INVARIANTS

    def _combine(self, round_: _Round) -> tuple[State, State]:
        return round_.step(round_.weights), {}


@dataclass(frozen=True)
class FedOpt(ServerRule):
    r"""An adaptive optimizer takes the mean change of the parameters for a gradient [FedOpt]_, Algorithm 2.

    With the pseudo-gradient :math:`\Delta = \sum_s w_s (x_s - x) / \sum_s w_s`, element by element,

    .. math:: m \leftarrow \beta_1 m + (1 - \beta_1) \Delta, \qquad x \leftarrow x + \eta\, m / (\sqrt v + \tau),

    without bias correction. Subclasses differ in how :math:`v` follows :math:`\Delta^2`. It starts at
    :math:`\tau^2`, the smallest value that Algorithm 2 allows, so the first rounds are damped no more than its
    analysis needs; a start from zero lies outside of that.

    Parameters
    ----------
    learning_rate, beta1, tau
        :math:`\eta`, :math:`\beta_1` and :math:`\tau`. Best learning rates differ by orders of magnitude between
        networks: tune it.

    References
    ----------
    .. [FedOpt] Reddi et al., Adaptive Federated Optimization, 2021.
    """

    learning_rate: float = 1e-2
    beta1: float = 0.9
    tau: float = 1e-3

    invariants = INVARIANTS - {"one_site", "equal_sites"}

    def __post_init__(self) -> None:
        check_number(self, "learning_rate", lambda value: value > 0, "a positive number")
        check_number(self, "beta1", lambda value: 0 <= value < 1, "0 <= number < 1")
        check_number(self, "tau", lambda value: value > 0, "a positive number")

    def start(self, shared: State) -> State:
        momentum = {f"momentum.{name}": torch.zeros_like(x, dtype=torch.float64) for name, x in shared.items()}
        second = {
            f"second_moment.{name}": torch.full_like(x, self.tau**2, dtype=torch.float64) for name, x in shared.items()
        }
        return momentum | second

    def _combine(self, round_: _Round) -> tuple[State, State]:
        # Of differences: the pseudo-gradient of what no site has changed is exactly zero.
        change = round_.mean(round_.weights, origin=round_.shared)
        new, memory = {}, {}
        for name, x in round_.shared.items():
            m = self.beta1 * round_.memory[f"momentum.{name}"] + (1 - self.beta1) * change[name]
            v = self._second_moment(round_.memory[f"second_moment.{name}"], change[name].square())
            new[name] = x.to(torch.float64) + self.learning_rate * m / (v.sqrt() + self.tau)
            memory[f"momentum.{name}"], memory[f"second_moment.{name}"] = m, v
        return _cast(new, round_.shared), memory

    @abstractmethod
    def _second_moment(self, v: Tensor, squared: Tensor) -> Tensor:
        """The next second moment from the last one and the squared pseudo-gradient."""


@dataclass(frozen=True)
class FedAdagrad(FedOpt):
    r""":class:`FedOpt` with :math:`v \leftarrow v + \Delta^2`; without momentum by default, as in the paper."""

    beta1: float = 0.0

    def _second_moment(self, v: Tensor, squared: Tensor) -> Tensor:
        return v + squared


@dataclass(frozen=True)
class FedAdam(FedOpt):
    r""":class:`FedOpt` with :math:`v \leftarrow \beta_2 v + (1 - \beta_2) \Delta^2`."""

    beta2: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "beta2", lambda value: 0 <= value < 1, "0 <= number < 1")

    def _second_moment(self, v: Tensor, squared: Tensor) -> Tensor:
        return self.beta2 * v + (1 - self.beta2) * squared


@dataclass(frozen=True)
class FedYogi(FedAdam):
    r""":class:`FedOpt` with :math:`v \leftarrow v - (1 - \beta_2) \Delta^2 \operatorname{sign}(v - \Delta^2)`."""

    def _second_moment(self, v: Tensor, squared: Tensor) -> Tensor:
        return v - (1 - self.beta2) * squared * (v - squared).sign()


@dataclass(frozen=True)
class Scaffold(ServerRule):
    r"""Control variates against the drift of sites whose data differ [SCAFFOLD]_, Algorithm 1.

    Each of the :math:`N` sites keeps a control variate :math:`c_s` (first zero), corrects its gradients by
    :math:`c - c_s`, and sends the change of :math:`c_s` beside its parameters. From the participants :math:`S`,

    .. math:: x \leftarrow x + \eta \frac{\sum_s w_s (x_s - x)}{\sum_s w_s}, \qquad
              c \leftarrow c + \frac{|S|}{N} \cdot \frac{1}{|S|} \sum_{s \in S} \Delta c_s,

    so :math:`c` stays the mean of all :math:`c_s`, if each site adds to its own exactly what it sent, and
    :math:`N` stays what it was. The weights of the paper are uniform. Control variates travel as float32.

    Parameters
    ----------
    learning_rate
        The server's step :math:`\eta`; with 1 the parameters are the weighted mean.

    References
    ----------
    .. [SCAFFOLD] Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, 2020.
    """

    learning_rate: float = 1.0

    invariants = INVARIANTS

    def __post_init__(self) -> None:
        check_number(self, "learning_rate", lambda value: value > 0, "a positive number")

    def start(self, shared: State) -> State:
        return {f"control.{name}": torch.zeros_like(x, dtype=torch.float64) for name, x in shared.items()}

    def aux_down(self, memory: State) -> State:
        return {name: control.to(torch.float32) for name, control in memory.items()}

    def _combine(self, round_: _Round) -> tuple[State, State]:
        changes = {c.site: c.aux for c in round_.contributions}
        change = _mean(changes, dict.fromkeys(changes, 1.0))
        part = len(changes) / round_.n_sites
        memory = {name: control + part * change[name] for name, control in round_.memory.items()}
        return round_.step(round_.weights, self.learning_rate), memory


@dataclass(frozen=True)
class FedNova(ServerRule):
    r"""Normalized averaging for sites that make different numbers of steps [FedNova]_.

    .. math:: x \leftarrow x - \Big(\sum_s p_s \tau_s\Big) \sum_s p_s \frac{x - x_s}{\tau_s},
              \qquad p_s = w_s / \sum_t w_t,

    with :math:`\tau_s` the local steps, as for sites that run plain gradient descent. The mean where all
    :math:`\tau_s` are equal.

    References
    ----------
    .. [FedNova] Wang et al., Tackling the Objective Inconsistency Problem in Heterogeneous Federated
       Optimization, 2020.
    """

    invariants = INVARIANTS - {"equal_sites"}

    def _combine(self, round_: _Round) -> tuple[State, State]:
        steps = {c.site: c.n_steps for c in round_.contributions}
        none = [site for site, count in steps.items() if count < 1]
        if none:
            raise ValueError(f"FedNova: no steps at {none}, expected at least one at each site")
        total = math.fsum(round_.weights.values())
        p = {site: round_.weights[site] / total for site in steps}
        # The sum is this many times the mean of the changes with weights p / tau.
        per_step = {site: p[site] / steps[site] for site in steps}
        length = math.fsum(p[site] * steps[site] for site in steps) * math.fsum(per_step.values())
        return round_.step(per_step, length), {}


@dataclass(frozen=True)
class _ByCoordinate(ServerRule):
    """A rule on the sorted values of each coordinate [Robust]_; ignores the weights.

    References
    ----------
    .. [Robust] Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, 2018.
    """

    invariants = INVARIANTS - {"one_site"}

    def _combine(self, round_: _Round) -> tuple[State, State]:
        new = {name: self._middle(round_.stack(name).sort(dim=0).values) for name in round_.shared}
        return _cast(new, round_.shared), {}

    @abstractmethod
    def _middle(self, ascending: Tensor) -> Tensor:
        """From ``(sites, ...)``, ascending along the sites, to one value in float64."""


@dataclass(frozen=True)
class Median(_ByCoordinate):
    """Median of each coordinate, the mean of the two middle values where the number of sites is even.

    Within the range of the honest sites while these are the majority. Ignores the weights.
    """

    def minimum_sites(self) -> int:
        return 3

    def _middle(self, ascending: Tensor) -> Tensor:
        n = len(ascending)
        return (ascending[(n - 1) // 2].to(torch.float64) + ascending[n // 2].to(torch.float64)) / 2


@dataclass(frozen=True)
class TrimmedMean(_ByCoordinate):
    """Mean of each coordinate without its largest and smallest values. Ignores the weights.

    Within the range of the honest sites while no more than ``trim`` are not.

    Parameters
    ----------
    trim
        How many values are left out at each end: a count, or a fraction of the sites, rounded down.
    """

    trim: int | float = 1

    def __post_init__(self) -> None:
        wanted = "a count of at least 1 or a fraction between 0 and 0.5"
        check_number(self, "trim", lambda value: value >= 1 if isinstance(value, int) else 0 < value < 0.5, wanted)

    def minimum_sites(self) -> int:
        """So many that at least one value is left out at each end, and one remains."""
        return 2 * self.trim + 1 if isinstance(self.trim, int) else math.ceil(1 / self._fraction())

    def _middle(self, ascending: Tensor) -> Tensor:
        n = len(ascending)
        cut = self.trim if isinstance(self.trim, int) else int(self._fraction() * n)
        return ascending[cut : n - cut].to(torch.float64).mean(dim=0)

    def _fraction(self) -> Fraction:
        # As it is written: 0.29 of 100 is 29, which the product of floats misses.
        return Fraction(repr(self.trim))


@dataclass(frozen=True)
class Krum(ServerRule):
    r"""The parameters of the one site that is nearest to its nearest neighbors [Krum]_.

    Of :math:`n` sites of which :math:`f` may be faulty, the one with the smallest sum of squared distances to its
    :math:`n - f - 2` nearest others; of equals, the first by name. Ignores the weights. Reads all sites twice, one
    tensor of all at a time.

    Parameters
    ----------
    faulty
        :math:`f`; at least :math:`2 f + 3` sites must take part.

    References
    ----------
    .. [Krum] Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent, 2017.
    """

    faulty: int = 1

    invariants = INVARIANTS - {"one_site"}

    def __post_init__(self) -> None:
        check_number(self, "faulty", lambda value: isinstance(value, int) and value >= 0, "a count")

    def minimum_sites(self) -> int:
        return 2 * self.faulty + 3

    def _combine(self, round_: _Round) -> tuple[State, State]:
        n = len(round_.contributions)
        squared = torch.zeros(n, n, dtype=torch.float64)
        for name in round_.shared:
            rows = round_.stack(name).to(torch.float64).reshape(n, -1)
            # Not by inner products, whose difference loses the digits that tell near sites apart.
            for i in range(n):
                squared[i] += (rows - rows[i]).square().sum(dim=1)
        # The nearest of all is the site itself.
        scores = squared.sort(dim=1).values[:, 1 : n - self.faulty - 1].sum(dim=1).tolist()
        chosen = round_.contributions[scores.index(min(scores))]
        return {name: tensor.to(round_.shared[name].dtype, copy=True) for name, tensor in chosen.shared.items()}, {}


@dataclass(frozen=True)
class NormClip(ServerRule):
    r"""The weighted mean of changes of bounded length [Backdoor]_.

    .. math:: x \leftarrow x + \frac{\sum_s w_s \min(1, b / \lVert x_s - x \rVert) (x_s - x)}{\sum_s w_s}

    with the Euclidean norm over all tensors, so that no site moves the parameters by more than its weight's part
    of :math:`b`. Reads all sites twice, one at a time.

    Parameters
    ----------
    max_norm
        :math:`b`; ``"median"``: that of the norms of this round, the lower one where their number is even. While
        at least half of the sites are honest it is at most the norm of one of these.

    References
    ----------
    .. [Backdoor] Sun et al., Can You Really Backdoor Federated Learning?, 2019. The median as bound follows
       Andrew et al., Differentially Private Learning with Adaptive Clipping, 2021, without its privacy.
    """

    max_norm: float | Literal["median"] = "median"

    invariants = INVARIANTS

    def __post_init__(self) -> None:
        if self.max_norm != "median":
            check_number(self, "max_norm", lambda value: value > 0, 'a positive number or "median"')

    def _combine(self, round_: _Round) -> tuple[State, State]:
        norms = {c.site: _distance(c.shared, round_.shared) for c in round_.contributions}
        bound = sorted(norms.values())[(len(norms) - 1) // 2] if self.max_norm == "median" else self.max_norm
        clipped = {
            site: round_.weights[site] * (1.0 if norm <= bound else bound / norm) for site, norm in norms.items()
        }
        length = math.fsum(clipped.values()) / math.fsum(round_.weights.values())
        return round_.step(clipped, length), {}


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


def weighted_mean(states: Mapping[str, State], weights: Mapping[str, float]) -> State:
    r"""Average, :math:`\sum_s w_s x_s / \sum_s w_s`.

    Summed in float64 in the order of the sites' names and cast once, so the order of arrival does not matter.
    One state at a time is in memory.

    Parameters
    ----------
    states
        Tensors by site, all with the same names and shapes.
    weights
        A positive number for each site.

    Raises
    ------
    ValueError
        If there is no site, a weight is missing or not positive, or names differ.
    """
    _check_weights("weighted_mean", weights, states)
    names = set().union(*states.values())
    for site in sorted(states):
        if states[site].keys() != names:
            raise ValueError(f"weighted_mean: site {site} lacks {sorted(names - states[site].keys())}")
    return _cast(_mean(states, weights), states[min(states)])


def _mean(states: Mapping[str, State], weights: Mapping[str, float], origin: State | None = None) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}
    for site in sorted(states):
        # By items: a state on disk is then read once.
        for name, tensor in states[site].items():
            value = tensor.to(torch.float64)
            term = weights[site] * (value if origin is None else value - origin[name].to(torch.float64))
            sums[name] = sums[name] + term if name in sums else term
    total = sum(weights[site] for site in sorted(states))
    return {name: value / total for name, value in sums.items()}


def _cast(values: State, like: State) -> dict[str, Tensor]:
    return {name: values[name].to(tensor.dtype) for name, tensor in like.items()}


def _distance(state: State, other: State) -> float:
    squares = (
        (tensor.to(torch.float64) - other[name].to(torch.float64)).square().sum().item()
        for name, tensor in state.items()
    )
    return math.sqrt(math.fsum(squares))


def _check_weights(what: str, weights: Mapping[str, float], sites: Collection[str]) -> None:
    if not sites or weights.keys() != set(sites):
        raise ValueError(f"{what}: states of {sorted(sites)}, weights of {sorted(weights)}, expected the same")
    if not all(0 < weight < math.inf for weight in weights.values()):
        raise ValueError(f"{what}: weights are {dict(weights)}, expected positive numbers")


def _check_names(what: str, found: State, expected: State) -> None:
    if found.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
        raise ValueError(f"{what}: {missing[:3]} missing, {extra[:3]} unexpected; recipe and network must be the same")


#: Server rules by the name used in recipes.
SERVER_RULES: dict[str, type[ServerRule]] = {
    "mean": Mean,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedadagrad": FedAdagrad,
    "scaffold": Scaffold,
    "fednova": FedNova,
    "median": Median,
    "trimmed_mean": TrimmedMean,
    "krum": Krum,
    "norm_clip": NormClip,
}
