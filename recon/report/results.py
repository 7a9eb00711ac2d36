"""Results of a run for the report: means over sites, best scores, and the part that may leave the sites."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation import METRICS

Results = Mapping[str, Any]

#: Keys of the results that become report.json.
PUBLISHED = ("metric_card", "arms", "bytes", "seconds", "versions", "method", "sites", "claims", "recipe", "training",
             "quality", "error_bars", "task", "privacy", "unlearning")  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """Scores of one arm in one row, the names of those that are best in the row, differences to the method."""

    scores: Mapping[str, float]
    best: frozenset[str]
    difference: Mapping[str, float]


@dataclass(frozen=True)
class Row:
    """One row of the table, cells in the order of :func:`shown_arms`.

    ``kind`` is ``"site"``, ``"summary"`` or ``"unseen"``.
    """

    name: str
    kind: str
    cells: tuple[Cell, ...]


def check_results(results: Results) -> None:
    """Check that all arms have the same sites and that ``method`` is one of the arms.

    Raises
    ------
    ValueError
        If there is no arm, arms disagree about the sites, or ``method`` is not an arm.
    """
    arms = results.get("arms", {})
    if not arms:
        raise ValueError("report: results hold no arms, expected at least one; evaluate an arm first")
    sites = {arm: list(scores["sites"]) for arm, scores in arms.items()}
    expected = next(iter(sites.values()))
    for arm, names in sites.items():
        if sorted(names) != sorted(expected) or not names:
            raise ValueError(f"report: arm {arm} has sites {names}, expected those of every arm, {expected}")
    if results.get("method", expected) not in (expected, *arms):
        raise ValueError(f"report: method is {results['method']!r}, expected one of the arms, {list(arms)}")


def rounds_made(results: Results) -> int:
    """Rounds in which some site has trained; a site may keep its loss to itself."""
    rows = results.get("curves", ())
    return len({row["round"] for row in rows if row.get("loss") is not None or row.get("n_samples") is not None})


def method_of(results: Results) -> str:
    """The arm that the others are compared with: ``results["method"]``, else the last arm."""
    return str(results["method"] if "method" in results else list(results["arms"])[-1])


def shown_arms(results: Results) -> list[str]:
    """The arms in the order of tables and pictures: the method, beside the names of the sites, then the others."""
    method = method_of(results)
    return [method, *(arm for arm in results["arms"] if arm != method)]


def facts(results: Results, site: str) -> Mapping[str, Any]:
    """Properties of a site; empty if none are known."""
    known: Mapping[str, Any] = results.get("sites", {}).get(site, {})
    return known


def sites_by_role(results: Results) -> tuple[list[str], list[str]]:
    """Sites that took part and unseen sites, in the order of the first arm."""
    names = list(next(iter(results["arms"].values()))["sites"])
    unseen = [name for name in names if facts(results, name).get("unseen", False)]
    return [name for name in names if name not in unseen], unseen


def summarize(scores: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and worst of every metric over the sites that have it.

    Parameters
    ----------
    scores
        Scores of one arm per site, as in ``report.json``.

    Returns
    -------
        ``{"mean": {metric: value}, "worst": {metric: value}}``. The worst values of different metrics may
        come from different sites.
    """
    rows = list(scores)
    mean: dict[str, float] = {}
    worst: dict[str, float] = {}
    for metric, sign in METRICS.items():
        if values := [float(row[metric]) for row in rows if row.get(metric) is not None]:
            mean[metric] = math.fsum(values) / len(values)
            worst[metric] = min(values) if sign > 0 else max(values)
    return {"mean": mean, "worst": worst}


def with_summaries(results: Results) -> dict[str, Any]:
    """The results with ``mean`` and ``worst`` of every arm over the sites that took part.

    If all sites are unseen, over all of them.
    """
    check_results(results)
    took_part, unseen = sites_by_role(results)
    arms = {
        arm: dict(entry) | summarize(entry["sites"][name] for name in took_part or unseen)
        for arm, entry in results["arms"].items()
    }
    return dict(results) | {"arms": arms}


def score_rows(results: Results) -> list[Row]:
    """Rows of the table: sites that took part, their mean and worst, unseen sites."""
    complete = with_summaries(results)
    arms = complete["arms"]
    took_part, unseen = sites_by_role(complete)
    rows = [_row(complete, name, "site", {arm: arms[arm]["sites"][name] for arm in arms}) for name in took_part]
    rows += [_row(complete, name, "summary", {arm: arms[arm][name] for arm in arms}) for name in ("mean", "worst")]
    rows += [_row(complete, name, "unseen", {arm: arms[arm]["sites"][name] for arm in arms}) for name in unseen]
    return rows


def volume_rows(results: Results, site: str) -> list[Row]:
    """Rows of the table of one site, one per volume; empty if the arms hold no volumes."""
    arms = results["arms"]
    by_arm = {
        arm: {str(v["volume"]): v for v in entry["sites"][site].get("volumes", ())} for arm, entry in arms.items()
    }
    names = list(dict.fromkeys(name for volumes in by_arm.values() for name in volumes))
    return [
        _row(results, name, "site", {arm: volumes.get(name, {}) for arm, volumes in by_arm.items()}) for name in names
    ]


def _row(results: Results, name: str, kind: str, entries: Mapping[str, Mapping[str, Any]]) -> Row:
    shown = [entries[arm] for arm in shown_arms(results)]
    scores = [{m: float(entry[m]) for m in METRICS if entry.get(m) is not None} for entry in shown]
    best = {
        metric: max(sign * entry[metric] for entry in scores if metric in entry)
        for metric, sign in METRICS.items()
        if sum(metric in entry for entry in scores) > 1
    }
    method = scores[0]
    cells = []
    for entry in scores:
        marked = frozenset(m for m in entry if m in best and METRICS[m] * entry[m] == best[m])
        difference = {} if entry is method else {m: entry[m] - method[m] for m in entry if m in method}
        cells.append(Cell(entry, marked, difference))
    return Row(name, kind, tuple(cells))


def is_open(results: Results, site: str) -> bool:
    """Whether pictures and volumes of a site may be shown to others: only if its data are declared synthetic."""
    return facts(results, site).get("synthetic", False) is True


def shared_part(results: Results) -> dict[str, Any]:
    """The results that may leave the sites: no pictures, per-volume rows or CT image quality of measured data."""
    shared = with_summaries(results)
    for arm, entry in shared["arms"].items():
        sites = {
            site: dict(scores) | {"volumes": list(scores.get("volumes", ())) if is_open(results, site) else []}
            for site, scores in entry["sites"].items()
        }
        shared["arms"][arm] = entry | {"sites": sites}
    pictures = results.get("pictures", {})
    shared["pictures"] = {site: images for site, images in pictures.items() if is_open(results, site)}
    if "quality" in results:
        # Image quality is measured on one slice of a patient.
        shared["quality"] = {site: found for site, found in results["quality"].items() if is_open(results, site)}
    return shared


def plain(value: Any) -> Any:
    """A value for JSON: numbers of numpy and torch as Python numbers, infinity and NaN as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
