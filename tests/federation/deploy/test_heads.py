"""Heads of a deployed federation: the bits of a run in process, and the base that travels with the bundle."""

from pathlib import Path

import pytest

from federation import load_federation, make_demo_sites, train_run
from federation.experiment import export_weights
from federation.methods import selected_state
from federation.recipes.frozen_base import attach_base, detach_base
from federation.rounds.loop import QuorumError
from federation.sites import SimulatedSite
from recon import DataError, Simulation

from ..labelled_sites import add_labels
from .deployment import NAMES, deploy

SHORT = ("network.cascades=1", "federation.rounds=1", "training.steps_per_round=4")
HEAD = ("task.classes=['bright']", "task.head_options={channels=4, depth=1}", *SHORT)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    sites = [SimulatedSite(name, 2, "t1", Simulation("random", 2, 0.2, noise_std=0.01)) for name in NAMES]
    make_demo_sites(folder, size=24, train=1, validation=1, test=1, slices=2, sites=sites)
    add_labels(folder)
    return folder


def test_a_head_and_its_network_trained_end_to_end_have_the_bits_of_the_run_in_process(
    labelled: Path, tmp_path: Path
) -> None:
    deployed = deploy(tmp_path, labelled, *HEAD, method="downstream/end_to_end")
    with pytest.raises(QuorumError, match="site north: the site's policy forbids it"):
        deployed.train("refused")  # by default the regularizers of a plain network may leave, and no head
    for name in NAMES:
        deployed.set_policy(name, may_share=["head.*", "reconstruction.regularizers.*"])
    deployed.train()
    sites = [folder.manifest for folder in deployed.folders.values()]
    train_run(deployed.recipe, sites, tmp_path / "here", jobs=1, resume=False, say=str)
    here, there = (selected_state(tmp_path / name) for name in ("here", "run"))
    assert here.digest == there.digest and here.round == there.round > 0


def test_the_base_of_a_head_travels_once_with_the_bundle_and_only_as_weights(labelled: Path, tmp_path: Path) -> None:
    first = deploy(tmp_path / "base", labelled, *SHORT).recipe
    sites = load_federation(labelled)
    train_run(first, sites, tmp_path / "trained", jobs=1, resume=False, say=str)
    weights = export_weights(tmp_path / "trained", tmp_path / "weights")
    deployed = deploy(tmp_path / "on", labelled, *HEAD, f"network.base={str(weights)!r}", method="downstream/two_stage")
    for name in NAMES:
        deployed.set_policy(name, may_share=["head.*"])
    deployed.train()
    train_run(deployed.recipe, sites, tmp_path / "here", jobs=1, resume=False, say=str)
    here, there = (selected_state(tmp_path / name) for name in ("here", "on/run"))
    assert here.digest == there.digest
    assert all(name.startswith("head.") for name in here.shared)
    run = {"base": str(tmp_path / "trained")}
    named = deployed.recipe.model_copy(update={"network": deployed.recipe.network.model_copy(update=run)})
    with pytest.raises(DataError, match="a run, of which every site keeps a part, expected weights"):
        detach_base(named)
    with pytest.raises(DataError, match="expected sha256: and 64 digits"):
        attach_base(named, tmp_path / "b")
