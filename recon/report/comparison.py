"""The tables that compare arms, one per modality and table: as a page, JSON, CSV, LaTeX and plain text."""

import csv
import io
import json
import re
import statistics
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ..files import write_atomically
from ..statistics import (
    METRICS,
    MIN_SEEDS,
    SEEDS_OF_SMALL_EFFECT,
    SMALL_EFFECT_DB,
    ArmSummary,
    Interval,
    ScoreRow,
    holm,
    paired_difference,
    seeds_needed,
    site_roles,
    summarize_arm,
    tables_of,
)
from .charts import nice_ticks
from .page import _document
from .results import plain
from .style import STYLE
from .tables import card, scroll
from .text import byte_count, duration, number

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
    "steps",
    "trials",
    "chosen",
)
#: Adjusted p-values below it are marked.
LEVEL = 0.05
_DASH = "–"  # noqa: RUF001 - a dash is meant
_STAR = "\N{BLACK STAR}"
_DELTA = "\N{GREEK CAPITAL LETTER DELTA}"


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
        As for :func:`recon.statistics.paired_difference`.

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


def write_comparison(
    folder: Path | str,
    comparisons: Sequence[Comparison],
    *,
    hypotheses: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
    statements: Mapping[str, str] | None = None,
    title: str = "Comparison of federated methods",
) -> Path:
    """Write ``comparison.html``, ``.json``, ``.csv`` (a row per arm) and ``.tex`` (booktabs); no volume's scores.

    Parameters
    ----------
    comparisons
        What :func:`compare` gave, one per modality and table.
    hypotheses
        Per hypothesis and modality what :meth:`recon.statistics.Hypothesis.to_json` gives.
    statements
        What each hypothesis says.

    Returns
    -------
        The path of the page.

    Raises
    ------
    ValueError
        If there is nothing to compare, or a modality has a table twice.
    DataError
        If a file cannot be written; what stood there before is then left as it was.
    """
    _check(comparisons)
    results = hypotheses or {}
    page = comparison_page(comparisons, results, statements or {}, title)
    published = plain({"tables": [_json(each) for each in comparisons], "hypotheses": results})
    target = Path(folder) / "comparison.html"
    text = json.dumps(published, indent=2, allow_nan=False) + "\n"
    write_atomically(target.with_suffix(".json"), text.encode("utf-8"))
    write_atomically(target.with_suffix(".csv"), comparison_csv(comparisons).encode("utf-8"))
    write_atomically(target.with_suffix(".tex"), comparison_tex(comparisons).encode("utf-8"))
    write_atomically(target, page.encode("utf-8"))
    return target


def _check(comparisons: Sequence[Comparison]) -> None:
    names = [(each.modality, each.table) for each in comparisons]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"comparison: the tables are {names}, expected at least one, each once")


# The columns: the same cells in text, LaTeX and on the page


@dataclass(frozen=True)
class _Column:
    """A heading, what stands below it, and the lines of a cell."""

    head: str
    below: str
    lines: Callable[[ArmEntry], tuple[str, ...]]


def _differences(comparison: Comparison) -> list[_Column]:
    return [_Column(f"{_DELTA} {name}", "dB, 95 %", _difference(name)) for name in comparison.against]


def _difference(reference: str) -> Callable[[ArmEntry], tuple[str, ...]]:
    def lines(entry: ArmEntry) -> tuple[str, ...]:
        if (difference := entry.differences.get(reference)) is None:
            return (_DASH,)
        star = f" {_STAR}" if difference.marked else ""
        return number(difference.interval.found, 2, sign=True) + star, _brackets(difference.interval)

    return lines


def _brackets(interval: Interval) -> str:
    return f"[{number(interval.low, 2, sign=True)}, {number(interval.high, 2, sign=True)}]"


def _summaries() -> list[_Column]:
    return [
        _Column("mean", "dB", lambda entry: (number(entry.psnr.mean, 2),)),
        _Column("worst", "site", lambda entry: (number(entry.psnr.worst, 2), entry.psnr.worst_site)),
        _Column("SSIM", "mean", lambda entry: (number(entry.means["ssim"], 3),)),
    ]


def _sites(comparison: Comparison, names: Sequence[str]) -> list[_Column]:
    def at(site: str) -> Callable[[ArmEntry], tuple[str, ...]]:
        return lambda entry: (number((dict(entry.psnr.sites) | dict(entry.psnr.unseen)).get(site), 2),)

    return [_Column(name, "unseen" if name in comparison.unseen else "dB", at(name)) for name in names]


