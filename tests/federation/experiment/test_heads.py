"""Heads at tiny labelled hospitals: what trains and travels in each way of training, scores, refusals."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from federation import ConfigError, RunFolder, SiteManifest, load_manifest, load_recipe, train_run
from federation.cli import main
from federation.experiment import evaluate_run, export_weights, head_slices, site_network
from federation.experiment.head_scores import REFERENCE, controls_of
from federation.methods import selected_state
from recon import ImageStore, TaskNetwork, apply, collate, head_input

from ..labelled_sites import BASE, TINY, add_labels, make_labelled_sites

WAYS = ("reference", "two_stage", "end_to_end")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sites, and a trained reconstruction network, `base`."""
    folder = tmp_path_factory.mktemp("heads")
    sites = make_labelled_sites(folder / "sites")
    train(folder, "fedavg", sites, BASE, "base")
    return folder


@pytest.fixture(scope="module")
def sites(folder: Path) -> list[SiteManifest]:
    return [load_manifest(path) for path in sorted((folder / "sites").glob("*.toml"))]


def train(folder: Path, recipe: str, sites: list[SiteManifest], overrides: tuple[str, ...], out: str) -> RunFolder:
    base = folder / "base" if out != "base" else None
    loaded = load_recipe(recipe, overrides, start_from=base)
    return train_run(loaded, sites, folder / out, jobs=1, resume=False, say=str, maps=folder / "maps")


@pytest.fixture(scope="module")
def runs(folder: Path, sites: list[SiteManifest]) -> dict[str, RunFolder]:
    return {way: train(folder, f"downstream/{way}", sites, TINY, way) for way in WAYS}


@pytest.mark.parametrize("way", WAYS)
def test_only_what_the_way_says_travels_and_changes(way: str, runs: dict[str, RunFolder], folder: Path) -> None:
    run, base = runs[way], RunFolder.open(folder / "base")
    shared = selected_state(run.path).shared
    assert {name.split(".")[0] for name in shared} == ({"head", "reconstruction"} if way == "end_to_end" else {"head"})
    assert not any("consistency" in name for name in shared)  # stays at the site, whatever trains
    for manifest in run.manifests:
        network, begun = site_network(run, manifest), site_network(base, manifest)
        assert isinstance(network, TaskNetwork)
        now, before = (dict(net.named_parameters()) for net in (network.reconstruction, begun))
        changed = {name for name in before if not torch.equal(now[name], before[name])}
        assert bool(changed) == (way == "end_to_end"), changed
        batch = collate([manifest.dataset("test", run.maps)[0]])
        with torch.no_grad():
            assert torch.equal(apply(network, batch), apply(begun, batch)) == (way != "end_to_end")


def test_a_head_starts_from_the_parameters_that_a_site_kept_in_the_base(runs: dict[str, RunFolder]) -> None:
    """The kept parameters of two sites differ, so a head that read the initial ones would see other images."""
    run = runs["two_stage"]
    kept = [dict(site_network(run, m).named_parameters()) for m in run.manifests]
    names = [name for name in kept[0] if "consistency" in name]
    assert names and any(not torch.equal(kept[0][name], kept[1][name]) for name in names)


