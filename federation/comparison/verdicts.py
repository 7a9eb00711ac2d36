"""Verdicts on the hypotheses: every claim whose arms have run, judged from scores alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recon import MIN_SEEDS, Aim, Hypothesis, Interval, ScoreRow, paired_difference, seeds_needed, select_table

from .hypotheses import BEST_FEDERATED, BEST_PERSONAL, CLAIMS, Claim


def judge(rows: Sequence[ScoreRow], beside: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Verdicts by hypothesis and modality, on every claim whose arms have run.

    Parameters
    ----------
    rows
        Scores of all tables.
    beside
        By ``modality/table``: the arms that are best on validation data, and bytes by arm.
    """
    found: dict[str, dict[str, Any]] = {}
    for pair in _pairs(rows, beside):
        sizes = beside[f"{pair.modality}/{pair.claim.table}"]["bytes"]
        found.setdefault(pair.claim.key, {})[pair.modality] = _judged(pair, sizes)
    for family in {claim.one_sign for claim in CLAIMS if claim.one_sign}:
        _require_one_sign(found, [claim.key for claim in CLAIMS if claim.one_sign == family])
    return found


def short_of_seeds(
    rows: Sequence[ScoreRow], beside: Mapping[str, Mapping[str, Any]]
) -> dict[tuple[str, str], set[str]]:
    """Arms by modality and table of claims whose difference has too few seeds for its size."""
    short: dict[tuple[str, str], set[str]] = {}
    for pair in _pairs(rows, beside):
        needed = seeds_needed(pair.interval)
        if pair.claim.aim != Aim.none() and pair.interval.seeds < needed and needed > MIN_SEEDS:
            short.setdefault((pair.modality, pair.claim.table), set()).update((pair.arm, pair.reference))
    return short


@dataclass(frozen=True)
class _Pair:
    """A claim in one modality: the arms that it compares, and their difference."""

    claim: Claim
    modality: str
    arm: str
    reference: str
    interval: Interval


def _pairs(rows: Sequence[ScoreRow], beside: Mapping[str, Mapping[str, Any]]) -> Iterator[_Pair]:
    """Every claim whose arms have run."""
    for claim in CLAIMS:
        for modality in claim.modalities:
            known = beside.get(f"{modality}/{claim.table}", {})
            arm, reference = (known.get(name, name) for name in (claim.arm, claim.reference))
            table = _common(select_table(rows, modality, claim.table), arm, reference)
            if table:
                sites = sorted({row.site for row in table if row.unseen}) if claim.unseen else None
                yield _Pair(claim, modality, arm, reference, paired_difference(table, arm, reference, sites=sites))


def _common(table: Sequence[ScoreRow], *arms: str) -> list[ScoreRow]:
    """Rows of these arms with the seeds that all of them have."""
    seeds = set.intersection(*({row.seed for row in table if row.arm == arm} for arm in arms))
    return [row for row in table if row.arm in arms and row.seed in seeds]


def _judged(pair: _Pair, sizes: Mapping[str, int]) -> dict[str, Any]:
    claim = pair.claim
    decided = {claim.arm, claim.reference} & {BEST_PERSONAL, BEST_FEDERATED}
    entry = Hypothesis(claim.aim, pair.interval, f"{pair.arm} less {pair.reference}" if decided else "").to_json()
    if claim.bytes_below is not None:
        part = sizes[pair.arm] / sizes[pair.reference]
        entry["bytes"] = round(part, 4)
        if part >= claim.bytes_below:
            _add_note(entry, f"{part:.1%} of the bytes, expected below {claim.bytes_below:.0%}")
            entry["verdict"] = "fails" if entry["verdict"] == "holds" else entry["verdict"]
    return entry


def _require_one_sign(found: Mapping[str, dict[str, dict[str, Any]]], keys: Sequence[str]) -> None:
    """Make a claim of a family undecided unless all of the family have run and agree in sign."""
    for modality in {modality for key in keys for modality in found.get(key, {})}:
        entries = [found[key][modality] for key in keys if modality in found.get(key, {})]
        if len(entries) == len(keys) and len({entry["found"] > 0 for entry in entries}) == 1:
            continue
        why = "the sign is not the same" if len(entries) == len(keys) else "not all were run"
        for entry in entries:
            _add_note(entry, f"over {', '.join(keys)}: {why}")
            entry["verdict"] = "undecided" if entry["verdict"] == "holds" else entry["verdict"]


def _add_note(entry: dict[str, Any], text: str) -> None:
    entry["note"] = f"{entry['note']}; {text}" if "note" in entry else text
