"""A site: loads a broadcast, trains on its data, replies, and stores its kept state on disk."""

import copy
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from recon import MOST_DB, DataError

from ..config import SITE_NAME
from ..methods import (
    Chain,
    ScopeRules,
    derive_seed,
    encode_with_feedback,
    load_parameters,
    parameter_scope,
    parameters_of,
    require_nothing_kept,
)
from ..privacy import Ledger, SecureSum, epsilon_of
from ..progress import within
from ..serialization import (
    MOST_LOSS,
    Broadcast,
    MessageError,
    SiteReport,
    SiteUpdate,
    State,
    Wire,
    check_finite,
    digest,
    layout,
    saved_rounds,
)
from .kept_state import KeptState, KeptVersions, newest_version, valid_version
from .site_task import LocalResult, RoundContext, SiteTask

if TYPE_CHECKING:
    from .masked_site import MaskedSite

#: File of a site's private steps beside its kept state.
LEDGER = "privacy.json"


@dataclass(frozen=True)
class SiteSpec:
    """Picklable description of a site, from which worker processes build it.

    Parameters
    ----------
    name
        Lower-case letters, digits, ``-`` and ``_``.
    task
        Builds the :class:`SiteTask`: a module-level function, a ``functools.partial`` of one, or a class.
    folder
        Folder of the site's kept state.
    seed
        Seed of the run, the same at every site: it also draws the initial network.
    steps
        Training steps per round.
    scope
        See :func:`parameter_scope`.
    least_work
        Least part of ``steps`` that the site makes in a round; the part is drawn per round. 1: all steps.
    chain
        Encodes the update; None: parameters travel.
    feedback
        Whether the residual of a lossy update is added to the next update.
    keep_previous
        Whether local training needs the site's shared parameters after its last training.
    keep_broadcast
        Whether the site stores the broadcast parameters, to decode the next, encoded broadcast.
    optimizer_state
        ``"keep"``: optimizer moments are part of the kept state. ``"reset"``: each round starts with new ones.
    score_after
        Whether the site validates a second time, after training.
    rounds
        Number of training rounds, for the display of progress, and for a masked sum: the last one has no next.
    arm
        Name of the arm, for the display of progress alone.
    secure
        The secure sum of the run; None: the server gets each update.
    key
        File of the site's key for a masked sum, see :func:`federation.rounds.masked_site.make_key`.
    delta
        The site trains with differential privacy and states epsilon at this delta; None: it trains without.
    shared_noise
        The site adds a part of the noise only: it answers in a secure sum alone, and keeps no parameter that trains.
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
    keep_previous: bool = False
    keep_broadcast: bool = False
    optimizer_state: Literal["keep", "reset"] = "keep"
    score_after: bool = True
    rounds: int | None = None
    arm: str = ""
    secure: SecureSum | None = None
    key: Path | None = None
    delta: float | None = None
    shared_noise: bool = False

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
        """Whether updates are shortened on the way."""
        return self.chain is not None and bool(self.chain.codecs.transforms)

    def masked(self) -> "MaskedSite":
        """The site's part in a masked sum."""
        from .masked_site import MaskedSite  # needs cryptography, which only the extra `deploy` installs

        if self.secure is None or self.key is None:
            raise ValueError(f"SiteSpec: {self.name} has no secure sum or no key, expected both for masks")
        folder = self.folder / "secure"
        return MaskedSite.of(self.name, self.secure, self.key, folder, rounds=self.rounds)

    def build(self) -> "Site":
        """Build the site: its task and its network."""
        return Site(self)


