"""Heads at tiny labelled hospitals: what trains and travels in each way of training, scores, refusals."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from federation import ConfigError, RunFolder, SiteManifest, load_manifest, load_recipe, train_run
from federation.cli import main
from federation.experiment import (
    ReconstructionTask,
    evaluate_run,
    export_weights,
    head_slices,
    initial_state,
    site_network,
)
from federation.experiment.head_scores import REFERENCE, controls_of
from federation.experiment.score_site import _methods
from federation.methods import selected_state
from federation.recipes import CENTRALIZED, START, attach_base, detach_base, made_head, network_of, require_base
from federation.serialization import saved_rounds
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
    arms = {"two_stage": ("evaluation.arms=['zero_filled', 'local', 'centralized']",)}
    return {way: train(folder, f"downstream/{way}", sites, (*TINY, *arms.get(way, ())), way) for way in WAYS}


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
    (central,) = report["training"][CENTRALIZED]
    assert central["steps"] == central["selected"] * 2 * run.recipe.training.steps_per_round  # those of both sites
    for site, by_arm in report["task"].items():
        assert set(by_arm) == {"zero_filled", "local", CENTRALIZED, run.recipe.name, REFERENCE}
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
    assert len(rounds) == 2 and all("Dice 0." in line and " dB" not in line for line in rounds)
    assert any(line.startswith("personal") and "Dice" in line for line in said)
    rows = [json.loads(line) for line in (run.path / "rounds.jsonl").read_text().splitlines()]
    assert all(0 <= row["score_before"] < 100 and math.isfinite(row["score_before"]) for row in rows)


def test_a_head_starts_from_that_of_a_run(runs: dict[str, RunFolder], folder: Path) -> None:
    """With the same classes all of it; the network that a run trained end to end goes on as every site had it."""
    joint = runs["end_to_end"]
    recipe = load_recipe("downstream/two_stage", TINY, start_from=joint.path)
    begun, trained = initial_state(recipe)[0], selected_state(joint.path).shared
    assert begun and all(torch.equal(tensor, trained[name]) for name, tensor in begun.items())
    for manifest in joint.manifests:
        network, before = (
            dict(net.named_parameters())
            for net in (ReconstructionTask(manifest, recipe, folder / "maps").network(), site_network(joint, manifest))
        )
        assert all(torch.equal(network[name], before[name]) for name in before)
    own = load_recipe("downstream/two_stage", TINY, start_from=runs["reference"].path)
    assert own.network == runs["reference"].recipe.network  # a frozen network is still that of the base
    with pytest.raises(ConfigError, match="a run that trained a head alone, expected a run of the network"):
        initial_state(load_recipe("fedavg", BASE, start_from=folder / "base").model_copy(
            update={"network": own.network.model_copy(update={"base": str(runs["reference"].path)})}
        ))  # fmt: skip


def test_the_arm_start_is_the_head_that_a_run_began_with(runs: dict[str, RunFolder], folder: Path) -> None:
    """For continual updating: the head before the update and after it, on the same people."""
    run = runs["end_to_end"]
    arms = run.recipe.evaluation.model_copy(update={"arms": (START,)})
    again = replace(run, recipe=run.recipe.model_copy(update={"evaluation": arms}))
    for manifest in run.manifests:
        task = ReconstructionTask(manifest, again.recipe, folder / "maps")
        methods, _ = _methods(again, manifest, task, run.selected())
        assert list(methods) == [START, run.recipe.name]
        begun, after = (dict(methods[arm].named_parameters()) for arm in methods)
        base = dict(site_network(RunFolder.open(folder / "base"), manifest).named_parameters())
        assert all(torch.equal(begun[f"reconstruction.{name}"], base[name]) for name in base)
        assert any(not torch.equal(begun[name], after[name]) for name in begun)
    with pytest.raises(ConfigError, match=r"arms: found 'start' without task.head_weights, expected both"):
        require_base(again.recipe)


def test_an_updated_head_is_scored_beside_the_one_before_on_earlier_people(
    runs: dict[str, RunFolder], folder: Path, sites: list[SiteManifest], tmp_path: Path
) -> None:
    how = ["federation.rounds=1", "training.steps_per_round=3", "task.classes=['bright']"]
    recipe = load_recipe("downstream/update", how, start_from=runs["two_stage"].path)
    said: list[str] = []
    run = train_run(recipe, sites, tmp_path / "run", jobs=1, resume=False, say=said.append, maps=folder / "maps")
    assert any(line.startswith("head: of") and "28 tensors are taken over" in line for line in said)
    assert main(["evaluate", str(run.path), "--jobs", "1", "--sites", str(folder / "sites")]) == 0
    for by_arm in json.loads((run.path / "report.json").read_text())["task"].values():
        assert by_arm[START]["difference"]["to"] == "downstream_update"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluation.arms=['centralized']", "arms: found 'centralized', expected none in a deployed federation"),
        ("task.head_weights={run}", "task.head_weights: found .*, expected none in a deployed federation"),
    ],
)
def test_what_needs_all_data_or_a_file_is_not_deployed(
    override: str, message: str, runs: dict[str, RunFolder], tmp_path: Path
) -> None:
    named = override.replace("{run}", repr(str(runs["reference"].path)))
    recipe = load_recipe("downstream/end_to_end", [*TINY, named])
    with pytest.raises(ConfigError, match=message):
        detach_base(recipe)
    with pytest.raises(ConfigError, match=message):
        attach_base(recipe, tmp_path / "base")  # a site does not trust the server


def test_low_rank_changes_and_the_last_layer_of_a_trained_head_travel(runs: dict[str, RunFolder]) -> None:
    how = ("task.classes=['bright']", "task.head_options={channels=4, depth=1}")
    recipe = load_recipe("downstream/classification_lora", how, start_from=runs["reference"].path)
    shared, trained = initial_state(recipe)[0], selected_state(runs["reference"].path).shared
    assert {name.rpartition(".")[2] for name in shared if "last" not in name} == {"lora_down", "lora_up"}
    assert {name for name in shared if "last" in name} == {"head.last.weight", "head.last.bias"}
    network = network_of(recipe)
    assert torch.equal(network.get_parameter("head.first.0.base.weight"), trained["head.first.0.weight"])
    assert {name for name, p in network.head.named_parameters() if p.requires_grad} == {  # type: ignore[union-attr]
        name.removeprefix("head.") for name in shared
    }
    assert sum(t.numel() for t in shared.values()) < 0.5 * sum(p.numel() for p in network.head.parameters())  # type: ignore
    without = load_recipe("downstream/classification_lora", how)
    with pytest.raises(ConfigError, match=r"task.head_weights: found none with the adapter 'lora', expected the tr"):
        require_base(without.model_copy(update={"network": recipe.network}))


def test_the_file_of_a_head_is_pinned_and_kept_in_the_run(
    runs: dict[str, RunFolder], sites: list[SiteManifest], tmp_path: Path
) -> None:
    state = {n.removeprefix("head."): t for n, t in selected_state(runs["reference"].path).shared.items()}
    safetensors.torch.save_file(state, tmp_path / "head.safetensors")
    named = f"task.head_weights={str(tmp_path / 'head.safetensors')!r}"
    recipe = load_recipe("downstream/reference", [*TINY, named], start_from=runs["reference"].recipe.network.base)
    begun = initial_state(recipe)[0]
    assert torch.equal(begun["head.first.0.weight"], state["first.0.weight"])
    assert not torch.equal(begun["head.last.weight"], state["last.weight"])  # a file states no classes
    RunFolder.create(tmp_path / "run", recipe, sites, resume=False)
    safetensors.torch.save_file({n: 2 * t for n, t in state.items()}, tmp_path / "head.safetensors")
    with pytest.raises(ConfigError, match=r"SHA-256: found [0-9a-f]{12}, expected [0-9a-f]{12}, as task.head_weights"):
        initial_state(recipe)
    opened = RunFolder.open(tmp_path / "run").recipe
    assert opened.digest() == recipe.digest() and torch.equal(
        initial_state(opened)[0]["head.first.0.weight"], begun["head.first.0.weight"]
    )
    with pytest.raises(ConfigError, match="'nothing', expected a safetensors file, or the folder of a run"):
        load_recipe("downstream/reference", [*TINY, "task.head_weights=nothing"])


def test_a_run_whose_base_was_changed_is_refused(folder: Path, sites: list[SiteManifest], tmp_path: Path) -> None:
    shutil.copytree(folder / "base", tmp_path / "base")
    recipe = load_recipe("downstream/reference", TINY, start_from=tmp_path / "base")
    RunFolder.create(tmp_path / "run", recipe, sites, resume=False)
    RunFolder.open(tmp_path / "run")
    checkpoints = tmp_path / "base" / "checkpoints"
    for path in checkpoints.glob(f"*{max(saved_rounds(checkpoints))}*"):
        path.unlink()  # the round before counts now
    message = r"base: network.base: found parameters with the digest .*, expected .*, with which .*run began; the run"
    for again in (
        lambda: RunFolder.open(tmp_path / "run"),
        lambda: RunFolder.create(tmp_path / "run", recipe, sites, resume=True),
    ):
        with pytest.raises(ConfigError, match=message):
            again()


def test_pretraining_needs_no_labels_and_starts_a_head_of_any_labels(
    folder: Path, sites: list[SiteManifest], tmp_path: Path
) -> None:
    bare = [m.model_copy(update={"task": None}) for m in sites]
    for manifest, original in zip(bare, sites, strict=True):
        manifest._path = original.path
    tiny = [*TINY[:-1], "evaluation.arms=[]", "federation.rounds=1"]
    recipe = load_recipe("downstream/pretrain", tiny, start_from=folder / "base")
    said: list[str] = []
    run = train_run(recipe, bare, tmp_path / "run", jobs=1, resume=False, say=said.append, maps=folder / "maps")
    assert any("explained variance" in line for line in said)
    start = made_head(load_recipe("downstream/classification", TINY[-1:], start_from=run.path).task)[1]  # type: ignore
    assert start is not None and start.new == ("last.weight", "last.bias")
    for wrong, message in (
        ("task.classes=['bright']", "kind: found 'pretraining' with classes"),
        ("objective.task=downstream", "objective.task: found 'downstream' with task.kind 'pretraining'"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_recipe("downstream/pretrain", [wrong, "objective.options={}"])


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


@pytest.mark.parametrize("name", ["finetune", "own_first_block"])
def test_a_head_that_a_site_changes_for_itself_is_scored(
    name: str, folder: Path, sites: list[SiteManifest], tmp_path: Path
) -> None:
    recipe = load_recipe(f"downstream/{name}", [*TINY, "personal.steps=2"], start_from=folder / "base")
    said: list[str] = []
    run = train_run(recipe, sites, tmp_path / "run", jobs=1, resume=False, say=said.append, maps=folder / "maps")
    assert any(line.startswith("personal") and "Dice" in line for line in said)
    results = evaluate_run(run.path, jobs=1, say=said.append)
    assert all("dice" in by_arm[recipe.name]["classes"]["bright"]["scores"] for by_arm in results["task"].values())
    shared = selected_state(run.path).shared
    assert any(part.startswith("head.first.") for part in shared) == (name == "finetune")


@pytest.fixture(scope="module")
def classified(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[SiteManifest]:
    """The same sites with classes of slices."""
    place = tmp_path_factory.mktemp("classified")
    shutil.copytree(folder / "sites", place / "sites")
    for path in (place / "sites").glob("*.toml"):
        path.write_text(path.read_text().split("[task]")[0])
    return add_labels(place / "sites", "classification")


@pytest.mark.parametrize("name", ["", "_ditto", "_fedprox", "_scaffold"])
def test_classification_heads_train(
    name: str, folder: Path, classified: list[SiteManifest], tmp_path: Path, runs: dict[str, RunFolder]
) -> None:
    how = [*TINY, *["personal.steps=2"] * (name == "_ditto")]
    recipe = load_recipe(f"downstream/classification{name}", how, start_from=folder / "base")
    said: list[str] = []
    run = train_run(recipe, classified, tmp_path / "run", jobs=1, resume=False, say=said.append, maps=folder / "maps")
    assert any("likelihood" in line for line in said)
    assert {name.split(".")[0] for name in selected_state(run.path).shared} == {"head"}
    if not name:
        results = evaluate_run(run.path, jobs=1, say=said.append)
        assert all("auc" in by_arm[recipe.name]["classes"]["bright"]["scores"] for by_arm in results["task"].values())


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
