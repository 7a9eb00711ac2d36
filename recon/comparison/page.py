"""Comparisons as one HTML page: hypotheses, then chart, arms and metric card of every table."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..report.page import html_page
from ..report.tables import card, scroll
from ..report.text import number
from .chart import forest_plot
from .claims import MIN_SEEDS, SEEDS_OF_SMALL_EFFECT, SMALL_EFFECT_DB
from .columns import (
    DASH,
    STAR,
    chosen_by,
    cost_columns,
    difference_columns,
    legend_of,
    site_columns,
    summary_columns,
    whole_number,
)
from .learning import learning_section
from .table import ComparedTable

_STYLE = """
main{max-width:1480px}
.comparison{font-size:0.8rem}
.comparison th,.comparison td{padding:5px 7px}
.comparison td,.comparison thead th+th{text-align:right}
.comparison thead th{font-size:0.8rem}
.comparison tbody th{position:sticky;left:0;background:var(--paper);min-width:158px;max-width:260px;line-height:1.35}
.comparison tr.against th,.comparison tr.against td{background:var(--wash)}
.comparison td div+div{color:var(--soft);font-size:0.92em}
.flag{display:block;font-weight:400;border-left:3px solid var(--c1);padding-left:6px;margin-top:2px}
.claims td,.claims th{font-size:0.9rem}
.claims tbody th{max-width:24em}
.forest svg{min-width:620px;max-width:900px}
svg .zero{stroke:var(--ink);stroke-width:1}
svg .whisker{stroke:var(--c0);stroke-width:1.8}
svg .dot{fill:var(--c0)}
svg .hollow{fill:var(--paper);stroke:var(--c0);stroke-width:1.8}
@media print{.comparison{font-size:6.5pt}.comparison th,.comparison td{padding:2px 3px}
  .comparison tbody th{min-width:0}.comparison tr.against th,.comparison tr.against td{print-color-adjust:exact}}
"""


def comparison_page(
    comparisons: Sequence[ComparedTable],
    hypotheses: Mapping[str, Mapping[str, Mapping[str, Any]]],
    statements: Mapping[str, str],
    worth: Sequence[str] = (),
) -> str:
    """All tables on one page that loads nothing, in the style of a run's report."""
    lead = (
        "One part per modality and table; they are not comparable with each other. Differences are paired: the same "
        "test volumes, and training runs of the same seed."
    )
    parts = [_worth(worth), _claims(hypotheses, statements), *map(_section, comparisons)]
    return html_page("Comparison of federated methods", lead, parts, _STYLE)


def _worth(sentences: Sequence[str]) -> str:
    if not sentences:
        return ""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    note = "Slices with which local training reaches the federated score, interpolated in their logarithm."
    return f'<h2>What joining is worth</h2><p class="note">{escape(note)}</p><ul>{items}</ul>'


def _claims(hypotheses: Mapping[str, Mapping[str, Mapping[str, Any]]], statements: Mapping[str, str]) -> str:
    lines = []
    for name, by_modality in hypotheses.items():
        statement = f'<span class="soft">{escape(statements[name])}</span>' if name in statements else ""
        heading = f'<th scope="rowgroup" rowspan="{len(by_modality)}">{escape(name)}{statement}</th>'
        for modality, result in by_modality.items():
            lines.append(f"<tr>{heading}<td>{escape(modality.upper())}</td>{_claim(result)}</tr>")
            heading = ""
    if not lines:
        return ""
    note = (
        "Registered before the runs. A claim holds where the whole interval satisfies it, fails where no part of the "
        f"interval does, else it is undecided; also with fewer than {MIN_SEEDS} seeds, and with fewer than "
        f"{SEEDS_OF_SMALL_EFFECT} where the difference is below {SMALL_EFFECT_DB:g} dB."
    )
    table = _claim_table(("hypothesis", "modality", "aim", "found (dB)", "95 % interval", "seeds", "verdict"), lines)
    return f'<h2>Hypotheses</h2><p class="note">{escape(note)}</p>{scroll(table, "Hypotheses")}'