def _costs() -> list[_Column]:
    def traveled(entry: ArmEntry) -> tuple[str, ...]:
        base = entry.facts.get("bytes_base")
        total = _DASH if entry.bytes is None else byte_count(entry.bytes)
        return (total, f"base {byte_count(base)}") if base else (total,)

    def parameters(entry: ArmEntry) -> tuple[str, ...]:
        shared, kept = entry.facts.get("parameters_shared"), entry.facts.get("parameters_kept")
        if shared is None and kept is None:
            return (_DASH,)
        return f"{_whole(shared)} /", _whole(kept)

    def effort(entry: ArmEntry) -> tuple[str, ...]:
        seconds, memory = entry.facts.get("seconds"), entry.facts.get("peak_memory_mb")
        time = _DASH if seconds is None else duration(seconds)
        return (time,) if memory is None else (time, f"{memory:.0f} MB")

    return [
        _Column("bytes", "up + down + base", traveled),
        _Column("time", "peak memory", effort),
        _Column("parameters", "shared / kept", parameters),
        _Column("trials", "", lambda entry: (_whole(entry.facts.get("trials")),)),
        _Column("seeds", "", lambda entry: (str(entry.psnr.seeds),)),
    ]


def _whole(value: int | None) -> str:
    return _DASH if value is None else f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _legend(comparison: Comparison) -> str:
    """How to read a table, in words that fit all of its forms."""
    single = any(entry.psnr.seeds == 1 for entry in comparison.arms)
    text = (
        f"Each site counts equally; worst is over the sites that took part. {_DELTA}: paired difference in PSNR with "
        f"its 95 % interval over subjects and seeds. {_STAR}: p < {LEVEL:g} after Holm's correction over the "
        f"{len(comparison.arms) - 1} other arms, only with at least {MIN_SEEDS} seeds, {SEEDS_OF_SMALL_EFFECT} where "
        f"the difference is below {SMALL_EFFECT_DB:g} dB."
    )
    return text + (" The interval of an arm with one seed covers subjects only." if single else "")


def _extent(comparison: Comparison) -> str:
    unseen = f"; unseen: {', '.join(comparison.unseen)}" if comparison.unseen else ""
    seeds = sorted({entry.psnr.seeds for entry in comparison.arms})
    return (
        f"{len(comparison.arms)} arms; {len(comparison.sites)} sites with {comparison.subjects} test subjects took "
        f"part{unseen}; {' or '.join(map(str, seeds))} {'seed' if seeds == [1] else 'seeds'}."
    )


def _flags(entry: ArmEntry) -> list[str]:
    return [str(flag) for flag in entry.facts.get("flags", ())]


def _card_lines(comparison: Comparison) -> list[str]:
    return [f"{str(key).replace('_', ' ')}: {value}" for key, value in comparison.metric_card.items()]


# Plain text


def comparison_text(comparisons: Sequence[Comparison]) -> str:
    """The tables for a terminal: differences, mean, worst and unseen sites, SSIM, bytes, time, seeds; flags last.

    Raises
    ------
    ValueError
        If there is nothing to compare, or a modality has a table twice.
    """
    _check(comparisons)
    return "\n\n".join(map(_text, comparisons))


def _text(comparison: Comparison) -> str:
    shown = {"bytes", "time", "seeds"}
    columns = _differences(comparison) + _summaries() + _sites(comparison, comparison.unseen)
    columns += [column for column in _costs() if column.head in shown]
    table = [["", *(f"{c.head} (unseen)" if c.below == "unseen" else c.head for c in columns)]]
    for entry in comparison.arms:
        cells = [" ".join(column.lines(entry)) for column in columns]
        table.append([entry.arm, *cells])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    written = []
    for line, flags in zip(table, [[], *map(_flags, comparison.arms)], strict=True):
        cells = [text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)]
        warning = f"  ! {', '.join(flags)}" if flags else ""
        written.append("  ".join([line[0].ljust(widths[0]), *cells]).rstrip() + warning)
    rule = "-" * (sum(widths) + 2 * len(columns))
    title = f"{comparison.modality.upper()}, {comparison.table}: PSNR in dB"
    legend = textwrap.fill(_legend(comparison), 100)
    return "\n".join([title, written[0], rule, *written[1:], rule, legend, *_card_lines(comparison)])


# JSON and CSV


