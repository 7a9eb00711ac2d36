"""Recipes that start from trained weights: round 0 is at the weights, at every site and with its kept parameters."""

from pathlib import Path

import pytest
import torch

from federation import ConfigError, build_network, load_recipe, make_demo_sites, train_run
from federation.experiment import RunFolder, initial_state, site_spec
from federation.methods import selected_state
from federation.recipes import NetworkSection, Recipe, attach_base, detach_base, weights_of
from federation.sites import SimulatedSite, load_federation
from recon import MODALITIES, STARTER_WEIGHTS, DataError, NetworkSettings, Simulation, save_weights

SETTINGS = NetworkSettings(
    cascades=2, regularizer="cnn", channels=3, depth=2, consistency="noise_proximal", noise_level=True
)
TINY = ("federation.rounds=1", "training.steps_per_round=1", "evaluation.arms=[]", "training.augment=false")


def write_weights(path: Path, settings: NetworkSettings = SETTINGS, modality: str = "mri", shift: float = 0.1) -> Path:
    network = settings.build(MODALITIES[modality].correction)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(shift)
    save_weights(network, path, settings, modality, "Heads")
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "heads.safetensors")


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sites")
    names = ("east", "north")
    scanners = [SimulatedSite(name, 2, "t1", Simulation("random", 2, 0.2, noise_std=0.01)) for name in names]
    make_demo_sites(folder, size=24, train=1, validation=1, test=1, slices=1, sites=scanners)
    north = folder / "north.toml"  # a site with a data consistency of its own
    north.write_text(north.read_text().replace('name = "north"', 'name = "north"\nconsistency = "gradient"'))
    return folder


@pytest.mark.parametrize(("options", "expected"), [({}, 6), ({"iterations": 4}, 4), ({"iterations": 2}, 2)])
def test_weights_keep_their_iterations_of_conjugate_gradients(
    tmp_path: Path, options: dict[str, int], expected: int
) -> None:
    settings = NetworkSettings(
        cascades=2, regularizer="cnn", channels=3, depth=2, consistency="proximal", consistency_options=options
    )
    path = write_weights(tmp_path / "heads.safetensors", settings)
    network = build_network(load_recipe("fedavg", start_from=path).network)
    assert [layer.iterations for layer in network.consistency] == [expected] * 2  # type: ignore[union-attr]


def state_of(path: Path) -> dict[str, torch.Tensor]:
    import safetensors.torch

    return safetensors.torch.load_file(path)


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("recipe", ["fedavg", "demos/fedavg_ct", "demos/fedavg_mixed", "fedprox"])
def test_the_weights_replace_the_network_of_any_plain_recipe(weights: Path, recipe: str) -> None:
    loaded = load_recipe(recipe, start_from=str(weights))
    assert loaded.network.settings() == SETTINGS
    network = build_network(loaded.network)
    assert network.state_dict().keys() == state_of(weights).keys()
    assert same(network.state_dict(), state_of(weights))


def test_round_0_is_at_the_weights_at_every_site_with_its_kept_parameters(
    weights: Path, sites: Path, tmp_path: Path
) -> None:
    recipe = load_recipe("fedavg", TINY, start_from=weights)
    shared, _ = initial_state(recipe)
    trained = state_of(weights)
    assert shared.keys() < trained.keys() and same(shared, {name: trained[name] for name in shared})
    for manifest in load_federation(sites):
        network = site_spec(manifest, recipe, tmp_path / manifest.name, tmp_path / "maps").build().network_at(shared, 0)
        kept = {name for name in trained if name.startswith("consistency.")}
        assert kept == trained.keys() - shared.keys()
        if manifest.consistency is None:
            assert same(network.state_dict(), trained)
        else:
            assert same(network.state_dict(), shared) and not kept <= network.state_dict().keys()


def test_a_run_keeps_a_copy_of_its_weights_and_starts_at_them(weights: Path, sites: Path, tmp_path: Path) -> None:
    recipe = load_recipe("fedavg", TINY, start_from=weights)
    train = {"manifests": load_federation(sites), "jobs": 1, "say": lambda text: None}
    run = train_run(recipe, out=tmp_path / "run", resume=False, **train)
    write_weights(weights, shift=0.2)  # the original is replaced
    with pytest.raises(ConfigError, match=r"SHA-256: found .*, expected .*, as the recipe states; get that file again"):
        build_network(recipe.network)
    opened = RunFolder.open(tmp_path / "run")
    assert opened.recipe.digest() == run.recipe.digest()
    first = {name: tensor for name, tensor in build_network(opened.recipe.network).state_dict().items()}
    assert same(first, state_of(tmp_path / "run" / "base.safetensors"))
    again = load_recipe("fedavg", TINY, start_from=weights)
    assert again.digest() != recipe.digest()
    with pytest.raises(DataError, match="holds a run of another recipe"):
        train_run(again, out=tmp_path / "run", resume=True, **train)
    # A run is a starting point, too: its shared parameters.
    onward = load_recipe("fedprox", TINY, start_from=tmp_path / "run")
    assert onward.network.settings() == SETTINGS
    trained = selected_state(tmp_path / "run").shared
    assert same(initial_state(onward)[0], trained)


