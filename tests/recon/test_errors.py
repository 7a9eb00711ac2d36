import os
import subprocess
import sys
from pathlib import Path

from recon import DataError, data_error


def test_one_line_in_the_fixed_form():
    error = data_error("a.h5", "mask", "a library's\n  message", "0 or 1", "write a mask")
    assert isinstance(error, DataError) and isinstance(error, ValueError)
    assert str(error) == "a.h5: mask: found a library's message, expected 0 or 1; write a mask"


def test_a_foreign_physics_package_is_named(tmp_path):
    foreign = tmp_path / "physics" / "__init__.py"
    foreign.parent.mkdir()
    foreign.write_text("")
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}
    result = subprocess.run(
        [sys.executable, "-c", "import recon"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("ImportError: recon:") and str(foreign) in result.stderr
