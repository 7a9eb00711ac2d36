"""Recipes are found by name or path, from any folder."""

from pathlib import Path

import pytest

from federation import ConfigError, load_recipe
from federation.recipes import LIBRARY, library_entries, recipe_names, recipe_path


def test_every_recipe_of_the_library_has_a_name_and_one_line() -> None:
    entries = library_entries()
    assert [entry.name for entry in entries] == recipe_names()
    assert {"fedavg", "fedprox", "demos/fedavg_ct"} <= {entry.name for entry in entries}
    for name, summary in entries:
        assert recipe_path(name) == LIBRARY / f"{name}.toml"
        assert 20 < len(summary) <= 130 and "\n" not in summary and not summary.endswith("."), name
    assert len({entry.summary for entry in entries}) == len(entries)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_name_is_read_from_the_library_in_any_folder(elsewhere: Path) -> None:
    assert load_recipe("fedprox").objective.proximal > 0
    assert load_recipe("fedprox.toml") == load_recipe("fedprox") == load_recipe(LIBRARY / "fedprox.toml")
    assert load_recipe("demos/fedavg_ct").name == "fedavg_ct"


def test_a_file_goes_before_a_recipe_of_the_same_name(elsewhere: Path) -> None:
    (elsewhere / "fedavg.toml").write_text('name = "mine"\n')
    assert load_recipe("fedavg.toml").name == "mine"
    assert load_recipe("fedavg").name == "fedavg"


def test_a_recipe_in_another_folder_extends_one_of_the_library(elsewhere: Path) -> None:
    for number, extended in enumerate(("fedavg", "fedavg.toml")):
        path = elsewhere / f"mine{number}.toml"
        path.write_text(f'extends = "{extended}"\nname = "mine"\n[training]\nbatch_size = 3\n')
        recipe, base = load_recipe(str(path)), load_recipe("fedavg")
        assert (recipe.name, recipe.training.batch_size) == ("mine", 3)
        assert recipe.network == base.network and recipe.federation == base.federation


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "fedprx",
            "fedprx: found no such file, expected a TOML file, or a recipe of `fedrecon recipes`; correct it",
        ),
        ("fedprx", "'fedprox'"),
        ("fedprx.toml", "'fedprox'"),
        ("old/folder/fedprox.toml", "'fedprox'"),
        ("../library/fedavg", "found no such file"),
        ("nothing_like_it", "`fedrecon recipes`; correct it"),
        (".", ".: found a folder, expected a TOML file"),
    ],
)
def test_a_wrong_name_is_one_line_with_the_nearest(name: str, words: str, elsewhere: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load_recipe(name)
    assert words in str(error.value) and "\n" not in str(error.value)
