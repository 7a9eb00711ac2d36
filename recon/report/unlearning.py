"""The section of the report on a site that left a run."""

from collections.abc import Mapping
from html import escape
from statistics import fmean
from typing import Any

from .tables import html_table
from .text import NO_VALUE, aligned, duration, number

#: Columns behind those of the sites.
_MEMBERS = ("AUC", "95 % interval")


def unlearning_section(found: Mapping[str, Any] | None) -> str:
    """Scores, times and membership inference before and after; empty if no site has left."""
    if not found:
        return ""
    title = f"<h2>{escape(found['site'])} has left</h2>"
    if (why := found.get("left_out")) is not None:
        return f"{title}<p>This run was trained without it. No comparison with the run before: {escape(why)}</p>"
    return title + html_table(_caption(found), _columns(found), _rows(found))


def unlearning_text(found: Mapping[str, Any]) -> str:
    """The table as plain text; empty without a comparison."""
    if "networks" not in found:
        return ""
    rows = [_columns(found), *((name, *cells) for name, cells in _rows(found))]
    return "\n".join([f"{found['site']} has left:", *aligned(rows)])


def _caption(found: Mapping[str, Any]) -> str:
    site, patients = found["site"], found["patients"]
    few = (
        f"Approximate: {found['rounds']} more rounds without {site} from the end of the run with it. "
        if "approximate" in found["networks"]
        else ""
    )
    return (
        f"Before: the run with {site}. {few}Exact: trained again without {site}, from the state before it took part. "
        "Scores of the shared network on test data of the sites that stay, each with its kept parameters. Membership "
        f"inference on {patients['members']} training and {patients['non_members']} test patients of {site}: AUC of "
        "the loss minus that of the untrained network; 0.5: guessing. Its kept parameters never left it and are not "
        "used. The exact network has seen none of them: its AUC shows what chance and differences of the two groups "
        "do to such numbers. An interval that holds 0.5 with few patients is no evidence that a network has forgotten."
    )


def _metric(found: Mapping[str, Any]) -> str:
    """``"psnr"`` if a site that stays has it, else ``"residual"``."""
    sites = [scores for row in found["networks"].values() for scores in row["sites"].values()]
    return "psnr" if any("psnr" in scores for scores in sites) else "residual"


def _columns(found: Mapping[str, Any]) -> tuple[str, ...]:
    names = list(next(iter(found["networks"].values()))["sites"])
    unit = "PSNR, dB" if _metric(found) == "psnr" else "residual"
    return ("network", *(f"{name}, {unit}" for name in names), "mean", "training", *_MEMBERS)


def _rows(found: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    metric, rows = _metric(found), []
    for label, row in found["networks"].items():
        scores = [site.get(metric) for site in row["sites"].values()]
        known = [score for score in scores if score is not None]
        cells = [number(score, 2) for score in (*scores, fmean(known) if known else None)]
        cells.append(NO_VALUE if row["seconds"] is None else duration(float(row["seconds"])))
        if (members := row.get("membership")) is None:
            cells += [NO_VALUE] * len(_MEMBERS)
        else:
            cells += [number(members["auc"], 2), f"{number(members['low'], 2)} to {number(members['high'], 2)}"]
        rows.append((label, cells))
    return rows
