"""Start Flower's long-running processes with our settings; if one ends, the supervisor stops the others."""

import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from recon import DataError, write_atomically

from ..deploy.private_files import PRIVATE_UMASK

#: Name of the server in Flower's configuration.
CONNECTION = "fedrecon"
_BIN = Path(sys.executable).parent
#: Folder of the packages, so that all processes import the same code.
_SOURCE = Path(__file__).resolve().parents[2]
#: Size of the parts of a message, each a request of its own. A cut connection loses two parts at most, and two take 8 s
#: at 1 Mbit/s, less than Flower's deadline of 30 s for a request; with Flower's 5 MiB they would take 84 s.
CHUNK_BYTES = 2**19
_HERE = Path(__file__).resolve().parent
#: Programs of ours in place of Flower's: with `flower-superexec` they start no process with a secret argument.
TASK_LAUNCHER = {"flower-superexec": _HERE / "task_launcher.py"}
SUPERNODE = _HERE / "supernode_process.py"
_SECONDS_TO_END = 15.0
_SECONDS_TO_STOP = 60.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_SECONDS_ALONE = 3
_SECONDS_TO_LOCK = 1.0
#: File that a supervisor writes in its folder while it runs.
STATE = "running.json"
#: Supervisors started by this process; they continue after it ends.
_DETACHED: list[subprocess.Popen[bytes]] = []


