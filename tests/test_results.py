"""Published results in benchmarks/results follow from their scores, and a comparison can go on from them."""

import json
import shutil
from pathlib import Path

import pytest

from federation.comparison.plan import ModalityPlan, extra_arms
from federation.comparison.presets import PRESETS
from federation.comparison.published import publish, read_published
from federation.comparison.tables import write_tables
from federation.comparison.verdicts import judge
from recon import read_scores

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
FOLDERS = sorted(RESULTS.glob("*/scores.csv*"))


@pytest.mark.parametrize("scores", FOLDERS, ids=lambda path: path.parent.name)
def test_hypotheses_follow_from_the_scores(scores: Path) -> None:
    beside = json.loads((scores.parent / "beside.json").read_text())
    assert judge(read_scores(scores), beside) == json.loads((scores.parent / "hypotheses.json").read_text())


def test_there_are_results() -> None:
    assert FOLDERS


@pytest.mark.slow
@pytest.mark.parametrize("folder", [path.parent for path in FOLDERS], ids=lambda path: path.name)
def test_published_results_are_published_again_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    preset = json.loads((folder / "preset.json").read_text())
    out, again = tmp_path / "out", tmp_path / "again"
    read_published(folder, preset).put(out, ("mri", "ct"))
    shutil.copy(folder / "preset.json", out)
    write_tables(out, lambda text: None)
    publish(out, again)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }


def test_published_arms_are_those_of_today(tmp_path: Path) -> None:
    """Fails after a change of a recipe or preset: run its published arms again, or remove their lines."""
    preset = PRESETS["full"]
    published = read_published(RESULTS / "full", preset.described())
    assert published.put(tmp_path, tuple(preset.budgets)) == len(published.arms) > 200
    extra = tuple(extra_arms(preset, (), every=True))
    for modality in preset.budgets:
        assert ModalityPlan(preset, tmp_path, extra, None, modality).arms_of_another_recipe() == []
