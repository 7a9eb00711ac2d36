"""Options of `fedrecon compare`: defaults, contradictions, and what the command line passes on."""

from dataclasses import fields
from pathlib import Path

import pytest

from federation.cli.main import main
from federation.comparison import command
from federation.comparison.command import CompareOptions, compare
from federation.comparison.preset import Preset
from federation.comparison.presets import PRESETS
from recon import DataError


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        ({}, "runs/compare_laptop"),
        ({"preset": "full"}, "runs/compare_full"),
        ({"sites": Path("data/../my_sites")}, "runs/compare_laptop_my_sites"),
        ({"sites": Path("my_sites"), "out": Path("here")}, "here"),
    ],
)
def test_each_preset_and_folder_of_sites_has_a_folder_of_its_own(options: dict[str, Path], folder: str) -> None:
    assert CompareOptions(**options).folder == Path(folder)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"published": Path("a"), "tables": True}, "--from: found beside --tables"),
        ({"published": Path("a"), "sites": Path("b")}, "--from: found beside --sites"),
        ({"publish": Path("a"), "sites": Path("b")}, "--publish: found beside --sites"),
        ({"only": ["together"], "sites": Path("b")}, "--only: found beside --sites"),
        ({"device": "cuda", "sites": Path("b")}, "--device: found beside --sites"),
        ({"device": "cuda", "tables": True}, "--device: found beside --tables"),
    ],
)
def test_options_that_contradict_each_other_are_one_line(options: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        CompareOptions(**options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value) and str(error.value).endswith("; leave one of them out")


def test_the_command_line_passes_every_option_on(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[CompareOptions] = []
    monkeypatch.setattr("federation.comparison.compare", lambda options, say: passed.append(options))
    words = "--preset full --all --out o --modality ct --seeds 2 --tables --publish q --jobs 3"
    assert main(["compare", "a.toml", "b.toml", *words.split()]) == 0
    assert main(["compare", "--only", "a", "--only", "b", "--device", "cuda", "--jobs", "1"]) == 0
    assert main(["compare", "--from", "p"]) == 0 and main(["compare", "--sites", "s", "--jobs", "1"]) == 0
    options, on_gpu, going_on, at_sites = passed
    assert on_gpu == CompareOptions(recipes=[], only=["a", "b"], device="cuda", overrides=[])
    assert options == CompareOptions(
        preset="full", recipes=["a.toml", "b.toml"], every=True, out=Path("o"), modality="ct", seeds=2,
        only=[], tables=True, publish=Path("q"), overrides=[], jobs=3,
    )  # fmt: skip
    assert going_on.published == Path("p")
    assert at_sites == CompareOptions(recipes=[], only=[], sites=Path("s"), overrides=[])
    changed = {each.name for each in fields(CompareOptions) if getattr(options, each.name) != each.default}
    assert changed | {"published", "sites", "device"} == {each.name for each in fields(CompareOptions)}


@pytest.mark.parametrize("preset", PRESETS)
def test_the_command_line_knows_every_preset(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("federation.comparison.compare", lambda options, say: Path(options.preset))
    assert main(["compare", "--preset", preset]) == 0


def test_named_recipes_get_no_extra_seeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[Preset, bool]] = []

    def run(preset: Preset, out: Path, *, more_seeds: bool, **options: object) -> Path:
        asked.append((preset, more_seeds))
        return out

    monkeypatch.setattr(command, "run_comparison", run)
    recipe = tmp_path / "mine.toml"
    recipe.write_text('name = "mine"\n')
    for recipes in ((), (recipe,)):
        compare(CompareOptions(preset="full", recipes=recipes), print)
    assert asked == [(PRESETS["full"], True), (PRESETS["full"], False)]
