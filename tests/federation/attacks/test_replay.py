"""The replayed update is that of a round of the run; private runs; measured pictures stay at their site."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from federation import RunFolder, load_recipe
from federation.attacks import AttackOptions, attack_run, cases, replay
from federation.attacks.plan import AttackPlan
from federation.experiment import algorithm_of
from federation.methods import ServerState
from federation.serialization import load_newest

from ..fake_sites import SMALL, write_site
from .tiny_run import RECIPE, TINY, train


def selects(monkeypatch: pytest.MonkeyPatch, round: int) -> None:
    chosen = RunFolder.selected
    monkeypatch.setattr(RunFolder, "selected", lambda self: replace(chosen(self), round=round))


def check_last_round(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its replayed updates give the state after it, bit for bit up to rounding."""
    selects(monkeypatch, 2)  # no round follows the second
    plan = AttackPlan.of(run, AttackOptions(size=0))
    assert replay.replayed_round(plan) == 1
    updates = [replay.replayed_update(plan, name) for name in plan.names]
    after: ServerState = algorithm_of(run.recipe).aggregate(replay.replayed_state(plan), updates)
    newest = load_newest(run.path / "checkpoints")
    assert newest is not None and newest.round == 2
    for name, tensor in after.shared.items():
        torch.testing.assert_close(tensor, newest.tensors[name], atol=1e-7, rtol=1e-6)


def test_the_replayed_update_is_that_of_the_run(trained: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    check_last_round(trained, monkeypatch)
    plan = AttackPlan.of(trained, AttackOptions(size=0))
    one, two = (replay.replayed_update(plan, plan.site, split) for split in ("train", "test"))  # type: ignore[arg-type]
    assert not all(torch.equal(one.shared[name], two.shared[name]) for name in one.shared)


@pytest.mark.slow
def test_the_memory_is_that_of_the_replayed_round(
    ct_sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SCAFFOLD: control variates of server and sites."""
    scaffold = ["federation.server_rule=scaffold", "federation.weights=uniform"]
    check_last_round(train(ct_sites, tmp_path / "run", scaffold), monkeypatch)


@pytest.mark.parametrize(("weights", "expected"), [("samples", (0.25, 0.75)), ("uniform", (0.5, 0.5))])
def test_a_sum_of_updates_is_their_weighted_mean(
    trained: RunFolder, monkeypatch: pytest.MonkeyPatch, weights: str, expected: tuple[float, float]
) -> None:
    """With the weights of the recipe."""
    run = replace(trained, recipe=load_recipe(RECIPE, [*TINY, f"federation.weights={weights}"]))
    plan = AttackPlan.of(run, AttackOptions(steps=2, size=12))
    before, slices = replay.replayed_state(plan).shared, dict(zip(plan.names, (1, 3), strict=True))
    updates = {name: replace(replay.replayed_update(plan, name), n_samples=slices[name]) for name in plan.names}
    monkeypatch.setattr(cases, "replayed_update", lambda plan, name, split: updates[name])
    seen = cases.case_of("sum_of_updates").search(plan, 0, False).seen
    for key, part in zip(sorted(before), seen, strict=True):
        changes = [before[key] - update.shared[key] for update in updates.values()]
        wanted = sum(weight * change for weight, change in zip(expected, changes, strict=True))
        torch.testing.assert_close(part, wanted)


def test_a_round_that_did_not_happen_is_not_replayed(trained: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = AttackPlan.of(trained, AttackOptions(size=12))
    assert replay.why_not_replayed(plan, plan.names) == ""
    rows, round_ = replay.read_rows(trained.path), replay.replayed_round(plan)
    absent = [row for row in rows if (row["site"], row["round"]) != (plan.names[1], round_)]
    monkeypatch.setattr(replay, "read_rows", lambda _: absent)
    assert replay.why_not_replayed(plan, plan.names[:1]) == ""
    _, left_out = cases.cases_of(plan)
    assert left_out == {"sum of updates (secure sum)": f"{plan.names[1]} took no part in round {round_}"}
    monkeypatch.setattr(replay, "read_rows", lambda _: [])
    assert replay.replayed_round(plan) is None
    assert set(cases.cases_of(plan)[1].values()) == {"no site has trained in any round"}


def test_a_private_control_needs_its_patients(trained: RunFolder) -> None:
    """One test patient at each site."""
    for needed, reason in ((1, ""), (2, "its control would train on the test patients of")):
        options = [*TINY, "privacy.clip=1.0", "privacy.noise_multiplier=1.0", f"privacy.patients_per_step={needed}"]
        recipe = load_recipe(RECIPE, options)
        plan = AttackPlan.of(replace(trained, recipe=recipe), AttackOptions(size=12))
        found = replay.why_not_replayed(plan, plan.names)
        assert found.startswith(reason) and bool(found) is bool(reason)


@pytest.mark.slow
def test_a_private_run_is_attacked_and_its_measured_pictures_stay_at_the_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("east", "north"):
        write_site(tmp_path / "sites", name)  # no synthetic data
    small = [text for text in SMALL if "=" in text]
    options = [*small, "privacy.patients_per_step=1", "federation.rounds=1", "training.steps_per_round=1"]
    run = train(tmp_path / "sites", tmp_path / "run", options, "fedavg_private")
    few = tuple(case for case in cases.CASES if case.key in ("exact_gradient", "update", "sum_of_updates"))
    monkeypatch.setattr(cases, "CASES", few)
    results = attack_run(run.path, AttackOptions(steps=2, size=12), jobs=1, say=lambda _: None)
    assert [row["case"] for row in results["attacks"]] == [case.key for case in few] and not results["left_out"]
    assert results["synthetic"] is False and all(results["epsilon"].values())
    page = (run.path / "privacy.html").read_text()
    assert "drawn anew" in page and "states no epsilon" not in page
    site = run.site_folder("east")
    assert "<img" in (site / "privacy.html").read_text()
    pictures = [file for file in run.path.rglob("*") if file.suffix == ".npz" or "<img" in _text(file)]
    assert len(pictures) == 2 * 1 + 5 + 1  # the positive control; the three cases; the page
    assert all(file.is_relative_to(site) for file in pictures)


def _text(file: Path) -> str:
    return file.read_text() if file.suffix == ".html" else ""
