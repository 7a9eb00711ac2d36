"""Networks of recipes: with a condition, with adapters on a base, as twins; parts that refuse their options."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from federation import ConfigError, build_network, load_recipe, make_demo_sites, train_run
from federation.experiment import initial_state
from federation.methods import parameter_scope, selected_state
from federation.recipes.recipe_library import LIBRARY
from federation.recipes.recipe_schema import NetworkSection
from federation.sites import SimulatedSite, load_federation
from recon import MODALITIES, ProximalStep, Simulation, TwinNetwork

RECIPES = LIBRARY
TINY = ("network.cascades=2", "network.channels=4", "federation.rounds=1", "training.steps_per_round=2",
        "evaluation.arms=[]")  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    sites = [SimulatedSite("north", 2, "t1", Simulation("random", 2, 0.2, noise_std=0.01))]
    make_demo_sites(folder / "sites", size=24, train=1, validation=1, test=1, slices=1, sites=sites)
    recipe = load_recipe(RECIPES / "fedavg.toml", TINY)
    train_run(recipe, load_federation(folder / "sites"), folder / "run", jobs=1, resume=False, say=lambda text: None)
    return folder / "run"


@pytest.mark.parametrize("name", ["med_lora", "med_dual_lora", "fed_scales", "fedpr"])
def test_an_adapted_network_starts_as_its_base(base: Path, name: str) -> None:
    recipe = load_recipe(RECIPES / f"{name}.toml", (*TINY, f"network.base={str(base)!r}"))
    plain = load_recipe(RECIPES / "fedavg.toml", TINY)
    torch.manual_seed(5)
    adapted = dict(build_network(recipe.network).named_parameters())
    trained = selected_state(base).shared
    scope = parameter_scope(build_network(recipe.network), recipe.scope.rules())
    assert scope.frozen and set(scope.shared).isdisjoint(trained)
    for frozen in scope.frozen:
        assert torch.equal(adapted[frozen], trained[frozen.replace(".base.", ".")])
        assert not adapted[frozen].requires_grad
    assert len(scope.frozen) == len(parameter_scope(build_network(plain.network)).shared)


def iterations(network: NetworkSection) -> list[int]:
    layers = build_network(network).consistency
    return [layer.iterations if isinstance(layer, ProximalStep) else layer.log_step.numel() for layer in layers]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("fedavg", 2), ("fedprox", 2), ("modl", 6), ("demos/fedavg_mri", 2), ("demos/fedavg_task", 6), ("varnet", 1)],
)
def test_recipes_state_the_iterations_of_data_consistency(name: str, expected: int, tmp_path: Path) -> None:
    recipe, stored = load_recipe(name), tmp_path / "recipe.toml"
    stored.write_text(recipe.to_toml())
    for network in (recipe.network, load_recipe(stored).network):
        assert iterations(network) == [expected] * network.cascades


def test_a_run_from_before_recipes_stated_the_iterations_has_six(tmp_path: Path) -> None:
    stored = tmp_path / "recipe.toml"
    stored.write_text('name = "fedavg"\n[network]\ncascades = 2\nregularizer = "cnn"\nconsistency = "proximal"\n')
    assert iterations(load_recipe(stored).network) == [6, 6]
    stored.write_text(load_recipe(stored).to_toml())
    assert "[network.consistency_options]" in stored.read_text()
    assert iterations(load_recipe(stored).network) == [6, 6]


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_modality_corrects_its_own_operator_and_keeps_that_at_the_site(modality: str) -> None:
    table = NetworkSection(cascades=1, regularizer="cnn", channels=3, depth=2, correct_operator=True)
    network = build_network(table, SimpleNamespace(modality=modality, kind=MODALITIES[modality], consistency=None))  # type: ignore[arg-type]
    assert type(network.correction) is MODALITIES[modality].correction
    own = [name for name, _ in network.named_parameters() if name.startswith("correction.")]
    assert own and set(own) < set(parameter_scope(network).kept)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("regularizer_options={depth=1}", "regularizer_options: ConvRegularizer: depth is 1, expected at least 2"),
        ("regularizer_options={norm='batch'}", "regularizer_options: Regularizer: norm is 'batch', expected"),
        ("regularizer_options={channels=-1}", "regularizer_options: Trying to create tensor with negative dimension"),
        ("regularizer_options={channels='x'}", "regularizer_options: "),
        (
            "consistency_options={step=0}",
            "consistency_options: GradientStep: step is 0, expected a positive number",
        ),
        ("consistency_options={step='x'}", "consistency_options: '>' not supported between instances of 'str' and"),
    ],
)
def test_a_part_that_refuses_its_options_is_one_line(override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_network(load_recipe("fedavg", [f"network.{override}"]).network)
    assert str(error.value).startswith(f"recipe: network.{expected}") and "\n" not in str(error.value)


def test_a_penalty_that_refuses_its_options_is_one_line() -> None:
    recipe = load_recipe("fl_mrcm", ["objective.options={moments={features=3}}"])
    with pytest.raises(ConfigError, match=r"^recipe: objective\.moments: object of type 'int' has no len\(\)$"):
        initial_state(recipe)


def test_a_base_of_another_network_is_refused(base: Path, tmp_path: Path) -> None:
    table = NetworkSection(cascades=2, regularizer="cnn", channels=5, depth=4, adapter="scale", base=str(base))
    with pytest.raises(ConfigError, match=r"network.base: found regularizers.0.hidden.0.* of shape"):
        build_network(table)
    with pytest.raises(ConfigError, match=r"network.base: found a run with parameters such as"):
        build_network(table.model_copy(update={"cascades": 1, "channels": 4}))
    with pytest.raises(ConfigError, match="expected the folder of a trained run"):
        build_network(table.model_copy(update={"base": str(tmp_path)}))


def test_adapters_without_a_base_are_not_trained(base: Path, tmp_path: Path) -> None:
    sites = load_federation(base.parent / "sites")
    with pytest.raises(ConfigError, match=r"network.base: found none with the adapter 'scale', expected the folder"):
        train_run(
            load_recipe(RECIPES / "fed_scales.toml", TINY), sites, tmp_path, jobs=1, resume=False, say=lambda text: None
        )


def test_a_twin_has_two_networks_and_a_condition_reaches_both_halves() -> None:
    twin = build_network(NetworkSection(cascades=1, regularizer="cnn", channels=3, depth=2, twin=True))
    assert isinstance(twin, TwinNetwork)
    table = NetworkSection(cascades=1, regularizer="cnn", channels=3, depth=2, condition="both")
    names = [name for name, _ in build_network(table).named_parameters()]
    assert any(".film." in name for name in names) and any(name.startswith("scales.") for name in names)
