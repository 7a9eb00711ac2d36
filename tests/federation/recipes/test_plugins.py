"""Plugins: found relative to the file that names them, known by content, one line for everything that can be wrong."""

import importlib.util
import marshal
from collections.abc import Callable
from pathlib import Path

import pytest

from federation import ConfigError, build_network, load_manifest, load_recipe
from federation.config import load_again, load_plugin, loaded_plugins, require_plugins, store_plugins
from recon import PENALTIES, REGULARIZERS

from ..fake_sites import write_site

PARTS = """
import torch
from recon import PENALTIES, REGULARIZERS, Penalty, Regularizer


@REGULARIZERS.add("shrink")
class Shrink(Regularizer):
    def __init__(self, factor: float = 0.5) -> None:
        super().__init__()
        if not 0 < factor < 1:
            raise ValueError(f"Shrink: factor is {factor}, expected 0 to 1")
        self.factor = torch.nn.Parameter(torch.tensor(factor))

    def refine(self, channels, condition):
        return self.factor * channels


@PENALTIES.add("size")
class Size(Penalty):
    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, network, batch, image):
        return self.weight * image.abs().mean()
"""
RECIPE = 'extends = "fedavg"\nname = "mine"\nplugins = ["parts.py"]\n[network]\nregularizer = "shrink"\n'

pytestmark = pytest.mark.usefixtures("forget_plugins")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe with its plugin, read from another working directory."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "parts.py").write_text(PARTS)
    (folder / "mine.toml").write_text(RECIPE)
    return folder / "mine.toml"


