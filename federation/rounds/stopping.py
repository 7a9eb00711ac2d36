"""When training ends: after the last round, or earlier where the validation score no longer improves."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..methods import RoundScore, best_of


@dataclass(frozen=True)
class Stopping:
    """The rule by which training ends, the same in the federation, at one site alone and with all data in one place.

    A round improves if it is better than every earlier one, see :func:`federation.methods.best_of`. Only rounds that
    as many sites scored as the best one, or more, are counted: a mean over fewer sites cannot be compared with it.
    Without scores, training makes all rounds.

    Parameters
    ----------
    rounds
        The most rounds.
    patience
        Training ends after this many rounds without improvement; None: after ``rounds``.
    in_turn
        Sites take turns, so the scores of two rounds are of different sites: no patience, and the last round counts.
    """

    rounds: int
    patience: int | None = None
    in_turn: bool = False

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"Stopping: rounds is {self.rounds}, expected at least 1")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"Stopping: patience is {self.patience}, expected at least 1, or None")
        if self.patience is not None and self.in_turn:
            raise ValueError(f"Stopping: patience is {self.patience} where sites take turns, expected None")

    def is_over(self, history: Sequence[RoundScore]) -> bool:
        """Whether training ends after the rounds in ``history``, sorted by round.

        A pure function of the stored scores, so a resumed run decides as one that was never interrupted.
        """
        if not history:
            return False
        waited = _rounds_since_best(history)
        return history[-1].round >= self.rounds or (self.patience is not None and waited >= self.patience)

    def reason(self, history: Sequence[RoundScore]) -> str:
        """Why training that is over has ended, and its best round, on one line."""
        best = best_of(history)
        if best is None:
            return f"all {_count(self.rounds)}; the last one counts, without validation scores"
        if self.in_turn:
            return f"all {_count(self.rounds)}; the last one counts, as sites take turns"
        made_all = history[-1].round >= self.rounds
        why = f"all {_count(self.rounds)}" if made_all else f"no improvement for {_count(_rounds_since_best(history))}"
        return f"{why}; best round {best.round}"


def _rounds_since_best(history: Sequence[RoundScore]) -> int:
    best = best_of(history)
    if best is None:
        return 0
    return sum(score.round > best.round and score.n_sites >= best.n_sites for score in history)


def _count(rounds: int) -> str:
    return f"{rounds} round" + ("" if rounds == 1 else "s")
