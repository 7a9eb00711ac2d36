"""Tables of the report as HTML; all external text is escaped here."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from .epsilon import epsilon_text
from .links import link
from .results import Cell, Results, Row, facts, method_of, shown_arms, sites_by_role
from .text import DIGITS, NO_VALUE, byte_count, duration, number

NAMES = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "nmse": "NMSE",
    "foreground_ssim": "foreground SSIM",
    "residual": "residual",
}


def scroll(content: str, label: str) -> str:
    """Content that may be wider than the screen, with a horizontal scroll bar of its own."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">{content}</div>'


def score_table(
    rows: Sequence[Row], results: Results, caption: str, first: str, addresses: Mapping[str, str | None] | None = None
) -> str:
    """Table with one column per arm, the method first: PSNR in dB, SSIM, NMSE, and the difference to the method.

    ``addresses`` are those that the names of rows link to.
    """
    method = method_of(results)
    arms = shown_arms(results)
    head = "".join(f'<th scope="col"{_method_class(arm == method)}>{escape(arm)}</th>' for arm in arms)
    body = []
    for row in rows:
        cells = "".join(
            f"<td{_method_class(arm == method)}>{_score_cell(cell, method)}</td>"
            for arm, cell in zip(arms, row.cells, strict=True)
        )
        address = (addresses or {}).get(row.name)
        name = escape(row.name) if address is None else link(address, row.name)
        heading = f'<th scope="row">{name}{_row_note(row, results)}</th>'
        body.append(f'<tr class="{row.kind}">{heading}{cells}</tr>')
    head = f'<th scope="col">{escape(first)}</th>{head}'
    return _table(caption, head, body, "scores")


def site_note(results: Results, site: str) -> str:
    """Acquisition of a site in one line."""
    known = facts(results, site)
    parts = []
    if sampling := known.get("sampling"):
        parts.append(str(sampling).replace("_", " "))
    if (acceleration := known.get("effective_acceleration")) is not None:
        parts.append(f"R = {float(acceleration):.2f}")
    if (coils := known.get("coils")) is not None:
        parts.append("1 coil" if coils in (1, [1]) else f"{_coils(known)} coils")
    if (noise := known.get("noise_std")) is not None:
        parts.append(f"noise {float(noise):g}")
    if (photons := known.get("photons")) is not None:
        parts.append(f"{float(photons):,.0f} photons per ray".replace(",", "\N{NARROW NO-BREAK SPACE}"))
    return ", ".join(parts)


def site_table(results: Results) -> str:
    """Table of the sites: acquisition, volumes per split, numbers of shared and kept parameters."""
    columns = (
        "site",
        "data",
        "sampling",
        "effective R",
        "coils",
        "noise",
        "maps",
        "data consistency",
        "train / validation / test",
        "shared",
        "kept",
    )
    numbers = {"effective R", "coils", "noise", "shared", "kept"}
    head = "".join(f'<th scope="col"{_number_class(name in numbers)}>{escape(name)}</th>' for name in columns)
    took_part, unseen = sites_by_role(results)
    lines = []
    for site in took_part + unseen:
        known = facts(results, site)
        split = known.get("volumes", {})
        values = (
            "simulated" if known.get("synthetic") is True else "measured",
            str(known.get("sampling", NO_VALUE)).replace("_", " "),
            number(known.get("effective_acceleration"), 2),
            _coils(known),
            _fact(known.get("noise_std")),
            str(known.get("maps", NO_VALUE)).replace("_", " "),
            str(known.get("consistency", NO_VALUE)).replace("_", " "),
            " / ".join(_fact(split.get(part)) for part in ("train", "validation", "test")),
            _fact(known.get("parameters_shared")),
            _fact(known.get("parameters_kept")),
        )
        note = '<span class="soft">unseen site</span>' if site in unseen else ""
        cells = "".join(
            f"<td{_number_class(name in numbers)}>{escape(value)}</td>"
            for name, value in zip(columns[1:], values, strict=True)
        )
        lines.append(f'<tr><th scope="row">{escape(site)}{note}</th>{cells}</tr>')
    caption = "Volumes per split; parameters of the network that travel (shared) and that stay at the site (kept)."
    return _table(caption, head, lines)


def privacy_section(privacy: Mapping[str, Any] | None) -> str:
    """Epsilon of every site, and what it does not hold for; empty without differential privacy."""
    if not privacy:
        return ""
    delta = float(privacy["delta"])
    caption = (
        f"By the record of each site, at delta {delta:g}; repeated rounds count again. The guarantee is epsilon after "
        "all rounds of the recipe, since results may decide when a training ends."
    )
    columns = ("site", "training patients", "private steps", "epsilon, all rounds", "spent so far")
    rows = []
    for site, spent in privacy["sites"].items():
        counts = (str(spent["patients"]), str(spent["steps"]))
        rows.append((site, (*counts, epsilon_text(spent["planned"]), epsilon_text(spent["epsilon"]))))
    table = html_table(caption, columns, rows)
    return f'<h2>Differential privacy of patients</h2>{table}<p class="note">{escape(str(privacy["note"]))}</p>'