def _json(comparison: Comparison) -> dict[str, Any]:
    return {
        "modality": comparison.modality,
        "table": comparison.table,
        "metric_card": comparison.metric_card,
        "against": comparison.against,
        "subjects": comparison.subjects,
        "arms": {entry.arm: _entry_json(entry) for entry in comparison.arms},
    }


def _entry_json(entry: ArmEntry) -> dict[str, Any]:
    differences = {}
    for reference, difference in entry.differences.items():
        interval = difference.interval
        differences[reference] = {
            "found": interval.found,
            "interval": [interval.low, interval.high],
            "p": interval.p_value,
            "p_holm": difference.p_holm,
            "marked": difference.marked,
            "seeds": interval.seeds,
            "subjects": interval.subjects,
        } | ({"note": interval.note} if interval.note else {})
    psnr = {
        "mean": entry.psnr.mean,
        "worst": entry.psnr.worst,
        "worst_site": entry.psnr.worst_site,
        "sites": entry.psnr.sites,
        "unseen": entry.psnr.unseen,
    }
    return (
        {"seeds": entry.psnr.seeds, "psnr": psnr}
        | dict(entry.means)
        | {
            "differences": differences,
            "bytes": entry.bytes,
            "facts": entry.facts,
        }
    )


def comparison_csv(comparisons: Sequence[Comparison]) -> str:
    """A line per modality, table and arm; numbers with all their digits, empty where there is none."""
    lines = [_csv_line(comparison, entry) for comparison in comparisons for entry in comparison.arms]
    columns = list(dict.fromkeys(column for line in lines for column in line))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _csv_line(comparison: Comparison, entry: ArmEntry) -> dict[str, Any]:
    line: dict[str, Any] = {"modality": comparison.modality, "table": comparison.table, "arm": entry.arm}
    line |= {"seeds": entry.psnr.seeds, "psnr_mean": entry.psnr.mean, "psnr_worst": entry.psnr.worst}
    line |= {"worst_site": entry.psnr.worst_site} | {f"{name}_mean": value for name, value in entry.means.items()}
    for name, difference in entry.differences.items():
        interval = difference.interval
        line |= {f"vs_{name}": interval.found, f"vs_{name}_low": interval.low, f"vs_{name}_high": interval.high}
        line |= {f"vs_{name}_p": interval.p_value, f"vs_{name}_p_holm": difference.p_holm}
        line |= {f"vs_{name}_seeds": interval.seeds, f"vs_{name}_marked": str(difference.marked).lower()}
    line |= {f"psnr_at_{site}": value for site, value in entry.psnr.sites.items()}
    line |= {f"psnr_at_unseen_{site}": value for site, value in entry.psnr.unseen.items()}
    line["bytes"] = entry.bytes
    known = {name: entry.facts.get(name) for name in FACTS}
    known["flags"] = "; ".join(_flags(entry))
    known["chosen"] = _chosen(entry)
    return line | known | {"metric_card": "; ".join(_card_lines(comparison))}


def _chosen(entry: ArmEntry) -> str:
    chosen: Mapping[str, Any] = entry.facts.get("chosen") or {}
    return ", ".join(f"{name} {f'{value:g}' if isinstance(value, float) else value}" for name, value in chosen.items())


# LaTeX

_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    '"': "''",
    "[": "{[}",  # \\ would take it for its option
    "]": "{]}",
    "\n": " ",
    "\N{MINUS SIGN}": "$-$",
    "\N{INFINITY}": r"$\infty$",
    "\N{NARROW NO-BREAK SPACE}": r"\,",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    _DASH: "--",
    _STAR: r"$^{\star}$",
    _DELTA: r"$\Delta$",
}


def tex(text: str) -> str:
    """Text as LaTeX prints it, without a command of its own."""
    return re.sub(f"[{re.escape(''.join(_TEX))}]", lambda match: _TEX[match.group()], text)


def comparison_tex(comparisons: Sequence[Comparison]) -> str:
    """One ``table*`` per table, for documents that load booktabs."""
    head = "% \\usepackage{booktabs}\n"
    return head + "\n".join(map(_tex_table, comparisons))


