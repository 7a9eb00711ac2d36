"""The software bill of materials holds what an installation needs, and nothing else."""

import importlib.util
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "sbom.py"


@pytest.fixture(scope="module")
def sbom() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sbom", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_extras_decide_what_is_needed(sbom: ModuleType) -> None:
    plain, deployed = sbom.requirements("fedrecon", []), sbom.requirements("fedrecon", ["deploy"])
    assert {"torch", "h5py", "numpy"} <= plain["fedrecon"] and "llvmlite" in plain["numba"]
    assert "flwr" not in plain and {"flwr", "cryptography", "cffi", "pycparser"} <= deployed.keys()
    assert not {"pytest", "mypy", "sphinx", "astra-toolbox"} & deployed.keys()


@pytest.mark.slow
def test_the_file_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "new" / "fedrecon.cdx.json"
    subprocess.run([sys.executable, SCRIPT, out, "--extra", "deploy"], check=True, cwd=tmp_path)
    found = json.loads(out.read_text())
    assert found["bomFormat"] == "CycloneDX" and found["metadata"]["component"]["name"] == "fedrecon"
    parts = {part["name"]: part for part in found["components"]}
    assert parts["torch"]["version"] == version("torch") and parts["torch"]["purl"].startswith("pkg:pypi/torch@")
    assert "pytest" not in parts
    refs = {part["bom-ref"] for part in found["components"]} | {found["metadata"]["component"]["bom-ref"]}
    assert {link["ref"] for link in found["dependencies"]} == refs
    assert {ref for link in found["dependencies"] for ref in link["dependsOn"]} <= refs


def test_an_unknown_extra_is_one_line(tmp_path: Path) -> None:
    out = tmp_path / "fedrecon.cdx.json"
    found = subprocess.run([sys.executable, SCRIPT, out, "--extra", "depl"], capture_output=True, text=True)
    assert found.returncode == 2 and "--extra: found 'depl', expected an extra of setup.cfg" in found.stderr
    assert not out.exists()
