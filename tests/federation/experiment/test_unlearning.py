"""`fedrecon train --without`: the run without a site, a few rounds without it, the comparison, refusals."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from federation import RunFolder, evaluate_run, load_federation, load_recipe, make_ct_demo_sites
from federation.cli import main
from federation.experiment import train_run, unlearning
from federation.experiment.unlearning import APPROXIMATE, RECORD, train_without
from federation.methods import CHECKPOINTS
from federation.serialization import load_checkpoint
from federation.sites import CT_DEMO_SITES
from recon import DataError

from ..attacks.tiny_run import RECIPE, TINY

#: The site that leaves, and those that stay.
GONE, *STAY = (site.name for site in CT_DEMO_SITES[:3])
OPTIONS = [part for text in TINY for part in ("--set", text)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sites, their run, and the run that one has left, evaluated."""
    path = tmp_path_factory.mktemp("unlearning")
    make_ct_demo_sites(path / "sites", size=32, train=2, validation=1, test=1, slices=2, sites=CT_DEMO_SITES[:3])
    assert main(["train", str(RECIPE), *inside(path / "sites", path / "run")]) == 0
    assert main(without(GONE, path / "run", path / "left")) == 0
    evaluate_run(path / "left", jobs=1, say=lambda _: None)
    return path


def inside(sites: Path, out: Path) -> list[str]:
    return ["--sites", str(sites), "--out", str(out), "--jobs", "1", *OPTIONS]


def without(site: str, run: Path, out: Path, *more: str) -> list[str]:
    return ["train", "--without", site, "--start-from", str(run), "--out", str(out), "--jobs", "1", *more]


def test_the_exact_run_is_that_of_the_other_sites_alone(folder: Path, tmp_path: Path) -> None:
    """To the bit."""
    others = [manifest for manifest in load_federation(folder / "sites") if manifest.name != GONE]
    never = train_run(load_recipe(RECIPE, TINY), others, tmp_path, jobs=1, resume=False, say=lambda _: None)
    assert RunFolder.open(folder / "left").selected().digest == never.selected().digest
    assert never.selected().digest != RunFolder.open(folder / "run").selected().digest


def test_approximate_unlearning_begins_at_the_end_of_the_run(folder: Path) -> None:
    """With the shared and the kept parameters of its selected round."""
    source, left = RunFolder.open(folder / "run"), RunFolder.open(folder / "left")
    state = source.selected()
    assert state.round > 0
    rows = [json.loads(line) for line in (left.path / APPROXIMATE / "rounds.jsonl").read_text().splitlines()]
    assert {row["loaded_digest"] for row in rows if row["round"] == 0} == {state.digest}
    assert {row["site"] for row in rows} == set(STAY)
    assert {row["round"] for row in rows} == {0, 1}  # a fifth of two rounds, at least one, and the last scores
    site = source.spec(source.manifest(STAY[0])).build()
    kept = dict(site.network_at(state.shared, state.round).named_parameters())
    begun = load_checkpoint(left.path / APPROXIMATE / "sites" / STAY[0] / "kept", 0).tensors
    assert begun and all(torch.equal(tensor, kept[name.removeprefix("kept.")]) for name, tensor in begun.items())


def test_the_report_compares_three_networks(folder: Path) -> None:
    report = json.loads((folder / "left" / "report.json").read_text())["unlearning"]
    assert report["site"] == GONE and report["patients"] == {"members": 2, "non_members": 1}
    assert list(report["networks"]) == ["before", "approximate", "exact"]
    for row in report["networks"].values():
        assert set(row["sites"]) == set(STAY) and row["seconds"] > 0
        assert 0 <= row["membership"]["low"] <= row["membership"]["auc"] <= row["membership"]["high"] <= 1
    page = (folder / "left" / "report.html").read_text()
    assert f"{GONE} has left" in page and "The exact network has seen none" in page
    scores = {label: row["sites"][STAY[0]]["psnr"] for label, row in report["networks"].items()}
    assert len(set(scores.values())) == 3
    exact = json.loads((folder / "left" / "report.json").read_text())["arms"]["fedavg_ct"]["sites"][STAY[0]]
    assert scores["exact"] == exact["psnr"]


