"""The report as one self-contained HTML page with styles, curves and pictures."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from .charts import Series, dot_plot, legend, line_chart, panel
from .curves import curves_section
from .error_bars import error_bars_section
from .links import ALL_SITES, link, picture_address
from .picture_script import PICTURE_SCRIPT
from .picture_section import picture_section, site_slices
from .quality import quality_section
from .results import Results, is_open, method_of, rounds_made, score_rows, shown_arms, sites_by_role, volume_rows
from .style import STYLE
from .tables import bytes_table, card, privacy_section, score_table, site_note, site_table
from .tasks import task_section
from .text import byte_count, duration, number
from .unlearning import unlearning_section

#: The page must load nothing: opening it sends no request.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def run_page(results: Results) -> str:
    """The shared report of a run; ``results`` must come from ``shared_part``."""
    sections = [
        _headline(results),
        _claims(results),
        _table(results),
        task_section(results),
        picture_section(results),
        error_bars_section(results.get("error_bars", {})),
        quality_section(results, [site for role in sites_by_role(results) for site in role]),
        curves_section(results),
        "<h2>Sites</h2>" + site_table(results),
        privacy_section(results.get("privacy")),
        unlearning_section(results.get("unlearning")),
        _messages(results),
        _reproduce(results),
    ]
    title = f"{method_of(results)}: federated reconstruction, site by site"
    return html_page(title, _what_was_run(results), sections, script=PICTURE_SCRIPT)


def site_page(site: str, results: Results, shared: str | None = None) -> str:
    """The report of one site, with volumes and pictures, which stays at the site.

    ``shared`` is the address of the shared report; None: there is no link to it.
    """
    rows = volume_rows(results, site)
    caption = f"{site}: every volume of the test set. {_reading(results)}"
    sections = [
        "<h2>Volumes</h2>",
        score_table(rows, results, caption, "volume") if rows else "<p>No volumes.</p>",
        "<h3>How these numbers were computed</h3>" + card(results.get("metric_card", {})),
        "<h2>Pictures</h2>" + site_slices(results, site),
        quality_section(results, [site]),
        "<h2>Versions</h2>" + card(results.get("versions", {})),
    ]
    lead = (
        f"Acquisition: {escape(site_note(results, site) or 'see the manifest of the site')}. "
        "This page shows single volumes and pictures: it stays at the site and is not part of the shared report."
    )
    if shared is not None:
        lead += f" {link(shared, ALL_SITES)}"
    return html_page(f"{site}: report of the site", lead, sections, script=PICTURE_SCRIPT)


def html_page(
    title: str, lead: str, sections: Sequence[str], style: str = "", reload: int | None = None, script: str = ""
) -> str:
    """A page in the style of the report; ``style`` is additional CSS, ``lead`` and ``sections`` are HTML.

    ``reload`` are the seconds after which the page loads itself again; None: it does not. ``script`` is the only one
    that the page may run.
    """
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    policy = f"{_POLICY}; script-src {_digest(script)}" if script else _POLICY
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        + ("" if reload is None else f'<meta http-equiv="refresh" content="{reload}">\n')
        + f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{escape(title)}</h1>\n<p class="lead">{lead}</p>\n'
        + "\n".join(section for section in sections if section)
        + f'\n<footer class="note">Written {written} by fedrecon. '
        "Research software, not for clinical use.</footer>\n"
        "</main>\n" + (f"<script>{script}</script>\n" if script else "") + "</body>\n</html>\n"
    )


def _digest(script: str) -> str:
    """Source of a script in a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def line_panel(title: str, lines: Mapping[str, Sequence[tuple[float, float]]], y_label: str) -> str:
    """A chart of named lines over the rounds with its legend, for a page of :func:`html_page`."""
    series = [Series(name, points, i) for i, (name, points) in enumerate(lines.items())]
    chart = panel(title, line_chart(title, series, y_label))
    return legend(list(lines), lines=True) + f'<div class="panels">{chart}</div>' if chart else ""


def _parts(results: Results) -> tuple[str, str, str]:
    """What the sites trained, kept and shared, in words."""
    kept = "their raw data, their forward operators and their data-consistency parameters"
    if (reads := results.get("head_reads")) is None:
        return "one unrolled network", kept, "the regularizer was shared"
    if reads == "end_to_end":
        trained, shared = "one unrolled network and a head", "the regularizer and the head were shared"
        return trained, f"{kept}, and their labels", shared
    task = "one head to fill hidden patches of" if results.get("head_learns") == "hidden patches" else "one head on"
    images = "reference images" if reads == "reference" else "images of a network that stayed as it was"
    return f"{task} {images}", "their raw data and their labels", "the head was shared"


