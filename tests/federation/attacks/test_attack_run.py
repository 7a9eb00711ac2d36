"""`fedrecon privacy`: the report of a run, its resumption, the replayed update, refusals."""

import csv
import json
import re
from collections.abc import Callable
from html import escape
from importlib import import_module
from pathlib import Path

import pytest
import torch

from federation import RunFolder, load_federation, load_recipe, make_ct_demo_sites
from federation.attacks import AttackOptions, attack_run, cases, searches
from federation.attacks.cases import CASES, POSITIVE, cases_of, replayed_update
from federation.attacks.plan import AttackPlan
from federation.experiment import initial_state, train_run
from federation.experiment.private_run import SitePrivacy
from federation.methods import ServerState
from federation.recipes.recipe_library import LIBRARY
from federation.serialization import load_newest
from federation.sites import CT_DEMO_SITES
from recon import DataError

RECIPE = LIBRARY / "demos" / "fedavg_ct.toml"
TINY = [
    "network.channels=2", "network.depth=2", "network.cascades=1", "federation.rounds=1", "training.steps_per_round=2",
    "personal.steps=0", "evaluation.arms=[]",
]  # fmt: skip
OPTIONS = AttackOptions(steps=2, size=12)
FEW = tuple(case for case in CASES if case.key in ("exact_gradient", "crafted_bounded", "noise_1"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("attacks")
    make_ct_demo_sites(folder / "sites", size=32, train=1, validation=1, test=1, slices=2, sites=CT_DEMO_SITES[:2])
    sites, recipe = load_federation(folder / "sites"), load_recipe(RECIPE, TINY)
    return train_run(recipe, sites, folder / "run", jobs=1, resume=False, say=lambda _: None)


@pytest.fixture(scope="module")
def attacked(trained: RunFolder) -> dict[str, object]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cases, "CASES", FEW)
        return attack_run(trained.path, OPTIONS, jobs=1, say=lambda _: None)


def test_the_page_holds_what_the_json_holds(trained: RunFolder, attacked: dict[str, object]) -> None:
    stored = json.loads((trained.path / "privacy.json").read_text())
    assert [row["case"] for row in stored["attacks"]] == [case.key for case in FEW]
    page = (trained.path / "privacy.html").read_text()
    text = re.sub(r"<[^>]+>", "", page).replace("\N{MINUS SIGN}", "-")
    for row in (stored["control_row"], *stored["attacks"]):
        assert escape(row["title"]) in page and f"{row['psnr']:.1f} / {row['ssim']:.2f}" in text
        assert f"{row['control_psnr']:.1f} / {row['control_ssim']:.2f}" in text
    assert {row["site"] for row in stored["membership"]} == {"all sites", *(m.name for m in trained.participants)}
    for row in stored["membership"]:
        assert f"{row['low']:.2f} to {row['high']:.2f}" in text
    with (trained.path / "privacy.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == [POSITIVE.key, *(case.key for case in FEW)]
    assert float(rows[1]["psnr"]) == stored["attacks"][0]["psnr"]


def test_a_failed_positive_control_is_said_first(trained: RunFolder, attacked: dict[str, object]) -> None:
    """Two steps recover nothing."""
    page = (trained.path / "privacy.html").read_text()
    assert attacked["positive_control"]["succeeded"] is False  # type: ignore[index]
    assert "Nothing can be concluded" in page and page.index("Nothing can be concluded") < page.index("<table")
    assert "not converged is no evidence of safety" in page and "states no epsilon" in page
    assert page.count("<img") >= 2 * (len(FEW) + 1) * 5  # image and error of each, of synthetic data


def test_finished_searches_are_kept(
    trained: RunFolder, attacked: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cases, "CASES", FEW)
    monkeypatch.setattr(searches, "_search", lambda job, case: pytest.fail(f"ran {job.name} again"))
    said: list[str] = []
    again = attack_run(trained.path, OPTIONS, jobs=1, say=said.append)
    assert again["attacks"] == attacked["attacks"] and "7 of them finished before" in said[0]
    with pytest.raises(pytest.fail.Exception, match="positive_control"):
        attack_run(trained.path, AttackOptions(steps=3, size=12), jobs=1, say=said.append)


def test_epsilon_is_that_of_the_records_of_the_sites(
    trained: RunFolder, attacked: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (manifest.name for manifest in trained.participants)
    monkeypatch.setattr(cases, "CASES", FEW)
    module = import_module("federation.attacks.attack_run")
    monkeypatch.setattr(module, "privacy_of", lambda run: {first: SitePrivacy(2, 4, 1.0, 2.001)})
    assert attack_run(trained.path, OPTIONS, jobs=1, say=lambda _: None)["epsilon"] == {first: 2.001, second: None}
    assert "2.01" in (trained.path / "privacy.html").read_text()


def test_the_replayed_update_is_that_of_the_run(trained: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    initial, _ = initial_state(trained.recipe)
    monkeypatch.setattr(RunFolder, "selected", lambda self: ServerState(0, initial))
    plan = AttackPlan.of(trained, AttackOptions(size=0))
    updates = [replayed_update(plan, name) for name in plan.names]
    newest = load_newest(trained.path / "checkpoints")
    assert newest is not None and newest.round == 1
    weights = torch.tensor([u.n_samples for u in updates], dtype=torch.float64)
    for name in initial:
        mean = sum(w * u.shared[name].double() for w, u in zip(weights / weights.sum(), updates, strict=True))
        torch.testing.assert_close(newest.tensors[name].double(), mean, atol=1e-7, rtol=1e-6)
    one, two = (replayed_update(plan, plan.site, split) for split in ("train", "test"))  # type: ignore[arg-type]
    assert not all(torch.equal(one.shared[name], two.shared[name]) for name in initial)


def test_a_sum_of_updates_is_their_weighted_mean(trained: RunFolder) -> None:
    plan = AttackPlan.of(trained, OPTIONS)
    case = next(case for case in CASES if case.key == "sum_of_updates")
    before, updates = trained.selected().shared, [replayed_update(plan, name) for name in plan.names]
    seen = case.search(plan, 0, False).seen
    for name, part in zip(sorted(before), seen, strict=True):
        changes = [(before[name] - update.shared[name]) * update.n_samples for update in updates]
        torch.testing.assert_close(part, sum(changes) / sum(update.n_samples for update in updates))


def test_one_site_has_no_sum(trained: RunFolder) -> None:
    found, left_out = cases_of(AttackPlan.of(trained, AttackOptions(sites=1)))
    assert len(found) == len(CASES) - 2 and all("one site" in reason for reason in left_out.values())


def test_refusals(trained: RunFolder, tmp_path: Path, fails: Callable[..., str]) -> None:
    assert "is not a run folder" in fails("privacy", tmp_path)
    assert "at most 2, which take part" in fails("privacy", trained.path, "--sum-of", 3)
    assert "at least 8" in fails("privacy", trained.path, "--size", 5)
    assert "expected one of protocol" in fails("privacy", trained.path, "--site", "nowhere")
    record = json.loads((trained.path / "run.json").read_text())
    try:
        (trained.path / "run.json").write_text(json.dumps(record | {"exported": True}))
        assert "a deployed site exported" in fails("privacy", trained.path)
    finally:
        (trained.path / "run.json").write_text(json.dumps(record))


def test_a_run_without_test_patients_is_refused(trained: RunFolder) -> None:
    first, second = trained.manifests
    data = first.data.model_copy(update={"test": ()})
    run = RunFolder(trained.path, trained.recipe, (first.model_copy(update={"data": data}), second))
    with pytest.raises(DataError, match=r"data\.test"):
        AttackPlan.of(run, OPTIONS)


def test_a_search_has_converged_relative_to_its_start_or_to_the_truth() -> None:
    def matched(first: float, last: float, truth: float) -> bool:
        return searches.Found(10.0, 0.1, [(1, first), (9, last)], truth, {}, 1.0, {}).matched

    assert matched(1.0, 0.015, 0.0) and matched(1.0, 0.4, 0.5)
    assert not matched(0.07, 0.015, 0.0) and not matched(1.0, 0.4, 0.1)


@pytest.mark.slow
def test_every_case_runs_and_the_positive_control_succeeds(trained: RunFolder) -> None:
    results = attack_run(trained.path, AttackOptions(steps=50, size=12), jobs=1, say=lambda _: None)
    assert results["positive_control"]["succeeded"] is True and not results["left_out"]
    assert [row["case"] for row in results["attacks"]] == [case.key for case in CASES]
    risen = {
        row["case"]: row["losses"][::6] for row in results["attacks"] if row["last_distance"] >= row["first_distance"]
    }
    assert risen.keys() <= {"noise_1"}  # noise alone: nothing to match
