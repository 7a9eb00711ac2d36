"""The packages: installation, direction of imports, lazy facades, the guard against a foreign package, scripts."""

import ast
import configparser
import importlib
import inspect
import os
import re
import runpy
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import grimp
import networkx
import pytest
from setuptools import find_packages

import federation
import physics
import recon
from recon import MODALITIES

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ["federation", "physics", "recon"]
SCRIPTS = ["train.py", "evaluate.py", "reconstruct.py", "make_sites.py", "compare.py"]


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


@pytest.mark.slow
def test_a_wheel_holds_every_recipe_and_stub_and_runs_in_an_empty_folder(tmp_path):
    source, installed, empty = (tmp_path / name for name in ("source", "installed", "empty"))
    empty.mkdir()
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir")
    built = run(sys.executable, "-m", "pip", "wheel", *options, tmp_path, source, folder=tmp_path)
    assert built.returncode == 0, built.stderr
    shutil.unpack_archive(next(tmp_path.glob("*.whl")), installed, "zip")
    kinds = ("*.py", "*.pyi", "*.toml", "py.typed", "*.safetensors")
    files = {file.relative_to(ROOT) for name in PACKAGES for kind in kinds for file in (ROOT / name).rglob(kind)}
    files |= {file.relative_to(ROOT) for file in (ROOT / "recon" / "weights").glob("*.md")}
    assert {
        Path("recon/__init__.pyi"),
        Path("recon/weights/brain-mri.md"),
        Path("federation/recipes/library/demos/fedavg_ct.toml"),
    } < files
    assert [str(file) for file in files if not (installed / file).is_file()] == []

    def fedrecon(*words):
        command = (sys.executable, "-P", "-m", "federation.cli", *words)
        return run(*command, folder=empty, path=(installed,))

    listed = fedrecon("recipes").stdout.splitlines()
    assert len(listed) == len([file for file in files if file.suffix == ".toml"])
    assert fedrecon("train", "fedavg", "--help").returncode == 0
    for kind in ("mri", "ct", "mixed"):
        ended = fedrecon("demo", "--kind", kind, "--set", "network.no_such_setting=1")
        assert (ended.returncode, "network.no_such_setting: unknown key" in ended.stderr) == (2, True)
    assert list(empty.iterdir()) == []


def test_every_third_party_import_is_declared(settings):
    modules = {
        "annotated-types": "annotated_types",
        "lazy-loader": "lazy_loader",
        "pillow": "PIL",
        "scikit-image": "skimage",
        "tomli-w": "tomli_w",
        "dp-accounting": "dp_accounting",
    }
    extras = settings["options.extras_require"]
    used = ("deploy", "completion", "deepinv", "gpu", "mlflow", "privacy", "tensorboard", "twix")
    lines = (settings["options"]["install_requires"] + "".join(extras[name] for name in used)).split("\n")
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


@pytest.mark.parametrize("package", PACKAGES)
def test_import_of_a_facade_loads_no_library(package, tmp_path):
    code = f"import sys, {package}; print({{'torch', 'numba', 'numpy', 'scipy', 'h5py'}} & sys.modules.keys())"
    result = run(sys.executable, "-c", code, folder=tmp_path, path=(ROOT,))
    assert result.stdout.strip() == "set()", result.stderr


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_of_a_facade_is_there(package):
    facade = importlib.import_module(package)
    assert dir(facade) == sorted(facade.__all__)
    assert all(getattr(facade, name) is not None for name in facade.__all__)
    with pytest.raises(ImportError, match="cannot import name 'no_such_name'"):
        exec(f"from {package} import no_such_name")


@pytest.mark.slow
def test_threads_may_import_from_facades_at_once(tmp_path):
    code = """
import threading
import federation, physics, recon

names = [(facade, name) for facade in (federation, physics, recon) for name in facade.__all__]
start, found = threading.Barrier(8), []

def look_up(first):
    start.wait()
    found.append([getattr(*pair) for pair in names[first:] + names[:first]])

threads = [threading.Thread(target=look_up, args=(n * len(names) // 8,), daemon=True) for n in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(120)
print(len(found))
"""
    result = run(sys.executable, "-c", code, folder=tmp_path, path=(ROOT,))
    assert result.stdout.strip() == "8", result.stderr


