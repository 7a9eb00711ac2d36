"""Learning curves: the validation score of a training by round, its selected round, and its regime."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .charts import Series

#: Name of the curve of a training at all sites.
MEAN_OF_SITES = "mean of the sites"
#: Columns of the table of the regime; the first names a training.
COLUMNS = ("training", "training slices", "rounds", "selected", "steps at the selected round", "parameters", "ended")


@dataclass(frozen=True)
class LearningCurve:
    """One training of an arm.

    Parameters
    ----------
    name
        The site that trains alone, or :data:`MEAN_OF_SITES`.
    scores
        Pairs of round and validation score of the parameters before it; None: not scored.
    selected
        Round whose parameters are evaluated.
    steps
        Optimizer steps up to the selected round, of the site with the most.
    ended
        Why training ended.
    slices
        Training slices by site.
    parameters
        Parameters of the network that train, at the site with the most.
    """

    name: str
    scores: Sequence[tuple[int, float | None]]
    selected: int
    steps: int
    ended: str
    slices: Mapping[str, int]
    parameters: int

    def to_json(self) -> dict[str, Any]:
        """All fields by name; ``LearningCurve(**fields)`` reads them."""
        return asdict(self) | {"scores": [list(pair) for pair in self.scores]}

    @property
    def rounds(self) -> int:
        """Rounds that were scored after the initial parameters."""
        return max((round_ for round_, _ in self.scores), default=0)

    def series(self, style: int, name: str = "") -> Series:
        """The curve as a line of a chart, with its selected round marked."""
        points = [(float(round_), float(score)) for round_, score in self.scores if score is not None]
        return Series(name or self.name, points, style, chosen=float(self.selected))


def curves_by_arm(results: Mapping[str, Any]) -> dict[str, list[LearningCurve]]:
    """Learning curves in the results of a run, by arm."""
    training: Mapping[str, Sequence[Mapping[str, Any]]] = results.get("training", {})
    return {arm: [LearningCurve(**entry) for entry in entries] for arm, entries in training.items()}


def regime_rows(curves: Mapping[str, Iterable[LearningCurve]]) -> list[tuple[str, tuple[str, ...]]]:
    """Rows of the table of the regime: name of the training, and a cell for each further column."""
    rows = []
    for arm, trainings in curves.items():
        for curve in trainings:
            cells = (slices_text(curve.slices), *map(_whole, (curve.rounds, curve.selected, curve.steps)))
            name = arm if curve.name == MEAN_OF_SITES else f"{arm}, {curve.name}"
            rows.append((name, (*cells, _whole(curve.parameters), curve.ended)))
    return rows


def slices_text(slices: Mapping[str, int]) -> str:
    """Training slices per site, in few words where all have as many."""
    counts = sorted(set(slices.values()))
    if len(counts) == 1 and len(slices) > 1:
        return f"{_whole(counts[0])} at each of {len(slices)} sites"
    if len(slices) == 1:
        return _whole(counts[0])
    return ", ".join(f"{site} {_whole(count)}" for site, count in slices.items())


def _whole(count: int) -> str:
    return f"{count:,}".replace(",", "\N{NARROW NO-BREAK SPACE}") if count >= 10_000 else str(count)