def _tex_table(comparison: Comparison) -> str:
    columns = _differences(comparison) + _summaries()
    columns += _sites(comparison, (*comparison.sites, *comparison.unseen)) + _costs()
    heads = ["arm", *(tex(column.head) for column in columns)]
    below = ["", *(tex(column.below) for column in columns)]
    body = []
    for entry in comparison.arms:
        flags = "".join(f" \\emph{{({tex(flag)})}}" for flag in _flags(entry))
        body.append([tex(entry.arm) + flags, *(" ".join(map(tex, column.lines(entry))) for column in columns)])
    lines = [" & ".join(cells) + r" \\" for cells in (heads, below, *body)]
    notes = " ".join(f"{tex(line)}." for line in _card_lines(comparison))
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{tex(f'{comparison.modality.upper()}, {comparison.table}. {_legend(comparison)}')}}}",
            rf"\begin{{tabular}}{{l*{{{len(columns)}}}{{r}}}}",
            r"\toprule",
            *lines[:2],
            r"\midrule",
            *lines[2:],
            r"\bottomrule",
            r"\end{tabular}",
            rf"\par\smallskip\raggedright {notes}",
            r"\end{table*}",
            "",
        ]
    )


# The page

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
svg text.name{fill:var(--ink)}
svg .zero{stroke:var(--ink);stroke-width:1}
svg .whisker{stroke:var(--c0);stroke-width:1.8}
svg .dot{fill:var(--c0)}
svg .hollow{fill:var(--paper);stroke:var(--c0);stroke-width:1.8}
@media print{.comparison{font-size:6.5pt}.comparison th,.comparison td{padding:2px 3px}
  .comparison tbody th{min-width:0}.comparison tr.against th,.comparison tr.against td{print-color-adjust:exact}}
"""


def comparison_page(
    comparisons: Sequence[Comparison],
    hypotheses: Mapping[str, Mapping[str, Mapping[str, Any]]],
    statements: Mapping[str, str],
    title: str,
) -> str:
    """All tables as one page that loads nothing, in the style of the run's report."""
    lead = (
        "One part per modality and table; they are not comparable with each other. Differences are paired: the same "
        "test volumes, and training runs of the same seed."
    )
    page = _document(title, lead, [_claims(hypotheses, statements), *map(_section, comparisons)])
    return page.replace(STYLE, STYLE + _STYLE, 1)


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
    """Text that breaks at underscores only."""
    return escape(text).replace(" ", "&nbsp;").replace("_", "_<wbr>")


def _section(comparison: Comparison) -> str:
    name = f"{comparison.modality.upper()}, {comparison.table}"
    label = escape(name)
    return (
        f"<h2>{label}</h2><p>{escape(_extent(comparison))}</p>"
        + _chart(comparison, name)
        + f"<h3>Every arm: {label}</h3>"
        + f'<p class="note">{escape(_legend(comparison))}</p>'
        + scroll(_arm_table(comparison), f"Every arm, {name}")
        + f"<h3>How these numbers were computed: {label}</h3>"
        + card(comparison.metric_card)
        + _tuning(comparison, name)
    )


