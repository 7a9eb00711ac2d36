"""Server rules that withstand some faulty sites: median, trimmed mean, Krum, changes of bounded length."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..serialization import State
from .server_rule import INVARIANTS, RoundInput, ServerRule, cast_like, check_number


@dataclass(frozen=True)
class _ByCoordinate(ServerRule):
    """A rule on the sorted values of each parameter [Robust]_; ignores the weights.

    References
    ----------
    .. [Robust] Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, 2018.
    """

    uses_score_after: ClassVar[bool] = False
    invariants = INVARIANTS - {"one_site"}

    def _combine(self, round_: RoundInput) -> tuple[State, State]:
        new = {name: self._middle(round_.stack(name).sort(dim=0).values) for name in round_.shared}
        return cast_like(new, round_.shared), {}

    @abstractmethod
    def _middle(self, ascending: Tensor) -> Tensor:
        """One float64 value per parameter, from values ``(sites, ...)`` that ascend along the sites."""


@dataclass(frozen=True)
class Median(_ByCoordinate):
    """Median of each parameter; for an even number of sites, the mean of the two middle values.

    Within the range of the honest sites if these are the majority. Ignores the weights.
    """

    def minimum_sites(self) -> int:
        return 3

    def _middle(self, ascending: Tensor) -> Tensor:
        n = len(ascending)
        return (ascending[(n - 1) // 2].to(torch.float64) + ascending[n // 2].to(torch.float64)) / 2


@dataclass(frozen=True)
class TrimmedMean(_ByCoordinate):
    """Mean of each parameter without its largest and smallest values. Ignores the weights.

    Within the range of the honest sites if at most ``trim`` sites are faulty.

    Parameters
    ----------
    trim
        Number of values left out at each end: a count, or a fraction of the sites, rounded down.
    """

    trim: int | float = 1

    def __post_init__(self) -> None:
        wanted = "a count of at least 1 or a fraction between 0 and 0.5"
        check_number(self, "trim", lambda value: value >= 1 if isinstance(value, int) else 0 < value < 0.5, wanted)

    def minimum_sites(self) -> int:
        """Enough sites to leave out one value at each end and keep one."""
        return 2 * self.trim + 1 if isinstance(self.trim, int) else math.ceil(1 / self._fraction())

    def _middle(self, ascending: Tensor) -> Tensor:
        n = len(ascending)
        cut = self.trim if isinstance(self.trim, int) else int(self._fraction() * n)
        return ascending[cut : n - cut].to(torch.float64).mean(dim=0)

    def _fraction(self) -> Fraction:
        # The decimal number as written: 0.29 of 100 is 29, but the product of floats is less.
        return Fraction(repr(self.trim))


@dataclass(frozen=True)
class Krum(ServerRule):
    r"""The parameters of one site, the one nearest to its neighbors [Krum]_.

    Among :math:`n` sites, of which :math:`f` may be faulty, it has the smallest sum of squared distances to its
    :math:`n - f - 2` nearest others; ties go to the first name. Ignores the weights. Reads all sites twice, one tensor
    of all sites at a time.

    Parameters
    ----------
    faulty
        :math:`f`; at least :math:`2 f + 3` sites must take part.

    References
    ----------
    .. [Krum] Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent, 2017.
    """

    faulty: int = 1

    uses_score_after: ClassVar[bool] = False
    invariants = INVARIANTS - {"one_site"}

    def __post_init__(self) -> None:
        check_number(self, "faulty", lambda value: isinstance(value, int) and value >= 0, "a count")

    def minimum_sites(self) -> int:
        return 2 * self.faulty + 3

    def _combine(self, round_: RoundInput) -> tuple[State, State]:
        n = len(round_.contributions)
        squared = torch.zeros(n, n, dtype=torch.float64)
        for name in round_.shared:
            rows = round_.stack(name).to(torch.float64).reshape(n, -1)
            # Inner products would be faster, but their difference loses the digits that distinguish near sites.
            for i in range(n):
                squared[i] += (rows - rows[i]).square().sum(dim=1)
        # The nearest one, at distance zero, is the site itself.
        scores = squared.sort(dim=1).values[:, 1 : n - self.faulty - 1].sum(dim=1).tolist()
        chosen = round_.contributions[scores.index(min(scores))]
        return {name: tensor.to(round_.shared[name].dtype, copy=True) for name, tensor in chosen.shared.items()}, {}


@dataclass(frozen=True)
class NormClip(ServerRule):
    r"""The weighted mean of changes of bounded length [Backdoor]_.

    .. math:: x \leftarrow x + \frac{\sum_s w_s \min(1, b / \lVert x_s - x \rVert) (x_s - x)}{\sum_s w_s}

    with the Euclidean norm over all tensors. So a site moves the parameters by at most :math:`b` times its part of the
    weights. Reads all sites twice, one at a time.

    Parameters
    ----------
    max_norm
        :math:`b`; ``"median"``: the median of the norms of this round, for an even number the lower of the two middle
        ones. If at least half of the sites are honest, it is at most the norm of an honest one.

    References
    ----------
    .. [Backdoor] Sun et al., Can You Really Backdoor Federated Learning?, 2019. The median as the bound follows
       Andrew et al., Differentially Private Learning with Adaptive Clipping, 2021, without its noise.
    """

    max_norm: float | Literal["median"] = "median"

    uses_score_after: ClassVar[bool] = False
    invariants = INVARIANTS

    def __post_init__(self) -> None:
        if self.max_norm != "median":
            check_number(self, "max_norm", lambda value: value > 0, 'a positive number or "median"')

    def _combine(self, round_: RoundInput) -> tuple[State, State]:
        norms = {c.site: _distance(c.shared, round_.shared) for c in round_.contributions}
        bound = sorted(norms.values())[(len(norms) - 1) // 2] if self.max_norm == "median" else self.max_norm
        clipped = {
            site: round_.weights[site] * (1.0 if norm <= bound else bound / norm) for site, norm in norms.items()
        }
        length = math.fsum(clipped.values()) / math.fsum(round_.weights.values())
        return round_.step(clipped, length), {}


def _distance(state: State, other: State) -> float:
    squares = (
        (tensor.to(torch.float64) - other[name].to(torch.float64)).square().sum().item()
        for name, tensor in state.items()
    )
    return math.sqrt(math.fsum(squares))
