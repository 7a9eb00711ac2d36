"""Learning curves of every arm of a comparison, and the regime in which each was trained."""

from html import escape

from ..report.charts import legend, line_chart, panel
from ..report.learning_curve import COLUMNS, MEAN_OF_SITES, regime_rows
from ..report.tables import html_table
from .table import ComparedTable

_CAPTION = (
    "Training slices per site; rounds made and selected; optimizer steps up to the selected round, of the site with "
    "the most, without a personal stage; parameters that train, shared and kept. First seed."
)


def learning_section(comparison: ComparedTable) -> str:
    """A panel per arm with its validation scores by round, and the table of the regime; empty without curves."""
    curves = {entry.arm: entry.details.curves for entry in comparison.arms if entry.details.curves}
    if not curves:
        return ""
    name = f"{comparison.modality.upper()}, {comparison.table}"
    names = list(dict.fromkeys(curve.name for trainings in curves.values() for curve in trainings))
    names.sort(key=lambda each: each != MEAN_OF_SITES)
    panels = []
    for arm, trainings in curves.items():
        title = f"{arm}: round {trainings[0].selected} selected" if len(trainings) == 1 else arm
        series = [curve.series(names.index(curve.name)) for curve in trainings]
        panels.append(panel(title, line_chart(f"Validation score of {title}", series, "score")))
    return (
        f"<h3>Learning curves: {escape(name)}</h3>"
        '<p class="note">Validation scores of the first seed; a ring marks the selected round. Axes differ between '
        "panels.</p>"
        + legend(names, lines=True)
        + f'<div class="panels">{"".join(panels)}</div>'
        + html_table(_CAPTION, COLUMNS, regime_rows(curves))
    )
