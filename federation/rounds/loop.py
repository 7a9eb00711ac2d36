"""The round loop: broadcast, collect, check, aggregate, checkpoint. It resumes after a kill at any moment."""

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from recon import NO_SPACE, DataError

from ..config import SITE_NAME, ConfigError
from ..methods import CHECKPOINTS, MEMORY_PREFIX, Contribution, FederatedAlgorithm, ServerState, state_of_checkpoint
from ..privacy import SecureSum
from ..serialization import (
    SiteUpdate,
    State,
    check_finite,
    layout,
    load_newest,
    prune,
    save_checkpoint,
    saved_rounds,
    under,
)
from .replies import Check, Replies, Requests
from .round_log import Row, append_rows, drop_rows
from .stopping import Stopping
from .summed_rounds import RepeatRound, SummedRounds
from .transport import StillWaiting, Transport

logger = logging.getLogger(__name__)

_INCOMING = "incoming"
#: Folder of the records of a masked sum in that of a run.
_SECURE = "secure"

#: Called after each round with the number of the round, the number of rounds, and the rows of the round.
Progress = Callable[[int, int, Sequence[Row]], None]
#: Called while a round waits, with the number of the round and the sites that have not answered.
Waiting = Callable[[int, Sequence[str]], None]


class QuorumError(DataError):
    """Too few sites answered; the text names each missing site with the reason."""


@dataclass(frozen=True)
class RoundTime:
    """Wall time of a round, and the time of training and validation, summed over its sites."""

    round: int
    seconds: float
    site_seconds: float
    jobs: int

    @property
    def overhead(self) -> float:
        """Fraction of the workers' wall time in which no site trained or validated."""
        return max(0.0, 1.0 - self.site_seconds / (self.seconds * self.jobs))


@dataclass(frozen=True, eq=False)
class RunResult:
    """Result of :func:`run_rounds`: the last state, the times of the rounds of this call, and why the run ended."""

    state: ServerState
    rounds: tuple[RoundTime, ...]
    ended: str


def run_rounds(
    algorithm: FederatedAlgorithm,
    transport: Transport,
    shared: State,
    folder: Path | str,
    *,
    rounds: int,
    patience: int | None = None,
    aux: State | None = None,
    quorum: int | None = None,
    late_seconds: float | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    waiting: Waiting | None = None,
    check: Check | None = None,
    maximum_share: float = 1.0,
    secure: SecureSum | None = None,
) -> RunResult:
    """Train for ``rounds`` rounds, then score the result in one evaluate-only round; or end earlier, by ``patience``.

    A round scores the parameters that it receives and trains them in one exchange. So a run that ends earlier has
    trained once more after its last score; nobody uses these parameters.

    Parameters
    ----------
    algorithm, transport
        The server's computation; the way to the sites.
    shared
        The initial shared parameters.
    folder
        Output folder of ``rounds.jsonl`` and ``checkpoints/``.
    rounds, patience
        The most rounds, and the rounds without a better validation score after which the run ends, see
        :class:`Stopping`.
    aux
        Initial means over the sites of the tensors that they send beside their parameters.
    quorum
        Least number of valid replies in a round; None: all participants. A site that fails is logged and left out
        of the round.
    late_seconds
        Longest time that a round waits for further sites once the quorum has answered; None: as long as the transport.
        It needs a transport that yields :class:`StillWaiting`.
    resume
        Continue from the newest intact checkpoint, with the bits of an uninterrupted run; without a checkpoint, start.
    progress, waiting
        Called after each round; called while a round waits, if the transport yields :class:`StillWaiting`.
    check
        Further check of each update; a refused update counts as no reply.
    maximum_share
        Largest share of one site in the weights of a round, see :func:`federation.methods.weighting.limit_share`.
    secure
        The secure sum of the run, of which every site has the same settings; None: the server gets each update.

    Raises
    ------
    QuorumError
        If too few sites answer.
    DataError
        If ``folder`` holds a run and ``resume`` is not set, or a run of another network or of more rounds; if the
        disk is full.
    """
    stopping = Stopping(rounds, patience, in_turn=algorithm.schedule == "cyclic")
    loop = _Loop(
        algorithm,
        transport,
        Path(folder),
        stopping,
        quorum,
        aux or {},
        check,
        maximum_share=maximum_share,
        late_seconds=late_seconds,
        waiting=waiting,
        secure=None if secure is None else _summed_rounds(secure, transport, Path(folder) / _SECURE),
    )
    return loop.run(shared, resume, progress)