def line(call: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(ConfigError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_recipe_names_a_part_of_its_plugin(recipe: Path, forget_plugins: Callable[[], None]) -> None:
    loaded = load_recipe(recipe, ["network.regularizer_options={factor=0.25}", "objective.size=0.1"])
    assert loaded.objective.weights == {"size": 0.1}
    assert loaded.plugins == (load_plugin(recipe.parent / "parts.py").name,)
    factors = [p for name, p in build_network(loaded.network).named_parameters() if name.endswith("factor")]
    assert len(factors) == loaded.network.cascades and all(factor.item() == 0.25 for factor in factors)
    forget_plugins()
    assert "shrink" not in REGULARIZERS and "size" not in PENALTIES
    load_recipe(recipe)  # and once more, as in a new process
    assert "shrink" in REGULARIZERS


def test_the_digest_is_that_of_the_content(recipe: Path, forget_plugins: Callable[[], None]) -> None:
    first, parts = load_recipe(recipe), recipe.parent / "parts.py"
    forget_plugins()
    # The same content elsewhere, also if it is named twice, by a path of the command line or as the other recipe's.
    other = recipe.parent.parent / "other.py"
    parts.rename(other)
    recipe.write_text(RECIPE.replace('["parts.py"]', '["../other.py", "../other.py"]'))
    over = other.with_name("over.toml")
    over.write_text('extends = "mine/mine.toml"\nname = "mine"\nplugins = ["other.py"]\n')
    for again in (load_recipe(recipe), load_recipe(recipe, plugins=[other]), load_recipe(over)):
        assert again.digest() == first.digest()
    forget_plugins()
    other.write_text(PARTS + "# another content\n")
    changed = load_recipe(recipe)
    assert changed.digest() != first.digest() and changed.method_digest() != first.method_digest()


def test_plugins_of_an_override_are_relative_to_the_working_directory(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe.write_text(RECIPE.replace('plugins = ["parts.py"]\n', ""))
    monkeypatch.chdir(recipe.parent)
    assert load_recipe(recipe, ["plugins=['parts.py']"]).plugins == (load_plugin("parts.py").name,)
    message = line(load_recipe, recipe, ["plugins=['none.py']"])
    assert message.startswith("--set plugins=['none.py']: plugins: ") and "no such file" in message


def test_a_stored_recipe_finds_the_copy_of_its_plugin(recipe: Path, forget_plugins: Callable[[], None]) -> None:
    loaded, stored = load_recipe(recipe), recipe.parent / "run" / "recipe.toml"
    (recipe.parent / "parts.py").write_text("raise RuntimeError('changed after it was loaded')\n")
    store_plugins(loaded.plugins, stored.parent)
    stored.write_text(loaded.to_toml())
    (recipe.parent / "parts.py").unlink()
    forget_plugins()
    assert load_recipe(stored) == loaded and "shrink" in REGULARIZERS
    (copy,) = (stored.parent / "plugins").iterdir()
    forget_plugins()
    copy.write_text(f"open({str(recipe.parent / 'ran')!r}, 'w')\n")
    message = line(load_recipe, stored)
    assert message.startswith(f"{stored}: plugins: {copy}: found content with sha256:") and "restore" in message
    copy.unlink()
    message = line(load_recipe, stored)
    assert f"{stored}: plugins: found '{loaded.plugins[0]}'" in message and "add --plugin FILE" in message
    assert not (recipe.parent / "ran").exists()  # a changed copy is not run


def test_what_was_hashed_is_what_runs(recipe: Path) -> None:
    parts = recipe.parent / "parts.py"
    status = parts.stat()
    cached = Path(importlib.util.cache_from_source(str(parts)))
    cached.parent.mkdir()
    # As Python would cache it, of other code: an import would run this.
    code = compile("raise RuntimeError('from the cache')", str(parts), "exec")
    header = importlib.util.MAGIC_NUMBER + b"".join(
        value.to_bytes(4, "little") for value in (0, int(status.st_mtime), status.st_size)
    )
    cached.write_bytes(header + marshal.dumps(code))
    load_recipe(recipe)
    assert "shrink" in REGULARIZERS


def test_another_process_needs_no_file(recipe: Path, forget_plugins: Callable[[], None]) -> None:
    load_recipe(recipe)
    plugins = loaded_plugins()
    (recipe.parent / "parts.py").unlink()
    forget_plugins()
    load_again(plugins)
    load_again(plugins)
    assert "shrink" in REGULARIZERS and loaded_plugins() == plugins


BROKEN = {
    "missing": (None, "parts.py: found no such file or directory, expected a Python file"),
    "raises": ("import torch\n\n1 / 0\n", "parts.py: the plugin, line 3, raises ZeroDivisionError: division by zero"),
    "syntax": ("def f(:\n", "raises SyntaxError: invalid syntax (parts.py, line 1)"),
    "exits": ("import sys\nsys.exit('bye')\n", "parts.py: the plugin, line 2, raises SystemExit: bye; correct it"),
    "several lines": ("raise ValueError('one\\ntwo')\n", "line 1, raises ValueError: one two; correct it"),
    "taken": (
        "from recon import REGULARIZERS\nREGULARIZERS.add('unet')(object)\n",
        "line 2, raises ValueError: regularizer 'unet': found another part of this name; choose another name",
    ),
    "binary": (b"\x00\xff", "parts.py: the plugin raises"),
}
NAMES = {
    "number": ("3", "found 3, expected a list of Python files"),
    "string": ('"parts.py"', "found 'parts.py', expected a list of Python files"),
    "number in a list": ("[3]", "found [3], expected a list of Python files"),
    "list in a list": ("[[1]]", "found [[1]], expected a list"),
    "table": ("{a = 1}", "found {'a': 1}, expected a list"),
    "no name": ('[""]', "found is a directory, expected a Python file"),
    "folder": ('["."]', "found is a directory, expected a Python file"),
    "null": ('["\\u0000"]', "found embedded null byte, expected a Python file"),
    "not Python": ('["mine.toml"]', "found a file that ends in '.toml', expected a Python file (.py)"),
    "unknown content": (f'["sha256:{"0" * 64}"]', "add --plugin FILE"),
    "no content": ('["sha256:0"]', "found no such file or directory"),
}


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_plugin_is_one_line(recipe: Path, content: str) -> None:
    text, expected = BROKEN[content]
    (recipe.parent / "parts.py").unlink()
    if text is not None:
        (recipe.parent / "parts.py").write_bytes(text if isinstance(text, bytes) else text.encode())
    (recipe.parent / "north.toml").write_text('plugins = ["parts.py"]\n' + write_site(recipe.parent).read_text())
    for read, path in ((load_recipe, recipe), (load_manifest, recipe.parent / "north.toml")):
        message = line(read, path)
        assert message.startswith(f"{path}: plugins: {recipe.parent / 'parts.py'}: ") and expected in message
    assert expected in line(load_plugin, recipe.parent / "parts.py")
    assert loaded_plugins() == ()


@pytest.mark.parametrize("value", NAMES)
@pytest.mark.parametrize("extends", ['extends = "fedavg"\n', ""])
def test_wrong_names_of_plugins_are_one_line(recipe: Path, value: str, extends: str) -> None:
    text, expected = NAMES[value]
    recipe.write_text(f'{extends}name = "mine"\nplugins = {text}\n')
    north = write_site(recipe.parent)
    north.write_text(f"plugins = {text}\n" + north.read_text())
    for read, path in ((load_recipe, recipe), (load_manifest, north)):
        message = line(read, path)
        assert message.startswith(f"{path}: plugins: ") and expected in message
    with pytest.raises(ConfigError, match=r"mine\.toml: plugins: "):
        load_recipe(recipe, plugins=[recipe.parent / "parts.py"])


@pytest.mark.parametrize("value", [3, "parts.py", [3], {"a": 1}, ["parts.py"], ["sha256:" + "0" * 64]])
def test_a_recipe_from_elsewhere_loads_nothing(recipe: Path, value: object) -> None:
    assert line(require_plugins, value, "bundle").startswith("bundle: plugins: found ")
    assert loaded_plugins() == ()


def test_a_part_that_refuses_its_options_is_one_line(recipe: Path) -> None:
    for value in ("2", "'x'", "true"):
        loaded = load_recipe(recipe, [f"network.regularizer_options={{factor={value}}}"])
        assert line(build_network, loaded.network).startswith("recipe: network.regularizer_options: ")
    message = line(load_recipe, recipe, ["network.regularizer_options={factr=0.5}"])
    assert "found 'factr', expected one of factor" in message
    assert "found 'norm', expected one of factor" in line(load_recipe, recipe, ["network.norm=instance"])