def _arm_table(comparison: Comparison) -> str:
    columns = _differences(comparison) + _summaries()
    columns += _sites(comparison, (*comparison.sites, *comparison.unseen)) + _costs()
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
        label = f'<span class="soft">{escape(str(entry.facts["label"]))}</span>' if entry.facts.get("label") else ""
        flags = "".join(f'<span class="flag">{escape(flag)}</span>' for flag in _flags(entry))
        style = ' class="against"' if entry.arm in comparison.against else ""
        body.append(f'<tr{style}><th scope="row">{_unbroken(entry.arm)}{label}{flags}</th>{cells}</tr>')
    return (
        f'<table class="comparison"><thead><tr><th scope="col">arm</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def _tuning(comparison: Comparison, name: str) -> str:
    """Steps, trials and what they chose; hidden until asked for."""
    known = [entry for entry in comparison.arms if entry.facts.get("steps") is not None or entry.facts.get("chosen")]
    if not known:
        return ""
    lines = [
        f'<tr><th scope="row">{escape(entry.arm)}</th><td>{_whole(entry.facts.get("steps"))}</td>'
        f"<td>{_whole(entry.facts.get('trials'))}</td><td>{escape(_chosen(entry) or _DASH)}</td></tr>"
        for entry in known
    ]
    table = _claim_table(("arm", "steps at each site", "trials", "chosen on validation"), lines)
    return f"<details><summary>Steps and tuning of every arm</summary>{scroll(table, f'Tuning, {name}')}</details>"


# The chart


def _chart(comparison: Comparison, name: str) -> str:
    reference = comparison.against[0]
    rows = [(entry.arm, entry.differences[reference]) for entry in comparison.arms if reference in entry.differences]
    if not rows:
        return ""
    note = (
        f"PSNR less that of {reference}, with its 95 % interval. Filled: marked {_STAR} in the table. Dashed: one "
        "seed, the interval covers subjects only. A triangle: beyond the axis."
    )
    svg = forest_plot(f"{name}: difference to {reference}", rows, f"difference to {reference} (dB)")
    return f'<p class="note">{escape(note)}</p>' + scroll(svg, f"Differences to {reference}, {name}").replace(
        'class="scroll"', 'class="scroll forest"', 1
    )


def forest_plot(title: str, rows: Sequence[tuple[str, Difference]], x_label: str) -> str:
    """A dot and whiskers per row about a line at zero, the numbers at the right.

    Ends far beyond the others (a start image among trained networks) are cut off, so that these can be told apart.
    """
    low, high = _range([difference.interval for _, difference in rows])
    ticks = nice_ticks(low, high, 8)
    longest = max(len(name) for name, _ in rows)
    width, pitch, top, right = 900, 22, 8, 176
    left = min(250, 20 + 7 * longest)
    bottom = top + pitch * len(rows)

    def across(value: float) -> float:
        return left + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (width - left - right)

    parts = []
    for tick in ticks:
        x = across(tick)
        style = "zero" if abs(tick) < 1e-9 else "grid"
        parts.append(f'<line class="{style}" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}"/>')
        shown = f"{tick:+g}".replace("-", "\N{MINUS SIGN}") if style == "grid" else "0"
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{shown}</text>')
    middle = (left + width - right) / 2
    parts.append(f'<text x="{middle:.0f}" y="{bottom + 34}" text-anchor="middle">{escape(x_label)}</text>')
    for index, (name, difference) in enumerate(rows):
        y = top + pitch * (index + 0.5)
        parts.append(_whiskers(name, difference, y, across, (ticks[0], ticks[-1])))
        fits = (left - 14) // 7
        shown = name if len(name) <= fits else name[: fits - 1] + "…"
        parts.append(f'<text class="name" x="{left - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(shown)}</text>')
        found = number(difference.interval.found, 2, sign=True)
        text = f"{found} {_brackets(difference.interval)}" + (f" {_STAR}" if difference.marked else "")
        parts.append(f'<text x="{width - right + 14}" y="{y + 4:.1f}">{escape(text)}</text>')
    label = f"{title}; the numbers stand in the table below"
    head = f'<svg viewBox="0 0 {width} {bottom + 42}" role="img" aria-label="{escape(label)}">'
    return head + "".join(parts) + "</svg>"


def _range(intervals: Sequence[Interval]) -> tuple[float, float]:
    """From the least to the largest end and zero, without the few intervals that lie far beyond most ends."""
    limit = 4 * statistics.median(abs(end) for interval in intervals for end in (interval.low, interval.high))
    near = [interval for interval in intervals if abs(interval.found) <= limit]
    low = min([0.0, *(interval.low for interval in near)])
    high = max([0.0, *(interval.high for interval in near)])
    return max(low, -2 * limit), min(high, 2 * limit)


def _whiskers(
    name: str, difference: Difference, y: float, across: Callable[[float], float], ends: tuple[float, float]
) -> str:
    interval = difference.interval
    low, high = (min(max(end, ends[0]), ends[1]) for end in (interval.low, interval.high))
    dash = ' stroke-dasharray="3 3"' if interval.seeds == 1 else ""
    parts = []
    if high > low:
        x1, x2 = across(low), across(high)
        parts.append(f'<line class="whisker"{dash} x1="{x1:.1f}" y1="{y:g}" x2="{x2:.1f}" y2="{y:g}"/>')
    for beyond, end, way in ((interval.low < ends[0], ends[0], -1), (interval.high > ends[1], ends[1], 1)):
        if beyond:
            x = across(end)
            corners = f"{x:.1f},{y:g} {x - 8 * way:.1f},{y - 5:g} {x - 8 * way:.1f},{y + 5:g}"
            parts.append(f'<polygon class="dot" points="{corners}"/>')
    if ends[0] <= interval.found <= ends[1]:
        style = "dot" if difference.marked else "hollow"
        parts.append(f'<circle class="{style}" cx="{across(interval.found):.1f}" cy="{y:g}" r="4.5"/>')
    hint = f"{name}: {number(interval.found, 2, sign=True)} dB {_brackets(interval)}"
    return f"<g><title>{escape(hint)}</title>{''.join(parts)}</g>"