@dataclass(frozen=True)
class _Loop:
    algorithm: FederatedAlgorithm
    transport: Transport
    folder: Path
    stopping: Stopping
    quorum: int | None
    aux: State
    check: Check | None = None
    maximum_share: float = 1.0
    late_seconds: float | None = None
    waiting: Waiting | None = None
    secure: SummedRounds | None = None

    def __post_init__(self) -> None:
        sites = self.transport.sites()
        unsafe = [site for site in sites if not SITE_NAME.fullmatch(site)]
        if unsafe or not sites:
            raise ValueError(f"run_rounds: sites are {sites}, expected names of lower-case letters, digits, - and _")
        least = self.algorithm.rule.minimum_sites()
        count = len(self.algorithm.participants(ServerState(0, {}), sites))
        if count < least:
            rule = type(self.algorithm.rule).__name__
            raise ConfigError(
                f"federation.server_rule: {rule} needs at least {least} sites in a round, found {count}; let more "
                "sites take part, or choose other options or another rule"
            )
        if self.quorum is not None and not 1 <= self.quorum <= len(sites):
            raise ValueError(f"run_rounds: quorum is {self.quorum}, expected 1 to {len(sites)}, the number of sites")

    def run(self, shared: State, resume: bool, progress: Progress | None) -> RunResult:
        """All rounds from the first state on, or from that of the newest checkpoint."""
        state, times = self.begin(shared, resume), []
        while not self.is_finished(state):
            begin = time.perf_counter()
            state, rows = self.step(state)
            seconds, jobs = sum(row["seconds"] for row in rows), self.transport.jobs
            times.append(RoundTime(rows[0]["round"], time.perf_counter() - begin, seconds, jobs))
            if progress is not None:
                progress(rows[0]["round"], self.stopping.rounds, rows)
        return RunResult(state, tuple(times), self.stopping.reason(state.history))

    def begin(self, shared: State, resume: bool) -> ServerState:
        """The first state; drops the rows of rounds that will be run again."""
        checkpoints = self.folder / CHECKPOINTS
        if not resume and saved_rounds(checkpoints):
            raise DataError(f"{self.folder}: holds a run already; resume it with --resume, or choose another folder")
        newest = load_newest(checkpoints, expected=layout(shared), beside=MEMORY_PREFIX)
        if newest is None:
            state = self.algorithm.start(shared, self.aux)
            self._save(state)
        else:
            state = state_of_checkpoint(newest, self.folder)
            if newest.numbers["algorithm"] != self.algorithm.describe():
                raise DataError(f"{self.folder}: holds a run of another algorithm; choose another folder")
            logger.info("resuming at round %d", state.round)
            self._prune(state)
        if state.round > self.stopping.rounds:
            raise DataError(
                f"{self.folder}: the run is at round {state.round}, expected at most {self.stopping.rounds}; set "
                "more rounds or choose another folder"
            )
        if not self.is_finished(state):
            drop_rows(self.folder, state.round)
        return state

    def is_finished(self, state: ServerState) -> bool:
        """Whether the evaluate-only round is complete, or the score has not improved for long enough."""
        return self.stopping.is_over(state.history)

    def step(self, state: ServerState) -> tuple[ServerState, list[Row]]:
        """One round; after the last one, the evaluate-only round. It is complete once its checkpoint is written."""
        evaluate_only = state.round >= self.stopping.rounds
        replies = None
        while replies is None:
            try:
                replies = self._collect(state, evaluate_only)
            except RepeatRound as error:
                logger.warning("round %d: %s", state.round, error)
        reports = list(replies.reports.values())
        if evaluate_only:
            after = self.algorithm.score(state, reports)
        else:
            updates = [report for report in reports if isinstance(report, SiteUpdate)]
            try:
                mean = self._mean(replies, updates)
                after = self.algorithm.aggregate(
                    state,
                    updates,
                    n_sites=len(self.transport.sites()),
                    maximum_share=self.maximum_share,
                    mean=mean,
                )
                check_finite({**after.shared, **after.memory}, "the aggregate")
            except ValueError as error:  # too few sites for the rule, or an aggregate that diverges
                raise QuorumError(f"round {state.round}: {error}") from error
        if self.secure is not None and not evaluate_only:
            replies.add_bytes(self.secure.bytes_beside)
        rows = replies.rows(after.digest)
        append_rows(self.folder, rows)
        self._save(after)
        if replies.incoming.is_dir():
            shutil.rmtree(replies.incoming)
        return after, rows

    def _mean(self, replies: Replies, updates: Sequence[SiteUpdate]) -> Contribution | None:
        """The mean of the updates by a secure sum; None without one."""
        if self.secure is None:
            return None
        broadcast = next(iter(replies.requests.broadcasts.values()))
        mean = self.secure.mean(broadcast, updates)
        if self.check is not None:
            # The bounds of one site, now of the mean: no slices are summed for them.
            self.check(replace(mean, n_samples=max(u.n_samples for u in updates)), broadcast.shared, broadcast.aux)
        return mean

    def _collect(self, state: ServerState, evaluate_only: bool) -> Replies:
        sites = self.algorithm.participants(state, self.transport.sites())
        needed = len(sites) if self.quorum is None else min(self.quorum, len(sites))
        summed = None if evaluate_only else self.secure
        if summed is not None:
            needed = max(needed, summed.least)
        requests = Requests(
            {site: self.algorithm.broadcast(state, site, evaluate_only=evaluate_only) for site in sites}
        )
        incoming, wire = self.folder / _INCOMING, self.algorithm.wire(state)
        replies = Replies(requests, incoming, wire, state.shared, self.check, state.samples, summed)
        enough_since: float | None = None
        exchanged = (
            self.transport.exchange(requests) if summed is None else summed.exchange(requests, state.round, needed)
        )
        with contextlib.closing(exchanged) as exchange:
            for site, reply in exchange:
                if isinstance(reply, StillWaiting):
                    if enough_since is not None and self._is_over(enough_since):
                        break
                    if self.waiting is not None:
                        self.waiting(state.round, replies.missing())
                    continue
                reason = replies.take(site, reply)
                if enough_since is None and len(replies.reports) >= needed:
                    enough_since = time.monotonic()
                if reason is not None:
                    logger.warning("round %d: reply of site %s refused: %s", state.round, site, reason)
                if len(replies.failures) > len(sites) - needed:
                    # The quorum is out of reach, whatever the others reply.
                    break
        silent = replies.missing()
        if len(replies.reports) < needed:
            reasons = [f"site {site}: {reason}" for site, reason in sorted(replies.failures.items())]
            reasons = reasons or [f"no reply of {', '.join(silent)}"]
            full = any(NO_SPACE in reason.lower() for reason in reasons)
            advice = "free space and --resume" if full else "correct the cause and --resume, or allow fewer sites"
            wanted = f"at least {needed} of {len(sites)} sites must answer"
            raise QuorumError(f"round {state.round}: {'; '.join(reasons)} ({wanted}); {advice}")
        for site in silent:
            logger.warning("round %d: no reply of site %s", state.round, site)
        return replies

    def _is_over(self, enough_since: float) -> bool:
        """Whether a round no longer waits for the sites beyond its quorum."""
        return self.late_seconds is not None and time.monotonic() - enough_since > self.late_seconds

    def _save(self, state: ServerState) -> None:
        folder = self.folder / CHECKPOINTS
        numbers = {
            "history": [list(score) for score in state.history],
            "algorithm": self.algorithm.describe(),
            "accepted": dict(sorted(state.accepted.items())),
            "samples": dict(sorted(state.samples.items())),
        }
        save_checkpoint(folder, state.round, {**state.shared, **under(MEMORY_PREFIX, state.memory)}, numbers)
        self._prune(state)

    def _prune(self, state: ServerState) -> None:
        best = [] if state.best is None else [state.best.round]
        prune(self.folder / CHECKPOINTS, [state.round - 1, state.round, *best])


def _summed_rounds(secure: SecureSum, transport: Transport, folder: Path) -> SummedRounds:
    if not secure.masked:
        return SummedRounds(secure, transport)
    from .masked_rounds import MaskedRounds  # needs cryptography, which only the extra `deploy` installs

    return MaskedRounds(secure, transport, folder)