def environment(home: Path, **more: str) -> dict[str, str]:
    """Environment of Flower's processes: a private home, no telemetry, no update check, no installation at run time."""
    home.mkdir(parents=True, exist_ok=True)
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(_BIN), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join([str(_SOURCE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        "FLWR_HOME": str(home.resolve()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",  # seconds; the default 1.0 delays each message by 0.5
        "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": str(CHUNK_BYTES),
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        **more,
    }


def with_programs(settings: Mapping[str, str], folder: Path, programs: Mapping[str, Path]) -> dict[str, str]:
    """Environment in which Python files take the place of Flower's programs of these names.

    ``folder`` gets a small file for each of them; it comes first on the PATH.
    """
    for name, file in programs.items():
        text = f"#!{sys.executable}\nimport runpy\n\nrunpy.run_path({str(file)!r}, run_name='__main__')\n"
        write_atomically(folder / name, text.encode())
        (folder / name).chmod(0o700)
    return {**settings, "PATH": os.pathsep.join([str(folder.resolve()), settings["PATH"]])}


def program(name: str) -> str:
    """Path of one of Flower's programs.

    Raises
    ------
    DataError
        If Flower is not installed beside this Python.
    """
    found = shutil.which(name, path=str(_BIN))
    if found is None:
        raise DataError(f"{_BIN / name}: no such program; install Flower with `pip install 'fedrecon[deploy]'`")
    return found


def free_port() -> int:
    """A port of this machine on which no program listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether a program listens on a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True)
class Child:
    """A supervised process: name, command, environment, log file.

    ``ready`` is called with the started process before the next one starts. If it raises, all processes are stopped.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    ready: Callable[[subprocess.Popen[bytes]], None] = lambda process: None


class Supervisor:
    """Runs processes until one ends or this process gets SIGTERM or SIGINT, then stops all.

    The file ``state`` exists while they run; it holds the number of this process and ``facts``.
    """

    def __init__(self, state: Path, facts: Mapping[str, object]) -> None:
        self.state, self.facts = state, dict(facts)

    def run(self, children: Sequence[Child]) -> str:
        """Start all and wait. Returns which process ended and how, or an empty text after a signal.

        Raises
        ------
        DataError
            If another supervisor runs in this folder.
        """
        with held(self.state):
            self.state.unlink(missing_ok=True)  # left by a killed supervisor
            try:
                with _signals() as signals, self._running(children) as processes:
                    write_atomically(self.state, json.dumps({"pid": os.getpid(), **self.facts}).encode())
                    return _first_to_end(children, processes, signals)
            finally:
                # Last: once this file is gone, no process is left.
                self.state.unlink(missing_ok=True)

    @contextmanager
    def _running(self, children: Sequence[Child]) -> Iterator[list[subprocess.Popen[bytes]]]:
        processes: list[subprocess.Popen[bytes]] = []
        others = _adopt_orphans()
        try:
            for child in children:
                child.log.parent.mkdir(parents=True, exist_ok=True)
                with child.log.open("ab") as log:
                    processes.append(
                        subprocess.Popen(
                            list(child.command),
                            env=dict(child.environment),
                            stdin=subprocess.DEVNULL,
                            stdout=log,
                            stderr=subprocess.STDOUT,
                            start_new_session=True,
                            umask=PRIVATE_UMASK,
                            preexec_fn=_end_with_parent,
                        )
                    )
                child.ready(processes[-1])
            yield processes
        finally:
            for process in processes:
                _end_group(process)
            _end_orphans(others)


def _first_to_end(children: Sequence[Child], processes: Sequence[subprocess.Popen[bytes]], signals: list[int]) -> str:
    """Wait until a process ends or a signal arrives; returns which process ended and how."""
    while not signals:
        for child, process in zip(children, processes, strict=True):
            if process.poll() is not None:
                return f"{child.name} ended with code {process.returncode}, see {child.log}"
        time.sleep(0.5)
    return ""


def _end_with_parent() -> None:
    """In the started process: get SIGTERM when the supervisor ends, however it ends. Linux only."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _adopt_orphans() -> set[int]:
    """Become the parent of descendants whose parent ends (Linux only). Returns the children that are there now."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    return _children()


def _end_orphans(others: set[int]) -> None:
    """Stop what ended children left behind in sessions of their own, such as Flower's apps; ``others`` stay."""
    end = time.monotonic() + _SECONDS_TO_END
    while orphans := _children() - others:
        for pid in orphans:
            os.kill(pid, signal.SIGTERM if time.monotonic() < end else signal.SIGKILL)
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.1)


def _children() -> set[int]:
    """Numbers of the child processes of this process, ended ones included; none where the system does not tell."""
    with suppress(OSError):
        return {int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}
    return set()


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT in a list; they do not end this process."""
    signals: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        signals.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Stop a process and all processes that it started."""
    for number, seconds in ((signal.SIGTERM, _SECONDS_TO_END), (signal.SIGKILL, _SECONDS_TO_END)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


@contextmanager
def held(state: Path, otherwise: str = "is running already; stop it first") -> Iterator[None]:
    """Hold the lock of ``state``; the system releases it when this process ends, however it ends.

    Raises
    ------
    DataError
        If another process holds it.
    """
    state.parent.mkdir(parents=True, exist_ok=True)
    with _lock_of(state).open("ab") as lock:
        end = time.monotonic() + _SECONDS_TO_LOCK
        while not _locks(lock, fcntl.LOCK_EX):
            if time.monotonic() > end:
                raise DataError(f"{state.parent}: {otherwise}")
            time.sleep(0.05)  # `is_held` takes the lock for a moment
        yield


def _locks(lock: BinaryIO, kind: int) -> bool:
    """Take a lock without waiting; False if another process holds it."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_of(state: Path) -> Path:
    return state.with_suffix(".lock")


def is_held(state: Path) -> bool:
    """Whether a process holds the lock of ``state``."""
    if not _lock_of(state).exists():
        return False
    with _lock_of(state).open("rb") as lock:
        return not _locks(lock, fcntl.LOCK_SH)


def running(state: Path) -> dict[str, object] | None:
    """Content of the file of a running supervisor, else None. The lock decides: process numbers are used again."""
    if not is_held(state):
        return None
    try:
        found: dict[str, object] = json.loads(state.read_bytes())
    except FileNotFoundError:
        return None  # the supervisor is starting or ending
    return found


def is_running(path: Path) -> bool:
    """Whether the server or site of this folder runs."""
    return running(path / STATE) is not None


def end_with(state: Path) -> None:
    """Exit soon after the supervisor ends: Flower's apps would retry for ever."""

    def watch() -> None:
        missed = 0
        while missed < _SECONDS_ALONE:
            missed = 0 if running(state) is not None else missed + 1
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def start_detached(command: Sequence[str], state: Path, log: Path, seconds: float = 90.0) -> None:
    """Start a supervisor that continues after this process ends, and wait until it runs; if it does not, end it.

    Raises
    ------
    DataError
        With the end of its log, if it does not start.
    """
    if running(state) is not None:
        raise DataError(f"{state.parent}: is running already")
    log.parent.mkdir(parents=True, exist_ok=True)
    before = log.stat().st_size if log.exists() else 0
    with log.open("ab") as file:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=PRIVATE_UMASK,
        )
    _DETACHED.append(process)
    end = time.monotonic() + seconds
    try:
        while running(state) is None:
            if process.poll() is not None or time.monotonic() > end:
                tail = " ".join(log.read_bytes()[before:].decode(errors="replace").split()[-60:])
                raise DataError(f"{log}: it did not start: {tail}")
            time.sleep(0.2)
    except BaseException:  # also Ctrl-C: nobody would know of a supervisor that has not written its state yet
        process.terminate()
        try:
            process.wait(_SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()  # on Linux, what it started gets SIGTERM then
            process.wait()
        raise


def stop(state: Path, seconds: float = _SECONDS_TO_STOP) -> bool:
    """Stop a supervisor and wait until it has ended. Returns whether one was running.

    Raises
    ------
    DataError
        If it does not end in time.
    """
    found = running(state)
    if found is None:
        return False
    pid = int(str(found["pid"]))
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + seconds
    while running(state) is not None:
        if time.monotonic() > end:
            raise DataError(f"{state.parent}: process {pid} does not end")
        time.sleep(0.2)
    for process in _DETACHED:
        if process.pid == pid:
            try:
                process.wait(seconds)  # its interpreter ends a moment after it has let go of its lock
            except subprocess.TimeoutExpired:
                raise DataError(f"{state.parent}: process {pid} does not end") from None
    return True