@pytest.mark.parametrize(
    ("registry", "bases"),
    {
        "physics.checks": [physics.LinearOperator],
        "recon.networks.registries": [recon.Regularizer, recon.SiteDataConsistency],
        "recon.training.penalties": [recon.Penalty],
        "recon.classical.mri": [recon.ClassicalMethod],
        "recon.classical.ct": [recon.ClassicalMethod],
        "recon.data.mri_formats": [recon.KSpaceVolume],
        "recon.data.ct_formats": [recon.SinogramVolume],
        "recon.modalities": [recon.Modality],
        "federation.methods.registries": [federation.ServerRule, federation.Weighting, federation.Transform],
    }.items(),
)
def test_a_new_part_is_one_file_and_one_line_of_its_registry(registry, bases):
    """The file of a base class does not import the registry: a new file can import the one, and the other it."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    for base in bases:
        assert graph.find_shortest_chain(importer=base.__module__, imported=registry) is None
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert registry.split(".")[-1] in text


def test_functions_of_the_federation_take_a_path_as_text():
    functions = [getattr(federation, name) for name in federation.__all__]
    functions = [function for function in functions if inspect.isfunction(function)]
    hints = {
        f"{function.__qualname__}({name})": str(kind)
        for function in (*functions, federation.RunFolder.open, federation.RunFolder.create)
        for name, kind in typing.get_type_hints(function).items()
        if name != "return"
    }
    paths = {name for name, kind in hints.items() if "pathlib.Path" in kind}
    assert {"load_recipe(path)", "load_federation(folder)", "train_run(out)", "RunFolder.open(path)"} <= paths
    assert [name for name in paths if "str" not in hints[name]] == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_run(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(ROOT / "scripts" / script), "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(sys.argv[0], run_name="__main__")
    assert stop.value.code in (0, None)
    assert "usage: fedrecon" in capsys.readouterr().out


def test_every_script_is_tested():
    """Scripts of a command here, that of the bill of materials in `test_sbom.py`."""
    assert {file.name for file in (ROOT / "scripts").glob("*.py")} == {*SCRIPTS, "sbom.py"}


def test_makefile_lists_its_targets():
    result = run("make", "--no-print-directory", "help", folder=ROOT)
    listed = {line.split()[1] for line in result.stdout.splitlines()}
    assert {"demo", "test", "test-slow", "lint", "notebooks", "docs", "bench", "clean"} <= listed
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100


def modules():
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            yield file.relative_to(ROOT).as_posix(), ast.parse(file.read_text(encoding="utf-8"))


def test_few_files_lie_beside_the_rooms():
    for package in PACKAGES:
        files = sorted(file.name for file in (ROOT / package).glob("*.py") if file.name != "__init__.py")
        assert len(files) <= 4, (package, files)


def test_no_files_import_each_other_in_a_circle():
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    arrows = networkx.DiGraph(
        (importer, imported)
        for importer in graph.modules
        for imported in graph.find_modules_directly_imported_by(importer)
    )
    circles = [circle for circle in networkx.strongly_connected_components(arrows) if len(circle) > 1]
    assert len(arrows) > 100 and circles == []


def test_one_room_knows_what_a_modality_is():
    """Nothing else compares a modality's name or asks for the class of an operator or dataset."""
    names = {modality.name for modality in MODALITIES.values()}
    classes = {"CartesianMRI", "CoilMaps", "RadonOperator", "KSpaceSlices", "SinogramSlices"}
    places = []
    for path, tree in modules():
        for node in ast.walk(tree):
            compared = isinstance(node, ast.Compare) and any(
                isinstance(part, ast.Constant) and part.value in names for part in ast.walk(node)
            )
            asked = (
                isinstance(node, ast.Call)
                and getattr(node.func, "id", "") == "isinstance"
                and any(isinstance(part, ast.Name) and part.id in classes for part in ast.walk(node))
            )
            if (compared or asked) and not path.startswith(("physics/", "recon/modalities/")):
                places.append((path, node.lineno))
    assert places == []
