"""The federated algorithm at the server: pure functions of tensors and numbers, without files, device or clock."""

import json
from collections.abc import ItemsView, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from recon import seed_from

from ..serialization import Broadcast, SiteReport, SiteUpdate, State, Wire, below, layout, under
from .averaging_rules import Mean
from .server_rule import Contribution, ServerRule
from .server_state import RoundScore, ServerState
from .transform import Transform
from .transform_chain import Chain
from .weighting import Samples, Weighting, limit_share

#: Prefixes in the server's memory: memory of the rule and of the weighting, exact parameters behind a lossy broadcast,
#: the encoded broadcast, means over the sites of the tensors that they send beside their parameters.
_RULE, _WEIGHTS, _EXACT, _PAYLOAD, _MEANS = "rule/", "weights/", "exact/", "payload/", "means/"


@dataclass(frozen=True)
class FederatedAlgorithm:
    """Server of federated averaging [FedAvg]_ and its relatives.

    It chooses the participants of a round, broadcasts the shared parameters and combines the sites' updates of them.

    Parameters
    ----------
    seed
        Seed of the choice of participants.
    participation
        Fraction of the sites that take part in a round; at least one does. Below 1, the scores of two rounds are means
        over different sites, which makes the choice of the best round less certain.
    schedule
        ``"random"``: participants are drawn anew in every round. ``"cyclic"``: sites take turns in the order of names.
    weighting
        Weights of the updates.
    rule
        Combination of the updates.
    chain
        Decodes updates; None: sites send parameters.
    both_ways
        Whether broadcasts are encoded too. Later broadcasts make up for what a lossy one leaves out.

    References
    ----------
    .. [FedAvg] McMahan et al., Communication-Efficient Learning of Deep Networks from
       Decentralized Data, 2017.
    """

    seed: int = 0
    participation: float = 1.0
    schedule: Literal["random", "cyclic"] = "random"
    weighting: Weighting = Samples()  # noqa: RUF009 - frozen
    rule: ServerRule = Mean()  # noqa: RUF009 - frozen
    chain: Chain | None = None
    both_ways: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.participation <= 1:
            raise ValueError(f"FederatedAlgorithm: participation is {self.participation}, expected 0 < fraction <= 1")
        if self.schedule not in ("random", "cyclic"):
            raise ValueError(f"FederatedAlgorithm: schedule is {self.schedule!r}, expected 'random' or 'cyclic'")
        if self.both_ways and self.chain is None:
            raise ValueError("FederatedAlgorithm: both_ways is set without a chain, expected one")

    def describe(self) -> dict[str, Any]:
        """All choices as JSON values; algorithms with equal descriptions give equal runs."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("weighting", "rule", "chain")}
        parts = () if self.chain is None else self.chain.transforms
        choices = {"weighting": _described(self.weighting), "rule": _described(self.rule)}
        description: dict[str, Any] = json.loads(
            json.dumps({**plain, **choices, "chain": [_described(part) for part in parts]})
        )
        return description

    def wire(self, state: ServerState) -> Wire:
        """Layout of the messages of this round."""
        return Wire(layout(state.shared), layout(self._aux(state)), self.chain)

    def start(self, shared: State, aux: State | None = None) -> ServerState:
        """State before round 0. ``aux``: initial means of the tensors that sites send beside their parameters."""
        memory = under(_RULE, self.rule.start(shared)) | under(_WEIGHTS, self.weighting.start())
        return ServerState(0, dict(shared), memory=memory | under(_MEANS, aux or {}))

    def participants(self, state: ServerState, sites: Sequence[str]) -> tuple[str, ...]:
        """The sites of this round, sorted. A hash draws them, so that the order of ``sites`` does not matter."""
        count = max(1, round(self.participation * len(sites)))
        if self.schedule == "cyclic":
            ordered = sorted(sites)
            drawn = [ordered[(state.round * count + i) % len(ordered)] for i in range(count)]
        else:
            drawn = sorted(sites, key=lambda site: (derive_seed(self.seed, state.round, site), site))[:count]
        return tuple(sorted(drawn))

    def broadcast(self, state: ServerState, site: str, *, evaluate_only: bool = False) -> Broadcast:
        """Message to ``site`` at the start of the round."""
        best = state.best
        payload = below(_PAYLOAD, state.memory)
        accepted = state.accepted.get(site)
        encoded = bool(payload) and accepted == state.round - 1
        return Broadcast(
            round=state.round,
            site=site,
            shared=payload if encoded else state.shared,
            digest=state.digest,
            best_round=None if best is None else best.round,
            accepted_round=accepted,
            evaluate_only=evaluate_only,
            encoded=encoded,
            aux=self._aux(state),
        )

    def aggregate(
        self,
        state: ServerState,
        updates: Sequence[SiteUpdate],
        *,
        n_sites: int | None = None,
        maximum_share: float = 1.0,
        mean: Contribution | None = None,
    ) -> ServerState:
        """State before the next round, from the updates of this one.

        Parameters
        ----------
        updates
            Updates with decoded parameters.
        n_sites
            Number of all sites of the federation, participants or not; by default the number of updates.
        maximum_share
            Largest share of one site in the weights, see :func:`limit_share`.
        mean
            Weighted mean of the updates by a secure sum; the parameters in ``updates`` are then not read.

        Raises
        ------
        ValueError
            If an update is of another round, a site has two, or there are fewer than the rule needs.
        """
        scored = self.score(state, updates)
        exact = below(_EXACT, state.memory)
        contributions = self._contributions(state, updates) if mean is None else [mean]
        weights, weight_memory = self.weighting.weigh(contributions, below(_WEIGHTS, state.memory))
        new, rule_memory = self.rule.combine(
            exact or state.shared,
            below(_RULE, state.memory),
            contributions,
            limit_share(weights, maximum_share),
            n_sites=len(updates) if n_sites is None else n_sites,
        )
        memory = under(_RULE, rule_memory) | under(_WEIGHTS, weight_memory)
        memory |= under(_MEANS, _means(below(_MEANS, state.memory), contributions))
        if self.both_ways:
            new, more = self._encode(state, new)
            memory |= more
        accepted = {**state.accepted, **{update.site: state.round for update in updates}}
        samples = {**{update.site: update.n_samples for update in updates}, **state.samples}
        return replace(scored, round=state.round + 1, shared=new, memory=memory, accepted=accepted, samples=samples)

    def _contributions(self, state: ServerState, updates: Sequence[SiteUpdate]) -> list[Contribution]:
        """Input of the rule, one per update, sorted by site."""
        exact = below(_EXACT, state.memory)
        return [
            Contribution(
                site=update.site,
                shared=_Moved(update.shared, state.shared, exact) if exact else update.shared,
                n_samples=update.n_samples,
                n_steps=update.n_steps,
                score_before=update.score_before,
                score_after=update.score_after,
                loss=update.loss,
                aux=update.aux,
            )
            for update in sorted(updates, key=lambda update: update.site)
        ]

    def _encode(self, state: ServerState, exact: State) -> tuple[State, dict[str, Tensor]]:
        """Parameters that the sites decode from a lossy broadcast of ``exact``, and the server's memory of it."""
        assert self.chain is not None
        generator = torch.Generator().manual_seed(derive_seed(self.seed, state.round, "broadcast"))
        change = {name: exact[name] - state.shared[name] for name in state.shared}
        payload = self.chain.codecs.encode(change, generator, state.shared)
        sent = Wire(layout(state.shared), chain=self.chain).decode(state.shared, payload)
        return sent, under(_EXACT, exact) | under(_PAYLOAD, payload)

    def _aux(self, state: ServerState) -> dict[str, Tensor]:
        return {**self.rule.aux_down(below(_RULE, state.memory)), **below(_MEANS, state.memory)}

    def score(self, state: ServerState, reports: Sequence[SiteReport]) -> ServerState:
        """The same state, with the mean of the sites' scores of its parameters in the history.

        Raises
        ------
        ValueError
            If a report is of another round, or a site has two.
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
        scores = {report.site: report.score_before for report in ordered if report.score_before is not None}
        mean = sum(scores.values()) / len(scores) if scores else None
        earlier = tuple(score for score in state.history if score.round < state.round)
        return replace(state, history=(*earlier, RoundScore(state.round, len(scores), mean, scores)))


class _Moved(Mapping[str, Tensor]):
    """A site's parameters plus the difference between the exact and the broadcast ones; read tensor by tensor."""

    def __init__(self, state: State, sent: State, exact: State) -> None:
        self.state, self.sent, self.exact = state, sent, exact

    def __getitem__(self, name: str) -> Tensor:
        return self.exact[name] + (self.state[name] - self.sent[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def items(self) -> ItemsView[str, Tensor]:
        # The inherited method would read the site's file once per name.
        moved = {name: self.exact[name] + (tensor - self.sent[name]) for name, tensor in self.state.items()}
        return moved.items()

    def __len__(self) -> int:
        return len(self.state)


def _means(before: State, contributions: Sequence[Contribution]) -> dict[str, Tensor]:
    """Unweighted means over the sites, summed in float64."""
    return {
        name: (sum(c.aux[name].double() for c in contributions) / len(contributions)).to(tensor.dtype)  # type: ignore[union-attr]
        for name, tensor in before.items()
    }


def _described(choice: Weighting | ServerRule | Transform) -> list[Any]:
    return [type(choice).__name__, asdict(choice)]


def derive_seed(seed: int, *parts: int | str) -> int:
    """A seed in [0, 2**63) from the seed of the run and its purpose, such as round and site."""
    return seed_from(json.dumps([seed, *parts]))
