"""`fedrecon doctor` and the completion of a shell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from federation.cli import doctor, main

ROOT = Path(__file__).parents[3]


def test_a_sound_installation_is_well_and_no_file_or_user_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("all is well\n") and printed.count("  ok ") == 4
    for words in (
        "fedrecon ",
        "Python 3.",
        "torch ",
        "numba ",
        "cores, ",
        "OMP_NUM_THREADS",
        "GPU: ",
        "CT ",
        "memory ",
        "disk ",
    ):
        assert words in printed, words
    assert str(Path.home()) not in printed and str(ROOT) not in printed


def test_it_says_whether_ct_runs_in_kernels_on_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from physics.ct import gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(gpu, "trouble_on", lambda device: "it is too old" if device.index else "")
    monkeypatch.setattr(gpu, "version", lambda name: "3.8.0")
    assert list(doctor._ct_on_gpus()) == [
        "CT on cuda:0: kernels of Triton 3.8.0",
        "CT on cuda:1: plain torch, more slowly than in kernels: it is too old",
    ]


def test_what_is_broken_is_named_and_sets_the_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> str:
        raise OSError("libnumba.so: no such\nfile")

    monkeypatch.setattr(doctor, "_CHECKS", {"CT operator": broken})
    monkeypatch.setattr(doctor, "_requirements", lambda: {"numpy": True, "no-such-package": True})
    monkeypatch.setattr(doctor, "_DISK", 1e9)
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "FAILED  CT operator" in printed and "problem: CT operator: OSError: libnumba.so: no such file\n" in printed
    assert "problem: no-such-package: found no such package" in printed and "problem: disk: found " in printed
    assert printed.endswith("3 problems, see above\n")


@pytest.mark.parametrize(
    ("line", "expected"), [("fedrecon rec", {"recipes", "reconstruct"}), ("fedrecon doc", {"doctor"})]
)
def test_a_shell_completes_commands(line: str, expected: set[str], tmp_path: Path) -> None:
    pytest.importorskip("argcomplete")
    answer = tmp_path / "answer"
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
    }  # fmt: skip
    code = "from federation.cli import main; main([])"
    subprocess.run([sys.executable, "-c", code], env=environment, check=False, capture_output=True)
    assert {word.strip() for word in answer.read_text().splitlines()} == expected


def test_it_says_the_free_memory_of_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    class Card:
        name, total_memory = "H100", 85 * 10**9

    def free(device: str) -> tuple[int, int]:
        if device == "cuda:1":
            raise RuntimeError("CUDA error: out of memory\nof a user")
        return 12 * 10**9, Card.total_memory

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Card)
    monkeypatch.setattr(torch.cuda, "mem_get_info", free)
    assert list(doctor._gpus()) == [
        "GPU cuda:0: H100, memory 85.0 GB, 12.0 GB free",
        "GPU cuda:1: H100, memory 85.0 GB, unknown (RuntimeError: CUDA error: out of memory of a user) free",
    ]
