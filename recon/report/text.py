"""Numbers and the score table as plain text."""

import math
from collections.abc import Iterable, Mapping, Sequence

from .learning_curve import COLUMNS, LearningCurve, curves_by_arm, regime_rows
from .results import Cell, Results, score_rows, shown_arms

#: Decimals of every score.
DIGITS = {"psnr": 2, "ssim": 3, "nmse": 4, "foreground_ssim": 3, "residual": 2}
#: Text for a value that is not known.
NO_VALUE = "\N{EN DASH}"


def number(value: float | None, digits: int, *, sign: bool = False) -> str:
    """A number with ``digits`` decimals and a true minus sign; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return NO_VALUE
    text = "∞" if math.isinf(value) else f"{abs(value):.{digits}f}"
    negative = value < 0 and text.strip("0.") != ""
    return ("\N{MINUS SIGN}" if negative else "+" if sign else "") + text


def byte_count(value: float) -> str:
    """Bytes in the largest binary unit that gives a number of at least one."""
    if value < 1024:
        return f"{value:.0f} B"
    power = min(int(math.log(value, 1024)), 4)
    return f"{value / 1024**power:.3g} {('KiB', 'MiB', 'GiB', 'TiB')[power - 1]}"


def duration(seconds: float) -> str:
    """Seconds as text, such as ``8 min 12 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def text_table(results: Results) -> str:
    """Table of scores: rows are sites, columns are arms, cells are PSNR in dB and SSIM; ``*`` marks the best of a row.

    The method is the first column. Sites without a reference show the residual on held-out measurements in units of the
    noise, ``none`` where there is none. Below stands the regime of every training, if the results have it: slices,
    rounds, steps at the selected round, parameters.

    Parameters
    ----------
    results
        The content of ``report.json``.

    Raises
    ------
    ValueError
        If arms disagree about the sites.
    """
    rows = score_rows(results)
    lines = [["", *shown_arms(results)]]
    for row in rows:
        lines.append([row.name, *map(_cell, row.cells)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    written = [
        "  ".join([line[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    rule = "-" * len(written[0])
    kinds = ["", *(row.kind for row in rows)]
    ruled: list[str] = []
    for index, line in enumerate(written):
        if index and kinds[index] != kinds[index - 1]:
            ruled.append(rule)
        ruled.append(line.rstrip())
    title = "PSNR in dB and SSIM"
    note = "* best PSNR of the row; mean and worst over the sites that took part"
    regime = regime_text(curves_by_arm(results))
    return "\n".join([title, *ruled, rule, note, *([""] if regime else []), *regime])


def regime_text(curves: Mapping[str, Iterable[LearningCurve]]) -> list[str]:
    """Lines of the table of the regime; none without learning curves."""
    rows = [(name, *cells) for name, cells in regime_rows(curves)]
    if not rows:
        return []
    return aligned([COLUMNS, *rows])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of equally many cells as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cell(cell: Cell) -> str:
    if "psnr" not in cell.scores:
        if "residual" not in cell.scores:
            return "none "
        star = "*" if "residual" in cell.best else " "
        return f"residual {number(cell.scores.get('residual'), DIGITS['residual'])}{star}"
    star = "*" if "psnr" in cell.best else " "
    return f"{number(cell.scores['psnr'], 2)} {number(cell.scores.get('ssim'), 3)}{star}"
