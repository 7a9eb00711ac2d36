"""Tables as LaTeX, and text escaped for LaTeX."""

import re
from collections.abc import Sequence

from .columns import (
    DASH,
    DELTA,
    STAR,
    card_lines,
    cost_columns,
    difference_columns,
    legend_of,
    site_columns,
    summary_columns,
)
from .table import ComparedTable

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
    "[": "{[}",  # after \\ a bracket would begin an option
    "]": "{]}",
    "\n": " ",
    "\N{MINUS SIGN}": "$-$",
    "\N{INFINITY}": r"$\infty$",
    "\N{NARROW NO-BREAK SPACE}": r"\,",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    DASH: "--",
    STAR: r"$^{\star}$",
    DELTA: r"$\Delta$",
}


def tex(text: str) -> str:
    """Text escaped for LaTeX: it contains no command."""
    return re.sub(f"[{re.escape(''.join(_TEX))}]", lambda match: _TEX[match.group()], text)


def comparison_tex(comparisons: Sequence[ComparedTable]) -> str:
    """One ``table*`` per table; the document must load booktabs."""
    head = "% \\usepackage{booktabs}\n"
    return head + "\n".join(map(_tex_table, comparisons))


def _tex_table(comparison: ComparedTable) -> str:
    columns = difference_columns(comparison) + summary_columns()
    columns += site_columns(comparison, (*comparison.sites, *comparison.unseen)) + cost_columns()
    heads = ["arm", *(tex(column.head) for column in columns)]
    below = ["", *(tex(column.below) for column in columns)]
    body = []
    for entry in comparison.arms:
        flags = "".join(f" \\emph{{({tex(flag)})}}" for flag in entry.details.flags)
        body.append([tex(entry.arm) + flags, *(" ".join(map(tex, column.lines(entry))) for column in columns)])
    lines = [" & ".join(cells) + r" \\" for cells in (heads, below, *body)]
    notes = " ".join(f"{tex(line)}." for line in card_lines(comparison))
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{tex(f'{comparison.modality.upper()}, {comparison.table}. {legend_of(comparison)}')}}}",
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
