"""The supervisor: whether it lives, what is left when it ends, however it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from federation.flower.processes import (
    _DETACHED,
    Child,
    Supervisor,
    free_port,
    listens,
    running,
    start_detached,
    stop,
)
from recon import DataError

pytestmark = pytest.mark.deployment
SUPERVISE = """
import sys
from pathlib import Path
from federation.flower.processes import Child, Supervisor

folder = Path(sys.argv[1])
pid = str(folder / "child.pid")
code = f"import os, sys, time; open({pid!r}, 'w').write(str(os.getpid())); {sys.argv[2]}"
child = Child("child", [sys.executable, "-c", code], {}, folder / "child.log")
print(Supervisor(folder / "running.json", {"port": 7}).run([child]))
"""


def start(folder: Path, what: str) -> None:
    start_detached([sys.executable, "-c", SUPERVISE, str(folder), what], folder / "running.json", folder / "log")
    wait_until(lambda: (folder / "child.pid").exists() and (folder / "child.pid").read_text() != "")


def wait_until(holds, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def lives(folder: Path, name: str = "child.pid") -> bool:
    """Whether the child does; a zombie does not."""
    status = Path(f"/proc/{(folder / name).read_text()}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_says_what_it_was_told_while_it_runs_and_nothing_is_left_when_it_is_stopped(tmp_path: Path) -> None:
    assert running(tmp_path / "running.json") is None and not stop(tmp_path / "running.json")
    start(tmp_path, "time.sleep(60)")
    found = running(tmp_path / "running.json")
    assert found is not None and found["port"] == 7 and lives(tmp_path)
    with pytest.raises(DataError, match="is running already"):
        Supervisor(tmp_path / "running.json", {}).run([Child("child", ["true"], {}, tmp_path / "x.log")])
    assert stop(tmp_path / "running.json")
    assert running(tmp_path / "running.json") is None and not lives(tmp_path)
    assert not (tmp_path / "running.json").exists()


def test_a_child_that_ends_ends_it_and_is_named(tmp_path: Path) -> None:
    start(tmp_path, "time.sleep(2); sys.exit(3)")
    wait_until(lambda: running(tmp_path / "running.json") is None)
    wait_until(lambda: (tmp_path / "log").read_text())  # it speaks after it has let go of its lock
    assert f"child ended with code 3, see {tmp_path / 'child.log'}" in (tmp_path / "log").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="children end with their parent on Linux only")
def test_a_supervisor_that_was_killed_is_known_to_be_gone_and_leaves_no_child(tmp_path: Path) -> None:
    """Its process is a zombie here, as its number may be another process's elsewhere."""
    start(tmp_path, "time.sleep(60)")
    pid = json.loads((tmp_path / "running.json").read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: running(tmp_path / "running.json") is None)
    wait_until(lambda: not lives(tmp_path))
    (tmp_path / "child.pid").unlink()
    start(tmp_path, "time.sleep(60)")
    assert stop(tmp_path / "running.json")


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are found on Linux only")
def test_what_children_started_in_sessions_of_their_own_is_stopped_with_them(tmp_path: Path) -> None:
    """As Flower does: its apps would see seconds later that their parent has ended. The last one ignores SIGTERM."""
    for number, deaf in enumerate(("", "trap '' TERM; ")):
        folder = tmp_path / str(number)
        folder.mkdir()
        script = f"{deaf}echo $$ > {folder / 'own.pid'}; for n in $(seq 600); do sleep 0.1; done"
        start(folder, f"import subprocess; subprocess.Popen(['sh', '-c', {script!r}], start_new_session=True).wait()")
        wait_until(lambda folder=folder: (folder / "own.pid").exists() and (folder / "own.pid").read_text() != "")
        (folder / "own.pid").write_text((folder / "own.pid").read_text().strip())
        assert lives(folder, "own.pid") and stop(folder / "running.json")
        assert not lives(folder) and not lives(folder, "own.pid")


def test_a_start_that_is_interrupted_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleep, slept = time.sleep, []

    def interrupted(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 1:
            raise KeyboardInterrupt
        sleep(seconds)

    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr("federation.flower.processes.time.sleep", interrupted)
    before = len(_DETACHED)
    with pytest.raises(KeyboardInterrupt):
        start_detached(command, tmp_path / "running.json", tmp_path / "log")
    (process,) = _DETACHED[before:]
    assert process.poll() == -signal.SIGTERM


def test_what_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such port')"]
    with pytest.raises(DataError, match="it did not start: no such port"):
        start_detached(command, tmp_path / "running.json", tmp_path / "log")


def test_a_free_port_is_one_that_nothing_listens_on() -> None:
    port = free_port()
    assert not listens(port)
    with subprocess.Popen(
        [sys.executable, "-c", f"import socket; s = socket.create_server(('127.0.0.1', {port})); s.accept()"]
    ):
        wait_until(lambda: listens(port))