def bytes_table(curves: Sequence[Mapping[str, Any]]) -> str:
    """Bytes of the packed messages per site, per round and in total."""
    lines = []
    for site in dict.fromkeys(str(row["site"]) for row in curves):
        rows = [row for row in curves if str(row["site"]) == site]
        up = [float(row["bytes_up"]) for row in rows if row.get("bytes_up") is not None]
        down = [float(row["bytes_down"]) for row in rows if row.get("bytes_down") is not None]
        values = [_span(down), _span(up), byte_count(sum(down)), byte_count(sum(up))]
        cells = "".join(f'<td class="number">{escape(value)}</td>' for value in values)
        lines.append(f'<tr><th scope="row">{escape(site)}</th>{cells}</tr>')
    names = ("to the site, per round", "from the site, per round", "to the site, total", "from the site, total")
    head = '<th scope="col">site</th>' + "".join(f'<th scope="col" class="number">{name}</th>' for name in names)
    caption = "Counted from the packed messages, headers included; the last round only evaluates."
    return _table(caption, head, lines)


def round_table(curves: Sequence[Mapping[str, Any]]) -> str:
    """The numbers of the curves, one row per round and site."""
    columns = ("round", "site", "score as received", "score after training", "loss", "down", "up", "time")
    head = "".join(f'<th scope="col"{_number_class(name != "site")}>{name}</th>' for name in columns)
    lines = []
    for row in curves:
        seconds = row.get("seconds")
        values = (
            _fact(row.get("round")),
            str(row["site"]),
            number(row.get("score_before"), 3),
            number(row.get("score_after"), 3),
            number(row.get("loss"), 5),
            _bytes(row.get("bytes_down")),
            _bytes(row.get("bytes_up")),
            NO_VALUE if seconds is None else duration(float(seconds)),
        )
        cells = "".join(
            f"<td{_number_class(name != 'site')}>{escape(value)}</td>"
            for name, value in zip(columns, values, strict=True)
        )
        lines.append(f"<tr>{cells}</tr>")
    return _table("Validation scores, bytes of the packed messages, time at the site.", head, lines)


def card(entries: Mapping[str, Any]) -> str:
    """List of names and values, one line each."""
    lines = (f"<dt>{escape(str(k).replace('_', ' '))}</dt><dd>{escape(_fact(v))}</dd>" for k, v in entries.items())
    return f'<dl class="card">{"".join(lines)}</dl>'


def html_table(caption: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table of numbers; the first column holds the names of the rows."""
    head = "".join(f'<th scope="col"{_number_class(i > 0)}>{escape(name)}</th>' for i, name in enumerate(columns))
    lines = [
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f'<td class="number">{escape(cell)}</td>' for cell in cells)
        + "</tr>"
        for name, cells in rows
    ]
    return _table(caption, head, lines)


def _table(caption: str, head: str, lines: Sequence[str], style: str = "plain") -> str:
    # Not a <caption>: it would be as wide as the table, and so wider than a phone.
    table = f'<table class="{style}"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return f'<p class="note">{escape(caption)}</p>{scroll(table, caption)}'


def _score_cell(cell: Cell, method: str) -> str:
    if not cell.scores:
        return '<div class="soft">none</div>'
    shown = [name for name in ("psnr", "ssim", "nmse") if name in cell.scores] or ["residual"]
    lines = []
    for name in shown:
        text = number(cell.scores.get(name), DIGITS[name]) + (" dB" if name == "psnr" else "")
        if name in cell.best:
            text = f'<b class="best">{text}<span class="hidden"> best</span></b>'
        label = '<span class="hidden">PSNR </span>' if name == "psnr" else f'<span class="label">{NAMES[name]}</span> '
        lines.append(f'<div class="{"first" if name == "psnr" else "small"}">{label}{text}</div>')
    changes = [
        f"{number(cell.difference[name], DIGITS[name], sign=True)}{' dB' if name == 'psnr' else ''}"
        for name in shown
        if name in cell.difference and name != "nmse"
    ]
    if changes:
        lines.append(
            f'<div class="delta">\N{GREEK CAPITAL LETTER DELTA} {", ".join(changes)}'
            f'<span class="hidden"> to {escape(method)}</span></div>'
        )
    return "".join(lines)


def _row_note(row: Row, results: Results) -> str:
    if row.kind == "summary":
        note = {"mean": "over the sites that took part", "worst": "each score over the sites that took part"}[row.name]
    else:
        note = site_note(results, row.name)
    if row.kind == "unseen":
        note = "unseen site; " + note if note else "unseen site"
    return f'<span class="soft">{escape(note)}</span>' if note else ""


def _method_class(is_method: bool) -> str:
    return ' class="method"' if is_method else ""


def _number_class(is_number: bool) -> str:
    return ' class="number"' if is_number else ""


def _coils(known: Mapping[str, Any]) -> str:
    """Number of coils, and that of the virtual coils in their place."""
    coils, virtual = known.get("coils"), known.get("virtual_coils")
    return _fact(coils) if virtual in (None, coils) else f"{_fact(coils)} as {_fact(virtual)} virtual"


def _fact(value: Any) -> str:
    if value is None:
        return NO_VALUE
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_fact(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_fact, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}") if value >= 10_000 else str(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _bytes(value: float | None) -> str:
    return NO_VALUE if value is None else byte_count(float(value))


def _span(values: Iterable[float]) -> str:
    """Smallest and largest amount of a round, as one text if they are equal."""
    shown = list(dict.fromkeys(byte_count(value) for value in sorted(values) if value > 0))
    return " to ".join(dict.fromkeys((shown[0], shown[-1]))) if shown else byte_count(0)
