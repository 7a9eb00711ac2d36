"""The personal stage: kept at the site, never worse on validation, done once, used by every command."""

import json
from pathlib import Path

import pytest
import torch

from federation import RunFolder, load_federation, load_recipe, make_ct_demo_sites
from federation.experiment.personal_stage import personalize, site_network
from federation.experiment.task import ReconstructionTask
from federation.experiment.train import train_run
from federation.recipes.recipe_library import LIBRARY
from federation.serialization.checkpoints import load_checkpoint, saved_rounds
from federation.sites import CT_DEMO_SITES

RECIPE = LIBRARY / "demos" / "fedavg_ct.toml"
TINY = [
    "network.channels=2", "network.depth=2", "network.cascades=2", "federation.rounds=1", "training.steps_per_round=2",
    "personal.steps=8", "personal.learning_rate=5e-3",
]  # fmt: skip


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("personal") / "sites"
    make_ct_demo_sites(folder, size=48, train=1, validation=1, test=1, slices=2, sites=CT_DEMO_SITES[:2])
    return folder


def train(sites: Path, out: Path, *overrides: str) -> RunFolder:
    lines: list[str] = []
    run = train_run(
        load_recipe(RECIPE, [*TINY, *overrides]), load_federation(sites), out, jobs=1, resume=False, say=lines.append
    )
    assert any("personal steps at every site" in line for line in lines) == bool(run.recipe.personal.steps)
    return run


def test_every_site_keeps_a_network_of_its_own(sites: Path, tmp_path: Path) -> None:
    run = train(sites, tmp_path / "run")
    state = run.selected()
    for manifest in run.participants:
        shared = run.spec(manifest).build().network_at(state.shared, state.round)
        personal = site_network(run, manifest)
        assert personal.state_dict().keys() == shared.state_dict().keys()
        changed = [n for n, p in personal.named_parameters() if not torch.equal(p, shared.state_dict()[n])]
        assert any(name.startswith("regularizers.") for name in changed)
        task = ReconstructionTask(manifest, run.recipe, run.maps_folder(manifest.name))
        before, after = personalize((run, manifest.name, False))
        assert task.validate(shared) == before and task.validate(personal) == after
        assert before is not None and after is not None and after > before
        assert saved_rounds(run.personal_folder(manifest.name, local=True)) == [run.selected(local=manifest.name).round]
    rows = [json.loads(line) for line in (run.path / "rounds.jsonl").read_text().splitlines()]
    assert max(row["round"] for row in rows) == 1  # nothing of the stage went to the server


def test_the_stage_is_done_once(sites: Path, tmp_path: Path) -> None:
    run = train(sites, tmp_path / "run")
    folder = run.personal_folder("protocol1")
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    train_run(run.recipe, run.manifests, run.path, jobs=1, resume=True, say=lambda _: None)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == written


def test_what_makes_validation_worse_is_not_used(sites: Path, tmp_path: Path) -> None:
    run = train(sites, tmp_path / "run", "personal.learning_rate=0.5", "personal.steps=2")
    state, manifest = run.selected(), run.participants[0]
    numbers = load_checkpoint(run.personal_folder(manifest.name), state.round).numbers
    assert numbers["after"] < numbers["before"]
    shared = run.spec(manifest).build().network_at(state.shared, state.round)
    for (name, mine), (_, theirs) in zip(
        site_network(run, manifest).named_parameters(), shared.named_parameters(), strict=True
    ):
        assert torch.equal(mine, theirs), name


def test_without_the_stage_the_shared_network_is_used(sites: Path, tmp_path: Path) -> None:
    run = train(sites, tmp_path / "run", "personal.steps=0")
    state, manifest = run.selected(), run.participants[0]
    shared = run.spec(manifest).build().network_at(state.shared, state.round)
    assert all(
        torch.equal(a, b) for a, b in zip(site_network(run, manifest).parameters(), shared.parameters(), strict=True)
    )
    assert not run.personal_folder(manifest.name).exists()
