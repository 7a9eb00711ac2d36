"""Verdicts on the hypotheses: every claim whose arms have run, judged from scores alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recon import MIN_SEEDS, Aim, Hypothesis, Interval, ScoreRow, paired_difference, seeds_needed, select_table

from .hypotheses import BEST_FEDERATED, BEST_PERSONAL, CLAIMS, Claim


def judge(
    rows: Sequence[ScoreRow], beside: Mapping[str, Mapping[str, Any]], claims: Sequence[Claim] = CLAIMS
) -> dict[str, dict[str, Any]]:
    """Verdicts by hypothesis and modality, on every claim whose arms have run.

    Parameters
    ----------
    rows
        Scores of all tables.
    beside
        By ``modality/table``: the arms that are best on validation data, and bytes by arm.
    claims
        Claims of the preset.
    """
    found: dict[str, dict[str, Any]] = {}
    for pair in _pairs(rows, beside, claims):
        sizes = beside[f"{pair.modality}/{pair.claim.table}"]["bytes"]
        found.setdefault(pair.claim.key, {})[pair.modality] = _judged(pair, sizes)
    for family in {claim.one_sign for claim in claims if claim.one_sign}:
        _require_one_sign(found, [claim.key for claim in claims if claim.one_sign == family])
    return found


def short_of_seeds(
    rows: Sequence[ScoreRow], beside: Mapping[str, Mapping[str, Any]], claims: Sequence[Claim] = CLAIMS
) -> dict[tuple[str, str], set[str]]:
    """Arms by modality and table of claims whose difference has too few seeds for its size."""
    short: dict[tuple[str, str], set[str]] = {}
    for pair in _pairs(rows, beside, claims):
        needed = max(map(seeds_needed, pair.intervals.values()))
        if pair.claim.aim != Aim.none() and pair.seeds < needed and needed > MIN_SEEDS:
            short.setdefault((pair.modality, pair.claim.table), set()).update((pair.arm, pair.reference))
    return short


@dataclass(frozen=True)
class _Pair:
    """A claim in one modality: the arms that it compares, and their difference; by site if it is about every site."""

    claim: Claim
    modality: str
    arm: str
    reference: str
    intervals: Mapping[str, Interval]

    @property
    def seeds(self) -> int:
        return next(iter(self.intervals.values())).seeds


def _pairs(
    rows: Sequence[ScoreRow], beside: Mapping[str, Mapping[str, Any]], claims: Sequence[Claim]
) -> Iterator[_Pair]:
    """Every claim whose arms have run."""
    for claim in claims:
        for modality in claim.modalities:
            known = beside.get(f"{modality}/{claim.table}", {})
            arm, reference = (known.get(name, name) for name in (claim.arm, claim.reference))
            table = _common(select_table(rows, modality, claim.table), arm, reference)
            if table:
                yield _Pair(claim, modality, arm, reference, _intervals(claim, table, arm, reference))


def _intervals(claim: Claim, table: Sequence[ScoreRow], arm: str, reference: str) -> dict[str, Interval]:
    """The interval of a claim, by site if it is about every site."""
    if claim.every_site:
        sites = sorted({row.site for row in table if not row.unseen})
        return {site: paired_difference(table, arm, reference, sites=[site]) for site in sites}
    if claim.between is not None:
        return {"": _between(claim.between, table, arm, reference)}
    unseen = sorted({row.site for row in table if row.unseen}) if claim.unseen else None
    return {"": paired_difference(table, arm, reference, sites=unseen)}


def _between(sites: tuple[str, str], table: Sequence[ScoreRow], arm: str, reference: str) -> Interval:
    """The difference at the first site less the difference at the second.

    At the second site the arms change names, and all scores count twice: the mean over both sites, which
    :func:`paired_difference` resamples, is then this number.
    """
    first, second = sites
    other = {arm: reference, reference: arm}
    rows = [
        replace(row, psnr=2 * row.psnr, arm=other[row.arm] if row.site == second else row.arm)
        for row in table
        if row.site in (first, second)
    ]
    return paired_difference(rows, arm, reference, sites=sites)


def _common(table: Sequence[ScoreRow], *arms: str) -> list[ScoreRow]:
    """Rows of these arms with the seeds that all of them have."""
    seeds = set.intersection(*({row.seed for row in table if row.arm == arm} for arm in arms))
    return [row for row in table if row.arm in arms and row.seed in seeds]


def _judged(pair: _Pair, sizes: Mapping[str, int]) -> dict[str, Any]:
    claim = pair.claim
    decided = {claim.arm, claim.reference} & {BEST_PERSONAL, BEST_FEDERATED}
    note = f"{pair.arm} less {pair.reference}" if decided else ""
    entries = {
        site: Hypothesis(
            claim.aim, interval, f"least of {len(pair.intervals)} sites: {site}" if site else note
        ).to_json()
        for site, interval in pair.intervals.items()
    }
    entry = min(entries.values(), key=lambda each: float(each["found"]))
    # A claim about every site is not better than at any of them.
    verdicts = {site: each["verdict"] for site, each in entries.items()}
    worst = next((verdict for verdict in ("fails", "undecided") if verdict in verdicts.values()), "holds")
    if worst != entry["verdict"]:
        _add_note(entry, f"{worst} at {', '.join(site for site in verdicts if verdicts[site] == worst)}")
        entry["verdict"] = worst
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
