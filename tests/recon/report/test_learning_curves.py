"""The report draws the validation score of every trained arm, marks its selected round and names the regime."""

import json
import re

import pytest

from recon import MEAN_OF_SITES, LearningCurve, text_table, write_report
from recon.report.charts import Series, line_chart
from recon.report.curves import curves_section
from recon.report.learning_curve import slices_text

from .example_results import site_scores
from .test_report import Page

SITES = ("north", "south")
MARK = "\"><b onload=x>&'"


@pytest.fixture
def results():
    """A federated arm that ended after four rounds, and two sites that ended alone."""
    rows = [
        {"round": r, "site": site, "score_before": 27.0 + r, "score_after": 27.5 + r, "loss": 0.1, "bytes_up": 1}
        for r in range(5)
        for site in SITES
    ]
    together = [(0, 27.0), (1, 28.0), (2, 29.5), (3, 29.0), (4, 29.5)]
    ended = "no improvement for 2 rounds; best round 2"
    trained = {
        "fedavg": [LearningCurve(MEAN_OF_SITES, together, 2, 40, ended, dict(zip(SITES, (16, 4), strict=True)), 27684)],
        "local": [LearningCurve(site, together[:4], n, 20 * n, "all 3 rounds", {site: 16}, 276) for n, site in
                  enumerate(SITES)],
    }  # fmt: skip
    return {
        "arms": {
            arm: {"sites": {site: site_scores(site, 30.0) for site in SITES}} for arm in ("zero_filled", *trained)
        },
        "method": "fedavg",
        "curves": rows,
        "training": {arm: [curve.to_json() for curve in curves] for arm, curves in trained.items()},
    }


def test_curves_of_every_trained_arm_are_drawn_with_their_selected_round(results, tmp_path):
    html = write_report(tmp_path, results).read_text()
    text = " ".join(Page(html).text.split())
    for words in (
        "mean of the sites, fedavg: round 2 selected",
        "north; alone: round 0",
        "south; alone: round 1",
        "trained alone, local arm",
        "no improvement for 2 rounds; best round 2",
        "north 16, south 4",
    ):
        assert words in text, words
    # A ring in the panel of the mean, and in each site's panel one of the broadcast and one of the local arm.
    assert html.count('r="6"') == 5
    assert json.loads((tmp_path / "report.json").read_text())["training"] == results["training"]


def test_the_legend_shows_the_lines_of_the_panels(results):
    """Without scores after training the line of the local arm is the second."""
    for row in results["curves"]:
        del row["score_after"]
    html = curves_section(results)
    legend, panels = html.split('<div class="panels">', 1)
    panels = panels.split("<h3>Training loss</h3>")[0]
    styles = [set(re.findall(r'class="(s\d)"', part)) for part in (legend, panels)]
    assert styles == [{"s0", "s1"}] * 2


def test_a_run_without_local_arm_has_no_line_of_it(results, tmp_path):
    del results["training"]["local"], results["arms"]["local"]
    html = write_report(tmp_path, results).read_text()
    assert "trained alone" not in html and html.count('r="6"') == 3


def test_a_site_that_only_trains_alone_has_a_panel(results, tmp_path):
    results["curves"] = [row for row in results["curves"] if row["site"] == "north"]
    assert "south; alone: round 1" in write_report(tmp_path, results).read_text()


def test_the_text_names_the_regime(results):
    table, regime = text_table(results).split("\n\n")
    assert table == text_table({key: value for key, value in results.items() if key != "training"})
    assert [re.split(r" {2,}", line) for line in regime.splitlines()] == [
        ["training", "training slices", "rounds", "selected", "steps at the selected round", "parameters", "ended"],
        ["fedavg", "north 16, south 4", "4", "2", "40", "27\N{NARROW NO-BREAK SPACE}684",
         "no improvement for 2 rounds; best round 2"],
        ["local, north", "16", "3", "0", "0", "276", "all 3 rounds"],
        ["local, south", "16", "3", "1", "20", "276", "all 3 rounds"],
    ]  # fmt: skip


def test_slices_are_named_by_site_unless_all_are_equal():
    assert slices_text({"a": 16, "b": 16, "c": 16}) == "16 at each of 3 sites"
    assert slices_text({"a": 16}) == "16"
    assert slices_text({"a": 4, "b": 16}) == "a 4, b 16"


def test_the_ring_is_at_the_chosen_point():
    points = [(0.0, 10.0), (1.0, 20.0), (2.0, 30.0)]
    svg = line_chart("t", [Series("a", points, 0, chosen=1.0)], "dB")
    spots = re.search(r'polyline .*?points="(.*?)"', svg)[1].split()
    assert re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="6"', svg) == [tuple(spots[1].split(","))]
    assert 'r="6"' not in line_chart("t", [Series("a", points, 0)], "dB")


def test_text_of_a_learning_curve_is_escaped(results, tmp_path):
    results["training"] = {
        arm: [curve | {"ended": MARK, "slices": {MARK: 1, "other": 2}} for curve in curves]
        for arm, curves in results["training"].items()
    }
    for curve in results["training"]["local"]:
        curve["name"] += MARK
    page = Page(write_report(tmp_path, results).read_text())
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert page.text.count("<b onload=x>") >= 8
