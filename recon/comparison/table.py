"""The comparison of arms, one per modality and table: every arm against those of reference."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .claims import seeds_needed
from .scores import METRICS, ArmSummary, ScoreRow, site_roles, summarize_arm, tables_of
from .statistics import Interval, holm, paired_difference

#: What may be known of an arm. ``chosen`` maps knobs to the values that tuning chose, ``label`` says what the arm is
#: there to test, ``flags`` are warnings beside its name (a gain in PSNR with MTF or contrast lost).
FACTS = (
    "label",
    "flags",
    "parameters_shared",
    "parameters_kept",
    "bytes_up",
    "bytes_down",
    "bytes_base",
    "seconds",
    "peak_memory_mb",
    "least_steps",
    "steps",
    "trials",
    "chosen",
)
#: Adjusted p-values below it are marked.
LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """An arm less another, and its p-value adjusted for how many arms are compared with that one.

    An arm with fewer seeds than its difference takes counts, with a p-value of 1: with one seed the interval's own
    says nothing of training, and must not ease the correction for the others.
    """

    interval: Interval
    p_holm: float

    @property
    def marked(self) -> bool:
        """Whether the difference is told from zero."""
        return self.p_holm < LEVEL


@dataclass(frozen=True)
class ArmEntry:
    """One row of the table; ``means`` holds the other metrics' means over the sites that took part."""

    arm: str
    psnr: ArmSummary
    means: Mapping[str, float]
    differences: Mapping[str, Difference]
    facts: Mapping[str, Any]

    @property
    def bytes(self) -> int | None:
        """Bytes up, down and of a base that was trained before, once; None where nothing is known."""
        parts = [self.facts.get(name) for name in ("bytes_up", "bytes_down", "bytes_base")]
        return None if all(part is None for part in parts) else sum(int(part) for part in parts if part is not None)


@dataclass(frozen=True)
class Comparison:
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
    facts: Mapping[str, Mapping[str, Any]],
    metric_card: Mapping[str, Any],
    *,
    against: Sequence[str] = ("fedavg", "local"),
    draws: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare every arm of one table with those of ``against``.

    Parameters
    ----------
    rows
        Scores of one modality and table.
    facts
        Per arm what is known of it, keys of ``FACTS``; arms stand in this order, those without facts after them.
    metric_card
        How the scores were computed; printed with the table.
    against
        Arms that the others are compared with; the chart shows the first.
    draws, seed
        As for :func:`recon.comparison.statistics.paired_difference`.

    Raises
    ------
    ValueError
        If rows are of several tables, a pair is missing, an arm has facts but no scores, or a fact is unknown.
    """
    listed = list(rows)
    if len(tables := tables_of(listed)) != 1:
        raise ValueError(f"compare: rows are of the tables {tables}, expected one table; select_table picks it")
    by_arm: dict[str, list[ScoreRow]] = {arm: [] for arm in facts}
    for row in listed:
        by_arm.setdefault(row.arm, []).append(row)
    if idle := [arm for arm in dict.fromkeys((*facts, *against)) if not by_arm.get(arm)]:
        raise ValueError(f"compare: arms {idle} have no scores in {tables[0]}; evaluate them or leave them out")
    for arm, known in facts.items():
        if unknown := sorted(set(known) - set(FACTS)):
            raise ValueError(f"compare: facts of {arm} hold {unknown}, expected among {list(FACTS)}")
    took_part, unseen = site_roles(listed)
    intervals = {
        reference: {
            arm: paired_difference([*own, *by_arm[reference]], arm, reference, sites=took_part, draws=draws, seed=seed)
            for arm, own in by_arm.items()
            if arm != reference
        }
        for reference in against
    }
    adjusted = {
        reference: holm({arm: each.p_value if each.seeds >= seeds_needed(each) else 1.0 for arm, each in found.items()})
        for reference, found in intervals.items()
    }
    entries = []
    for arm, own in by_arm.items():
        # Foreground SSIM is optional; a mean over some of the volumes would not be comparable.
        complete = [name for name in METRICS if all(getattr(row, name) is not None for row in own)]
        means = {name: summarize_arm(own, arm, name).mean for name in complete if name != "psnr"}
        differences = {
            reference: Difference(intervals[reference][arm], adjusted[reference][arm])
            for reference in against
            if reference != arm
        }
        entries.append(ArmEntry(arm, summarize_arm(own, arm), means, differences, dict(facts.get(arm, {}))))
    subjects = len({(row.site, row.volume) for row in listed if not row.unseen})
    return Comparison(*tables[0], dict(metric_card), tuple(against), took_part, unseen, subjects, tuple(entries))


def check_tables(comparisons: Sequence[Comparison]) -> None:
    """Refuse to write no table, or one table twice."""
    names = [(each.modality, each.table) for each in comparisons]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"comparison: the tables are {names}, expected at least one, each once")
