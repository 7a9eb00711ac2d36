"""Server rules that average: weighted mean, adaptive optimizers, control variates, normalized averaging."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..serialization import State
from .server_rule import INVARIANTS, RoundInput, ServerRule, cast_like, check_number, mean_state


@dataclass(frozen=True)
class Mean(ServerRule):
    """Federated averaging: the weighted mean of the sites' parameters.

    References
    ----------
    .. [FedAvg] McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017.
    """

    uses_score_after: ClassVar[bool] = False
    needs_mean_only: ClassVar[bool] = True
    invariants = INVARIANTS

    def _combine(self, round_: RoundInput) -> tuple[State, State]:
        return round_.step(round_.weights), {}


@dataclass(frozen=True)
class FedOpt(ServerRule):
    r"""An adaptive optimizer at the server, with the mean change as its gradient [FedOpt]_, Algorithm 2.

    With the pseudo-gradient :math:`\Delta = \sum_s w_s (x_s - x) / \sum_s w_s`, element by element,

    .. math:: m \leftarrow \beta_1 m + (1 - \beta_1) \Delta, \qquad x \leftarrow x + \eta\, m / (\sqrt v + \tau),

    without bias correction. Subclasses define the update of :math:`v` by :math:`\Delta^2`. It starts at :math:`\tau^2`,
    the smallest value that Algorithm 2 allows: a larger one would damp the first rounds.

    Parameters
    ----------
    learning_rate, beta1, tau
        :math:`\eta`, :math:`\beta_1` and :math:`\tau`. Tune the learning rate: its best value differs by orders of
        magnitude between networks.

    References
    ----------
    .. [FedOpt] Reddi et al., Adaptive Federated Optimization, 2021.
    """

    learning_rate: float = 1e-2
    beta1: float = 0.9
    tau: float = 1e-3

    uses_score_after: ClassVar[bool] = False
    needs_mean_only: ClassVar[bool] = True
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

    def _combine(self, round_: RoundInput) -> tuple[State, State]:
        # The mean of differences is exactly zero where no site has changed a parameter.
        change = round_.mean(round_.weights, origin=round_.shared)
        new, memory = {}, {}
        for name, x in round_.shared.items():
            m = self.beta1 * round_.memory[f"momentum.{name}"] + (1 - self.beta1) * change[name]
            v = self._second_moment(round_.memory[f"second_moment.{name}"], change[name].square())
            new[name] = x.to(torch.float64) + self.learning_rate * m / (v.sqrt() + self.tau)
            memory[f"momentum.{name}"], memory[f"second_moment.{name}"] = m, v
        return cast_like(new, round_.shared), memory

    @abstractmethod
    def _second_moment(self, v: Tensor, squared: Tensor) -> Tensor:
        """Next second moment, from the current one and the squared pseudo-gradient."""


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

    Each of the :math:`N` sites keeps a control variate :math:`c_s`, at first zero, corrects its gradients by
    :math:`c - c_s`, and sends the change of :math:`c_s` beside its parameters. With the participants :math:`S`,

    .. math:: x \leftarrow x + \eta \frac{\sum_s w_s (x_s - x)}{\sum_s w_s}, \qquad
              c \leftarrow c + \frac{|S|}{N} \cdot \frac{1}{|S|} \sum_{s \in S} \Delta c_s,

    so :math:`c` stays the mean of all :math:`c_s`, if each site changes its :math:`c_s` by exactly what it sends and
    :math:`N` is constant. The paper's weights are uniform. Control variates travel as float32.

    Parameters
    ----------
    learning_rate
        The server's step :math:`\eta`; 1 gives the weighted mean.

    References
    ----------
    .. [SCAFFOLD] Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, 2020.
    """

    learning_rate: float = 1.0

    uses_score_after: ClassVar[bool] = False
    needs_mean_only: ClassVar[bool] = True
    invariants = INVARIANTS

    def __post_init__(self) -> None:
        check_number(self, "learning_rate", lambda value: value > 0, "a positive number")

    def start(self, shared: State) -> State:
        return {f"control.{name}": torch.zeros_like(x, dtype=torch.float64) for name, x in shared.items()}

    def aux_down(self, memory: State) -> State:
        return {name: control.to(torch.float32) for name, control in memory.items()}

    def _combine(self, round_: RoundInput) -> tuple[State, State]:
        counts = {c.site: float(c.n_sites) for c in round_.contributions}
        change = mean_state({c.site: c.aux for c in round_.contributions}, counts)
        part = math.fsum(counts.values()) / round_.n_sites
        memory = {name: control + part * change[name] for name, control in round_.memory.items()}
        return round_.step(round_.weights, self.learning_rate), memory


@dataclass(frozen=True)
class FedNova(ServerRule):
    r"""Normalized averaging for sites that make different numbers of steps [FedNova]_.

    .. math:: x \leftarrow x - \Big(\sum_s p_s \tau_s\Big) \sum_s p_s \frac{x - x_s}{\tau_s},
              \qquad p_s = w_s / \sum_t w_t,

    with :math:`\tau_s` the number of local steps, exact for sites with plain gradient descent. For equal :math:`\tau_s`
    it is the weighted mean.

    References
    ----------
    .. [FedNova] Wang et al., Tackling the Objective Inconsistency Problem in Heterogeneous Federated
       Optimization, 2020.
    """

    uses_score_after: ClassVar[bool] = False
    invariants = INVARIANTS - {"equal_sites"}

    def _combine(self, round_: RoundInput) -> tuple[State, State]:
        steps = {c.site: c.n_steps for c in round_.contributions}
        none = [site for site, count in steps.items() if count < 1]
        if none:
            raise ValueError(f"FedNova: no steps at {none}, expected at least one at each site")
        total = math.fsum(round_.weights.values())
        p = {site: round_.weights[site] / total for site in steps}
        # The double sum is `length` times the mean of the changes with weights p / tau.
        per_step = {site: p[site] / steps[site] for site in steps}
        length = math.fsum(p[site] * steps[site] for site in steps) * math.fsum(per_step.values())
        return round_.step(per_step, length), {}
