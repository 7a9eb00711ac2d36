"""The house: what is installed, which way imports point, the guard against a foreign package, the doors."""

import configparser
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ["federation", "physics", "recon"]
DOORS = ["train.py", "evaluate.py", "reconstruct.py", "make_sites.py", "compare.py"]


def run(*command: str | Path, folder: Path, path: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    return run(sys.executable, "-c", code, folder=folder, path=(folder,))


@pytest.fixture
def settings():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def test_exactly_three_packages_are_installed(settings):
    include = settings["options.packages.find"]["include"].split()
    assert sorted(include) == sorted(PACKAGES + [f"{name}.*" for name in PACKAGES])
    found = find_packages(str(ROOT), include=include)
    assert sorted({name.split(".")[0] for name in found}) == PACKAGES
    # A folder without __init__.py would be left out of an installation in silence.
    folders = {str(file.parent.relative_to(ROOT)) for name in PACKAGES for file in (ROOT / name).rglob("*.py")}
    assert {name.replace(".", os.sep) for name in found} == folders
    assert all((ROOT / name / "py.typed").is_file() for name in PACKAGES)


def test_every_third_party_import_is_declared(settings):
    modules = {"annotated-types": "annotated_types", "pillow": "PIL", "scikit-image": "skimage", "tomli-w": "tomli_w"}
    extras = settings["options.extras_require"]
    lines = (settings["options"]["install_requires"] + extras["deploy"]).split("\n")
    declared = [re.split(r"[<>=!~ ]", line)[0] for line in lines if line]
    known = {modules.get(name, name) for name in declared} | set(PACKAGES) | sys.stdlib_module_names
    pattern = re.compile(r"^\s*(?:from|import) ([A-Za-z_]\w*)", re.MULTILINE)
    files = [file for name in PACKAGES for file in (ROOT / name).rglob("*.py")]
    assert {word for file in files for word in pattern.findall(code_of(file))} <= known


def code_of(file: Path) -> str:
    return re.sub(r'""".*?"""', "", file.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_imports_point_down_and_through_facades():
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("importer", "line"),
    [
        ("physics", "import recon"),
        ("recon", "from federation import cli"),
        ("recon", "from physics.mri import CartesianMRI"),
        ("federation", "from physics.mri import CartesianMRI"),
        ("federation", "from recon.sample import Sample"),
        ("scripts", "from recon.sample import Sample"),
    ],
)
def test_import_rule_catches_a_breach(tmp_path, importer, line):
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    for module in ("physics/mri", "recon/sample", "federation/cli"):
        (tmp_path / module).parent.mkdir()
        (tmp_path / module).parent.joinpath("__init__.py").touch()
        (tmp_path / module).with_suffix(".py").touch()
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "train.py").write_text("from federation.cli import main\n")
    assert lint_imports(tmp_path).returncode == 0
    (tmp_path / importer / "breach.py").write_text(line + "\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1, result.stdout
    assert f"{importer}.breach -> " in result.stdout


@pytest.mark.parametrize("package", ["recon", "federation"])
@pytest.mark.parametrize("file", ["physics/__init__.py", "physics.py"])
def test_foreign_physics_is_named(tmp_path, package, file):
    foreign = tmp_path / "foreign" / file
    foreign.parent.mkdir(parents=True)
    foreign.touch()
    result = run(sys.executable, "-c", f"import {package}", folder=tmp_path, path=(tmp_path / "foreign", ROOT))
    assert result.returncode == 1
    error = result.stderr.strip().split("\n")[-1]
    assert error.startswith("ImportError: ")
    assert str(foreign) in error


@pytest.mark.parametrize("door", DOORS)
def test_script_doors_open(door, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(ROOT / "scripts" / door), "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(sys.argv[0], run_name="__main__")
    assert stop.value.code in (0, None)
    assert "usage: fedrecon" in capsys.readouterr().out


def test_every_script_is_a_tested_door():
    assert sorted(file.name for file in (ROOT / "scripts").glob("*.py")) == sorted(DOORS)


def test_makefile_lists_its_targets():
    result = run("make", "--no-print-directory", "help", folder=ROOT)
    listed = {line.split()[1] for line in result.stdout.splitlines()}
    assert {"demo", "test", "test-slow", "lint", "notebooks", "bench", "clean"} <= listed
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100
