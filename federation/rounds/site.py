"""A site: loads a broadcast, trains on its own data, keeps its own state on disk, replies."""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from recon import DataError

from ..config import SITE_NAME
from ..methods import (
    Chain,
    ScopeRules,
    derive_seed,
    encode_with_feedback,
    load_parameters,
    parameter_scope,
    parameters_of,
)
from ..serialization import (
    Broadcast,
    Layout,
    MessageError,
    SiteReport,
    SiteUpdate,
    State,
    Wire,
    below,
    check_finite,
    digest,
    layout,
    load_checkpoint,
    prune,
    save_checkpoint,
    saved_rounds,
    under,
)
from .kept_state import KEPT_PREFIXES, KeptState, newest_version, valid_version


@dataclass(frozen=True, eq=False)
class RoundContext:
    """What local training starts from, beside the network.

    ``shared`` was broadcast, with ``aux`` beside it; ``own`` are the shared parameters as the site's last training left
    them, empty in its first round or if nothing needs them; ``optimizer_state`` and ``memory`` are those of its last
    result, None and empty at first.
    """

    shared: State
    aux: State
    own: State
    optimizer_state: State | None
    memory: State


@dataclass(frozen=True, eq=False)
class LocalResult:
    """What local training returns.

    A loss per step, the optimizer's tensors by any name, the number of training samples of the site, the
    weight of its update; what the method remembers at the site, and what it sends beside the parameters.
    """

    losses: Sequence[float]
    optimizer_state: State
    n_samples: int
    memory: State = field(default_factory=dict)
    aux: State = field(default_factory=dict)


class SiteTask(Protocol):
    """The site's data and what is done with them; made for one round, then dropped with all its memory."""

    def network(self) -> nn.Module:
        """A new network, drawn from torch's global generator alone."""

    def aux(self, network: nn.Module, shared: State) -> Layout:
        """What the method sends beside the parameters, the same up and down."""

    def train(self, network: nn.Module, *, round: int, steps: int, seed: int, context: RoundContext) -> LocalResult:
        """Train in place, all randomness from ``seed``; ``round`` is for schedules."""

    def validate(self, network: nn.Module) -> float | None:
        """Score on the validation data, higher is better; None where there is no reference."""


@dataclass(frozen=True)
class SiteSpec:
    """All that makes a site, picklable: worker processes build it from this.

    Parameters
    ----------
    name
        Lower-case letters, digits, ``-`` and ``_``.
    task
        Makes the :class:`SiteTask`; a module-level function, a ``functools.partial`` of one, or a class.
    folder
        Of the kept state, the site's own.
    seed
        Of the run; that of the initial network too, so it is the same at every site.
    steps
        Training steps per round.
    scope
        See :func:`parameter_scope`.
    least_work
        The site makes between this part of ``steps`` and all of them, drawn per round; 1 makes all.
    chain, feedback
        Encodes the update; whether what that leaves out is added to the next one.
    keep_own, keep_view
        Whether local training needs the site's own shared parameters; whether broadcasts may be encoded.
    optimizer_state
        ``"keep"``: the optimizer's moments are part of the kept state. ``"reset"``: each round starts
        without.
    """

    name: str
    task: Callable[[], SiteTask]
    folder: Path
    seed: int
    steps: int
    scope: ScopeRules = field(default_factory=ScopeRules)
    least_work: float = 1.0
    chain: Chain | None = None
    feedback: bool = True
    keep_own: bool = False
    keep_view: bool = False
    optimizer_state: Literal["keep", "reset"] = "keep"

    def __post_init__(self) -> None:
        if not SITE_NAME.fullmatch(self.name):
            raise ValueError(f"SiteSpec: name is {self.name!r}, expected lower-case letters, digits, - and _")
        if self.optimizer_state not in ("keep", "reset"):
            raise ValueError(f"SiteSpec: optimizer_state is {self.optimizer_state!r}, expected 'keep' or 'reset'")
        if self.steps < 1:
            raise ValueError(f"SiteSpec: steps is {self.steps}, expected at least 1")
        if not 0 < self.least_work <= 1:
            raise ValueError(f"SiteSpec: least_work is {self.least_work}, expected 0 < part <= 1")

    def steps_in(self, round: int) -> int:
        """Training steps of a round."""
        drawn = derive_seed(self.seed, round, self.name, "work") / 2**63
        return max(1, math.ceil(self.steps * (self.least_work + (1 - self.least_work) * drawn)))

    @property
    def encodes(self) -> bool:
        """Whether updates travel encoded."""
        return self.chain is not None and bool(self.chain.codecs.transforms)

    def build(self) -> "Site":
        """The site, with its data."""
        return Site(self)


