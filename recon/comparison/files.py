"""Comparisons as files and for the terminal: JSON, CSV and plain text, with the page and LaTeX."""

import csv
import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import write_atomically
from ..report.results import plain
from ..report.text import regime_text
from .columns import (
    chosen_by,
    cost_columns,
    difference_columns,
    legend_of,
    selected_rounds,
    site_columns,
    summary_columns,
)
from .latex import comparison_tex
from .page import comparison_page
from .table import ArmEntry, ComparedTable, check_tables


def write_comparison(
    folder: Path | str,
    comparisons: Sequence[ComparedTable],
    *,
    hypotheses: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
    statements: Mapping[str, str] | None = None,
    worth: Sequence[str] = (),
) -> Path:
    """Write ``comparison.html``, ``.json``, ``.csv`` (a row per arm) and ``.tex`` (booktabs); no scores of volumes.

    Parameters
    ----------
    comparisons
        From :func:`recon.compare`, one per modality and table.
    hypotheses
        By hypothesis and modality, from :meth:`recon.Hypothesis.to_json`.
    statements
        Text of each hypothesis.
    worth
        Sentences that say what joining the federation is worth.

    Returns
    -------
        The path of the page.

    Raises
    ------
    ValueError
        If there is no table, or a modality has a table twice.
    DataError
        If a file cannot be written; an older file is then kept.
    """
    check_tables(comparisons)
    results = hypotheses or {}
    page = comparison_page(comparisons, results, statements or {}, worth)
    content = {"tables": [_json(each) for each in comparisons], "hypotheses": results}
    published = plain(content | ({"worth": list(worth)} if worth else {}))
    target = Path(folder) / "comparison.html"
    text = json.dumps(published, indent=2, allow_nan=False) + "\n"
    write_atomically(target.with_suffix(".json"), text.encode("utf-8"))
    write_atomically(target.with_suffix(".csv"), comparison_csv(comparisons).encode("utf-8"))
    write_atomically(target.with_suffix(".tex"), comparison_tex(comparisons).encode("utf-8"))
    write_atomically(target, page.encode("utf-8"))
    return target


# Plain text


def comparison_text(comparisons: Sequence[ComparedTable], *, worth: Sequence[str] = ()) -> str:
    """Tables for a terminal: differences, mean, worst site, SSIM, unseen sites, bytes, time, seeds and flags.

    The sentences of ``worth`` follow, see :func:`write_comparison`.

    Raises
    ------
    ValueError
        If there is no table, or a modality has a table twice.
    """
    check_tables(comparisons)
    return "\n\n".join([*map(_text, comparisons), *(textwrap.fill(sentence, 100) for sentence in worth)])


def _text(comparison: ComparedTable) -> str:
    shown = {"bytes", "time", "seeds"}
    columns = difference_columns(comparison) + summary_columns() + site_columns(comparison, comparison.unseen)
    columns += [column for column in cost_columns() if column.head in shown]
    table = [["", *(f"{c.head} (unseen)" if c.below == "unseen" else c.head for c in columns)]]
    for entry in comparison.arms:
        cells = [" ".join(column.lines(entry)) for column in columns]
        table.append([entry.arm, *cells])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    written = []
    for line, flags in zip(table, [(), *(entry.details.flags for entry in comparison.arms)], strict=True):
        cells = [text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)]
        warning = f"  ! {', '.join(flags)}" if flags else ""
        written.append("  ".join([line[0].ljust(widths[0]), *cells]).rstrip() + warning)
    rule = "-" * (sum(widths) + 2 * len(columns))
    title = f"{comparison.modality.upper()}, {comparison.table}: PSNR in dB"
    legend = textwrap.fill(legend_of(comparison), 100)
    regime = regime_text({entry.arm: entry.details.curves for entry in comparison.arms})
    page = "comparison.html says how these numbers were computed."
    return "\n".join([title, written[0], rule, *written[1:], rule, legend, page, *regime])


# JSON and CSV


def _json(comparison: ComparedTable) -> dict[str, Any]:
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
            "bytes": entry.details.bytes,
            "facts": entry.details.to_json(),
        }
    )


#: Columns of a CSV file that hold details of an arm, in this order.
_NUMBERS = ("parameters_shared", "parameters_kept", "bytes_up", "bytes_down", "bytes_base", "seconds", "peak_memory_mb",
            "least_steps", "steps", "trials")  # fmt: skip


def comparison_csv(comparisons: Sequence[ComparedTable]) -> str:
    """A line per modality, table and arm; numbers with all digits, unknown ones empty. The JSON has the metric card."""
    lines = [_csv_line(comparison, entry) for comparison in comparisons for entry in comparison.arms]
    columns = list(dict.fromkeys(column for line in lines for column in line))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _csv_line(comparison: ComparedTable, entry: ArmEntry) -> dict[str, Any]:
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
    line |= {"bytes": entry.details.bytes, "label": entry.details.label, "flags": "; ".join(entry.details.flags)}
    line |= {name: getattr(entry.details, name) for name in _NUMBERS} | {"chosen": chosen_by(entry)}
    if entry.details.selected_steps is not None:  # tables of an older version have no such column
        line |= {"selected_steps": entry.details.selected_steps, "selected_rounds": selected_rounds(entry)}
    return line
