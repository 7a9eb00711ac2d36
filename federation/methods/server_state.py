"""The server's state between rounds, and its checkpoints."""

from collections.abc import Mapping, Sequence
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
    """Validation score of the parameters at the start of ``round``, as mean over ``n_sites`` sites.

    None if no site could score.
    """

    round: int
    n_sites: int
    mean: float | None


def best_of(history: Sequence[RoundScore]) -> RoundScore | None:
    """The highest score among means over the most sites; of equal scores the earliest. None without scores."""
    scored = [(score.n_sites, score.mean, -score.round, score) for score in history if score.mean is not None]
    return max(scored)[-1] if scored else None


@dataclass(frozen=True, eq=False)
class ServerState:
    """The server's state at the start of ``round``.

    ``shared`` are the parameters to broadcast, ``history`` is one score per scored round, ``memory`` the tensors of the
    server rule and the weighting, ``accepted`` the last round per site in which the server used its reply.
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
        """The best round so far, see :func:`best_of`."""
        return best_of(self.history)


#: Folder of the server's checkpoints in that of a run.
CHECKPOINTS = "checkpoints"
#: Prefix of the server's memory in a checkpoint.
MEMORY_PREFIX = "memory/"
#: Entries of a checkpoint beside its tensors.
_NUMBERS = frozenset({"history", "algorithm", "accepted"})


def selected_state(folder: Path) -> ServerState:
    """State of the round with the best validation score; without scores, or if sites took turns, of the last round.

    Raises
    ------
    DataError
        If ``folder`` holds no run, or the checkpoint is damaged.
    """
    newest = load_newest(folder / CHECKPOINTS)
    if newest is None:
        raise DataError(f"{folder}: no checkpoint found; train first")
    last = state_of_checkpoint(newest, folder)
    # Sites that take turns score in different rounds, which cannot be compared.
    in_turn = newest.numbers["algorithm"]["schedule"] == "cyclic"
    if in_turn or last.best is None or last.best.round == last.round:
        return last
    best = load_checkpoint(folder / CHECKPOINTS, last.best.round)
    return replace(last, round=best.round, shared=state_of_checkpoint(best, folder).shared)


def state_of_checkpoint(checkpoint: Checkpoint, folder: Path) -> ServerState:
    """The server's state from a checkpoint in ``folder``."""
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