@pytest.mark.parametrize("recipe", ["fedavg", "demos/fedavg_mri", "scaffold"])
def test_options_of_the_data_consistency_are_those_of_the_weights(recipe: str, weights: Path) -> None:
    assert load_recipe(recipe, start_from=weights).network.settings() == SETTINGS


def test_the_digest_covers_the_content_and_not_the_place(weights: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(weights.read_bytes())
    digests = [load_recipe("fedavg", start_from=path).digest() for path in (weights, copy)]
    plain = load_recipe("fedavg", ["network.cascades=2"])
    assert digests[0] == digests[1] != plain.digest()
    recipe = load_recipe("fedavg", start_from=copy)
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    assert load_recipe(tmp_path / "recipe.toml") == recipe


def test_a_base_is_a_name_and_a_wrong_one_says_which_is_near(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STARTER_WEIGHTS, "head-test", weights)
    recipe = load_recipe("fedavg", start_from="head-test")
    assert (recipe.network.base or "").startswith("head-test@sha256:")
    section = recipe.network.model_copy(update={"base": "head-test"})
    (tmp_path / "head-test").mkdir()
    monkeypatch.chdir(tmp_path)  # a folder that is no run does not hide the name
    assert same(build_network(section).state_dict(), state_of(weights))
    with pytest.raises(ConfigError, match="did you mean 'head-test'"):
        build_network(section.model_copy(update={"base": "head-tst"}))
    with pytest.raises(
        ConfigError, match=r"--start-from: found 'head-tst', expected starter.*did you mean 'head-test'"
    ):
        load_recipe("fedavg", start_from="head-tst")


def test_another_network_is_refused_with_the_keys_that_differ(weights: Path) -> None:
    recipe = load_recipe("fedavg", ["network.cascades=7"], start_from=weights)
    with pytest.raises(ConfigError, match=r"differs in cascades \(7 here, 2 there\), expected") as error:
        build_network(recipe.network)
    assert "\n" not in str(error.value) and "--start-from" in str(error.value)
    with pytest.raises(
        ConfigError, match=r"network.condition: found 'both', expected 'none', as in .*this method needs"
    ):
        load_recipe("hyperfed", start_from=weights)


def test_adapters_are_added_to_weights_and_travel_to_a_deployment(weights: Path, sites: Path, tmp_path: Path) -> None:
    recipe = load_recipe("fed_scales", start_from=weights)
    assert recipe.network.adapter == "scale" and recipe.network.settings() == SETTINGS
    found = {name.replace(".base.", "."): p for name, p in build_network(recipe.network).named_parameters()}
    assert same(found, state_of(weights))
    sent, content = detach_base(recipe)
    assert content is not None and (sent.network.base or "").startswith("sha256:")
    (tmp_path / "fed_scales.base").write_bytes(content)
    received = attach_base(sent, tmp_path / "fed_scales.base").network
    for manifest in load_federation(sites):
        at_site, here = (build_network(section, manifest).state_dict() for section in (received, recipe.network))
        trained = {name for name in here if manifest.consistency is None or not name.startswith("consistency.")}
        assert same(at_site, {name: here[name] for name in trained})
    plain = load_recipe("fedavg", start_from=weights)
    with pytest.raises(ConfigError, match="found a base without an adapter, expected none in a deployment"):
        detach_base(plain)


def test_weights_of_another_modality_are_refused(sites: Path, tmp_path: Path) -> None:
    settings = NetworkSettings(cascades=1, regularizer="cnn", channels=2, correct_operator=True)
    path = write_weights(tmp_path / "body.safetensors", settings, "ct")
    recipe: Recipe = load_recipe("demos/fedavg_ct", TINY, start_from=path)
    assert initial_state(recipe)[0].keys() <= state_of(path).keys()
    with pytest.raises(ConfigError, match=r"body.safetensors, weights for CT, with the MRI site east, expected sites"):
        train_run(recipe, load_federation(sites), tmp_path / "run", jobs=1, resume=False, say=lambda text: None)
    assert not (tmp_path / "run").exists()


def test_the_settings_of_a_section_are_those_of_recon() -> None:
    assert NetworkSection().settings() == NetworkSettings()
    assert weights_of("runs/none") is None
