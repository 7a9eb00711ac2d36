"""The server's state between rounds, and its checkpoints."""

import statistics
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
from .weighting import decibels

#: A round whose median change over the sites is larger, in dB, is better or worse whatever the mean says.
CLEAR_CHANGE = 0.5


class RoundScore(NamedTuple):
    """Validation score of the parameters at the start of ``round``, as mean over ``n_sites`` sites.

    None if no site could score. ``scores`` are those of the sites, None if they are not known.
    """

    round: int
    n_sites: int
    mean: float | None
    scores: Mapping[str, float] | None = None


def best_of(history: Sequence[RoundScore]) -> RoundScore | None:
    """The round with the best validation score; of equal ones the earliest. None without scores.

    A round takes the place of the best one before it if its mean is higher, over as many sites, or if it is over more
    sites. But one site could state any score, or none, and so move the mean: where the median over the sites of the
    change, in dB, is above :data:`CLEAR_CHANGE`, the median decides. So with three sites or more a site that lies
    cannot choose a round that is clearly worse for the others. It decides between two rounds only where their medians
    are that close, as the mean does in a federation without lies.
    """
    best = None
    for score in sorted(history, key=lambda score: score.round):
        if score.mean is not None and (best is None or _is_better(score, best)):
            best = score
    return best


def _is_better(new: RoundScore, best: RoundScore) -> bool:
    change = _median_change(best.scores or {}, new.scores or {})
    if change is not None and abs(change) > CLEAR_CHANGE:
        return change > 0
    assert new.mean is not None and best.mean is not None
    return (new.n_sites, new.mean) > (best.n_sites, best.mean)


def _median_change(before: Mapping[str, float], after: Mapping[str, float]) -> float | None:
    """Median change in dB over the sites; None for fewer than three, or if not most of them scored in both rounds."""
    fewer, more = sorted((before, after), key=len)
    common = fewer.keys() & more.keys()
    if len(more) < 3 or len(common) < len(fewer) or 2 * len(common) <= len(more):
        return None
    return statistics.median(decibels(after[site]) - decibels(before[site]) for site in common)


@dataclass(frozen=True, eq=False)
class ServerState:
    """The server's state at the start of ``round``.

    ``shared`` are the parameters to broadcast, ``history`` is one score per scored round, ``memory`` the tensors of the
    server rule and the weighting, ``accepted`` the last round per site in which the server used its reply, ``samples``
    the number of training samples in a site's first update, which it must repeat.
    """

    round: int
    shared: State
    history: tuple[RoundScore, ...] = ()
    memory: State = field(default_factory=dict)
    accepted: Mapping[str, int] = field(default_factory=dict)
    samples: Mapping[str, int] = field(default_factory=dict)

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
    accepted, samples = checkpoint.numbers["accepted"], checkpoint.numbers.get("samples", {})
    return ServerState(checkpoint.round, shared, history, memory, dict(accepted), dict(samples))
