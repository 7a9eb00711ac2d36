"""Commands that need no network load neither PyTorch nor numba."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from federation import PRESETS, make_demo_sites
from federation.cli import compare, runs, sites
from federation.cli.main import _parser
from federation.deploy.approval import Approval
from federation.recipes import recipe_names
from federation.sites import DEMO_SITES, DEMOS, GROUPINGS
from physics import TRAJECTORIES

ROOT = Path(__file__).parents[3]
#: Runs commands in turn; after each: exit code, and the libraries that were loaded so far.
CODE = """
import contextlib, io, json, sys
from federation.cli.main import main

for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            code = main(command)
        except SystemExit as stop:
            code = stop.code
    found = sorted({"torch", "numba", "scipy", "h5py", "flwr"} & sys.modules.keys())
    print(json.dumps([" ".join(command), code, found, errors.getvalue()]))
"""


#: The display refuses to begin, which ends a command there.
NO_DISPLAY = """
from federation.progress import Display
from recon import DataError

def begin(display):
    raise DataError("here the display begins")

Display.__enter__ = begin
"""


def outcomes(commands: list[list[str]], before: str = "") -> list[tuple[str, int, list[str], str]]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", before + CODE, json.dumps(commands)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def leaves(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and group of commands."""
    yield words
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from leaves(below, (*words, name))


def test_help_and_version_load_no_library() -> None:
    commands = [[*words, "--help"] for words in leaves(_parser())]
    assert ["deploy", "site", "init", "--help"] in commands and len(commands) > 30
    for command, code, found, errors in outcomes([["--version"], *commands, ["recipes"], ["recipes", "fedavg"]]):
        assert (code, found, errors) == (0, [], ""), command


def test_commands_that_compute_show_progress_before_they_load_a_library() -> None:
    run = ["--sites", "sites", "--out", "out"]
    commands = [
        ["demo"], ["train", "fedavg", *run], ["plan", "fedavg", *run[:2]], ["evaluate", "run"], ["compare"],
        ["reconstruct", "run", "--site", "north", "scan.h5", "--out", "a.h5"],
        ["reconstruct", "--weights", "brain-mri", "scan.h5", "--out", "a.h5"], ["sites", "check", "sites"],
        *(["sites", "make", kind, "data", "--out", "sites"] for kind in ("fastmri", "images", "ct-images")),
        *(["sites", "make", kind, "--out", "sites"] for kind in ("demo", "demo-ct")),
    ]  # fmt: skip
    for command, code, found, errors in outcomes(commands, NO_DISPLAY):
        assert (code, found) == (2, []), command
        assert errors == "fedrecon: error: here the display begins\n", command


def test_commands_of_a_deployment_load_no_library(tmp_path: Path) -> None:
    make_demo_sites(tmp_path / "data", size=24, train=1, validation=1, test=1, slices=1, sites=DEMO_SITES[:1])
    name, fed, site = DEMO_SITES[0].name, str(tmp_path / "fed"), str(tmp_path / "site")
    trust = ["--ca", f"{fed}/ca.crt", "--server-key", f"{fed}/signing.key.pub"]
    require(
        (0, "", ["init", fed, "--host", "localhost"]),
        (0, "", ["site", "init", site, "--server", "a:1", *trust, "--data", f"{tmp_path}/data/{name}.toml"]),
    )
    approval = Approval("a", "b", "c", "d")
    place = tmp_path / "site" / "approvals" / approval.run
    place.mkdir(parents=True)
    (place / "approval.json").write_text(json.dumps(asdict(approval)))
    require(
        (2, "the server does not run", ["enroll", fed, "--site", name, "--key", f"{site}/site.key.pub"]),
        (2, f"no site '{name}' takes part", ["revoke", fed, "--site", name]),
        (0, "", ["rotate", fed]),
        (3, "", ["server", "status", fed]),
        (0, "", ["server", "stop", fed]),
        (3, "", ["site", "status", site]),
        (0, "", ["site", "stop", site]),
        (0, "", ["site", "withdraw", site, approval.run[:8]]),
        (0, "", ["audit", "verify", f"{site}/audit.jsonl", "--owner", name]),
    )
    assert list(place.iterdir()) == []


def require(*expected: tuple[int, str, list[str]]) -> None:
    """Run commands of a deployment; each must end with its exit code and words, and load no library."""
    seen = outcomes([["deploy", *words] for _, _, words in expected])
    for (code, words, _), (command, found_code, found, errors) in zip(expected, seen, strict=True):
        assert (found_code, found) == (code, []), (command, errors)
        assert words in errors, command


@pytest.mark.parametrize(
    ("names", "registry"),
    [
        (compare.PRESET_NAMES, PRESETS),
        (sites.GROUPING_NAMES, GROUPINGS),
        (sites.TRAJECTORY_NAMES, TRAJECTORIES),
    ],
    ids=["presets", "groupings", "trajectories"],
)
def test_names_that_are_known_without_a_registry_are_its_names(names: tuple[str, ...], registry: object) -> None:
    assert names == tuple(registry)


def test_every_demo_has_its_recipe() -> None:
    assert {demo.recipe for demo in DEMOS.values()} <= set(recipe_names()) and tuple(DEMOS) == runs.DEMO_NAMES
