"""A recipe that cannot be trained leaves no folder; training ends by patience, in the federation and at each site."""

from pathlib import Path

import pytest

from federation import load_federation, load_recipe, train_run
from federation.experiment import ReconstructionTask, evaluate_run
from federation.rounds import initial_network, read_rows
from recon import DataError, cosine_learning_rate, evaluate

from ..fake_sites import write_site


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("network.consistency_options={step=0}", "network.consistency_options: GradientStep: step is 0"),
        ("network.adapter=scale", "network.base: found none with the adapter 'scale'"),
        ("scope.keep=['nothing']", "matches no parameter"),
        ("federation.quorum=2", "federation.quorum: found 2, expected at most 1"),
        ("objective={moments=1.0, features='nothing'}", "objective.moments: "),
    ],
)
def test_a_recipe_that_cannot_be_trained_leaves_no_folder(tmp_path: Path, override: str, expected: str) -> None:
    write_site(tmp_path / "sites")
    with pytest.raises(DataError) as error:
        train_run(
            load_recipe("fedavg", [override]),
            load_federation(tmp_path / "sites"),
            tmp_path / "run",
            jobs=1,
            resume=False,
            say=print,
        )
    assert expected in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


TINY = (
    "network.cascades=1", "network.regularizer=cnn", "network.channels=2", "network.depth=2",
    "training.steps_per_round=1", "federation.rounds=9", "training.patience=2",
    "evaluation.arms=['zero_filled', 'local']",
)  # fmt: skip


def test_the_run_and_each_site_alone_end_when_their_own_score_no_longer_improves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training round validates once, before training."""
    for name in ("north", "south"):
        write_site(tmp_path / "sites", name)
    scores = {
        "north": [30.0, 32.0, 31.0, 32.0, *(20.0, 19.0, 18.0)],
        "south": [20.0, 20.0, 21.0, 20.0, *(20.0, 21.0, 22.0, 21.0, 22.0)],
    }
    waiting = {name: iter(values) for name, values in scores.items()}
    monkeypatch.setattr(ReconstructionTask, "validate", lambda self, network: float(next(waiting[self.manifest.name])))
    recipe, said = load_recipe("fedavg", TINY), list[str]()
    sites = load_federation(tmp_path / "sites")
    run = train_run(recipe, sites, tmp_path / "run", jobs=1, resume=False, say=said.append)
    assert all(next(left, None) is None for left in waiting.values())  # no round more
    assert "ended: no improvement for 2 rounds; best round 1" in said
    local = [line.split(maxsplit=2)[2] for line in said if line.startswith("local ")]
    assert local == [
        "20.00 dB  no improvement for 2 rounds; best round 0",
        "22.00 dB  no improvement for 2 rounds; best round 2",
    ]
    assert run.selected().round == 1
    assert [run.selected(local=name).round for name in ("north", "south")] == [0, 2]
    # What is resumed is over.
    again: list[str] = []
    train_run(recipe, sites, tmp_path / "run", jobs=1, resume=True, say=again.append)
    assert [line for line in again if "best round" in line] == [line for line in said if "best round" in line]
    # The report has a curve of every arm, with its regime.
    results = evaluate_run(run.path, jobs=1, say=said.append)
    found = {
        (arm, curve["name"]): (len(curve["scores"]), curve["selected"], curve["steps"], curve["slices"])
        for arm, curves in results["training"].items()
        for curve in curves
    }
    assert found == {
        ("fedavg", "mean of the sites"): (4, 1, 1, {"north": 4, "south": 4}),
        ("local", "north"): (3, 0, 0, {"north": 4}),
        ("local", "south"): (5, 2, 2, {"south": 4}),
    }
    sizes = {curve["parameters"] for curves in results["training"].values() for curve in curves}
    facts = results["sites"]["north"]
    assert sizes == {facts["parameters_shared"] + facts["parameters_kept"]} and facts["train_slices"] == 4
    assert "patience 2, at most 9 rounds" in results["metric_card"]["regime"]
    page = (run.path / "report.html").read_text()
    assert "mean of the sites, fedavg: round 1 selected" in page and "south; alone: round 2" in page


@pytest.mark.parametrize("weights", ["samples", "uncertainty"])
def test_a_site_validates_after_training_where_the_server_needs_it(tmp_path: Path, weights: str) -> None:
    for name in ("north", "south"):
        write_site(tmp_path / "sites", name)
    overrides = [*TINY, "federation.rounds=1", f"federation.weights={weights}", "evaluation.arms=[]"]
    sites = load_federation(tmp_path / "sites")
    run = train_run(load_recipe("fedavg", overrides), sites, tmp_path / "run", jobs=1, resume=False, say=print)
    rows = [row for row in read_rows(run.path) if row["n_samples"] is not None]
    assert len(rows) == 2 and all((row["score_after"] is None) == (weights == "samples") for row in rows)


def test_a_round_validates_the_slices_that_the_recipe_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_site(tmp_path / "sites")
    (manifest,) = load_federation(tmp_path / "sites")
    seen: list[tuple[str, int]] = []
    monkeypatch.setattr(
        "federation.experiment.task.evaluate",
        lambda network, samples: evaluate(
            network, samples, on_volume=lambda v: seen.extend((v.volume, meta.slice) for meta in v.meta)
        ),
    )
    for most, expected in ((0, [0, 1]), (1, [1]), (16, [0, 1])):
        recipe = load_recipe("fedavg", [*TINY, f"evaluation.validation_slices={most}"])
        task = ReconstructionTask(manifest, recipe, tmp_path / "maps")
        scores = [task.validate(initial_network(task.network, 0)) for _ in range(2)]
        assert scores[0] == scores[1] and seen == [("north_2.h5", i) for i in expected] * 2
        seen.clear()


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_schedule_runs_over_the_most_rounds(schedule: str) -> None:
    training = load_recipe("fedavg", [*TINY, f"training.schedule={schedule}"]).training
    rates = [training.learning_rate_at(progress) for progress in (0.0, 0.5, 1.0)]
    base = training.learning_rate
    expected = [base, cosine_learning_rate(base, 0.5), base / 100] if schedule == "cosine" else [base] * 3
    assert rates == pytest.approx(expected)
