"""The state of the server between rounds, and how a checkpoint holds it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from recon import DataError

from ..serialization import (
    Checkpoint,
    State,
    below,
    digest,
    load_checkpoint,
    load_newest,
)


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

    ``shared`` is what it broadcasts in that round, ``history`` one score per scored round, ``memory`` what its rules
    remember, ``accepted`` the last round in which the reply of each site counted.
    """

    round: int
    shared: State
    history: tuple[RoundScore, ...] = ()
    memory: State = field(default_factory=dict)
    accepted: Mapping[str, int] = field(default_factory=dict)

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


CHECKPOINTS = "checkpoints"


#: Before the names of the server's memory in a checkpoint.
MEMORY_PREFIX = "memory/"


#: What a checkpoint holds beside tensors.
_NUMBERS = frozenset({"history", "algorithm", "accepted"})


def selected_state(folder: Path) -> ServerState:
    """The state of the round with the best validation score; the last one where none could score or sites took turns.

    Raises
    ------
    DataError
        If there is no run in ``folder``, or the checkpoint is damaged.
    """
    newest = load_newest(folder / CHECKPOINTS)
    if newest is None:
        raise DataError(f"{folder}: no checkpoint found; train first")
    last = state_of_checkpoint(newest, folder)
    # Where sites take turns their scores cannot be compared.
    in_turn = newest.numbers["algorithm"]["schedule"] == "cyclic"
    if in_turn or last.best is None or last.best.round == last.round:
        return last
    best = load_checkpoint(folder / CHECKPOINTS, last.best.round)
    return replace(last, round=best.round, shared=state_of_checkpoint(best, folder).shared)


def state_of_checkpoint(checkpoint: Checkpoint, folder: Path) -> ServerState:
    missing = _NUMBERS - checkpoint.numbers.keys()
    if missing:
        raise DataError(
            f"{folder}: the checkpoint of round {checkpoint.round} has no {', '.join(sorted(missing))}, "
            "it is of another version of fedrecon; use that version, or train anew in another folder"
        )
    history = tuple(RoundScore(*score) for score in checkpoint.numbers["history"])
    memory = below(MEMORY_PREFIX, checkpoint.tensors)
    shared = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.startswith(MEMORY_PREFIX)}
    return ServerState(checkpoint.round, shared, history, memory, dict(checkpoint.numbers["accepted"]))