def initial_network(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Call ``factory`` under ``seed``, the same numbers everywhere; torch's global generator is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return factory()


class Site:
    """One participant, made for a round and then dropped.

    Its kept state is versioned: a round starts from the version after the last one in which the site's reply
    counted, so a round that is run again gives the same bits (on a GPU, to rounding), and a reply that was lost leaves
    no trace. On disk are the versions that the server may still ask for: that one and the one before (a server whose
    newest checkpoint is damaged goes back one), that of the best round, and the next.
    """

    def __init__(self, spec: SiteSpec) -> None:
        self.spec = spec
        self.task = spec.task()
        self.network = initial_network(self.task.network, spec.seed)
        self.scope = parameter_scope(self.network, spec.scope)
        parameters = dict(self.network.named_parameters())
        for frozen in self.scope.frozen:
            parameters[frozen].requires_grad_(False)
        self._initial = parameters_of(self.network, self.scope.kept)
        #: The parameters before the first round, the same at every site and at the server.
        self.initial_shared = parameters_of(self.network, self.scope.shared)

    def handle(self, request: bytes) -> bytes:
        """Answer a packed :class:`Broadcast`; the one door for every transport.

        Raises
        ------
        MessageError
            If the request is not what the scope allows.
        DataError
            If the kept state cannot be read or written, or training diverges.
        """
        return self.answer(self.read(request)).to_bytes()

    @property
    def wire(self) -> Wire:
        """What a message to or from this site must hold."""
        shared = parameters_of(self.network, self.scope.shared)
        return Wire(layout(shared), self.task.aux(self.network, shared), self.spec.chain)

    def read(self, request: bytes) -> Broadcast:
        """The broadcast with the parameters themselves; see :meth:`handle`."""
        wire = self.wire
        return self._decoded(Broadcast.from_bytes(request, site=self.spec.name, wire=wire), wire)

    def answer(self, broadcast: Broadcast) -> SiteReport:
        """Train, or score where that is all that is asked; see :meth:`handle`."""
        return self.evaluate(broadcast) if broadcast.evaluate_only else self.train_round(broadcast)

    def _decoded(self, broadcast: Broadcast, wire: Wire) -> Broadcast:
        """The broadcast with the parameters themselves."""
        if not broadcast.encoded:
            return broadcast
        view = self._load_kept(valid_version(broadcast)).view
        if not view or newest_version(saved_rounds(self.spec.folder), broadcast.round) != broadcast.round:
            raise MessageError(
                f"site {self.spec.name}: has not the parameters of round {broadcast.round - 1}, expected to have "
                "taken part in it"
            )
        return replace(broadcast, shared=wire.decode(view, broadcast.shared), encoded=False)

    def train_round(self, broadcast: Broadcast) -> SiteUpdate:
        """Load the broadcast, validate, train, validate again, save the kept state for the next round."""
        name, round_ = self.spec.name, broadcast.round
        self._prepare(broadcast)
        before = self._load_kept(valid_version(broadcast))
        loaded = self._load_shared(broadcast, before)
        steps = self.spec.steps_in(round_)
        seed = derive_seed(self.spec.seed, round_, name)
        started = time.perf_counter()
        score_before = self.task.validate(self.network)
        with torch.random.fork_rng(devices=[]):
            # For layers that draw from the global generator, such as dropout.
            torch.manual_seed(seed)
            result = self.task.train(
                self.network,
                round=round_,
                steps=steps,
                seed=seed,
                context=RoundContext(
                    broadcast.shared, broadcast.aux, before.own, before.optimizer_state or None, before.memory
                ),
            )
        shared, kept = (parameters_of(self.network, names) for names in (self.scope.shared, self.scope.kept))
        check_finite(shared, f"site {name}: after training in round {round_}")
        score_after = self.task.validate(self.network)
        sent, residual = self._encoded(broadcast, shared, before.residual)
        seconds = time.perf_counter() - started
        update = SiteUpdate(
            round=round_,
            site=name,
            shared=sent,
            n_samples=result.n_samples,
            loaded_digest=loaded,
            kept_digest=digest(kept),
            score_before=score_before,
            score_after=score_after,
            loss=sum(result.losses) / len(result.losses) if result.losses else None,
            seconds=round(seconds, 3),
            n_steps=steps,
            encoded=self.spec.encodes,
            aux=result.aux,
        )
        # Last: a round that failed leaves no trace.
        self._save_kept(
            round_ + 1,
            KeptState(
                kept,
                result.optimizer_state if self.spec.optimizer_state == "keep" else {},
                result.memory,
                shared if self.spec.keep_own or self.scope.is_personal else {},
                residual,
                broadcast.shared if self.spec.keep_view else {},
            ),
        )
        return update

    def _encoded(self, broadcast: Broadcast, shared: State, residual: State) -> tuple[State, State]:
        """What travels of the trained parameters, and what a lossy chain leaves for the next round."""
        if self.spec.chain is None:
            return shared, {}
        change = {name: shared[name] - broadcast.shared[name] for name in shared}
        seed = derive_seed(self.spec.seed, broadcast.round, self.spec.name, "update")
        generator = torch.Generator().manual_seed(seed)
        if not self.spec.encodes:
            # A change that no codec shortens travels as the parameters that it leads to, in one piece.
            transformed = self.spec.chain.encode(change, generator, broadcast.shared)
            return {name: broadcast.shared[name] + transformed[name] for name in shared}, {}
        if not self.spec.feedback:
            return self.spec.chain.encode(change, generator, broadcast.shared), {}
        return encode_with_feedback(self.spec.chain, change, residual, generator, broadcast.shared)

    def evaluate(self, broadcast: Broadcast) -> SiteReport:
        """Score the broadcast parameters with the site's kept ones of that round; changes nothing on disk."""
        loaded = self._load_shared(broadcast, self._load_kept(valid_version(broadcast)))
        started = time.perf_counter()
        score = self.task.validate(self.network)
        seconds = time.perf_counter() - started
        return SiteReport(
            round=broadcast.round,
            site=self.spec.name,
            loaded_digest=loaded,
            kept_digest=digest(parameters_of(self.network, self.scope.kept)),
            score_before=score,
            seconds=round(seconds, 3),
        )

    def network_at(self, shared: State, round: int) -> nn.Module:
        """A network with these shared parameters and the site's kept ones of ``round``.

        A site that never took part has the initial kept parameters.

        Raises
        ------
        ValueError
            If ``shared`` are not exactly the parameters that the scope shares.
        """
        if shared.keys() != set(self.scope.shared):
            raise ValueError(f"Site {self.spec.name}: got {sorted(shared)}, expected {list(self.scope.shared)}")
        before = self._load_kept(round)
        load_parameters(self.network, self.scope.blend(shared, before.own))
        return copy.deepcopy(self.network)

    def _load_shared(self, broadcast: Broadcast, before: KeptState) -> str:
        load_parameters(self.network, broadcast.shared)
        self.network.zero_grad(set_to_none=True)
        loaded = digest(parameters_of(self.network, self.scope.shared))
        if loaded != broadcast.digest:
            raise MessageError(
                f"site {self.spec.name}: the loaded shared parameters have digest {loaded[:12]}, expected "
                f"{broadcast.digest[:12]}, that of the broadcast"
            )
        if self.scope.is_personal:
            load_parameters(self.network, self.scope.blend(broadcast.shared, before.own))
        return loaded

    def _prepare(self, broadcast: Broadcast) -> None:
        """Save a first version at a new site; drop the versions that no broadcast will ask for any more."""
        folder = self.spec.folder
        versions, valid = saved_rounds(folder), valid_version(broadcast)
        if not versions or (valid == 0 and versions[0] > 0):
            # No reply of this site ever counted in this run: what lies here is of a run that was begun anew.
            self._save_kept(0, KeptState(self._initial))
            prune(folder, [0])
            return
        # Newer versions are of a history that the server has abandoned, or of replies that never counted.
        wanted = (min(broadcast.round - 1, valid), valid, broadcast.best_round)
        newest = (newest_version(versions, min(version, valid)) for version in wanted if version is not None)
        prune(folder, [version for version in newest if version is not None])

    def _load_kept(self, round: int) -> KeptState:
        """Load the kept parameters of the newest version up to ``round``, the initial ones at a new site."""
        folder, name = self.spec.folder, self.spec.name
        versions = saved_rounds(folder)
        if not versions:
            load_parameters(self.network, self._initial)
            return KeptState(self._initial)
        newest = newest_version(versions, round)
        if newest is None:
            raise DataError(
                f"{folder}: kept state of site {name} starts at round {versions[0]}, expected one for round "
                f"{round}; resume the run that it belongs to, or give the site an empty folder"
            )
        checkpoint = load_checkpoint(folder, newest)
        found = KeptState(*(below(prefix, checkpoint.tensors) for prefix in KEPT_PREFIXES))
        if checkpoint.numbers != self._numbers() or layout(found.parameters) != layout(self._initial):
            raise DataError(
                f"{folder}: kept state of site {name} is of another run (seed, site, network or scope "
                "differ); give the site an empty folder"
            )
        load_parameters(self.network, found.parameters)
        return found

    def _save_kept(self, version: int, kept: KeptState) -> None:
        tensors: dict[str, Tensor] = {}
        for prefix, state in kept.by_prefix():
            tensors |= under(prefix, state)
        save_checkpoint(self.spec.folder, version, tensors, self._numbers())

    def _numbers(self) -> dict[str, str | int]:
        """What ties a kept state to its run."""
        return {"seed": self.spec.seed, "site": self.spec.name, "initial": digest(self._initial)}
