"""The section of the report on error bars: coverage and width at every site, and the error against the half-width."""

from collections.abc import Mapping
from html import escape
from typing import Any

from .charts import Series, legend, line_chart, panel
from .tables import html_table
from .text import NO_VALUE, aligned, number

_COLUMNS = (
    "site", "people", "coverage", "95 % interval", "whole image", "half-width", "if constant", "whole image ",
    "if constant ", "own weight",
)  # fmt: skip


def error_bars_section(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A table, and one curve per site; empty if no site has error bars."""
    if not found:
        return ""
    names = list(found)
    lines = []
    for place, (site, one) in enumerate(found.items()):
        pairs = zip(one["curve"]["half_width"], one["curve"]["error"], strict=True)
        lines.append(Series(site, [(100 * w, 100 * e) for w, e in pairs], place))
    chart = line_chart(
        "Mean error against half-width", lines, "mean error, % of the brightest pixel", "half-width, % of it"
    )
    return (
        "<h2>Error bars</h2>"
        + html_table(_caption(found), _COLUMNS, _rows(found))
        + legend(names, lines=True)
        + f'<div class="panels">{panel("ten groups of pixels by half-width", chart)}</div>'
    )


def error_bars_text(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The table as plain text; empty if no site has error bars."""
    if not found:
        return ""
    wanted = next(iter(found.values()))["wanted"]
    rows = [_COLUMNS, *((name, *cells) for name, cells in _rows(found))]
    return "\n".join([f"error bars, wanted coverage {number(wanted, 2)}:", *aligned(rows)])


def _caption(found: Mapping[str, Mapping[str, Any]]) -> str:
    wanted = next(iter(found.values()))["wanted"]
    return (
        "Coverage: part of the pixels of the object whose error is within the error bar, wanted "
        f"{number(wanted, 2)}; mean over the people of the test scans. Its interval counts the people of test "
        "and calibration (Student's t). The object is whatever is brighter than a twentieth of the brightest "
        "pixel of a slice. Every site calibrates on its own validation scans; own weight: how far, the rest "
        "is the mean of all sites, for sites with few people. Half-width: mean over the object, in % of the "
        "brightest pixel, beside that of a constant interval with the same coverage; then the same over the "
        "whole image, background included, where the error bars keep their calibration and the constant "
        "interval has one of its own. Of few people coverage is an estimate, not a guarantee, and people "
        "unlike those of the validation scans are not covered by it. Calibrated on: "
        f"{escape(_people(found))}."
    )


def _people(found: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"{site} {one['calibrated_on']}" for site, one in found.items()) + " people"


def _rows(found: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    rows = []
    for site, one in found.items():
        interval = one["interval"]
        widths = ("half_width", "constant_half_width", "half_width_image", "constant_half_width_image")
        rows.append(
            (
                site,
                [
                    str(one["people"]),
                    number(one["coverage"], 3),
                    NO_VALUE if interval is None else " to ".join(number(end, 3) for end in interval),
                    number(one["coverage_image"], 3),
                    *(f"{number(100 * one[key], 2)} %" for key in widths),
                    number(one["own_weight"], 2),
                ],
            )
        )
    return rows
