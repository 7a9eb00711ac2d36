"""`fedrecon privacy`: the report of a run, its resumption, the replayed update, refusals."""

import csv
import json
import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from html import escape
from importlib import import_module
from pathlib import Path

import pytest
import torch

from federation import RunFolder
from federation.attacks import AttackOptions, attack_run, cases, patients, searches, small_task
from federation.attacks.attack_run import _row
from federation.attacks.cases import CASES, POSITIVE, cases_of
from federation.attacks.plan import AttackPlan
from federation.attacks.replay import replayed_update
from federation.experiment.private_run import SitePrivacy
from federation.sites import SiteManifest, Split
from federation.worker_pool import computing_with
from recon import MODALITIES, DataError, Sample, VolumeSlices
from recon.report.text import number

OPTIONS = AttackOptions(steps=2, size=12)
FEW = tuple(case for case in CASES if case.key in ("exact_gradient", "crafted_bounded", "noise_1"))


@pytest.fixture(scope="module")
def attacked(trained: RunFolder) -> dict[str, object]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cases, "CASES", FEW)
        return attack_run(trained.path, OPTIONS, jobs=1, say=lambda _: None)


@pytest.mark.slow
def test_the_page_holds_what_the_json_holds(trained: RunFolder, attacked: dict[str, object]) -> None:
    stored = json.loads((trained.path / "privacy.json").read_text())
    assert [row["case"] for row in stored["attacks"]] == [case.key for case in FEW]
    page = (trained.path / "privacy.html").read_text()
    text = re.sub(r"<[^>]+>", "", page)
    for row in (stored["control_row"], *stored["attacks"]):
        assert escape(row["title"]) in page
        for pair in (("psnr", "ssim"), ("control_psnr", "control_ssim")):
            assert " / ".join(number(row[key], digits) for key, digits in zip(pair, (1, 2), strict=True)) in text
    assert {row["site"] for row in stored["membership"]} == {"all sites", *(m.name for m in trained.participants)}
    for row in stored["membership"]:
        assert f"{row['low']:.2f} to {row['high']:.2f}" in text
    with (trained.path / "privacy.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == [POSITIVE.key, *(case.key for case in FEW)]
    assert float(rows[1]["psnr"]) == stored["attacks"][0]["psnr"]


@pytest.mark.slow
def test_a_failed_positive_control_is_said_first(trained: RunFolder, attacked: dict[str, object]) -> None:
    """Two steps recover nothing."""
    page = (trained.path / "privacy.html").read_text()
    assert attacked["positive_control"]["succeeded"] is False  # type: ignore[index]
    assert "Nothing can be concluded" in page and page.index("Nothing can be concluded") < page.index("<table")
    assert "not converged is no evidence of safety" in page and "states no epsilon" in page
    assert page.count("<img") >= 2 * (len(FEW) + 1) * 5  # image and error of each, of synthetic data


@pytest.mark.slow
def test_finished_searches_are_kept(
    trained: RunFolder, attacked: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cases, "CASES", FEW)
    monkeypatch.setattr(searches, "_search", lambda job, case: pytest.fail(f"ran {job.name} again"))
    said: list[str] = []
    again = attack_run(trained.path, OPTIONS, jobs=1, say=said.append)
    assert again["attacks"] == attacked["attacks"]
    assert re.search("7 of them finished before: about .*; membership inference about .* on 1 processes", said[0])
    with pytest.raises(pytest.fail.Exception, match="positive_control"):
        attack_run(trained.path, AttackOptions(steps=3, size=12), jobs=1, say=said.append)


@pytest.mark.slow
def test_epsilon_is_that_of_the_records_of_the_sites(
    trained: RunFolder, attacked: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (manifest.name for manifest in trained.participants)
    monkeypatch.setattr(cases, "CASES", FEW)
    module = import_module("federation.attacks.attack_run")
    monkeypatch.setattr(module, "privacy_of", lambda run: {first: SitePrivacy(2, 4, 1.0, 2.001)})
    assert attack_run(trained.path, OPTIONS, jobs=1, say=lambda _: None)["epsilon"] == {first: 2.001, second: None}
    assert "2.01" in (trained.path / "privacy.html").read_text()


def test_one_site_has_no_sum(trained: RunFolder) -> None:
    found, left_out = cases_of(AttackPlan.of(trained, AttackOptions(sites=1)))
    assert len(found) == len(CASES) - 2 and all("one site" in reason for reason in left_out.values())


def test_in_a_sum_the_other_sites_send_their_middle_slice(trained: RunFolder) -> None:
    plan = AttackPlan.of(trained, OPTIONS)
    victims = cases.case_of("sum_of_gradients").search(plan, 0, False).victims
    assert [victim.sample.meta[0].slice for victim in victims] == [0, 1]  # of two slices each


def test_the_blank_start_may_choose_among_the_slices_as_the_attack_does(trained: RunFolder) -> None:
    """Slice 1 is sought; the blank start fits one of the two better, whichever is named."""
    plan = AttackPlan.of(trained, OPTIONS)
    blank = []
    for target in (0, 1):
        job = searches.Job(plan, "update", target, False)
        found = searches._search(job, cases.case_of("update"))
        blank.append(found.scores["blank"][0])
        alone = cases.case_of("exact_gradient").search(plan, target, False)
        assert searches._scores(alone.sought[0], searches.blank_start(alone.victims[0], alone.settings))[0] <= blank[-1]
    assert blank[0] == pytest.approx(blank[1])


def test_a_finished_search_is_of_its_data_alone(
    trained: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sum depends on all its sites, other cases on the attacked one."""
    monkeypatch.setattr("federation.attacks.plan.lock_path", lambda path: tmp_path / path.name)
    keys = ("exact_gradient", "update", "sum_of_gradients", "sum_of_updates")

    def digests(sites: int = 2) -> dict[str, str]:
        plan = AttackPlan.of(trained, AttackOptions(sites=sites, steps=2, size=12))
        return {key: searches.Job(plan, key, 0, False).digest() for key in keys}

    def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
        return {key for key in keys if before[key] != after[key]}

    first, second = trained.participants
    for manifest in (first, second):
        (tmp_path / manifest.path.name).write_text("locked")
    start, sums = digests(), {"sum_of_gradients", "sum_of_updates"}
    assert changed(start, digests()) == set() and changed(start, digests(sites=1)) == sums
    (tmp_path / second.path.name).write_text("other data")
    assert changed(start, digests()) == sums
    (tmp_path / first.path.name).unlink()  # then size and time of the files count
    assert changed(start, digests()) == set(keys)
    start = digests()
    monkeypatch.setattr(searches, "FORMAT", searches.FORMAT + 1)
    assert changed(start, digests()) == set(keys)


def test_kept_state_of_another_training_is_another_search(trained: RunFolder) -> None:
    job = searches.Job(AttackPlan.of(trained, OPTIONS), "exact_gradient", 0, False)
    before, file = job.digest(), sorted((trained.site_folder(job.plan.site) / "kept").glob("round_*.json"))[-1]
    content = file.read_bytes()
    try:
        file.write_bytes(content.replace(b"sha256", b"sha257"))
        assert job.digest() != before
    finally:
        file.write_bytes(content)


@pytest.mark.parametrize(
    ("psnr", "control", "blank", "last", "verdict"),
    [
        (18.0, 14.9, 12.0, 0.5, "recovers"),  # whatever the distance
        (18.0, 14.9, 15.1, 0.015, "no more than the control"),
        (18.0, 15.1, 12.0, 0.015, "no more than the control"),
        (18.0, 15.1, 12.0, 0.5, "not converged"),
    ],
)
def test_verdicts(trained: RunFolder, psnr: float, control: float, blank: float, last: float, verdict: str) -> None:
    def found(score: float) -> searches.Found:
        scores = {"blank": (blank, 0.1), "fbp": (30.0, 0.9)}
        return searches.Found(score, 0.5, [(1, 1.0), (2, last)], 0.01, scores, 1.0, {})

    plan, case = AttackPlan(trained, ("north",), (0,), 2, 12), cases.case_of("exact_gradient")
    outcomes = {"exact_gradient-0-attack": found(psnr), "exact_gradient-0-control": found(control)}
    row = _row(plan, case, 0, outcomes)
    assert row["verdict"] == verdict and row["converged"] is (last < 0.02)
    assert (row["control_psnr"], row["blank_psnr"], row["inverted_psnr"]) == (control, blank, 30.0)


def test_references_that_cannot_be_attacked_are_refused_before_the_searches(
    trained: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(sample: Sample) -> None:
        raise DataError(f"{sample.meta[0].volume}: slice 0, reference: found none, expected one; take others")

    monkeypatch.setattr("recon.modalities.smaller._whole_reference", refuse)
    with pytest.raises(DataError, match=rf"^{trained.manifests[0].path}: .* found none, .*--site, --sum-of"):
        AttackPlan.of(trained, OPTIONS)


def test_the_cost_is_measured_with_the_threads_of_a_search(trained: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr(searches, "invert", lambda *_: threads.append(torch.get_num_threads()))
    with computing_with(2):
        searches.seconds_per_step(AttackPlan.of(trained, OPTIONS))
    assert threads == [1, 1]


def test_the_cost_of_membership_inference_is_that_of_all_slices_and_networks(
    trained: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two networks, two training slices and two test slices; the second of two measured slices takes 3 s."""
    clock = iter((0.0, 10.0, 20.0, 23.0))
    monkeypatch.setattr(patients.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(patients, "within", lambda **_: nullcontext())
    assert patients.seconds_of_losses(trained, trained.participants[0].name) == 2 * (2 + 2) * 3.0


def test_searches_open_the_files_of_a_site_once(trained: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    small_task._opened.cache_clear()
    opened: list[str] = []
    dataset = SiteManifest.dataset

    def counted(self: SiteManifest, split: Split, *rest: object, raw_coils: bool = False) -> VolumeSlices:
        opened.append(f"{self.name} {split}")
        return dataset(self, split, *rest, raw_coils=raw_coils)  # type: ignore[arg-type]

    monkeypatch.setattr(SiteManifest, "dataset", counted)
    plan, (first, second) = AttackPlan.of(trained, OPTIONS), (m.name for m in trained.participants)
    for key in ("exact_gradient", "sum_of_gradients", "crafted"):
        for control in (False, True):
            cases.case_of(key).search(plan, 0, control)
    # The other site of the sum has no control.
    assert sorted(opened) == [f"{first} test", f"{first} train", f"{second} train"]
    file = next(iter(trained.participants[0].files("train")))
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    opened.clear()
    for _ in range(2):
        plan.task(first).slices()
    assert opened == [f"{first} train"]  # it has changed


def test_a_replayed_update_reads_the_slices_of_its_batches_alone(
    trained: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    item = small_task.SmallSlices.__getitem__
    monkeypatch.setattr(
        small_task.SmallSlices, "__getitem__", lambda self, number: read.append(number) or item(self, number)
    )
    plan = AttackPlan.of(trained, OPTIONS)
    read.clear()
    training = trained.recipe.training
    replayed_update(plan, plan.site)
    assert len(read) == training.steps_per_round * training.batch_size


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


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut"])
def test_a_damaged_search_is_searched_again(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "search.npz").write_bytes(content)
    assert searches._read(tmp_path / "search.npz", "record") is None


def test_a_modality_that_cannot_be_made_smaller_is_one_line(
    trained: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = trained.participants[0].kind
    monkeypatch.setitem(MODALITIES, kind.name, replace(kind, smaller=None))
    with pytest.raises(DataError, match=rf"modality: found '{kind.name}', expected one whose slices can be measured"):
        AttackPlan.of(trained, OPTIONS)
