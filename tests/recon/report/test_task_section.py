"""The section of the report on a downstream task, and outlines over pictures."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recon import (
    LabelSetControl,
    PersonPrediction,
    label_set_scores,
    task_differences,
    task_runs_text,
    task_scores,
    task_text,
    write_report,
    write_site_report,
)
from recon.report.charts import Point, point_chart
from recon.report.outlines import outlines
from recon.report.tasks import task_section
from recon.report.text import NO_VALUE

from .example_results import example_results
from .test_in_a_browser import in_browser
from .test_report import Page

ARMS = ("reference", "zero_filled", "fedavg")


def people(kind: str, spread: float) -> list[PersonPrediction]:
    """Four people; more spread, worse predictions."""
    rng, found = np.random.default_rng(0), []
    for name in "abcd":
        truth = (rng.random((3, 8, 8)) < 0.3).astype(int)
        truth = truth if kind == "segmentation" else (truth[:, 0, :1] > 0).astype(np.float32)
        there = 1 / (1 + np.exp(-4 * truth + 2 - spread * rng.normal(size=truth.shape)))
        found.append(PersonPrediction(name, truth, np.stack([1 - there, there], 1) if truth.ndim == 3 else there))
    return found


def results(kind: str, names: tuple[str, ...] = ("lesion",)) -> dict[str, Any]:
    found = example_results()
    spacing = (1.0, 1.0) if kind == "segmentation" else None
    arms = {arm: people(kind, 1.0 + i) for i, arm in enumerate(ARMS)}
    control = {"lesion": LabelSetControl(0.9, 0.2, 4, 7.5)}
    by_arm = {arm: task_scores(kind, ["lesion"], predicted, spacing) for arm, predicted in arms.items()}
    for arm, scores in by_arm.items():
        scores["label_sets"] = label_set_scores(kind, ["lesion"], arms[arm], control)
        if arm != "fedavg":
            change = task_differences(kind, ["lesion"], arms[arm], arms["fedavg"], spacing)
            scores["difference"] = {"to": "fedavg", "classes": change}
        for part in (scores["classes"], scores["label_sets"], scores.get("difference", {}).get("classes", {})):
            for name in names[1:]:
                part |= {name: part["lesion"]} if part else {}
    return found | {"task": {"north": by_arm, "clinic": by_arm}}


KINDS = ("segmentation", "classification")


@pytest.mark.parametrize("kind", KINDS)
def test_every_site_has_a_table_beside_psnr(kind: str, tmp_path) -> None:
    given = results(kind)
    write_report(tmp_path, given)
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert f"Downstream task: {kind} of lesion" in page.text
    rows = re.findall(r"<tr><th scope=\"row\">(\w+)</th>(.*?)</tr>", task_section(given))
    assert [row[0] for row in rows[:6]] == [*ARMS, *ARMS]
    cells = [re.sub("<.*?>", "|", row[1]).split("||") for row in rows]
    main = "dice" if kind == "segmentation" else "auc"
    score = given["task"]["north"]["fedavg"]["classes"]["lesion"]["scores"][main]
    assert "31.50" in cells[2][0] and f"{score['value']:.3f}" in cells[2][1]
    change = given["task"]["north"]["zero_filled"]["difference"]["classes"]["lesion"][main]["value"]
    assert f"{abs(change):.3f}" in cells[1][2] and cells[2][2].strip("|") == NO_VALUE
    published = json.loads((tmp_path / "report.json").read_text())["task"]["north"]
    assert published["fedavg"]["classes"]["lesion"]["scores"][main]["value"] == pytest.approx(score["value"])
    assert '"a"' not in json.dumps(published)  # no single person


@pytest.mark.parametrize("kind", KINDS)
def test_several_classes_have_rows_and_panels_of_their_own(kind: str) -> None:
    text = task_section(results(kind, ("lesion", "edema")))
    assert "fedavg, edema" in text and "north, edema" in text and "lesion, edema" in text
    assert "fedavg, edema" in task_text(results(kind, ("lesion", "edema")))


def test_text_of_the_terminal() -> None:
    lines = task_text(results("segmentation")).splitlines()
    assert lines[0] == "downstream task: segmentation of lesion"
    assert " ".join(lines[1].split()) == "site arm PSNR (dB) Dice 95 % interval people"
    assert len(lines) == 2 + 2 * len(ARMS) and lines[2].split()[:3] == ["north", "reference", NO_VALUE]
    assert task_text(example_results()) == "" and task_section(example_results()) == ""


def test_runs_are_compared_in_one_table() -> None:
    found = results("segmentation")
    lines = task_runs_text({"first": found, "second": found | {"method": "reference"}}).splitlines()
    assert lines[0] == "segmentation of lesion: Dice, in brackets its 95 % interval"
    assert lines[1].split() == ["run", "arm", "north", "clinic"]
    own = found["task"]["north"]["fedavg"]["classes"]["lesion"]["scores"]["dice"]
    low, high = own["interval"]
    assert [line.split()[:2] for line in lines[2:]] == [["first", "fedavg"], ["second", "reference"]]
    assert " ".join(lines[2].split()[2:6]) == f"{own['value']:.3f} ({low:.3f} to {high:.3f})"


def test_too_few_people_for_a_set_are_told() -> None:
    given = results("classification")
    control = {"lesion": LabelSetControl(0.9, None, 4, 1.0)}
    for arm in ARMS:
        sets = label_set_scores("classification", ["lesion"], people("classification", 1.0), control)
        given["task"]["north"][arm]["label_sets"] = sets
    assert task_section(given).count("too few people: 9 needed") == 2 * len(ARMS)


def test_scores_that_are_undefined_are_dashes() -> None:
    """No person with the class: no Dice; the page is written all the same."""
    empty = [PersonPrediction("a", np.zeros((1, 8, 8), dtype=int), np.full((1, 2, 8, 8), 0.5))]
    scores = task_scores("segmentation", ["lesion"], empty, (1, 1))
    given = example_results() | {"task": {"north": {"fedavg": scores}}}
    assert f'<td class="number">{NO_VALUE}</td>' in task_section(given) and NO_VALUE in task_text(given)


def test_a_site_without_the_size_of_a_pixel_has_no_distances() -> None:
    given = results("segmentation")
    scores = task_scores("segmentation", ["lesion"], people("segmentation", 1.0))
    given["task"]["clinic"] = {"fedavg": scores}
    tables = task_section(given).split("<h3>How")[0].split("<h3>")[1:]
    columns = [table.count('<th scope="col"') - table.count("to fedavg") for table in tables]
    row = re.findall(r'<td class="number">(.*?)</td>', tables[1])
    assert columns == [8, 8] and len(row) == 7 and row[2:4] == [NO_VALUE, NO_VALUE] and row[4] != NO_VALUE


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_escaped(kind: str) -> None:
    given = results(kind)
    mark = "<i onclick=x>"
    given["task"] = {
        f"north{mark}": {
            f"{arm}{mark}": scores | {part: {mark: scores[part]["lesion"]} for part in ("classes", "label_sets")}
            for arm, scores in given["task"]["north"].items()
        }
    }
    for scores in given["task"][f"north{mark}"].values():
        scores.pop("difference", None)
    assert mark not in task_section(given) and "&lt;i onclick=x&gt;" in task_section(given)


def test_points_are_drawn_to_scale() -> None:
    points = [Point("a", 20.0, 0.5, (0.4, 0.6), 0), Point("b", 30.0, 0.8, None, 1), Point("c", None, 0.9, None, 2)]
    chart = point_chart("title", points, "Dice", "PSNR (dB)")
    bar = re.search(r'class="s0" x1="([\d.]+)" y1="([\d.]+)" x2="\1" y2="([\d.]+)"', chart)
    middle = re.search(r'<circle class="f0" cx="([\d.]+)" cy="([\d.]+)"', chart)
    assert bar and middle and bar[1] == middle[1]
    assert (float(bar[2]) + float(bar[3])) / 2 == pytest.approx(float(middle[2]), abs=0.1)
    level = re.search(r'class="s2" stroke-dasharray="6 3" x1="60.0" y1="([\d.]+)" x2="308" y2="\1"', chart)
    assert level and float(level[1]) < float(bar[3]) < float(bar[2])
    assert point_chart("title", [], "Dice", "PSNR (dB)") == ""


def labelled(given: dict[str, Any]) -> dict[str, Any]:
    """Pictures with a label that touches the border, and predictions one column off."""
    truth = np.zeros((16, 12), dtype=int)
    truth[0:4, 2:5] = 1
    for slices in given["pictures"].values():
        for one in slices:
            arms = {arm: np.roll(truth, 1, 1) for arm in one["images"] if arm != "reference"}
            one["labels"] = {"classes": ["lesion"], "reference": truth, **arms}
    return given


def test_outlines_lie_around_the_pixels_of_the_label() -> None:
    labels = labelled(example_results())["pictures"]["north"][0]["labels"]
    drawn = outlines(labels, "fedavg")
    assert 'viewBox="0 0 12 16"' in drawn
    for style, left in (("truth", 2), ("found", 3)):
        path = re.search(rf'class="{style}" d="M(.*?)Z"', drawn)
        assert path
        corners = np.array([list(map(float, spot.split(","))) for spot in path[1].split("L")])
        assert corners.min(0).tolist() == [left, 0] and corners.max(0).tolist() == [left + 3, 4]
    assert "found" not in outlines(labels, "reference") and outlines({}, "fedavg") == ""
    unlabelled = outlines(labels | {"reference": np.full((16, 12), -1)}, "fedavg")
    assert "truth" not in unlabelled and "found" in unlabelled


def test_pictures_have_outlines_only_with_labels(tmp_path) -> None:
    write_report(tmp_path, labelled(example_results()))
    text = (tmp_path / "report.html").read_text("utf-8")
    Page(text)
    # Two slices at each of two simulated sites: the reference and three arms; errors and differences have none.
    assert text.count('<svg class="outlines"') == 2 * 2 * 4 and text.count("label: lesion") == 4
    write_report(tmp_path, example_results())
    assert '<svg class="outline' not in (tmp_path / "report.html").read_text("utf-8")
    write_site_report(tmp_path / "clinic", labelled(example_results()), "clinic")
    assert '<svg class="outlines"' in (tmp_path / "clinic" / "report.html").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 1400])
def test_the_section_fits_and_outlines_follow_the_zoom(width: int, tmp_path) -> None:
    page = write_report(tmp_path, labelled(results("segmentation")))
    zoom = 'document.querySelectorAll(".tools button")[3].click();'
    found = in_browser(page, width, zoom)
    assert found["beyond"] == [] and found["scroll"] <= width
    check = """
      const image = document.querySelector(".view img").getBoundingClientRect();
      const drawn = document.querySelector(".view .outlines").getBoundingClientRect();
      const off = ["left", "top", "width", "height"].map(key => Math.abs(image[key] - drawn[key]));
      if (Math.max(...off) > 0.5) throw new Error("outlines are off by " + off);
      [...document.querySelectorAll(".tools button")].find(one => one.textContent === "outlines").click();
      if (document.querySelector(".view .outlines").getBoundingClientRect().width) throw new Error("still shown");
    """
    assert math.isfinite(in_browser(page, width, zoom + check)["width"])


@pytest.mark.parametrize(
    ("reads", "said"),
    [
        ("reference", "trained one head on reference images together"),
        ("reconstruction", "trained one head on images of a network that stayed as it was together"),
        ("end_to_end", "trained one unrolled network and a head together"),
    ],
)
def test_the_page_says_what_was_trained(tmp_path: Path, reads: str, said: str) -> None:
    page = write_report(tmp_path, example_results() | {"head_reads": reads}).read_text()
    assert said in page and ("the regularizer" in page) == (reads == "end_to_end")
    assert "trained one unrolled network together" in write_report(tmp_path, example_results()).read_text()
