"""A run with plugins: through every command, in worker processes, and after the files of the plugins are gone."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from federation import load_federation, load_manifest, load_recipe, make_demo_sites
from federation.cli.main import main
from federation.config import load_again, loaded_plugins
from federation.experiment.run_folder import RunFolder, local_recipe
from federation.sites import SimulatedSite, write_sites
from recon import DataError, Simulation

from ..fake_sites import write_site

PARTS = """
from dataclasses import dataclass

import torch
from federation import SERVER_RULES, ServerRule
from recon import PENALTIES, REGULARIZERS, Penalty, Regularizer


@REGULARIZERS.add("shrink")
class Shrink(Regularizer):
    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(0.9))

    def refine(self, channels, condition):
        return self.factor * channels


@PENALTIES.add("size")
class Size(Penalty):
    def __init__(self, weight: float) -> None:
        self.weight = weight

    @classmethod
    def for_round(cls, weight, at, scale=1.0):
        return cls(weight * scale * (1 + float(at.received["size"])))

    @classmethod
    def sends(cls, network, scale=1.0):
        return {"size": torch.zeros(())}

    @classmethod
    def measure(cls, network, samples, scale=1.0):
        return {"size": torch.ones(())}

    def __call__(self, network, batch, image):
        return self.weight * image.abs().mean()


@SERVER_RULES.add("half")
@dataclass(frozen=True)
class Half(ServerRule):
    invariants = frozenset()

    def _combine(self, round_):
        step = round_.step(round_.weights)
        return {name: (step[name] + round_.shared[name]) / 2 for name in step}, {}
"""
RECIPE = """
extends = "fedavg"
name = "mine"
plugins = ["parts.py"]

[network]
cascades = 2
regularizer = "shrink"

[training]
steps_per_round = 2

[federation]
rounds = 2
server_rule = "half"

[objective]
size = 1e-3
options = { size = { scale = 2.0 } }

[evaluation]
arms = ["zero_filled", "local"]
"""
READER = """
from pathlib import Path

from recon import MRI_READERS, open_volume


@MRI_READERS.add("renamed")
def open_renamed(path: Path, *, number: int, note="none"):
    assert number == 7
    return open_volume(path)
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe with its plugin; the working directory is another."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine" / "parts.py").write_text(PARTS)
    (tmp_path / "mine" / "mine.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path / "elsewhere")
    return Path("..") / "mine" / "mine.toml"


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_plugin_serves_every_command_and_outlives_its_file(
    recipe: Path, tmp_path: Path, forget_plugins: Callable[[], None], capsys: pytest.CaptureFixture[str], jobs: int
) -> None:
    sites, out, parts = tmp_path / "sites", tmp_path / "run", tmp_path / "mine" / "parts.py"
    scanners = [SimulatedSite(name, 2, "t1", Simulation("random", 2, 0.25)) for name in ("north", "south")]
    make_demo_sites(sites, size=24, train=1, validation=1, test=1, slices=1, sites=scanners)

    def run(*arguments: object, code: int = 0) -> None:
        forget_plugins()  # as a new process
        assert main([str(argument) for argument in arguments]) == code

    train = ["train", "--sites", sites, "--out", out, "--jobs", jobs]
    run(*train, recipe)
    parts.unlink()
    run("evaluate", out, "--jobs", jobs)
    assert json.loads((out / "report.json").read_text())["arms"].keys() == {"zero_filled", "local", "mine"}
    run("reconstruct", out, "--site", "north", *sites.glob("data/north/*test*"), "--out", tmp_path / "image.h5")
    # The recipe in the run folder goes on without the file of the plugin; the user's own needs it.
    run(*train, "--resume", out / "recipe.toml")
    capsys.readouterr()
    run(*train, "--resume", recipe, code=2)
    error = capsys.readouterr().err
    assert "mine.toml: plugins: " in error and "no such file" in error and error.count("\n") == 1
    # Another content is another recipe.
    parts.write_text(PARTS + "\n# changed\n")
    run(*train, "--resume", recipe, code=2)
    assert "holds a run of another recipe" in capsys.readouterr().err


@pytest.mark.usefixtures("forget_plugins")
def test_the_local_arm_exchanges_nothing(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    objective = local_recipe(loaded).objective
    assert loaded.objective.weights == {"size": 1e-3} and objective.weights == objective.options == {}
    moments = ["objective.moments=0.1", "objective.options={moments={features='*'}}", "objective.proximal=0.1"]
    assert local_recipe(load_recipe("fedavg", moments)).objective.weights == {"proximal": 0.1}


@pytest.fixture
def north(tmp_path: Path) -> Path:
    """A manifest whose files a plugin reads."""
    path = write_site(tmp_path / "sites")
    (tmp_path / "sites" / "reader.py").write_text(READER)
    path.write_text('plugins = ["reader.py"]\n' + path.read_text() + 'format = "renamed"\nnumber = 7\n')
    return path


def test_a_manifest_brings_its_reader(north: Path, forget_plugins: Callable[[], None]) -> None:
    manifest = load_manifest(north)
    assert len(manifest.dataset("train")) == 4 and manifest.to_toml().count("number = 7") == 1
    plugins, pickled = loaded_plugins(), pickle.dumps(manifest)
    (north.parent / "reader.py").write_text("raise RuntimeError('changed while the run goes on')\n")
    forget_plugins()
    load_again(plugins)
    again = pickle.loads(pickled)  # as in a worker process
    assert again == manifest and len(again.dataset("train")) == 4


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("number = 7\n", "", "data.number: missing key, which the format 'renamed' needs; add it"),
        ("number = 7", "number = 'x'", "data.number: found 'x', expected a valid integer"),
        ("number = 7", "nmber = 7", "data.nmber: unknown key; did you mean 'number'?"),
        ("number = 7", "number = 7\npitch_mm = 2.0", "data.pitch_mm: unknown key"),
        ('format = "renamed"', 'format = "fastmri"', "data.number: unknown key, expected one of"),
    ],
)
@pytest.mark.usefixtures("forget_plugins")
def test_keys_of_a_reader_are_checked(north: Path, old: str, new: str, expected: str) -> None:
    assert old in north.read_text()
    north.write_text(north.read_text().replace(old, new))
    with pytest.raises(DataError) as error:
        load_manifest(north)
    assert f"{north}: {expected}" in str(error.value) and "\n" not in str(error.value)


def test_other_manifests_do_not_know_the_keys_of_a_plugin(north: Path, forget_plugins: Callable[[], None]) -> None:
    other = write_site(north.parent, "east")
    before = load_manifest(other).to_toml()
    load_manifest(north)
    assert load_manifest(other).to_toml() == before and "note" not in before


def test_a_copy_of_a_manifest_keeps_the_plugin(north: Path, tmp_path: Path, forget_plugins: Callable[[], None]) -> None:
    table = load_manifest(north).model_dump(mode="json", exclude_none=True)
    table["data"]["root"] = str(load_manifest(north).root)
    write_sites(tmp_path / "copy", [table])
    (north.parent / "reader.py").unlink()
    forget_plugins()
    (copy,) = load_federation(tmp_path / "copy")
    assert len(copy.dataset("train")) == 4


@pytest.mark.parametrize("content", ["{}", '{"sites": 3}', '{"sites": []}', "[]", "3", ""])
def test_a_damaged_record_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    for use in (
        lambda: RunFolder.open(tmp_path),
        lambda: RunFolder.create(tmp_path, load_recipe("fedavg"), [], resume=True),
    ):
        with pytest.raises(DataError, match=r"run\.json: .*choose another --out$"):
            use()
