"""The report of a run that is being trained: a page that reloads itself."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .curves import curves_section
from .links import ALL_SITES, link, to_site_report
from .page import html_page, line_panel
from .picture_script import PICTURE_SCRIPT
from .picture_section import site_slices
from .results import Results, is_open, rounds_made
from .tables import html_table
from .text import duration, number

#: Seconds after which the page loads itself again.
RELOAD_SECONDS = 15


def training_page(results: Results, *, reload: bool = True) -> str:
    """The shared report so far, see :func:`write_training_report`; pictures of synthetic data alone."""
    rows: Sequence[Mapping[str, Any]] = results.get("curves", ())
    alone: Mapping[str, Sequence[Mapping[str, Any]]] = results.get("alone", {})
    pictured = [site for site in results.get("pictures", {}) if is_open(results, site)]
    closed = [site for site in results.get("pictures", {}) if not is_open(results, site)]
    sections = [_table(rows, alone, results.get("score_label"))]
    sections += [f"<h2>{escape(site)}</h2>{_pictures(results, site)}" for site in pictured]
    if closed:
        where = ", ".join(map(to_site_report, closed))
        sections.append(f"<p>Pictures of {escape(', '.join(closed))} stay at the sites, in {where}.</p>")
    sections.append(curves_section({**results, "arms": {}}))
    if lines := {site: _scores(own) for site, own in alone.items() if own}:
        sections.append("<h2>Every site alone</h2>" + line_panel("local arm", lines, "score"))
    if recipe := results.get("recipe"):
        sections.append(f"<details><summary>Resolved recipe</summary><pre>{escape(str(recipe))}</pre></details>")
    title = f"{results['method']}: in training"
    return html_page(title, _lead(results, reload), sections, reload=_reload(reload), script=PICTURE_SCRIPT)


def training_site_page(site: str, results: Results, shared: str, *, reload: bool = True) -> str:
    """The report so far of one site, with its pictures, which stays at the site; ``shared``: address of the other."""
    lead = (
        f"{_lead(results, reload)} This page shows a patient's images: it stays at the site. {link(shared, ALL_SITES)}"
    )
    sections = [_pictures(results, site)]
    return html_page(f"{site}: in training", lead, sections, reload=_reload(reload), script=PICTURE_SCRIPT)


def _reload(reload: bool) -> int | None:
    return RELOAD_SECONDS if reload else None


def _lead(results: Results, reload: bool) -> str:
    made = rounds_made(results)
    text = f"{made} of at most {results['rounds']} rounds are made. {results.get('now', '')}".strip()
    if (seconds := results.get("seconds_left")) is not None:
        text += f" About {duration(float(seconds))} are left."
    text += " Scores are those of validation data; test data are scored at the end."
    return escape(text + (" This page loads itself again." if reload else ""))


def _table(
    rows: Sequence[Mapping[str, Any]], alone: Mapping[str, Sequence[Mapping[str, Any]]], label: str | None
) -> str:
    """Newest and best scores of every site."""
    lines = []
    for site in dict.fromkeys([*(str(row["site"]) for row in rows), *alone]):
        own = [row for row in rows if row["site"] == site]
        scores, local = [score for _, score in _scores(own)], [score for _, score in _scores(alone.get(site, ()))]
        losses = [row["loss"] for row in own if row.get("loss") is not None]
        cells = [
            number(scores[-1] if scores else None, 2),
            number(max(scores, default=None), 2),
            number(losses[-1] if losses else None, 4),
            number(max(local, default=None), 2),
        ]
        lines.append((site, cells))
    plain = "PSNR in dB, or minus the residual on held-out data where there is no reference"
    caption = f"Validation scores: {label or plain}."
    columns = ("site", "newest score", "best score", "newest loss", "best score, trained alone")
    return html_table(caption, columns, lines) if lines else "<p>No round is finished yet: the sites train.</p>"


def _pictures(results: Results, site: str) -> str:
    note = f"Validation slice, network of round {results['pictured_round']}: one of the first, not the final one."
    return f'<p class="note">{escape(note)}</p>' + site_slices(results, site)


def _scores(rows: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    return [(float(row["round"]), float(row["score_before"])) for row in rows if row.get("score_before") is not None]