def _what_was_run(results: Results) -> str:
    took_part, unseen = sites_by_role(results)
    rounds = rounds_made(results)
    trained, kept, shared = _parts(results)
    sentences = [
        f"{_count(len(took_part), 'site')} trained {trained} together"
        + (f" for {_count(rounds, 'round')}" if rounds else "")
        + f" and kept {kept}; {shared}."
    ]
    if (steps := results.get("personal_steps")) is not None:
        sentences.append(f"Then every site trained all parameters on its own data for {steps} more steps.")
    if unseen:
        sentences.append(f"Unseen sites, scored only at the end: {', '.join(unseen)}.")
    closed = [site for site in took_part + unseen if not is_open(results, site)]
    if not closed:
        sentences.append("All data are simulated.")
    elif len(closed) < len(took_part + unseen):
        sentences.append(f"Data of {', '.join(closed)} are measured, the others simulated.")
    if results.get("seconds") is not None:
        sentences.append(f"The run took {duration(float(results['seconds']))}.")
    return escape(" ".join(sentences))


def _headline(results: Results) -> str:
    method = method_of(results)
    arms = results["arms"]
    mean = arms[method]["mean"]
    tiles = []
    if "psnr" in mean:
        tiles.append((f"{number(mean['psnr'], 2)} dB", f"mean PSNR of {method}, SSIM {number(mean.get('ssim'), 3)}"))
        tiles += [_gain(results, arm) for arm in arms if arm != method and "psnr" in arms[arm]["mean"]]
    elif "residual" in mean:
        tiles.append((number(mean["residual"], 2), f"mean residual of {method} on held-out data, noise = 1"))
    total = sum(float(row.get(way) or 0) for row in results.get("curves", ()) for way in ("bytes_up", "bytes_down"))
    if total:
        tiles.append((byte_count(total), "all messages of all sites, both directions"))
    items = (f"<li><strong>{escape(value)}</strong> <span>{escape(text)}</span></li>" for value, text in tiles)
    return f'<ul class="tiles">{"".join(items)}</ul>' if tiles else ""


def _gain(results: Results, arm: str) -> tuple[str, str]:
    """Mean gain of the method over an arm, and the site with the smallest gain."""
    method, took_part = results["arms"][method_of(results)], sites_by_role(results)[0]
    other = results["arms"][arm]
    gains = {
        site: method["sites"][site]["psnr"] - other["sites"][site]["psnr"]
        for site in took_part
        if None not in (method["sites"][site].get("psnr"), other["sites"][site].get("psnr"))
    }
    text = f"mean PSNR against {arm}"
    if gains:
        least = min(gains, key=lambda site: gains[site])
        text += f"; smallest at {least}, {number(gains[least], 2, sign=True)} dB"
    return f"{number(method['mean']['psnr'] - other['mean']['psnr'], 2, sign=True)} dB", text


def _claims(results: Results) -> str:
    lines = "".join(f"<li>{escape(str(line))}</li>" for line in results.get("claims", ()))
    return f"<h2>What this run shows</h2><ul>{lines}</ul>" if lines else ""


def _reading(results: Results) -> str:
    return (
        "Each cell: PSNR, SSIM, NMSE, and \N{GREEK CAPITAL LETTER DELTA}, the difference to "
        f"{method_of(results)} in PSNR and SSIM. A star marks the best score of the row."
    )


def _table(results: Results) -> str:
    rows = score_rows(results)
    arms = shown_arms(results)
    sites = [row for row in rows if row.kind != "summary"]
    addresses = {row.name: picture_address(results, row.name) for row in sites}
    dots = dot_plot(
        "PSNR of every arm at every site; numbers in the table above",
        [(row.name, [cell.scores.get("psnr") for cell in row.cells]) for row in sites],
        arms,
        "PSNR (dB)",
    )
    return (
        "<h2>Every arm at every site</h2>"
        + score_table(rows, results, _reading(results), "site", addresses)
        + (f'{legend(arms, lines=False)}<div class="dots">{dots}</div>' if dots else "")
        + "<h3>How these numbers were computed</h3>"
        + card(results.get("metric_card", {}))
    )


def _messages(results: Results) -> str:
    curves: Sequence[Mapping[str, Any]] = results.get("curves", ())
    if not curves:
        return "<h2>Bytes</h2>" + card(results["bytes"]) if results.get("bytes") else ""
    rounds = sorted({row["round"] for row in curves})
    series = [
        Series(
            name,
            [(r, sum(float(row.get(key) or 0) for row in curves if row["round"] == r) / 1024) for r in rounds],
            i,
        )
        for i, (name, key) in enumerate((("from server to sites", "bytes_down"), ("from sites to server", "bytes_up")))
    ]
    chart = panel("all sites together", line_chart("Bytes per round, all sites", series, "KiB per round"))
    return (
        "<h2>Bytes</h2>"
        + bytes_table(curves)
        + legend([s.name for s in series], lines=True)
        + f'<div class="panels">{chart}</div>'
    )


def _reproduce(results: Results) -> str:
    parts = ["<h2>Versions and configuration</h2>", card(results.get("versions", {}))]
    if recipe := results.get("recipe"):
        parts.append(
            "<details><summary>Resolved recipe</summary>"
            f'<pre tabindex="0" aria-label="Resolved recipe">{escape(str(recipe))}</pre></details>'
        )
    return "".join(parts)


def _count(number_of: int, what: str) -> str:
    return f"{number_of} {what}" + ("" if number_of == 1 else "s")
