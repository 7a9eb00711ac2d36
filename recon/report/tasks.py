"""The section of the report on a downstream task: scores beside PSNR, calibration, label sets and abstention."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ..tasks import SPECIFICITY, TASK_METRICS
from .charts import Point, Series, legend, line_chart, panel, point_chart
from .results import Results, method_of, shown_arms
from .tables import card, html_table
from .text import NO_VALUE, aligned, number

#: Column and decimals of every score.
_SHOWN: Mapping[str, tuple[str, int]] = {
    "dice": ("Dice", 3),
    "surface_mm": ("surface distance (mm)", 2),
    "hausdorff95_mm": ("Hausdorff 95 % (mm)", 2),
    "detected": ("regions found", 2),
    "false_marks": ("false marks per slice", 2),
    "auc": ("AUC", 3),
    "sensitivity": (f"sensitivity at specificity {SPECIFICITY:g}", 2),
    "calibration_error": ("calibration error", 3),
}
#: Definitions, printed below the tables.
_CARD = {
    "dice": "twice the overlap over the sum of label and prediction, all slices of a person; none without the class",
    "surface_mm": "mean distance of the contours within slices with label and prediction; other slices have none",
    "hausdorff95_mm": "the larger 95th percentile of the distances from either contour to the other",
    "detected": "part of the connected regions of the label, slice by slice, that the prediction touches",
    "false_marks": "connected regions of the prediction that touch no label, in the mean of the slices",
    "auc": "over all slices: how often a slice with the class has the larger probability than one without",
    "sensitivity": f"over all slices, at a threshold with specificity {SPECIFICITY:g} or more on the same slices",
    "calibration_error": "mean distance of probability and frequency in ten groups; above 0 by chance for few slices",
    "interval": "95 %, people resampled; none for one person, and where all draws are equal",
}
#: Smallest group of probabilities whose frequency is drawn.
_LEAST = 5
_SETS = "people of the site", "people borrowed", "wanted", "held", "95 % interval"


def task_section(results: Results) -> str:
    """Tables and charts of every site with labels; empty if there is none."""
    found: Mapping[str, Mapping[str, Any]] = results.get("task", {})
    if not found:
        return ""
    first = _first(found)
    # The colors of the other charts of the page; arms of this section alone stand last.
    every = list(dict.fromkeys(arm for by_arm in found.values() for arm in by_arm))
    arms = sorted(every, key=[*(arm for arm in shown_arms(results) if arm in every), *every].index)
    metrics = [name for name in TASK_METRICS[first["kind"]] if name in _metrics(found)]
    parts = [f"<h2>Downstream task: {escape(first['kind'])} of {escape(', '.join(first['classes']))}</h2>"]
    parts += [
        f"<h3>{escape(site)}</h3>"
        + html_table(
            _caption(site, by_arm), ["arm", "PSNR (dB)", *_columns(metrics, by_arm)], _rows(results, site, metrics)
        )
        for site, by_arm in found.items()
    ]
    parts.append("<h3>How these numbers were computed</h3>" + card(_definitions(metrics)))
    parts += [_quality(results, arms), _reliability(found, arms), _label_sets(found), _abstention(found, arms)]
    return "".join(parts)


def task_text(results: Results) -> str:
    """The tables as plain text; empty if no site has labels."""
    found: Mapping[str, Mapping[str, Any]] = results.get("task", {})
    if not found:
        return ""
    first = _first(found)
    main = TASK_METRICS[first["kind"]][0]
    rows = [("site", "arm", "PSNR (dB)", _SHOWN[main][0], "95 % interval", "people")]
    for site, by_arm in found.items():
        for arm, name, entry in _entries(by_arm):
            score = entry["scores"][main]
            label = arm if len(first["classes"]) == 1 else f"{arm}, {name}"
            rows.append((site, label, number(_psnr(results, site, arm), 2), number(score["value"], 3),
                         _interval(score, 3), str(score["people"])))  # fmt: skip
    return "\n".join([f"downstream task: {first['kind']} of {', '.join(first['classes'])}", *aligned(rows)])


def task_runs_text(results: Mapping[str, Results]) -> str:
    """The first score of every class by run, arm and site, of runs at the same sites with the same labels.

    Arms are that of the recipe and the local one.

    Parameters
    ----------
    results
        Contents of ``report.json`` by name of the run.
    """
    task = {run: found["task"] for run, found in results.items()}
    first = _first(next(iter(task.values())))
    main, sites = TASK_METRICS[first["kind"]][0], list(next(iter(task.values())))
    rows = [("run", "arm", *sites)]
    for run, found in task.items():
        for arm in (method_of(results[run]), "local"):
            for name in first["classes"]:
                scores = [found[site].get(arm, {}).get("classes", {}).get(name, {}).get("scores") for site in sites]
                if any(scores):
                    label = arm if len(first["classes"]) == 1 else f"{arm}, {name}"
                    rows.append((run, label, *(_score(one and one[main], main) for one in scores)))
    title = f"{first['kind']} of {', '.join(first['classes'])}: {_SHOWN[main][0]}, in brackets its 95 % interval"
    return "\n".join([title, *aligned(rows)])


def _first(found: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    first: Mapping[str, Any] = next(iter(next(iter(found.values())).values()))
    return first


def _metrics(found: Mapping[str, Mapping[str, Any]]) -> set[str]:
    return {name for by_arm in found.values() for _, _, entry in _entries(by_arm) for name in entry["scores"]}


def _entries(by_arm: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Arm, class and what was found of it."""
    for arm, scores in by_arm.items():
        for name, entry in scores["classes"].items():
            yield arm, name, entry


