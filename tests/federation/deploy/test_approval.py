"""What an approval covers."""

import resource
from pathlib import Path

import pytest

from federation import load_recipe
from federation.deploy import approval
from federation.deploy.approval import software_digest
from federation.methods import parameter_scope, parameters_of
from federation.recipes import build_network, without_base
from federation.recipes.recipe_library import LIBRARY
from federation.serialization import layout, layout_digest
from recon import DataError

PLUGIN = """
import torch
from recon import REGULARIZERS, Regularizer


@REGULARIZERS.add("sum")
class Sum(Regularizer):
    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.full((4,), float(torch.ones(4).sum())))

    def refine(self, channels, condition):
        return self.factor.mean() * channels
"""


@pytest.mark.parametrize("name", ["physics/__init__.py", "physics/__init__.pyi", "federation/deploy/keys.py"])
def test_software_digest_covers_code_and_stubs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approval, "__file__", str(tmp_path / "federation" / "deploy" / "approval.py"))
    file = tmp_path / name
    file.parent.mkdir(parents=True)
    file.write_text("from .mri import CartesianMRI as CartesianMRI\n")
    before = software_digest()
    file.with_name("README.md").write_text("no code\n")
    assert software_digest() == before
    file.write_text("from .ct import RadonOperator as CartesianMRI\n")
    assert software_digest() != before


@pytest.mark.parametrize("method", ["fedavg", "fed_scales", "med_lora", "hyperfed", "varnet", "fedm2ct", "fedpr"])
def test_the_architecture_is_that_of_the_network_that_is_built(method: str) -> None:
    recipe = load_recipe(LIBRARY / f"{method}.toml")
    network = build_network(without_base(recipe).network)
    shared = parameters_of(network, parameter_scope(network, recipe.scope.rules()).shared)
    assert approval.architecture_digest(recipe) == layout_digest(layout(shared))


@pytest.mark.parametrize(
    "choices",
    [
        ("network.cascades=100", "network.channels=4096", "network.depth=4"),
        ("network.regularizer='unet'", "network.channels=4096", "network.depth=100"),  # a shape beyond 64 bits
        ("network.cascades=100", "network.depth=100"),
        ("network.adapter='lora'", "network.adapter_size=4096", "network.channels=4096"),
    ],
)
def test_a_network_of_any_size_is_counted_and_refused_without_memory_for_it(choices: tuple[str, ...]) -> None:
    recipe = load_recipe(LIBRARY / "fedavg.toml", choices)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="network: ") as error:
        approval.Approval.of(b"bundle", recipe, 1_000_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000 and "\n" not in str(error.value)


def test_a_network_at_the_limit_is_approved() -> None:
    recipe = load_recipe(LIBRARY / "fedavg.toml")
    count = sum(parameter.numel() for parameter in build_network(recipe.network).parameters())
    assert approval.Approval.of(b"bundle", recipe, count) == approval.Approval.of(b"bundle", recipe)
    with pytest.raises(DataError, match=rf"found {count} parameters or more.* expected at most {count - 1} in"):
        approval.Approval.of(b"bundle", recipe, count - 1)
    build_network(recipe.network)  # nothing of the count is left behind


@pytest.mark.usefixtures("forget_plugins")
def test_a_plugin_that_computes_with_values_is_counted_while_it_is_built(tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text(PLUGIN)
    (tmp_path / "mine.toml").write_text(
        'extends = "fedavg"\nname = "mine"\nplugins = ["parts.py"]\n[network]\nregularizer = "sum"\n'
    )
    recipe = load_recipe(tmp_path / "mine.toml")
    assert len(approval.architecture_digest(recipe)) == 64
    with pytest.raises(DataError, match="found 4 parameters or more"):
        approval.architecture_digest(recipe, 3)
