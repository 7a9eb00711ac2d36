"""Kill a run before each file operation, resume it, and compare all its files, bit by bit."""

import contextlib
import errno
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recon import DataError

from ..toy_federation import ToyTask, run_toy, toy_specs, traces

ROUNDS = 2
ROOT = Path(__file__).parents[3]


class Killed(BaseException):
    """Like a signal, not an Exception: no handler of the tested code may catch it."""


class Disk:
    """Counts file operations and kills the run before one of them; later ones fail too, as in a dead process."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at = kill_at
        self.count = 0
        self.is_dead = False

    def wrap(self, operation: Callable) -> Callable:
        def counted(*args, **kwargs):
            if self.is_dead:
                raise Killed
            self.count += 1
            if self.count == self.kill_at:
                self.is_dead = True
                if operation is FSYNC:
                    # A write that is cut short; in rounds.jsonl, within the first of two rows.
                    os.ftruncate(args[0], max(0, os.fstat(args[0]).st_size - 700))
                raise Killed
            return operation(*args, **kwargs)

        return counted


FSYNC = os.fsync


@contextlib.contextmanager
def on(disk: Disk) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", disk.wrap(os.fsync))
        patch.setattr(os, "replace", disk.wrap(os.replace))
        patch.setattr(pathlib.Path, "unlink", disk.wrap(pathlib.Path.unlink))
        yield


def survivors(folder: Path) -> dict[str, object]:
    return {name: trace for name, trace in traces(folder).items() if not name.endswith(".tmp")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("undisturbed")
    run_toy(folder, rounds=ROUNDS)
    return traces(folder)


@pytest.mark.parametrize(("first", "every"), [(2, 5), pytest.param(1, 1, marks=pytest.mark.slow)])
def test_a_run_killed_at_any_moment_resumes_to_the_same_bits(tmp_path, undisturbed, first, every):
    whole = Disk()
    with on(whole):
        run_toy(tmp_path / "whole", rounds=ROUNDS)
    assert whole.count > 40
    for kill_at in range(first, whole.count + 1, every):
        folder = tmp_path / str(kill_at)
        with on(Disk(kill_at)), pytest.raises(Killed):
            run_toy(folder, rounds=ROUNDS)
        run_toy(folder, rounds=ROUNDS, resume=True)
        assert survivors(folder) == undisturbed, f"killed at operation {kill_at}"


def test_a_run_killed_twice_resumes_to_the_same_bits(tmp_path, undisturbed):
    for kill_at in range(3, 40, 7):
        folder = tmp_path / str(kill_at)
        for again in (kill_at, 5):
            with on(Disk(again)), pytest.raises(Killed):
                run_toy(folder, rounds=ROUNDS, resume=True)
        run_toy(folder, rounds=ROUNDS, resume=True)
        assert survivors(folder) == undisturbed


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_one_line_and_resumable(tmp_path, undisturbed, call):
    for number in range(1, 17, 3):
        folder, calls = tmp_path / str(number), []
        original = getattr(os, call)

        def full(*args, calls=calls, number=number, original=original):
            calls.append(args)
            if len(calls) == number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(DataError, match="No space left on device") as error:
                run_toy(folder, rounds=ROUNDS)
        assert "\n" not in str(error.value)
        assert not list(folder.rglob("*.tmp"))
        run_toy(folder, rounds=ROUNDS, resume=True)
        assert traces(folder) == undisturbed


@pytest.mark.parametrize("moment", ["train", "validate"])
def test_ctrl_c_in_a_round_is_resumable(tmp_path, undisturbed, moment):
    calls = []

    class Interrupted(ToyTask):
        def interrupt(self) -> None:
            calls.append(moment)
            if len(calls) == 4:
                raise KeyboardInterrupt

        def train(self, network, **kwargs):
            result = super().train(network, **kwargs)
            if moment == "train":
                self.interrupt()
            return result

        def validate(self, network):
            if moment == "validate":
                self.interrupt()
            return super().validate(network)

    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path, toy_specs(tmp_path, task=Interrupted), rounds=ROUNDS)
    run_toy(tmp_path, rounds=ROUNDS, resume=True)
    assert traces(tmp_path) == undisturbed


SCRIPT = """
    import os, pathlib, sys
    sys.path.insert(0, sys.argv[2])
    from tests.federation.rounds.test_resume import Slow
    from tests.federation.toy_federation import run_toy, toy_specs

    if __name__ == "__main__":
        folder = pathlib.Path(sys.argv[1])
        try:
            run_toy(folder, toy_specs(folder, task=Slow), rounds=2, jobs=2, resume=True)
        except KeyboardInterrupt:
            sys.exit(130)
"""


class Slow(ToyTask):
    """Records the process id of its worker, and trains slowly enough to be killed."""

    def train(self, network, **kwargs):
        folder = Path(os.environ["TOY_PIDS"])
        (folder / f"{os.getpid()}").touch()
        if kwargs["round"] == 1:
            time.sleep(60 if os.environ.get("TOY_SLOW") else 0)
        return super().train(network, **kwargs)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_workers_end_with_their_parent_and_the_run_resumes(tmp_path, undisturbed, monkeypatch, sent, code):
    folder, pids = tmp_path / "run", tmp_path / "pids"
    pids.mkdir()
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = os.environ | {"TOY_PIDS": str(pids), "TOY_SLOW": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, script, folder, ROOT], env=environment, cwd=ROOT)
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints" / "round_000001.json").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(sent)
    assert process.wait(120) == code
    workers = [int(path.name) for path in pids.iterdir()]
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(workers) == 2 and not any(is_running(pid) for pid in workers)

    monkeypatch.setenv("TOY_PIDS", str(pids))
    run_toy(folder, rounds=ROUNDS, resume=True)
    assert survivors(folder) == undisturbed