def _psnr(results: Results, site: str, arm: str) -> float | None:
    value: float | None = results["arms"].get(arm, {"sites": {}})["sites"].get(site, {}).get("psnr")
    return value


def _interval(score: Mapping[str, Any] | None, digits: int) -> str:
    if score is None or score["interval"] is None:
        return NO_VALUE
    return " to ".join(number(end, digits) for end in score["interval"])


def _compared(by_arm: Mapping[str, Any]) -> str | None:
    """The arm with which the others are compared."""
    return next((scores["difference"]["to"] for scores in by_arm.values() if "difference" in scores), None)


def _columns(metrics: Sequence[str], by_arm: Mapping[str, Any]) -> list[str]:
    shown = [_SHOWN[name][0] for name in metrics]
    if (other := _compared(by_arm)) is not None:
        shown.insert(1, f"\N{GREEK CAPITAL LETTER DELTA} to {other}")
    return shown


def _caption(site: str, by_arm: Mapping[str, Any]) -> str:
    scores = next(iter(by_arm.values()))
    main = TASK_METRICS[scores["kind"]][0]
    scored = [f"{entry['scores'][main]['people']} for {name}" for name, entry in scores["classes"].items()]
    return (
        f"{site}: {scores['people']} people of the test scans, {scores['slices']} slices. People with "
        f"{_SHOWN[main][0]}: {', '.join(scored)}. In brackets: 95 % interval, people resampled."
    )


def _rows(results: Results, site: str, metrics: Sequence[str]) -> list[tuple[str, list[str]]]:
    by_arm = results["task"][site]
    compared = _compared(by_arm)
    several = len(next(iter(by_arm.values()))["classes"]) > 1
    rows = []
    for arm, name, entry in _entries(by_arm):
        cells = [_score(entry["scores"].get(metric), metric) for metric in metrics]
        if compared is not None:
            change = by_arm[arm].get("difference", {"classes": {}})["classes"].get(name, {})
            cells.insert(1, _score(change.get(metrics[0]), metrics[0], sign=True))
        rows.append((f"{arm}, {name}" if several else arm, [number(_psnr(results, site, arm), 2), *cells]))
    return rows


def _score(score: Mapping[str, Any] | None, metric: str, *, sign: bool = False) -> str:
    if score is None:
        return NO_VALUE
    digits = _SHOWN[metric][1]
    value = number(score["value"], digits, sign=sign)
    if score["interval"] is None:
        return value
    ends = "\N{NO-BREAK SPACE}".join(("to", number(score["interval"][1], digits, sign=sign)))
    return f"{value} ({number(score['interval'][0], digits, sign=sign)}\N{NO-BREAK SPACE}{ends})"


def _definitions(metrics: Sequence[str]) -> dict[str, str]:
    shown = {_SHOWN[name][0]: _CARD[name] for name in metrics}
    return shown | {"interval": _CARD["interval"]}


def _titled(site: str, name: str, entry: Mapping[str, Any]) -> str:
    return site if len(entry["classes"]) == 1 else f"{site}, {name}"


def _quality(results: Results, arms: Sequence[str]) -> str:
    """The score of the task against PSNR, one panel per site and class."""
    panels = []
    for site, by_arm in results["task"].items():
        main = TASK_METRICS[_first(results["task"])["kind"]][0]
        for name in next(iter(by_arm.values()))["classes"]:
            points = []
            for arm, scores in by_arm.items():
                score = scores["classes"][name]["scores"][main]
                if score["value"] is not None:
                    ends = None if score["interval"] is None else (score["interval"][0], score["interval"][1])
                    points.append(Point(arm, _psnr(results, site, arm), score["value"], ends, arms.index(arm)))
            title = _titled(site, name, next(iter(by_arm.values())))
            shown = _SHOWN[main][0]
            chart = point_chart(f"{shown} against PSNR at {title}", points, shown, "PSNR (dB)")
            panels.append(panel(title, chart))
    return (
        "<h3>What image quality does to the task</h3>"
        '<p class="note">One mark per arm with its 95 % interval over people; a dashed line is an arm without PSNR, '
        "such as the head on reference images: what it would reach with perfect images. Axes differ between panels.</p>"
        f'{legend(arms, lines=False)}<div class="panels">{"".join(panels)}</div>'
    )


