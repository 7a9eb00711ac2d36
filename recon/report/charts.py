"""Line charts, dot plots and points with intervals as inline SVG; the style sheet of the page sets the colors."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape

#: Number of colors in the style sheet (``--c0`` ...); further series repeat them with another dash.
N_COLORS = 8
DASHES = ("", "6 3", "2 3", "8 3 2 3")
MARKS = ("circle", "square", "diamond", "triangle")
_WIDTH, _HEIGHT = 320, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 12, 10, 36


@dataclass(frozen=True)
class Series:
    """A named line; ``style`` is the number of its color, dash and mark; a ring marks its point at ``chosen``."""

    name: str
    points: Sequence[tuple[float, float]]
    style: int
    chosen: float | None = None


@dataclass(frozen=True)
class Point:
    """A named point with the interval of its y; without x a level across the chart. ``style`` as in Series."""

    name: str
    x: float | None
    y: float
    interval: tuple[float, float] | None
    style: int


def nice_ticks(low: float, high: float, count: int = 4, *, whole: bool = False) -> list[float]:
    """About ``count`` equally spaced round numbers from ``low`` or below to ``high`` or above."""
    if high <= low:
        spread = max(abs(low) * 0.1, 1e-6)
        low, high = low - spread / 2, high + spread / 2
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    if whole:
        step = max(1.0, math.ceil(step))
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [step * index for index in range(first, last + 1)]


def line_chart(title: str, series: Sequence[Series], y_label: str, x_label: str = "round") -> str:
    """One chart with axes, grid and a mark at every value, for widths of 260 px and above; empty without values.

    Parameters
    ----------
    title
        Text for screen readers; the first and last values of the series are added.
    series
        Lines; values that are not finite are left out.
    """
    drawn = [replace(s, points=[p for p in s.points if math.isfinite(p[1])]) for s in series]
    drawn = [s for s in drawn if s.points]
    if not drawn:
        return ""
    xs = [x for s in drawn for x, _ in s.points]
    ys = [y for s in drawn for _, y in s.points]
    x_ticks = nice_ticks(min(xs), max(xs), 6, whole=True) if max(xs) > min(xs) else [xs[0]]
    y_ticks = nice_ticks(min(ys), max(ys))
    x_low, x_high = (min(xs), max(xs)) if max(xs) > min(xs) else (xs[0] - 1, xs[0] + 1)
    plane = _Plane((x_low, x_high), (y_ticks[0], y_ticks[-1]))
    parts = [_axes(plane, [t for t in x_ticks if x_low <= t <= x_high], y_ticks, x_label, y_label)]
    parts += [_line(plane, s) for s in drawn]
    spoken = "; ".join(f"{s.name}: {s.points[0][1]:.4g} to {s.points[-1][1]:.4g}" for s in drawn)
    return _svg(f"{title}, from first to last {x_label}. {spoken}", _WIDTH, _HEIGHT, parts)


def point_chart(title: str, points: Sequence[Point], y_label: str, x_label: str) -> str:
    """Points with their intervals, for widths of 260 px and above; empty without points.

    Parameters
    ----------
    title
        Text for screen readers; the values are added.
    points
        Finite values. A point without x is a dashed line at its y.
    """
    if not points:
        return ""
    xs = [point.x for point in points if point.x is not None] or [0.0]
    ys = [y for point in points for y in (point.y, *(point.interval or ()))]
    x_ticks, y_ticks = nice_ticks(min(xs), max(xs), 5), nice_ticks(min(ys), max(ys))
    plane = _Plane((x_ticks[0], x_ticks[-1]), (y_ticks[0], y_ticks[-1]))
    parts = [_axes(plane, x_ticks, y_ticks, x_label, y_label), *(_point(plane, point, y_label) for point in points)]
    spoken = "; ".join(f"{point.name}: {point.y:.3g}" for point in points)
    return _svg(f"{title}. {spoken}", _WIDTH, _HEIGHT, parts)


def dot_plot(title: str, rows: Sequence[tuple[str, Sequence[float | None]]], arms: Sequence[str], x_label: str) -> str:
    """One horizontal line per row with one mark per arm; styles follow the order of ``arms``."""
    values = [v for _, entries in rows for v in entries if v is not None and math.isfinite(v)]
    if not values:
        return ""
    width, side, pitch, top = 480, 14, 40, 4
    ticks = nice_ticks(min(values), max(values), 6)
    bottom = top + pitch * len(rows)

    def across(value: float) -> float:
        return side + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (width - 2 * side)

    parts = []
    for tick in ticks:
        x = across(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{width / 2:.0f}" y="{bottom + 34}" text-anchor="middle">{escape(x_label)}</text>')
    for index, (name, entries) in enumerate(rows):
        y = top + pitch * index + 27
        # Above its line, so that a long name is not clipped.
        parts.append(f'<text class="name" x="{side}" y="{y - 12}">{escape(name)}</text>')
        finite = [across(v) for v in entries if v is not None and math.isfinite(v)]
        if finite:
            parts.append(f'<line class="span" x1="{min(finite):.1f}" y1="{y}" x2="{max(finite):.1f}" y2="{y}"/>')
        for style, value in enumerate(entries):
            if value is not None and math.isfinite(value):
                hint = f"{escape(name)}, {escape(arms[style])}: {value:.2f}"
                parts.append(f"<g><title>{hint}</title>{mark(style, across(value), y, 5)}</g>")
    return _svg(title, width, bottom + 42, parts)


def mark(style: int, x: float, y: float, radius: float) -> str:
    """A filled mark; shape and color both follow the style, so that it is readable without color."""
    color = f'class="f{style % N_COLORS}"'
    shape = MARKS[style % len(MARKS)]
    if shape == "circle":
        return f'<circle {color} cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>'
    if shape == "square":
        side = 1.8 * radius
        corner = f'x="{x - side / 2:.1f}" y="{y - side / 2:.1f}"'
        return f'<rect {color} {corner} width="{side:g}" height="{side:g}"/>'
    corners = [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)] if shape == "diamond" else [(0, -1.2), (1.2, 1), (-1.2, 1)]
    return f'<polygon {color} points="{_points((x + radius * u, y + radius * v) for u, v in corners)}"/>'


def legend(names: Sequence[str], *, lines: bool) -> str:
    """Names beside their marks, in the styles 0, 1, 2 ...; ``lines``: for a line chart."""
    items = []
    for style, name in enumerate(names):
        stroke = _stroke(style)
        line = f'<line {stroke} x1="0" y1="7" x2="28" y2="7"/>' if lines else ""
        swatch = f'<svg width="28" height="14" aria-hidden="true">{line}{mark(style, 14, 7, 4.5)}</svg>'
        items.append(f"<li>{swatch} {escape(name)}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def panel(title: str, chart: str) -> str:
    """A chart with its title; empty for an empty chart."""
    return f"<figure><figcaption>{escape(title)}</figcaption>{chart}</figure>" if chart else ""


@dataclass(frozen=True)
class _Plane:
    """Ranges of both axes of a line chart."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        u = (x - self.x[0]) / (self.x[1] - self.x[0])
        v = (y - self.y[0]) / (self.y[1] - self.y[0])
        return _LEFT + u * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - v * (_HEIGHT - _BOTTOM - _TOP)


