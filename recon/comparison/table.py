"""Comparison of the arms of one modality and table: every arm against the reference arms."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ..report.learning_curve import LearningCurve
from .claims import seeds_needed
from .scores import ROW_METRICS, ArmSummary, ScoreRow, site_roles, summarize_arm, tables_of
from .statistics import DRAWS, Interval, holm, paired_difference

#: Adjusted p-values below this level are marked.
LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """An arm less a reference arm, and the p-value adjusted for the number of arms compared with it.

    ``p_holm`` is None for an arm with too few seeds for its difference. It still counts, with a p-value of 1: with one
    seed the p-value of the interval ignores the spread of training, and must not relax the correction of the others.
    """

    interval: Interval
    p_holm: float | None

    @property
    def marked(self) -> bool:
        """Whether the difference is significant."""
        return self.p_holm is not None and self.p_holm < LEVEL


@dataclass(frozen=True)
class ArmDetails:
    """Cost, tuning and warnings of an arm, printed beside its scores. None: unknown, or absent in classical methods."""

    chosen: Mapping[str, Any] = field(default_factory=dict)  # values that tuning chose, by name
    parameters_shared: int | None = None
    parameters_kept: int | None = None
    bytes_up: int | None = None
    bytes_down: int | None = None
    bytes_base: int | None = None  # of a frozen base that was trained before, sent once
    least_steps: int | None = None  # optimizer steps of the site with the fewest
    steps: int | None = None  # of the site with the most
    selected_steps: int | None = None  # the same up to the selected round
    trials: int | None = None
    seconds: float | None = None
    peak_memory_mb: float | None = None
    label: str = ""  # purpose of the arm
    flags: tuple[str, ...] = ()  # warnings, such as a gain in PSNR with sharpness or contrast lost
    curves: tuple[LearningCurve, ...] = ()

    @property
    def bytes(self) -> int | None:
        """Bytes up, down and of the base; None if all are unknown."""
        parts = (self.bytes_up, self.bytes_down, self.bytes_base)
        return None if all(part is None for part in parts) else sum(part for part in parts if part is not None)

    def to_json(self) -> dict[str, Any]:
        """Known values by name."""
        known = {each.name: getattr(self, each.name) for each in fields(self)}
        known["curves"] = [curve.to_json() for curve in self.curves] or None
        return {name: value for name, value in known.items() if value not in (None, "", (), {})}


@dataclass(frozen=True)
class ArmEntry:
    """One row of the table; ``means`` holds means of the other metrics over the sites that took part."""

    arm: str
    psnr: ArmSummary
    means: Mapping[str, float]
    differences: Mapping[str, Difference]
    details: ArmDetails


@dataclass(frozen=True)
class ComparedTable:
    """One modality and one table: its metric card, its sites, and a row per arm."""

    modality: str
    table: str
    metric_card: Mapping[str, Any]
    against: tuple[str, ...]
    sites: tuple[str, ...]
    unseen: tuple[str, ...]
    subjects: int
    arms: tuple[ArmEntry, ...]


def compare(
    rows: Iterable[ScoreRow],
    details: Mapping[str, ArmDetails],
    metric_card: Mapping[str, Any],
    *,
    against: Sequence[str] = ("fedavg", "local"),
    draws: int = DRAWS,
) -> ComparedTable:
    """Compare every arm of one table with the arms ``against``.

    Parameters
    ----------
    rows
        Scores of one modality and table.
    details
        By arm. Arms have this order; those without details come last.
    metric_card
        How the scores were computed; printed with the table.
    against
        Reference arms of the differences; the chart shows the first.
    draws
        Number of bootstrap draws of every difference, see :func:`paired_difference`.

    Raises
    ------
    ValueError
        If rows belong to several tables, a pair is missing, an arm has details but no scores, or there are no draws.
    """
    listed = list(rows)
    if len(tables := tables_of(listed)) != 1:
        raise ValueError(f"compare: rows are of the tables {tables}, expected one table; select_table picks it")
    by_arm: dict[str, list[ScoreRow]] = {arm: [] for arm in details}
    for row in listed:
        by_arm.setdefault(row.arm, []).append(row)
    if idle := [arm for arm in dict.fromkeys((*details, *against)) if not by_arm.get(arm)]:
        raise ValueError(f"compare: arms {idle} have no scores in {tables[0]}; evaluate them or leave them out")
    took_part, unseen = site_roles(listed)
    differences = {reference: _differences(by_arm, reference, took_part, draws) for reference in against}
    entries = []
    for arm, own in by_arm.items():
        # Foreground SSIM is optional; a mean over some of the volumes would not be comparable.
        complete = [name for name in ROW_METRICS if all(getattr(row, name) is not None for row in own)]
        means = {name: summarize_arm(own, arm, name).mean for name in complete if name != "psnr"}
        known = {reference: differences[reference][arm] for reference in against if reference != arm}
        entries.append(ArmEntry(arm, summarize_arm(own, arm), means, known, details.get(arm, ArmDetails())))
    subjects = len({(row.site, row.volume) for row in listed if not row.unseen})
    return ComparedTable(*tables[0], dict(metric_card), tuple(against), took_part, unseen, subjects, tuple(entries))


def _differences(
    by_arm: Mapping[str, Sequence[ScoreRow]], reference: str, sites: Sequence[str], draws: int
) -> dict[str, Difference]:
    """Difference of every other arm to the reference; too few seeds count with a p-value of 1."""
    intervals = {
        arm: paired_difference([*own, *by_arm[reference]], arm, reference, sites=sites, draws=draws)
        for arm, own in by_arm.items()
        if arm != reference
    }
    enough = {arm: each.seeds >= seeds_needed(each) for arm, each in intervals.items()}
    adjusted = holm({arm: each.p_value if enough[arm] else 1.0 for arm, each in intervals.items()})
    return {arm: Difference(each, adjusted[arm] if enough[arm] else None) for arm, each in intervals.items()}


def check_tables(comparisons: Sequence[ComparedTable]) -> None:
    """Refuse to write no table, or the same table twice."""
    names = [(each.modality, each.table) for each in comparisons]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"comparison: the tables are {names}, expected at least one, each once")