def initial_network(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Call ``factory`` with torch's global generator at ``seed``, then restore the generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return factory()


class Site:
    """One site of the federation, built for one round and then released.

    The kept state has a version per round. A round starts from the version after the last round in which the server
    used the site's reply. So a repeated round gives the same bits (on a GPU up to rounding; with secret noise others),
    and a lost reply leaves no trace.
    """

    def __init__(self, spec: SiteSpec) -> None:
        self.spec = spec
        self.task = spec.task()
        self.network = initial_network(self.task.network, spec.seed)
        self.scope = parameter_scope(self.network, spec.scope)
        parameters = dict(self.network.named_parameters())
        for frozen in self.scope.frozen:
            parameters[frozen].requires_grad_(False)
        if spec.shared_noise:
            require_nothing_kept(self.network, self.scope)
        initial = KeptState(parameters_of(self.network, self.scope.kept))
        identity: dict[str, str | int] = {"seed": spec.seed, "site": spec.name, "initial": digest(initial.parameters)}
        self._versions = KeptVersions(spec.folder, initial, identity)
        #: The parameters before the first round, the same at every site and at the server.
        self.initial_shared = parameters_of(self.network, self.scope.shared)

    def handle(self, request: bytes) -> bytes:
        """Answer a packed :class:`Broadcast`; every transport calls this.

        Raises
        ------
        MessageError
            If the request is damaged or of another network, scope or method.
        DataError
            If the kept state cannot be read or written, or training diverges.
        """
        if self.spec.secure is not None and self.spec.secure.masked:
            return self.spec.masked().answer(request, lambda data: self.answer(self.read(data)))
        return self.answer(self.read(request)).to_bytes()

    @property
    def wire(self) -> Wire:
        """Layout of the messages to and from this site."""
        shared = parameters_of(self.network, self.scope.shared)
        return Wire(layout(shared), self.task.aux(self.network, shared), self.spec.chain)

    def read(self, request: bytes) -> Broadcast:
        """Unpack and decode a broadcast; see :meth:`handle`."""
        wire = self.wire
        return self._decoded(Broadcast.from_bytes(request, site=self.spec.name, wire=wire), wire)

    def answer(self, broadcast: Broadcast) -> SiteReport:
        """Train, or only score if the broadcast is evaluate-only; see :meth:`handle`."""
        if self.spec.shared_noise and self.spec.secure is None:
            raise MessageError(f"site {self.spec.name}: adds a part of the noise only, expected a secure sum")
        with self._progress(broadcast):
            return self.evaluate(broadcast) if broadcast.evaluate_only else self.train_round(broadcast)

    def _progress(self, broadcast: Broadcast) -> AbstractContextManager[None]:
        """Context whose steps belong to this round."""
        round_, rounds = broadcast.round, self.spec.rounds
        part = "last scores" if broadcast.evaluate_only else f"round {round_ + 1}" + (f"/{rounds}" if rounds else "")
        share = round_ / (rounds + 0.5) if rounds else None
        return within(part=", ".join(filter(None, (self.spec.arm, part))), share=share)

    def _decoded(self, broadcast: Broadcast, wire: Wire) -> Broadcast:
        """The broadcast with decoded parameters."""
        if not broadcast.encoded:
            return broadcast
        last = self._load_kept(valid_version(broadcast)).broadcast
        if not last or newest_version(saved_rounds(self.spec.folder), broadcast.round) != broadcast.round:
            raise MessageError(
                f"site {self.spec.name}: lacks the parameters of round {broadcast.round - 1}, which the encoded "
                "broadcast changes; expected a site that took part in it"
            )
        return replace(broadcast, shared=wire.decode(last, broadcast.shared), encoded=False)

    def train_round(self, broadcast: Broadcast) -> SiteUpdate:
        """Load the broadcast, validate, train, validate again if the server needs it, store the kept state."""
        name, round_ = self.spec.name, broadcast.round
        self._versions.prepare(broadcast)
        before = self._load_kept(valid_version(broadcast))
        loaded = self._load_shared(broadcast, before)
        epsilon = self._spend(broadcast)
        started = time.perf_counter()
        score_before = self._score()
        result = self._train(broadcast, before)
        shared, kept = (parameters_of(self.network, names) for names in (self.scope.shared, self.scope.kept))
        check_finite(shared, f"site {name}: after training in round {round_}")
        loss = sum(result.losses) / len(result.losses) if result.losses else None
        if loss is not None and not abs(loss) < MOST_LOSS:
            raise DataError(f"site {name}: the loss is {loss:.3g} in round {round_}; lower the learning rate")
        score_after = self._score() if self.spec.score_after else None
        sent, residual = (shared, {}) if self.spec.secure else self._encoded(broadcast, shared, before.residual)
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
            loss=loss,
            seconds=round(seconds, 3),
            n_steps=self.spec.steps_in(round_),
            encoded=self.spec.encodes,
            epsilon=epsilon,
            aux=result.aux,
        )
        if self.spec.secure is not None:
            change = {name: shared[name].double() - broadcast.shared[name].double() for name in shared}
            update = self._summed(self.spec.secure, broadcast, {**change, **result.change}, update)
        # Last: a round that failed leaves no trace.
        self._versions.save(
            round_ + 1,
            KeptState(
                kept,
                result.optimizer_state if self.spec.optimizer_state == "keep" else {},
                result.memory,
                shared if self.spec.keep_previous or self.scope.needs_previous else {},
                residual,
                broadcast.shared if self.spec.keep_broadcast else {},
            ),
        )
        return update

    def _score(self) -> float | None:
        """Validation score, at most what a message may state."""
        score = self.task.validate(self.network)
        return None if score is None else min(score, MOST_DB)

    def _spend(self, broadcast: Broadcast) -> float | None:
        """Record the private steps of a round before they are made; epsilon with them, None without privacy."""
        if self.spec.delta is None:
            return None
        ledger = Ledger(self.spec.folder / LEDGER)
        ledger.require([] if broadcast.accepted_round is None else [broadcast.accepted_round])
        ledger.spend(broadcast.round, self.task.private_steps(self.spec.steps_in(broadcast.round)))
        return epsilon_of(ledger.spent(), self.spec.delta)

    def _train(self, broadcast: Broadcast, before: KeptState) -> LocalResult:
        seed = derive_seed(self.spec.seed, broadcast.round, self.spec.name)
        context = RoundContext(
            broadcast.shared, broadcast.aux, before.previous, before.optimizer_state or None, before.memory
        )
        with torch.random.fork_rng(devices=[]):
            # For layers that draw from the global generator, such as dropout.
            torch.manual_seed(seed)
            steps = self.spec.steps_in(broadcast.round)
            return self.task.train(self.network, round=broadcast.round, steps=steps, seed=seed, context=context)

    def _encoded(self, broadcast: Broadcast, shared: State, residual: State) -> tuple[State, State]:
        """The parameters as they travel, and the residual of a lossy chain for the next round."""
        if self.spec.chain is None:
            return shared, {}
        change = {name: shared[name] - broadcast.shared[name] for name in shared}
        generator = self._generator(broadcast)
        if not self.spec.encodes:
            # Without a codec the transformed change travels as parameters, like an update without a chain.
            transformed = self.spec.chain.encode(change, generator, broadcast.shared)
            return {name: broadcast.shared[name] + transformed[name] for name in shared}, {}
        if not self.spec.feedback:
            return self.spec.chain.encode(change, generator, broadcast.shared), {}
        return encode_with_feedback(self.spec.chain, change, residual, generator, broadcast.shared)

    def _summed(self, secure: SecureSum, broadcast: Broadcast, change: State, update: SiteUpdate) -> SiteUpdate:
        """The update with the change as integers that can be summed."""
        if self.spec.chain is not None:
            change = self.spec.chain.encode(change, self._generator(broadcast), broadcast.shared)
        summed = secure.encode(self.spec.name, update.n_samples, change, update.aux)
        return replace(update, shared=summed, encoded=True, aux={})

    def _generator(self, broadcast: Broadcast) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.spec.seed, broadcast.round, self.spec.name, "update"))

    def evaluate(self, broadcast: Broadcast) -> SiteReport:
        """Score the broadcast parameters together with the kept parameters of that round; writes nothing."""
        loaded = self._load_shared(broadcast, self._load_kept(valid_version(broadcast)))
        started = time.perf_counter()
        score = self._score()
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
        """The network with the given shared parameters and the site's kept parameters of ``round``.

        A site that never took part uses the initial kept parameters.

        Raises
        ------
        ValueError
            If the names in ``shared`` are not those that the scope shares.
        """
        if shared.keys() != set(self.scope.shared):
            raise ValueError(f"Site {self.spec.name}: got {sorted(shared)}, expected {list(self.scope.shared)}")
        before = self._load_kept(round)
        load_parameters(self.network, self.scope.blend(shared, before.previous))
        return copy.deepcopy(self.network)

    def begin_with(self, network: nn.Module) -> None:
        """Store the kept parameters of a network as those before the first round."""
        self._versions.save(0, KeptState(parameters_of(network, self.scope.kept)))

    def _load_shared(self, broadcast: Broadcast, before: KeptState) -> str:
        load_parameters(self.network, broadcast.shared)
        self.network.zero_grad(set_to_none=True)
        loaded = digest(parameters_of(self.network, self.scope.shared))
        if loaded != broadcast.digest:
            raise MessageError(
                f"site {self.spec.name}: the loaded shared parameters have digest {loaded[:12]}, expected "
                f"{broadcast.digest[:12]}, that of the broadcast"
            )
        if self.scope.needs_previous:
            load_parameters(self.network, self.scope.blend(broadcast.shared, before.previous))
        return loaded

    def _load_kept(self, round: int) -> KeptState:
        """Load the newest version up to ``round``; at a new site, the initial kept parameters."""
        found = self._versions.load(round)
        load_parameters(self.network, found.parameters)
        return found
