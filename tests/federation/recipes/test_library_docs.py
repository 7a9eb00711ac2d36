"""The reference of recipes, library/README.md, describes every key and choice with the defaults of the code."""

import dataclasses
import itertools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from federation import SERVER_RULES, TRANSFORMS, WEIGHTINGS, Recipe, build_network, load_recipe
from federation.config.schema import Section
from federation.methods import parameter_scope
from federation.recipes import NetworkSection, ScopeSection
from federation.recipes.recipe_library import LIBRARY
from recon import DATA_CONSISTENCY, LOSSES, MODALITIES, REGULARIZERS, TASK_HEADS, TASK_LOSSES
from recon.training.objectives import OBJECTIVES
from recon.training.penalties import PENALTIES

FOLDER = LIBRARY
TEXT = (FOLDER / "README.md").read_text(encoding="utf-8")
CODE = re.compile(r"`([^`]+)`")


def rows(first: str) -> dict[str, list[str]]:
    """The rows of the table whose first heading is ``first``, by each name in their first cell."""
    lines = TEXT.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    table = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    # A vertical bar in a cell would be another cell.
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {name: row for row in cells for name in CODE.findall(row[0]) or [row[0]]}


def fields_of(model: type[Section], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted name, annotation and default of every key; a table of keys is its keys, and itself where it may miss."""
    for key, field in model.model_fields.items():
        parts = get_args(field.annotation) or (field.annotation,)
        below = next((part for part in parts if isinstance(part, type) and issubclass(part, Section)), None)
        default = field.get_default(call_default_factory=True)
        if below is None or default is None:
            yield prefix + key, field.annotation, None if field.is_required() else default
        if below is not None:
            yield from fields_of(below, f"{prefix}{key}.")


def toml(value: Any) -> Any:
    """As TOML reads it back."""
    return list(value) if isinstance(value, tuple) else value


def literals(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    for inner in get_args(annotation):
        if get_origin(annotation) is not Literal:
            yield from literals(inner)


KEYS = rows("key")
FIELDS = {name: (annotation, default) for name, annotation, default in fields_of(Recipe)}
FIELDS |= {f"objective.{name}": (float, 0.0) for name in PENALTIES}


def test_every_key_and_no_other_is_described() -> None:
    assert KEYS.keys() - {"extends"} == FIELDS.keys()


@pytest.mark.parametrize("name", FIELDS)
def test_defaults_are_those_of_the_code_and_all_words_are_named(name: str) -> None:
    annotation, default = FIELDS[name]
    shown = CODE.findall(KEYS[name][1])
    assert shown if default is not None else not shown
    if shown:
        assert tomllib.loads(f"value = {shown[0]}")["value"] == toml(default)
    for word in literals(annotation):
        assert f'"{word}"' in " ".join(KEYS[name][1:]), f"{name}: {word} is not named"


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("network.regularizer", REGULARIZERS),
        ("network.consistency", DATA_CONSISTENCY),
        ("training.loss", LOSSES),
        ("objective.task", OBJECTIVES),
        ("task.head", TASK_HEADS),
        ("task.loss", [name for losses in TASK_LOSSES.values() for name in losses]),
        ("evaluation.arms", [name for modality in MODALITIES.values() for name in modality.methods]),
    ],
)
def test_every_name_that_a_key_takes_is_listed_with_it(key: str, names: Any) -> None:
    listed = {word.strip('"') for word in CODE.findall(" ".join(KEYS[key][1:]))}
    assert set(names) <= listed


REGISTRIES = {"`server_rule`": SERVER_RULES, "`weights`": WEIGHTINGS, "transform": TRANSFORMS}


@pytest.mark.parametrize("heading", REGISTRIES)
def test_every_choice_is_described_with_its_options_and_their_defaults(heading: str) -> None:
    table = rows(heading)
    assert list(table) == list(REGISTRIES[heading])
    for name, kind in REGISTRIES[heading].items():
        options = {}
        for text in CODE.findall(table[name][1]):
            option, _, value = text.partition(" = ")
            options[option] = tomllib.loads(f"value = {value}")["value"] if value else dataclasses.MISSING
        assert options == {field.name: field.default for field in dataclasses.fields(kind)}, name


def test_the_least_number_of_sites_is_that_of_the_rule() -> None:
    assert {name: row[2] for name, row in rows("`server_rule`").items()} == {
        name: str(kind().minimum_sites()) for name, kind in SERVER_RULES.items()
    }


def test_every_kind_of_scope_has_an_example_that_works() -> None:
    examples = {kind: CODE.findall(row[1])[-1] for kind, row in rows("kind").items()}
    assert examples.keys() - {"generated"} == ScopeSection.model_fields.keys()
    for kind, example in examples.items():
        network = build_network(
            NetworkSection(
                regularizer="cnn",
                cascades=2,
                channels=2,
                depth=3,
                adapter="lora" if kind == "delta" else "none",
                condition="both" if kind == "generated" else "none",
            )
        )
        scope = ScopeSection.model_validate(tomllib.loads(example)).rules()
        assert parameter_scope(network, scope) != parameter_scope(network), kind


def test_the_recipes_in_the_text_can_be_read(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert blocks
    for block in blocks:
        path = tmp_path / "mine.toml"
        named = block if "name =" in block else f'name = "mine"\n{block}'
        path.write_text(named.replace('extends = "', f'extends = "{FOLDER.as_posix()}/'), encoding="utf-8")
        load_recipe(path)


FILES = sorted(FOLDER.rglob("*.toml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_recipe_is_listed_as_its_file_says(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    comment = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    what = " ".join(line.removeprefix("#").strip() for line in comment)
    table = tomllib.loads(text)
    name = path.relative_to(FOLDER).with_suffix("").as_posix()
    row = f"| [`{name}`]({name}.toml) | {what} | {table.get('paper', '')} | {table.get('left_out', '')} |"
    assert row in TEXT.splitlines()


def test_no_recipe_is_listed_that_is_not_there() -> None:
    listed = re.findall(r"^\| \[`([^`]+)`\]", TEXT, re.MULTILINE)
    assert sorted(listed) == sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FILES)


def test_the_files_that_the_text_names_exist() -> None:
    root = Path(__file__).parents[3]
    named = re.findall(r"`((?:tests|federation|recon|benchmarks)/[\w/.]+)`", TEXT)
    assert len(named) > 5 and all((root / name).exists() for name in named), named