def test_evaluate_scores_the_head_on_every_image(
    runs: dict[str, RunFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs["two_stage"]
    assert main(["evaluate", str(run.path), "--jobs", "1"]) == 0
    said = capsys.readouterr().out
    assert "downstream task: segmentation of bright" in said and "Dice" in said
    report = json.loads((run.path / "report.json").read_text())
    assert set(report["task"]) == {"east", "north"}
    for site, by_arm in report["task"].items():
        assert set(by_arm) == {"zero_filled", "local", run.recipe.name, REFERENCE}
        own = by_arm[run.recipe.name]
        assert own["people"] == 2 and "bright" in own["label_sets"] and "difference" not in own
        assert by_arm["local"]["difference"]["to"] == run.recipe.name
        # By hand: the head on the reference images.
        manifest = run.manifest(site)
        network, samples = site_network(run, manifest).eval(), manifest.dataset("test", run.maps)
        assert isinstance(network, TaskNetwork)
        scores = []
        for number in range(len(samples.volumes)):
            chosen = [samples[samples.first(number) + i] for i in range(samples.n_slices(number))]
            with torch.no_grad():
                found = network.head(head_input(torch.stack([s.target() for s in chosen]))).argmax(1).numpy() == 1
            truth = np.stack([s.label.numpy() == 1 for s in chosen if s.label is not None])
            scores.append(2 * (found & truth).sum() / (found.sum() + truth.sum()))
        assert by_arm[REFERENCE]["classes"]["bright"]["scores"]["dice"]["value"] == pytest.approx(np.mean(scores))
        control = controls_of(run, site)
        assert control is not None and control["bright"].people == 1
    page = (run.path / "report.html").read_text()
    assert "trained one head on images of a network" in page
    assert "Downstream task: segmentation of bright" in page and 'class="outlines"' in page
    assert "largest label" in page and "tuning" not in report["metric_card"]
    assert "best Dice" in page or "validation Dice" in page


def test_a_site_with_a_head_reconstructs_as_before(runs: dict[str, RunFolder], tmp_path: Path) -> None:
    run = runs["reference"]
    scan = next((run.manifests[0].root).rglob("*test*.h5"))
    assert main(["reconstruct", str(run.path), "--site", "east", str(scan), "--out", str(tmp_path / "x.h5")]) == 0


def test_validation_scores_are_told_as_dice(folder: Path, sites: list[SiteManifest], tmp_path: Path) -> None:
    said: list[str] = []
    recipe = load_recipe("downstream/reference", [*TINY, "personal.steps=1"], start_from=folder / "base")
    run = train_run(recipe, sites, tmp_path / "run", jobs=1, resume=False, say=said.append, maps=folder / "maps")
    rounds = [line for line in said if line.startswith("round")]
    assert len(rounds) == 3 and all("Dice 0." in line and " dB" not in line for line in rounds)
    assert any(line.startswith("personal") and "Dice" in line for line in said)
    rows = [json.loads(line) for line in (run.path / "rounds.jsonl").read_text().splitlines()]
    assert all(0 <= row["score_before"] < 100 and math.isfinite(row["score_before"]) for row in rows)


def refused(folder: Path, sites: list[SiteManifest], *overrides: str, base: bool = True) -> str:
    with pytest.raises(ConfigError) as error:
        recipe = load_recipe("downstream/reference", [*TINY, *overrides], start_from=folder / "base" if base else None)
        train_run(recipe, sites, folder / "refused", jobs=1, resume=False, say=str)
    assert not (folder / "refused").exists() and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("task.classes=['dark']",), "task: found segmentation of bright, expected segmentation of dark, as in the"),
        (("task.kind=classification", "task.head=cnn_classifier"), "expected classification of bright, as in the re"),
        (("task.head=cnn_classifier", "task.head_options={}"), "task.head: found 'cnn_classifier', a head for clas"),
        (("task.loss=bce",), "task.loss: found 'bce', expected one of dice_ce, focal for segmentation"),
        (("task.head_options={outputs=3}",), "head_options: found 'outputs', expected none"),
        (("scope.freeze=[]",), "scope.freeze: found [] with task.input 'reference', expected \"reconstruction.*\""),
        (("network.twin=true",), "network.twin: found True with [task], expected False"),
        (("objective.residual=0.1",), "objective.residual: found a weight with task.input 'reference'"),
        (("objective.task=supervised",), "task: found one with objective.task 'supervised', expected both [task] and"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(
    folder: Path, sites: list[SiteManifest], overrides: tuple[str, ...], message: str
) -> None:
    assert message in refused(folder, sites, *overrides)


def test_a_head_without_a_base_or_without_labels_is_refused(folder: Path, sites: list[SiteManifest]) -> None:
    assert "network.base: found none with task.input 'reference'" in refused(folder, sites, base=False)
    bare = [m.model_copy(update={"task": None}) for m in sites]
    for manifest, original in zip(bare, sites, strict=True):
        manifest._path = original.path
    assert "task: found no labels, expected segmentation of bright" in refused(folder, bare)


OTHERS = ("finetune", "own_first_block", "classification", "classification_fedprox", "classification_scaffold")


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_recipes_of_heads_train_and_are_scored(name: str, folder: Path, tmp_path: Path) -> None:
    kind = "classification" if name.startswith("classification") else "segmentation"
    shutil.copytree(folder / "sites", tmp_path / "sites")
    for path in (tmp_path / "sites").glob("*.toml"):
        path.write_text(path.read_text().split("[task]")[0])
    sites = add_labels(tmp_path / "sites", kind)
    recipe = load_recipe(f"downstream/{name}", [*TINY, "evaluation.arms=['zero_filled']", "personal.steps=2"],
                         start_from=folder / "base")  # fmt: skip
    said: list[str] = []
    run = train_run(recipe, sites, tmp_path / "run", jobs=1, resume=False, say=said.append, maps=folder / "maps")
    assert any(("Dice" if kind == "segmentation" else "likelihood") in line for line in said)
    results = evaluate_run(run.path, jobs=1, say=said.append)
    main_score = "dice" if kind == "segmentation" else "auc"
    for by_arm in results["task"].values():
        assert main_score in by_arm[recipe.name]["classes"]["bright"]["scores"]
    shared = selected_state(run.path).shared
    assert {part.split(".")[0] for part in shared} == {"head"}
    assert any(part.startswith("head.first.") for part in shared) == (name != "own_first_block")


def test_weights_of_a_run_with_a_head_are_not_exported_as_a_plain_network(
    runs: dict[str, RunFolder], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="found a TaskNetwork"):
        export_weights(runs["reference"].path, tmp_path / "out")


def test_attacks_and_comparisons_of_heads_are_refused(
    runs: dict[str, RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["privacy", str(runs["reference"].path)]) == 2
    assert "recipe.task: found a head, expected a run of a reconstruction network alone" in capsys.readouterr().err
    assert main(["compare", "downstream/two_stage", "--out", str(tmp_path)]) == 2
    assert "task: found a head, unet, expected a recipe of a reconstruction network" in capsys.readouterr().err


def test_images_kept_in_memory_change_no_bit(
    runs: dict[str, RunFolder], folder: Path, sites: list[SiteManifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every image is made again where none fits into the store."""
    monkeypatch.setattr(head_slices, "_STORE", ImageStore(most_bytes=0))
    again = train(folder, "downstream/two_stage", sites, TINY, "made_again")
    assert selected_state(again.path).digest == selected_state(runs["two_stage"].path).digest


def test_images_are_kept_only_where_they_stay_the_same(
    runs: dict[str, RunFolder], folder: Path, sites: list[SiteManifest]
) -> None:
    def kept(way: str, *overrides: str) -> bool:
        recipe = load_recipe(f"downstream/{way}", (*TINY, *overrides), start_from=folder / "base")
        return head_slices.keeps_images(recipe, runs[way].spec(sites[0]).build().network)

    assert kept("reference") and kept("two_stage") and kept("two_stage", "objective.proximal=0.1")
    assert not kept("end_to_end")  # the network trains
    assert not kept("two_stage", "training.augment=true")


def test_images_of_a_file_that_was_replaced_are_made_again(
    runs: dict[str, RunFolder], sites: list[SiteManifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ImageStore()
    monkeypatch.setattr(head_slices, "_STORE", store)
    run, manifest = runs["two_stage"], sites[0]
    network, samples = site_network(run, manifest), manifest.dataset("train", run.maps)
    made = []
    for _ in range(3):
        head_slices.seen_slices(run.recipe, manifest, network, samples)[0]
        made.append(store.n_bytes)
    samples.volumes[0].path.touch()
    head_slices.seen_slices(run.recipe, manifest, network, samples)[0]
    assert made == [made[0]] * 3 and store.n_bytes == 2 * made[0] > 0
