"""A federated algorithm: pure functions over plain tensors and numbers, no I/O, no device, no clock."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from .messages import Broadcast, SiteReport, SiteUpdate, State, digest
from .server_rules import SERVER_RULES


class RoundScore(NamedTuple):
    """Mean over ``n_sites`` sites of the validation score of the parameters that ``round`` started with.

    None where no site could score.
    """

    round: int
    n_sites: int
    mean: float | None


@dataclass(frozen=True, eq=False)
class ServerState:
    """All that the server knows when ``round`` begins.

    ``shared`` is what it broadcasts in that round, ``history`` one score per scored round.
    """

    round: int
    shared: State
    history: tuple[RoundScore, ...] = ()

    @cached_property
    def digest(self) -> str:
        return digest(self.shared)

    @property
    def best(self) -> RoundScore | None:
        """The highest score, the earliest of equals. A mean over fewer sites never replaces one over more."""
        scored = [(score.n_sites, score.mean, -score.round, score) for score in self.history if score.mean is not None]
        return max(scored)[-1] if scored else None

    @property
    def is_scored(self) -> bool:
        """Whether the sites have scored ``shared`` itself."""
        return any(score.round == self.round for score in self.history)


#: Weight of an update by the name used in recipes.
WEIGHTS: dict[str, Callable[[SiteUpdate], float]] = {
    "samples": lambda update: update.n_samples,
    "uniform": lambda update: 1,
}


@dataclass(frozen=True)
class FederatedAlgorithm:
    """Federated averaging [FedAvg]_ and its relatives.

    Parameters
    ----------
    seed
        Of the choice of participants.
    participation
        Fraction of the sites that take part in a round, at least one. Below 1 the rounds' scores are means
        over different sites, and the best round is chosen with that uncertainty.
    weights
        Key of :data:`WEIGHTS`.
    server_rule
        Key of :data:`SERVER_RULES`.

    References
    ----------
    .. [FedAvg] McMahan et al., Communication-Efficient Learning of Deep Networks from
       Decentralized Data, 2017.
    """

    seed: int = 0
    participation: float = 1.0
    weights: str = "samples"
    server_rule: str = "mean"

    def __post_init__(self) -> None:
        if not 0 < self.participation <= 1:
            raise ValueError(f"FederatedAlgorithm: participation is {self.participation}, expected 0 < fraction <= 1")
        for name, value, registry in (
            ("weights", self.weights, WEIGHTS),
            ("server_rule", self.server_rule, SERVER_RULES),
        ):
            if value not in registry:
                raise ValueError(f"FederatedAlgorithm: {name} is {value!r}, expected one of {sorted(registry)}")

    def start(self, shared: State) -> ServerState:
        """The state before round 0."""
        return ServerState(0, dict(shared))

    def participants(self, state: ServerState, sites: Sequence[str]) -> tuple[str, ...]:
        """The sites of this round, sorted; drawn by hash, so the order of ``sites`` does not matter."""
        count = max(1, round(self.participation * len(sites)))
        drawn = sorted(sites, key=lambda site: (derive_seed(self.seed, state.round, site), site))
        return tuple(sorted(drawn[:count]))

    def broadcast(self, state: ServerState, site: str, *, evaluate_only: bool = False) -> Broadcast:
        """The message that opens the round at ``site``."""
        best = state.best
        return Broadcast(
            round=state.round,
            site=site,
            shared=state.shared,
            digest=state.digest,
            best_round=None if best is None else best.round,
            evaluate_only=evaluate_only,
        )

    def aggregate(self, state: ServerState, updates: Sequence[SiteUpdate]) -> ServerState:
        """The state before the next round.

        Raises
        ------
        ValueError
            If there is no update, or one is of another round, or of a site that has one already.
        """
        scored = self.score(state, updates)
        states = {update.site: update.shared for update in updates}
        weights = {update.site: WEIGHTS[self.weights](update) for update in updates}
        shared = SERVER_RULES[self.server_rule](states, weights)
        return replace(scored, round=state.round + 1, shared=shared)

    def score(self, state: ServerState, reports: Sequence[SiteReport]) -> ServerState:
        """The same round with the sites' scores of its parameters in the history.

        Raises
        ------
        ValueError
            If a report is of another round or its site has one already.
        """
        sites = sorted(report.site for report in reports)
        twice = sorted({site for site in sites if sites.count(site) > 1})
        if twice:
            raise ValueError(f"FederatedAlgorithm: several replies of {', '.join(twice)}, expected one per site")
        for report in reports:
            if report.round != state.round:
                raise ValueError(
                    f"FederatedAlgorithm: {report.site} answers round {report.round}, expected {state.round}"
                )
        ordered = sorted(reports, key=lambda report: report.site)
        scores = [report.score_before for report in ordered if report.score_before is not None]
        mean = sum(scores) / len(scores) if scores else None
        earlier = tuple(score for score in state.history if score.round < state.round)
        return replace(state, history=(*earlier, RoundScore(state.round, len(scores), mean)))


def derive_seed(seed: int, *parts: int | str) -> int:
    """A seed in [0, 2**63) from a seed and what it is for (round, site), by SHA-256."""
    text = json.dumps([seed, *parts])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