def _axes(plane: _Plane, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str, y_label: str) -> str:
    parts = []
    for tick in y_ticks:
        _, y = plane.at(plane.x[0], tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_tick(tick, y_ticks)}</text>')
    for tick in x_ticks:
        x, _ = plane.at(tick, plane.y[0])
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle">{tick:g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>')
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    turned = f'x="11" y="{middle:.0f}" transform="rotate(-90 11 {middle:.0f})"'
    parts.append(f'<text {turned} text-anchor="middle">{escape(y_label)}</text>')
    return "".join(parts)


def _tick(value: float, ticks: Sequence[float]) -> str:
    step = ticks[1] - ticks[0]
    digits = max(0, math.ceil(-math.log10(step) - 1e-9))
    if step * 10**digits % 1 > 1e-6:  # steps of 0.25
        digits += 1
    return f"{value:.0e}" if digits > 4 else f"{value:.{digits}f}"


def _line(plane: _Plane, series: Series) -> str:
    spots = [plane.at(x, y) for x, y in series.points]
    radius = 2.6 if len(spots) <= 40 else 1.2
    marks = "".join(mark(series.style, x, y, radius) for x, y in spots)
    rings = "".join(
        f'<circle class="s{series.style % N_COLORS}" cx="{spot[0]:.1f}" cy="{spot[1]:.1f}" r="6"/>'
        for spot, (x, _) in zip(spots, series.points, strict=True)
        if x == series.chosen
    )
    return f'<polyline {_stroke(series.style)} points="{_points(spots)}"/>{marks}{rings}'


def _point(plane: _Plane, point: Point, y_label: str) -> str:
    hint = f"<title>{escape(point.name)}: {escape(y_label)} {point.y:.3g}</title>"
    color = f'class="s{point.style % N_COLORS}"'
    x, y = plane.at(plane.x[0] if point.x is None else point.x, point.y)
    if point.x is None:
        ends = f'x1="{x:.1f}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"'
        return f'<g>{hint}<line {color} stroke-dasharray="6 3" {ends}/></g>'
    bar = ""
    if point.interval is not None:
        (_, low), (_, high) = (plane.at(point.x, end) for end in point.interval)
        bar = f'<line {color} x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}"/>'
    return f"<g>{hint}{bar}{mark(point.style, x, y, 4)}</g>"


def _stroke(style: int) -> str:
    dash = DASHES[style // N_COLORS % len(DASHES)]
    return f'class="s{style % N_COLORS}"' + (f' stroke-dasharray="{dash}"' if dash else "")


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _svg(label: str, width: int, height: int, parts: Iterable[str]) -> str:
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
    return head + "".join(parts) + "</svg>"