def _reliability(found: Mapping[str, Mapping[str, Any]], arms: Sequence[str]) -> str:
    panels = []
    for site, by_arm in found.items():
        for name in next(iter(by_arm.values()))["classes"]:
            lines = [Series("right", [(0.0, 0.0), (100.0, 100.0)], 7)]
            for arm, scores in by_arm.items():
                curve = scores["classes"][name]["reliability"]
                groups = zip(curve["predicted"], curve["observed"], curve["count"], strict=True)
                shown = [(100 * told, 100 * seen) for told, seen, count in groups if count >= _LEAST]
                lines.append(Series(arm, shown, arms.index(arm)))
            title = _titled(site, name, next(iter(by_arm.values())))
            chart = line_chart(f"Calibration at {title}", lines, "it is there, %", "probability told, %")
            panels.append(panel(title, chart))
    what = "pixels with a probability of at least 1 %" if _first(found)["kind"] == "segmentation" else "slices"
    return (
        "<h3>Are the probabilities right?</h3>"
        f'<p class="note">Groups of {what} by the told probability: how often the class is there. On the gray '
        f"diagonal the probabilities are right; below it they are too large. Groups below {_LEAST} are not drawn.</p>"
        f'{legend(arms, lines=True)}<div class="panels">{"".join(panels)}</div>'
    )


def _label_sets(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of label sets, one row per site, arm and class; empty without."""
    kind = _first(found)["kind"]
    sizes = ("one", "both", "none") if kind == "classification" else ("marked", "truth")
    rows = [
        (f"{site}, {arm}, {name}", _held(one, sizes))
        for site, by_arm in found.items()
        for arm, scores in by_arm.items()
        for name, one in scores.get("label_sets", {}).items()
    ]
    if not rows:
        return ""
    if kind == "classification":
        names = ["one answer", "both: abstains", "no answer"]
        note = (
            "A label set holds each answer (present, absent) that cannot be excluded. Held: part of a person's slices "
            "whose true answer is in the set, mean over people of the test scans. "
        )
    else:
        names = ["marked, of all pixels", "class, of all pixels"]
        note = (
            "The region holds each pixel in which the class cannot be excluded. Held: part of a person's pixels of the "
            "class inside the region, mean over people of the test scans with the class. "
        )
    note += (
        "Every site calibrates on its own validation scans; people of other sites count beside them as far as the "
        "sites are alike. Where people are too few for a set, no set is made: it would hold everything."
    )
    return "<h3>Label sets</h3>" + html_table(note, ["site, arm, class", *_SETS, *names], rows)


def _held(one: Mapping[str, Any], sizes: Sequence[str]) -> list[str]:
    people = str(one["calibrated_on"]), number(one["borrowed"], 1), number(one["wanted"], 2)
    if one["threshold"] is None:
        return [*people, f"too few people: {one['needed']} needed", NO_VALUE, *[NO_VALUE] * len(sizes)]
    held = one["coverage"]
    parts = [NO_VALUE if one[size] is None else f"{number(100 * one[size], 1)} %" for size in sizes]
    return [*people, number(held["value"], 3), _interval(held, 3), *parts]


def _abstention(found: Mapping[str, Mapping[str, Any]], arms: Sequence[str]) -> str:
    """Accuracy of the answered slices, one panel per site and class; empty without label sets of classes."""
    panels = []
    for site, by_arm in found.items():
        for name in next(iter(by_arm.values()))["classes"]:
            lines = []
            for arm, scores in by_arm.items():
                curve = scores.get("label_sets", {}).get(name, {}).get("abstention")
                if curve is not None:
                    pairs = zip(curve["answered"], curve["accuracy"], strict=True)
                    lines.append(Series(arm, [(100 * part, 100 * right) for part, right in pairs], arms.index(arm)))
            title = _titled(site, name, next(iter(by_arm.values())))
            chart = line_chart(f"Abstention at {title}", lines, "right answers, %", "slices answered, %")
            panels.append(panel(title, chart))
    if not any(panels):
        return ""
    return (
        "<h3>If the head answers only where it is sure</h3>"
        '<p class="note">Slices are answered from the surest to the least sure. A curve that falls to the right tells '
        "that the head knows when it may be wrong: the slices it leaves out are the ones to read with care.</p>"
        f'{legend(arms, lines=True)}<div class="panels">{"".join(panels)}</div>'
    )
