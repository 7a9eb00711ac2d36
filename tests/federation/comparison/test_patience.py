"""Arms of a comparison end by one rule, and its tables name the regime of each."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from federation.comparison.arm_result import ArmResult
from federation.comparison.arms import Arm, Budget
from federation.comparison.presets import PRESETS
from federation.comparison.published import without_seeds
from federation.comparison.run import run_comparison

from .test_run import BUDGET, tiny

ARMS = ("local", "fedavg", "joint", "sequential")
PATIENT = replace(BUDGET, rounds=4, patience=1, schedule="constant", learning_rate=0.05)


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("patience") / "out"
    preset = tiny(budgets={"mri": PATIENT})
    table = replace(preset.tables[0], arms=ARMS, seeds=1)
    run_comparison(replace(preset, tables=(table,)), out, modalities=("mri",), jobs=1, say=lambda text: None)
    return out


def result_of(out: Path, arm: str) -> ArmResult:
    found = ArmResult.read(out / "mri" / "together" / "seed0" / arm)
    assert found is not None and found.failed is None
    return found


def test_every_arm_ends_after_the_first_round_that_is_no_better(compared: Path) -> None:
    """The rule, written once more: with patience 1 scores rise strictly until the last one, or until the maximum."""
    ends = set()
    for arm in ARMS:
        result = result_of(compared, arm)
        assert result.curves
        for curve in result.curves:
            scores = [score for _, score in curve["scores"]]
            rising = [b > a for a, b in itertools.pairwise(scores)]
            at_end = len(rising) == PATIENT.rounds and all(rising)
            assert all(rising[:-1]) and (not rising[-1] or at_end), arm
            assert curve["selected"] == scores.index(max(scores))
            turns = 5 if arm == "sequential" else 1
            assert curve["steps"] == curve["selected"] * PATIENT.steps_per_round * turns
            ends.add(curve["ended"].split(";")[0])
        assert result.selected_steps == max(curve["steps"] for curve in result.curves)
        assert result.steps is not None and result.steps >= result.selected_steps
    assert "no improvement for 1 round" in ends


def test_local_training_has_a_curve_at_every_site_the_others_have_one(compared: Path) -> None:
    assert [len(result_of(compared, arm).curves or ()) for arm in ARMS] == [6, 1, 1, 1]
    together = (result_of(compared, "fedavg").curves or [])[0]
    assert len(together["slices"]) == 5 and set(together["slices"].values()) == {1}


def test_tables_name_the_regime(compared: Path) -> None:
    table = json.loads((compared / "comparison.json").read_text())["tables"][0]
    assert table["metric_card"]["regime"].startswith("every arm trains until no improvement")
    assert table["metric_card"]["steps"].startswith("at most 8 of batch 1")
    assert table["metric_card"]["learning_rate"].startswith("0.05, constant, ")
    assert not any("unequal" in flag for flag in table["arms"]["local"]["facts"].get("flags", ()))
    html = (compared / "comparison.html").read_text()
    assert "Learning curves: MRI, together" in html and "1 at each of 5 sites" in html


def test_patience_of_the_budget_replaces_that_of_a_recipe_unless_sites_take_turns() -> None:
    def patience(override: str, budget: Budget = PATIENT) -> int | None:
        found: int | None = budget.recipe(Arm("a", overrides=(override,)), "mri", 0).training.patience
        return found

    assert patience("training.patience=7") == 1
    assert patience("training.patience=7", BUDGET) is None
    assert patience("federation.schedule=cyclic") is None


def test_a_stored_preset_without_the_later_keys_is_the_same_preset() -> None:
    now = PRESETS["laptop"].described()
    before = json.loads(json.dumps(now))
    for budget in before["budgets"].values():
        del budget["patience"], budget["schedule"]
    assert without_seeds(before) == without_seeds(now)
    before["budgets"]["mri"]["patience"] = 3
    assert without_seeds(before) != without_seeds(now)
