"""Centralized arms train as a loop written by hand does, share what travels and freeze what is frozen."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from federation import ConfigError, load_recipe, make_demo_sites
from federation.comparison.arms import Arm, Budget
from federation.comparison.hospitals import HOSPITALS
from federation.experiment.centralized import CentralArm, Updates
from federation.experiment.task import ReconstructionTask
from federation.methods.algorithm import derive_seed
from federation.recipes.recipe import Recipe
from federation.recipes.recipe_schema import NetworkSection
from federation.sites import SiteManifest, load_federation
from recon import DataError, Sample, apply, batches, cosine_learning_rate

BUDGET = Budget(NetworkSection(cascades=2, regularizer="cnn", channels=3, depth=3), 2, 3, 5e-3, (1e-2,))


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> tuple[SiteManifest, ...]:
    """Three sites with two training slices, so that batches of the second round continue a pass."""
    folder = tmp_path_factory.mktemp("sites")
    make_demo_sites(folder, size=24, train=2, validation=1, test=1, slices=1, sites=HOSPITALS["mri"].sites(24)[:3])
    return tuple(load_federation(folder))


def recipe_of(**training: object) -> Recipe:
    recipe = BUDGET.recipe(Arm("joint", kind="joint"), "mri", 4)
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=training)})


def arm_in(folder: Path, recipe: Recipe, manifests: tuple[SiteManifest, ...], updates: Updates = "joint") -> CentralArm:
    return CentralArm(recipe, manifests, folder / "arm", {m.name: folder / "maps" / m.name for m in manifests}, updates)


def parameters(networks: dict[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{site}/{name}": p for site, network in networks.items() for name, p in network.named_parameters()}


def by_hand(
    arm: CentralArm, tasks: dict[str, ReconstructionTask], optimizer: Callable[..., torch.optim.Optimizer]
) -> list[dict[str, Tensor]]:
    """Parameters before each round and after the last, from a loop of its own."""
    networks, training, rounds = arm._networks(tasks), arm.recipe.training, arm.recipe.federation.rounds
    steps = optimizer({id(p): p for p in parameters(networks).values()}.values(), lr=training.learning_rate)

    def stream(site: str) -> Iterator[Sample]:
        generator = torch.Generator().manual_seed(derive_seed(arm.recipe.federation.seed, "central", site))
        while True:
            yield from batches(tasks[site].dataset("train"), training.batch_size, generator)

    streams = {site: stream(site) for site in tasks}
    turns = [list(tasks)] if arm.updates == "joint" else [[site] for site in tasks]
    found = []
    for round_ in range(rounds):
        found.append({name: p.detach().clone() for name, p in parameters(networks).items()})
        steps.param_groups[0]["lr"] = cosine_learning_rate(training.learning_rate, round_ / rounds)
        for turn in turns * training.steps_per_round:
            steps.zero_grad()
            for site in turn:
                batch = next(streams[site])
                image = batch.magnitude(apply(networks[site].train(), batch))
                ((image - batch.target()).abs().mean() / len(turn)).backward()
            steps.step()
    return [*found, {name: p.detach().clone() for name, p in parameters(networks).items()}]


@pytest.mark.parametrize(
    ("updates", "training", "best"),
    [
        ("joint", {}, 2),
        ("sequential", {}, 2),
        ("joint", {"batch_size": 3}, 1),
        ("sequential", {"optimizer": "sgd", "momentum": 0.9}, 2),
    ],
)
def test_a_centralized_arm_is_a_loop_by_hand_bit_for_bit(
    updates: Updates,
    training: dict[str, object],
    best: int,
    manifests: tuple[SiteManifest, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arm = arm_in(tmp_path, recipe_of(**training), manifests, updates)
    tasks = {m.name: ReconstructionTask(m, arm.recipe, arm.maps[m.name]) for m in manifests}

    def optimizer(params: object, lr: float) -> torch.optim.Optimizer:
        plain = training.get("optimizer", "adam") == "adam"
        return torch.optim.Adam(params, lr, fused=True) if plain else torch.optim.SGD(params, lr, momentum=0.9)  # type: ignore[arg-type]

    rounds = by_hand(arm, tasks, optimizer)
    scores = iter([float(round_ == best) for round_ in range(len(rounds)) for _ in tasks])
    monkeypatch.setattr(ReconstructionTask, "validate", lambda self, network: next(scores))
    found = parameters(arm.train())
    equal = [all(found[name].equal(value) for name, value in state.items()) for state in rounds]
    assert equal == [round_ == best for round_ in range(len(rounds))]


@pytest.mark.parametrize(
    ("scores", "selected", "ended"),
    [
        ((5.0, 6.0, 6.0), 1, "all 2 rounds; best round 1"),
        ((5.0, 4.0), 0, "no improvement for 1 round; best round 0"),
        ((None, None, None), 2, "all 2 rounds; the last one counts, without validation scores"),
    ],
)
def test_a_centralized_arm_ends_by_the_rule_of_the_federation(
    scores: tuple[float | None, ...],
    selected: int,
    ended: str,
    manifests: tuple[SiteManifest, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arm = arm_in(tmp_path, recipe_of(patience=1, schedule="constant"), manifests)
    tasks = {m.name: ReconstructionTask(m, arm.recipe, arm.maps[m.name]) for m in manifests}
    waiting = iter([score for score in scores for _ in manifests])
    monkeypatch.setattr(ReconstructionTask, "validate", lambda self, network: next(waiting))
    found = parameters(arm.train())
    assert next(waiting, "all used") == "all used"
    (curve,) = arm.curves
    assert [score for _, score in curve.scores] == list(scores)
    assert (curve.selected, curve.ended, curve.steps) == (selected, ended, selected * BUDGET.steps_per_round)
    assert set(curve.slices.values()) == {2} and arm.rounds_made == len(scores) - 1
    assert curve.parameters == sum(p.numel() for name, p in found.items() if name.startswith(manifests[0].name + "/"))
    before = parameters(arm._networks(tasks))
    assert all(tensor.equal(found[name]) for name, tensor in before.items()) == (selected == 0)


def test_the_regularizer_is_shared_and_what_was_trained_is_read_again(
    manifests: tuple[SiteManifest, ...], tmp_path: Path
) -> None:
    arm = arm_in(tmp_path, recipe_of(), manifests)
    tasks = {m.name: ReconstructionTask(m, arm.recipe, arm.maps[m.name]) for m in manifests}
    built = [dict(network.named_parameters()) for network in arm._networks(tasks).values()]
    for name, tensor in built[0].items():
        assert {other[name] is tensor for other in built[1:]} == {name.startswith("regularizers")}
    networks = arm.train()
    states = [dict(network.named_parameters()) for network in networks.values()]
    assert all(state[name].equal(states[0][name]) for state in states for name in states[0] if "regul" in name)
    again = parameters(arm.train())
    assert all(tensor.equal(again[name]) for name, tensor in parameters(networks).items())
    longer = arm.recipe.federation.model_copy(update={"rounds": BUDGET.rounds + 1})
    more = replace(arm, recipe=arm.recipe.model_copy(update={"federation": longer}))
    more.train()  # a run that goes on with more rounds trains this arm anew
    assert more.history[-1].round == BUDGET.rounds + 1


def test_frozen_parameters_stay_as_they_are(
    manifests: tuple[SiteManifest, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = BUDGET.recipe(Arm("frozen", overrides=("scope.delta=['regularizers.1.*']",)), "mri", 4)
    arm = arm_in(tmp_path, frozen, manifests)
    tasks = {m.name: ReconstructionTask(m, arm.recipe, arm.maps[m.name]) for m in manifests}
    before = parameters(arm._networks(tasks))
    scores = iter(range(len(manifests) * (BUDGET.rounds + 1)))  # the last round is the best
    monkeypatch.setattr(ReconstructionTask, "validate", lambda self, network: float(next(scores)))
    after = parameters(arm.train())
    moved = {name.split("/")[1] for name, p in before.items() if not p.equal(after[name])}
    cascades = {name.split(".")[1] for name in moved if name.startswith("regularizers")}
    assert cascades == {"1"} and "consistency.0.log_step" in moved


def test_training_is_on_the_device_of_the_first_site_and_validation_on_each_ones(
    manifests: tuple[SiteManifest, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[tuple[str, type]] = []

    @contextmanager
    def recorded(self: ReconstructionTask, method: nn.Module) -> Iterator[None]:
        used.append((self.manifest.name, type(method)))
        yield

    monkeypatch.setattr(ReconstructionTask, "at_work", recorded)
    arm_in(tmp_path, recipe_of(), manifests).train()
    names = [m.name for m in manifests]
    assert [site for site, method in used if method is nn.ModuleList] == [names[0]] * BUDGET.rounds
    assert [site for site, method in used if method is not nn.ModuleList] == names * (BUDGET.rounds + 1)


def test_training_that_diverges_is_one_line(manifests: tuple[SiteManifest, ...], tmp_path: Path) -> None:
    arm = arm_in(tmp_path, recipe_of(learning_rate=1e30), manifests)
    words = r"^joint arm: \S+\.h5: the loss is (nan|inf) at step \d; lower the learning rate$"
    with pytest.raises(DataError, match=words):
        arm.train()
    assert not list(tmp_path.glob("arm/*"))
    replace(arm, recipe=recipe_of()).train()


def test_differential_privacy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"noise_multiplier: found noise, expected none in a centralized arm"):
        CentralArm(load_recipe("fedavg_private"), (), tmp_path, {}, "joint")
    with pytest.raises(ConfigError, match=r"arms: found 'centralized' with privacy.noise_multiplier, expected one of"):
        load_recipe("fedavg_private", ["evaluation.arms=['centralized']"])
