"""Forest plot of a comparison: differences to one arm with their intervals, and a line at zero."""

import statistics
from collections.abc import Callable, Sequence
from html import escape

from ..report.charts import nice_ticks
from ..report.text import number
from .columns import STAR, brackets
from .statistics import Interval
from .table import Difference


def forest_plot(title: str, rows: Sequence[tuple[str, Difference]], x_label: str) -> str:
    """A dot and whiskers per row, a line at zero, numbers at the right.

    Ends far beyond the others (a start image among trained networks) are cut off, so that the others stay readable.
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
        text = f"{found} {brackets(difference.interval)}" + (f" {STAR}" if difference.marked else "")
        parts.append(f'<text x="{width - right + 14}" y="{y + 4:.1f}">{escape(text)}</text>')
    label = f"{title}; the numbers stand in the table below"
    head = f'<svg viewBox="0 0 {width} {bottom + 42}" role="img" aria-label="{escape(label)}">'
    return head + "".join(parts) + "</svg>"


def _range(intervals: Sequence[Interval]) -> tuple[float, float]:
    """Range of all ends and zero, without the few intervals far beyond most ends."""
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
    hint = f"{name}: {number(interval.found, 2, sign=True)} dB {brackets(interval)}"
    return f"<g><title>{escape(hint)}</title>{''.join(parts)}</g>"