def _claim(result: Mapping[str, Any]) -> str:
    signs = {"holds": "\N{CHECK MARK} holds", "fails": "\N{BALLOT X} fails"}
    interval = ", ".join(number(end, 2, sign=True) for end in result["interval"])
    aim = str(result["aim"]).replace(">=", "\N{GREATER-THAN OR EQUAL TO}").replace("<=", "\N{LESS-THAN OR EQUAL TO}")
    cells = (aim, number(result["found"], 2, sign=True), f"[{interval}]", str(result["seeds"]))
    note = f' <span class="soft">{escape(str(result["note"]))}</span>' if result.get("note") else ""
    verdict = f"<b>{escape(signs.get(result['verdict'], result['verdict']))}</b>{note}"
    return "".join(f"<td>{_unbroken(cell)}</td>" for cell in cells) + f"<td>{verdict}</td>"


def _claim_table(heads: Sequence[str], lines: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    return f'<table class="claims"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


def _unbroken(text: str) -> str:
    """Text that wraps after underscores only."""
    return escape(text).replace(" ", "&nbsp;").replace("_", "_<wbr>")


def _section(comparison: ComparedTable) -> str:
    name = f"{comparison.modality.upper()}, {comparison.table}"
    label = escape(name)
    return (
        f"<h2>{label}</h2><p>{escape(_extent(comparison))}</p>"
        + _chart(comparison, name)
        + f"<h3>Every arm: {label}</h3>"
        + f'<p class="note">{escape(legend_of(comparison))}</p>'
        + scroll(_arm_table(comparison), f"Every arm, {name}")
        + _folded(f"How these numbers were computed: {label}", card(comparison.metric_card))
        + learning_section(comparison)
        + _tuning(comparison, name)
    )


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>{content}</details>"


def _extent(comparison: ComparedTable) -> str:
    unseen = f"; unseen: {', '.join(comparison.unseen)}" if comparison.unseen else ""
    seeds = sorted({entry.psnr.seeds for entry in comparison.arms})
    return (
        f"{len(comparison.arms)} arms; {len(comparison.sites)} sites with {comparison.subjects} test subjects took "
        f"part{unseen}; {' or '.join(map(str, seeds))} {'seed' if seeds == [1] else 'seeds'}."
    )


def _chart(comparison: ComparedTable, name: str) -> str:
    reference = comparison.against[0]
    rows = [(entry.arm, entry.differences[reference]) for entry in comparison.arms if reference in entry.differences]
    if not rows:
        return ""
    note = (
        f"PSNR less that of {reference}, with its 95 % interval. Filled: marked {STAR} in the table. Dashed: one "
        "seed, the interval covers subjects only. A triangle: beyond the axis."
    )
    svg = forest_plot(f"{name}: difference to {reference}", rows, f"difference to {reference} (dB)")
    return f'<p class="note">{escape(note)}</p>' + scroll(svg, f"Differences to {reference}, {name}").replace(
        'class="scroll"', 'class="scroll forest"', 1
    )


def _arm_table(comparison: ComparedTable) -> str:
    columns = difference_columns(comparison) + summary_columns()
    columns += site_columns(comparison, (*comparison.sites, *comparison.unseen)) + cost_columns()
    head = "".join(
        f'<th scope="col">{_unbroken(column.head)}<span class="soft">{escape(column.below)}</span></th>'
        for column in columns
    )
    body = []
    for entry in comparison.arms:
        cells = "".join(
            "<td>" + "".join(f"<div>{_unbroken(line)}</div>" for line in column.lines(entry)) + "</td>"
            for column in columns
        )
        label = f'<span class="soft">{escape(entry.details.label)}</span>' if entry.details.label else ""
        flags = "".join(f'<span class="flag">{escape(flag)}</span>' for flag in entry.details.flags)
        style = ' class="against"' if entry.arm in comparison.against else ""
        body.append(f'<tr{style}><th scope="row">{_unbroken(entry.arm)}{label}{flags}</th>{cells}</tr>')
    return (
        f'<table class="comparison"><thead><tr><th scope="col">arm</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def _tuning(comparison: ComparedTable, name: str) -> str:
    """Steps, trials and chosen values of every arm, folded."""
    known = [entry for entry in comparison.arms if entry.details.steps is not None or entry.details.chosen]
    if not known:
        return ""
    lines = [
        f'<tr><th scope="row">{escape(entry.arm)}</th><td>{whole_number(entry.details.steps)}</td>'
        f"<td>{whole_number(entry.details.trials)}</td><td>{escape(chosen_by(entry) or DASH)}</td></tr>"
        for entry in known
    ]
    table = _claim_table(("arm", "steps at each site", "trials", "chosen on validation"), lines)
    return _folded("Steps and tuning of every arm", scroll(table, f"Tuning, {name}"))
