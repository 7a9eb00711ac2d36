"""`fedrecon compare --set`, the preset of minutes, and where claims were registered."""

import json
from pathlib import Path

import pytest

from federation.cli import main
from federation.comparison import command
from federation.comparison.changed import with_values
from federation.comparison.preset import Preset
from federation.comparison.presets import PRESETS
from federation.comparison.tables import _registered
from recon import DataError


def test_values_change_every_arm_and_the_name() -> None:
    values = [
        "federation.rounds=3", "training.steps_per_round=2", "training.learning_rate=1e-3", "training.patience=4",
        "evaluation.tv_weights=[1e-2]", "network.channels=5", "network.cascades=2",
    ]  # fmt: skip
    changed = with_values(PRESETS["laptop"], values)
    assert changed.name == "laptop+set" and with_values(PRESETS["laptop"], []) is PRESETS["laptop"]
    for modality in ("mri", "ct"):
        for arm in (arm for arm in changed.arms if modality in arm.modalities):
            if arm.name in ("fed_scales", "fedpr"):
                continue
            recipe = changed.budgets[modality].recipe(arm, modality, 0)
            assert recipe.training.steps_per_round == 2 and recipe.training.learning_rate == 1e-3, arm.name
            assert recipe.network.channels == 5 and recipe.network.cascades == 2 and recipe.federation.rounds <= 3
        budget, own = changed.budgets[modality], PRESETS["laptop"].budgets[modality]
        assert budget.tv_weights == (0.01,) and budget.network.consistency == own.network.consistency


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("federation.round=3", "did you mean 'federation.rounds'"),
        ("objective.proximal=1", "which all arms have in common"),
        ("federation.rounds=0", "federation.rounds: found 0, expected a whole number from 1"),
        ("network.channels=many", "network"),
        ("training.learning_rate=-1", "learning_rate"),
        ("evaluation.tv_weights=[]", "numbers above 0"),
    ],
)
def test_values_that_cannot_be_used_are_refused_before_work(
    value: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--set", value, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert f"--set {value}" in error and words in error and not (tmp_path / "out").exists()


def test_changed_values_go_with_no_published_tables() -> None:
    for option in ({"tables": True}, {"published": Path("p")}):
        with pytest.raises(DataError, match="--set: found beside --"):
            command.CompareOptions(overrides=["federation.rounds=1"], **option)  # type: ignore[arg-type]


def test_claims_are_judged_only_where_they_were_registered() -> None:
    record = json.loads(json.dumps(PRESETS["laptop"].described()))
    assert _registered(record) and _registered(PRESETS["anatomy"].described())
    assert not _registered(record | {"sites": "my_sites"}) and not _registered(PRESETS["tiny"].described())
    assert not _registered(with_values(PRESETS["laptop"], ["federation.rounds=3"]).described())


def test_the_preset_of_minutes_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(preset: Preset) -> int:
        steps = preset.budgets["mri"].rounds * preset.budgets["mri"].steps_per_round
        return len(preset.tables[0].arms) * steps * preset.size**2

    assert 20 * work(PRESETS["tiny"]) < work(PRESETS["laptop"]) and "fedavg" in PRESETS["tiny"].tables[0].arms
