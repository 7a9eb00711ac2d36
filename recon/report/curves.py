"""Round by round: learning curves of every trained arm, training loss and the regime of the run."""

from collections.abc import Mapping, Sequence
from typing import Any

from .charts import Series, legend, line_chart, panel
from .learning_curve import COLUMNS, MEAN_OF_SITES, LearningCurve, curves_by_arm, regime_rows
from .results import Results, method_of
from .tables import html_table, round_table

_RECEIVED, _TRAINED, _ALONE = "as received from the server", "after training at the site", "trained alone, local arm"


def curves_section(results: Results) -> str:
    """Curves of the mean over the sites and of every site, the regime, the loss, and all numbers; else empty."""
    rows: Sequence[Mapping[str, Any]] = results.get("curves", ())
    trained = curves_by_arm(results)
    if not rows and not trained:
        return ""
    return (
        "<h2>Round by round</h2>"
        '<p class="note">Validation scores. A ring marks the selected round, whose parameters are in the table above: '
        "the best mean score as received over the sites, and in the local arm the best score of the site itself. "
        "Axes differ between panels.</p>"
        + legend(_names(rows, trained), lines=True)
        + f'<div class="panels">{"".join(_panels(results, rows, trained))}</div>'
        + (html_table(_CAPTION, COLUMNS, regime_rows(trained)) if trained else "")
        + (_losses(rows) if rows else "")
    )


def _names(rows: Sequence[Mapping[str, Any]], trained: Mapping[str, object]) -> list[str]:
    """Names of the lines that some panel has."""
    after = any(row.get("score_after") is not None for row in rows)
    return [_RECEIVED] + [_TRAINED] * after + [_ALONE] * (len(trained) > 1)


_CAPTION = (
    "Regime of every training: slices per site; rounds made and selected; optimizer steps up to the selected round, of "
    "the site with the most, without a personal stage; parameters that train, shared and kept."
)


def _panels(
    results: Results, rows: Sequence[Mapping[str, Any]], trained: Mapping[str, Sequence[LearningCurve]]
) -> list[str]:
    method = method_of(results)
    together = next((curve for curve in trained.get(method, ()) if curve.name == MEAN_OF_SITES), None)
    alone = {curve.name: curve for arm, curves in trained.items() if arm != method for curve in curves}
    style = {name: number for number, name in enumerate(_names(rows, trained))}
    panels = []
    if together is not None:
        title = f"{MEAN_OF_SITES}, {method}: round {together.selected} selected"
        panels.append(panel(title, line_chart(f"Validation score, {title}", [together.series(0, _RECEIVED)], "score")))
    for site in dict.fromkeys((*(str(row["site"]) for row in rows), *alone)):
        own = [row for row in rows if str(row["site"]) == site]
        chosen = None if together is None else float(together.selected)
        series = [
            Series(_RECEIVED, _points(own, "score_before"), 0, chosen),
            Series(_TRAINED, _points(own, "score_after"), 1),
        ]
        title = site
        if site in alone:
            series.append(alone[site].series(style[_ALONE], _ALONE))
            title += f"; alone: round {alone[site].selected}"
        panels.append(panel(title, line_chart(f"Validation score of {title}", series, _score_label(results, site))))
    return panels


def _losses(rows: Sequence[Mapping[str, Any]]) -> str:
    sites = list(dict.fromkeys(str(row["site"]) for row in rows))
    losses = [
        Series(site, _points([row for row in rows if str(row["site"]) == site], "loss"), index)
        for index, site in enumerate(sites)
    ]
    loss = panel("mean of the round", line_chart("Training loss", losses, "loss"))
    return (
        "<h3>Training loss</h3>"
        + legend(sites, lines=True)
        + f'<div class="panels">{loss}</div>'
        + f"<details><summary>Numbers of every round</summary>{round_table(rows)}</details>"
    )


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(float(row["round"]), float(row[key])) for row in rows if row.get(key) is not None]


def _score_label(results: Results, site: str) -> str:
    if label := results.get("score_label"):
        return str(label)
    known = [entry["sites"].get(site, {}) for entry in results["arms"].values()]
    if not known:  # in training
        points = _points([row for row in results["curves"] if str(row["site"]) == site], "score_before")
        known = [{"psnr": None if all(score < 0 for _, score in points) else 0.0}]
    return "\N{MINUS SIGN}residual" if known and all(s.get("psnr") is None for s in known) else "PSNR (dB)"