def test_a_network_that_knows_the_site_is_recognized(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of its training patients falls in the run with it: the comparison has the sign right."""
    made = {"initial": [1.0, 1.2], "before": [0.2, 0.5], "approximate": [0.9, 0.9], "exact": [1.0, 1.1]}
    losses = {label: {"members": values, "non_members": [1.0 if label == "initial" else 0.8]}
              for label, values in made.items()}  # fmt: skip
    monkeypatch.setattr(unlearning, "_departed", lambda job: losses)
    found = unlearning.compare_unlearning(RunFolder.open(folder / "left"), 1, lambda _: None)["networks"]
    assert {label: row["membership"]["auc"] for label, row in found.items()} == {
        "before": 1.0, "approximate": 0.5, "exact": 0.0,
    }  # fmt: skip


def test_it_goes_on_after_an_interruption(folder: Path, tmp_path: Path) -> None:
    left = tmp_path / "left"
    shutil.copytree(folder / "left", left)
    for record in ("report.json", RECORD):
        (left / record).unlink()
    shutil.rmtree(left / APPROXIMATE)
    assert main([*without(GONE, folder / "run", left), "--resume"]) == 0
    first, again = (load_checkpoint(path / APPROXIMATE / CHECKPOINTS, 1).tensors for path in (folder / "left", left))
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.slow
def test_local_arms_are_not_trained_again(folder: Path, tmp_path: Path) -> None:
    """They do not depend on the site that left. With another recipe they may."""
    arms = ["--set", "evaluation.arms=['local']"]
    assert main(["train", str(RECIPE), *inside(folder / "sites", tmp_path / "run"), *arms]) == 0
    file = tmp_path / "run" / "local" / STAY[0] / "rounds.jsonl"
    marked = file.read_text().replace('"seconds": ', '"seconds": 99')
    file.write_text(marked)
    for out, more in (("same", []), ("changed", ["--set", "training.learning_rate=1e-4"])):
        assert main([*without(GONE, tmp_path / "run", tmp_path / out), *more, "--approximate-rounds", "0"]) == 0
        found = (tmp_path / out / "local" / STAY[0] / "rounds.jsonl").read_text()
        assert (found == marked) == (out == "same")
        assert not (tmp_path / out / "local" / GONE).exists()


def test_without_the_run_there_is_no_comparison(folder: Path, tmp_path: Path) -> None:
    """But scores."""
    left, said = tmp_path / "left", list[str]()
    shutil.copytree(folder / "left", left)
    record = json.loads((left / RECORD).read_text())
    (left / RECORD).write_text(json.dumps(record | {"run": str(tmp_path / "gone"), "beside": "gone"}))
    results = evaluate_run(left, jobs=1, say=said.append)
    assert "is not a run folder" in results["unlearning"]["left_out"] and results["arms"]
    assert any(f"no comparison with the run with {GONE}" in line for line in said)
    assert "No comparison with the run before" in (left / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--without", GONE], "--without: found no --start-from"),
        (["--without", "west", "--start-from", "RUN"], f"has no site 'west'; it has {GONE}, {', '.join(STAY)}"),
        (["--without", GONE, "--start-from", "nowhere"], "nowhere: is not a run folder"),
        (["fedavg", "--without", GONE, "--start-from", "RUN"], "--without: found a recipe, expected none"),
        (["fedavg", "--approximate-rounds", "1"], "--approximate-rounds: found without --without"),
        (["fedavg"], "found no --sites"),
        ([], "found no recipe"),
    ],
)
def test_refusals(folder: Path, tmp_path: Path, fails: Callable[..., str], options: list[str], line: str) -> None:
    named = [str(folder / "run") if option == "RUN" else option for option in options]
    assert line in fails("train", *named, "--out", str(tmp_path / "out"), "--jobs", "1")
    assert not (tmp_path / "out").exists()


def test_the_folder_of_another_departure_is_refused(folder: Path, fails: Callable[..., str]) -> None:
    line = fails(*without(STAY[0], folder / "run", folder / "left"), "--resume")
    assert f"site: found '{GONE}', expected '{STAY[0]}'" in line
    assert "the folder of the run itself" in fails(*without(GONE, folder / "run", folder / "run"), "--resume")


@pytest.mark.slow
def test_the_base_counts(folder: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    """A site that joined later is forgotten from there on; one that was in the base, not."""

    def train(name: str, base: Path) -> Path:
        command = ["train", str(RECIPE), *inside(folder / "sites", tmp_path / name), "--start-from", str(base)]
        assert main(command) == 0
        return tmp_path / name

    joined = train("joined", folder / "left")
    run = train_without(GONE, joined, tmp_path / "out", jobs=1, resume=False, say=lambda _: None, rounds=0)
    first = next(map(json.loads, (run.path / "rounds.jsonl").read_text().splitlines()))
    assert first["loaded_digest"] == RunFolder.open(folder / "left").selected().digest
    assert not (run.path / APPROXIMATE).exists()
    line = fails(*without(GONE, train("longer", joined), tmp_path / "refused"))
    assert f"network.base: found {joined}, in which {GONE} took part" in line and f"--start-from {joined}" in line


def test_a_site_that_never_trained_has_nothing_to_forget(folder: Path, tmp_path: Path) -> None:
    sites = tmp_path / "sites"
    shutil.copytree(folder / "sites", sites)
    file = sites / f"{STAY[1]}.toml"
    file.write_text(file.read_text().replace("unseen = false", "unseen = true"))
    assert main(["train", str(RECIPE), *inside(sites, tmp_path / "run")]) == 0
    with pytest.raises(DataError, match="which did not take part, expected a site that did"):
        train_without(STAY[1], tmp_path / "run", tmp_path / "out", jobs=1, resume=False, say=lambda _: None)
