"""A site: loads a broadcast, trains on its own data, keeps its own state on disk, replies."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import nn

from recon import DataError

from .algorithm import derive_seed
from .messages import (
    SITE_NAME,
    Broadcast,
    MessageError,
    SiteReport,
    SiteUpdate,
    State,
    check_finite,
    digest,
    layout,
)
from .scope import load_parameters, parameter_scope, parameters_of
from .store import load_checkpoint, prune, save_checkpoint, saved_rounds

_KEPT, _OPTIMIZER = "kept.", "optimizer."


@dataclass(frozen=True, eq=False)
class LocalResult:
    """What local training returns.

    A loss per step, the optimizer's tensors by any name, and the number of training samples of the site, the
    weight of its update.
    """

    losses: Sequence[float]
    optimizer_state: State
    n_samples: int


class SiteTask(Protocol):
    """The site's data and what is done with them; made for one round, then dropped with all its memory."""

    def network(self) -> nn.Module:
        """A new network, drawn from torch's global generator alone."""

    def train(
        self, network: nn.Module, *, round: int, steps: int, seed: int, optimizer_state: State | None
    ) -> LocalResult:
        """Train in place, all randomness from ``seed``.

        ``optimizer_state`` is that of the site's last result, None where the optimizer starts anew; ``round``
        is for schedules.
        """

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
    keep, share
        Patterns, see :func:`parameter_scope`.
    optimizer_state
        ``"keep"``: the optimizer's moments are part of the kept state. ``"reset"``: each round starts
        without.
    """

    name: str
    task: Callable[[], SiteTask]
    folder: Path
    seed: int
    steps: int
    keep: tuple[str, ...] = ()
    share: tuple[str, ...] = ()
    optimizer_state: Literal["keep", "reset"] = "keep"

    def __post_init__(self) -> None:
        if not SITE_NAME.fullmatch(self.name):
            raise ValueError(f"SiteSpec: name is {self.name!r}, expected lower-case letters, digits, - and _")
        if self.optimizer_state not in ("keep", "reset"):
            raise ValueError(f"SiteSpec: optimizer_state is {self.optimizer_state!r}, expected 'keep' or 'reset'")
        if self.steps < 1:
            raise ValueError(f"SiteSpec: steps is {self.steps}, expected at least 1")

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

    Its kept state is versioned, and round r starts from version r or the newest before it, so a round that is
    run again gives the same bits. On disk are the versions that the server may still ask for: of this round
    and the one before (a server whose newest checkpoint is damaged goes back one), of the best round, and of
    the next.
    """

    def __init__(self, spec: SiteSpec) -> None:
        self.spec = spec
        self.task = spec.task()
        self.network = initial_network(self.task.network, spec.seed)
        self.scope = parameter_scope(self.network, spec.keep, spec.share)
        self._initial = parameters_of(self.network, self.scope.kept)

    def handle(self, request: bytes) -> bytes:
        """Answer a packed :class:`Broadcast`; the one door for every transport.

        Raises
        ------
        MessageError
            If the request is not what the scope allows.
        DataError
            If the kept state cannot be read or written, or training diverges.
        """
        expected = layout(parameters_of(self.network, self.scope.shared))
        broadcast = Broadcast.from_bytes(request, site=self.spec.name, expected=expected)
        reply = self.evaluate(broadcast) if broadcast.evaluate_only else self.train_round(broadcast)
        return reply.to_bytes()

    def train_round(self, broadcast: Broadcast) -> SiteUpdate:
        """Load the broadcast, validate, train, validate again, save the kept state for the next round."""
        name, round_ = self.spec.name, broadcast.round
        self._prepare(broadcast)
        optimizer_state = self._load_kept(round_)
        loaded = self._load_shared(broadcast)
        seed = derive_seed(self.spec.seed, round_, name)
        started = time.perf_counter()
        score_before = self.task.validate(self.network)
        with torch.random.fork_rng(devices=[]):
            # For layers that draw from the global generator, such as dropout.
            torch.manual_seed(seed)
            result = self.task.train(
                self.network,
                round=round_,
                steps=self.spec.steps,
                seed=seed,
                optimizer_state=optimizer_state or None,
            )
        shared, kept = (parameters_of(self.network, names) for names in (self.scope.shared, self.scope.kept))
        check_finite(shared, f"site {name}: after training in round {round_}")
        score_after = self.task.validate(self.network)
        seconds = time.perf_counter() - started
        update = SiteUpdate(
            round=round_,
            site=name,
            shared=shared,
            n_samples=result.n_samples,
            loaded_digest=loaded,
            kept_digest=digest(kept),
            score_before=score_before,
            score_after=score_after,
            loss=sum(result.losses) / len(result.losses) if result.losses else None,
            seconds=round(seconds, 3),
        )
        # Last: a round that failed leaves no trace.
        self._save_kept(round_ + 1, kept, result.optimizer_state)
        return update

    def evaluate(self, broadcast: Broadcast) -> SiteReport:
        """Score the broadcast parameters with the site's kept ones of that round; changes nothing on disk."""
        self._load_kept(broadcast.round)
        loaded = self._load_shared(broadcast)
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
        self._load_kept(round)
        load_parameters(self.network, shared)
        return copy.deepcopy(self.network)

    def _load_shared(self, broadcast: Broadcast) -> str:
        load_parameters(self.network, broadcast.shared)
        self.network.zero_grad(set_to_none=True)
        loaded = digest(parameters_of(self.network, self.scope.shared))
        if loaded != broadcast.digest:
            raise MessageError(
                f"site {self.spec.name}: the loaded shared parameters have digest {loaded[:12]}, expected "
                f"{broadcast.digest[:12]}, that of the broadcast"
            )
        return loaded

    def _prepare(self, broadcast: Broadcast) -> None:
        """Save a first version at a new site; drop the versions that no broadcast will ask for any more."""
        folder = self.spec.folder
        versions = saved_rounds(folder)
        if not versions:
            self._save_kept(0, self._initial, {})
            return
        # Versions newer than the round are of a history that the server has abandoned.
        wanted = (broadcast.round - 1, broadcast.round, broadcast.best_round)
        newest = (_newest(versions, version) for version in wanted if version is not None)
        prune(folder, [version for version in newest if version is not None])

    def _load_kept(self, round: int) -> State:
        """Load the newest version up to ``round``, the initial one at a new site; return the moments."""
        folder, name = self.spec.folder, self.spec.name
        versions = saved_rounds(folder)
        if not versions:
            load_parameters(self.network, self._initial)
            return {}
        newest = _newest(versions, round)
        if newest is None:
            raise DataError(
                f"{folder}: kept state of site {name} starts at round {versions[0]}, expected one for round "
                f"{round}; resume the run that it belongs to, or give the site an empty folder"
            )
        checkpoint = load_checkpoint(folder, newest)
        kept, optimizer_state = (_below(prefix, checkpoint.tensors) for prefix in (_KEPT, _OPTIMIZER))
        if checkpoint.numbers != self._numbers() or layout(kept) != layout(self._initial):
            raise DataError(
                f"{folder}: kept state of site {name} is of another run (seed, site, network or scope "
                "differ); give the site an empty folder"
            )
        load_parameters(self.network, kept)
        return optimizer_state

    def _save_kept(self, version: int, kept: State, optimizer_state: State) -> None:
        tensors = {_KEPT + name: tensor for name, tensor in kept.items()}
        if self.spec.optimizer_state == "keep":
            tensors |= {_OPTIMIZER + name: tensor for name, tensor in optimizer_state.items()}
        save_checkpoint(self.spec.folder, version, tensors, self._numbers())

    def _numbers(self) -> dict[str, str | int]:
        """What ties a kept state to its run."""
        return {"seed": self.spec.seed, "site": self.spec.name, "initial": digest(self._initial)}


def _below(prefix: str, tensors: State) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _newest(versions: Sequence[int], at_most: int) -> int | None:
    return max((version for version in versions if version <= at_most), default=None)
