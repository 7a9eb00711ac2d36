"""Flower's long-running processes with our settings, and the supervisor that ends them all when one of them ends."""

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

#: Name of the server in Flower's own configuration.
CONNECTION = "fedrecon"
_BIN = Path(sys.executable).parent
#: Where this fedrecon is imported from, so that all processes run the same.
_SOURCE = Path(__file__).resolve().parents[2]
_SECONDS_TO_END = 15.0
_PR_SET_PDEATHSIG = 1
_SECONDS_ALONE = 3
_SECONDS_TO_LOCK = 1.0
#: What a supervisor writes in its folder while it runs.
STATE = "running.json"
#: Supervisors that this process has started and that outlive it.
_DETACHED: list[subprocess.Popen[bytes]] = []


def environment(home: Path, **more: str) -> dict[str, str]:
    """Of every process of Flower: a home of its own, no telemetry, no update check, nothing installed at run time."""
    home.mkdir(parents=True, exist_ok=True)
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(_BIN), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join([str(_SOURCE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        "FLWR_HOME": str(home.resolve()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",  # seconds; Flower's 1.0 delays every message by half of it
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        **more,
    }


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
    """A port of this machine that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something answers there."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


@dataclass(frozen=True)
class Child:
    """A process to be supervised: what it is called, its command, its environment, where its output goes.

    ``ready`` is called with its process before the next one is started: where it raises, none is left.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    ready: Callable[[subprocess.Popen[bytes]], None] = lambda process: None


class Supervisor:
    """Runs children until one ends or this process is asked to; then none is left.

    ``state`` is written while they run: the number of this process and whatever the caller adds.
    """

    def __init__(self, state: Path, facts: Mapping[str, object]) -> None:
        self.state, self.facts = state, dict(facts)

    def run(self, children: Sequence[Child]) -> str:
        """Start all and wait; the name of the child that ended by itself, or an empty text if asked to end.

        Raises
        ------
        DataError
            If they run already.
        """
        with held(self.state):
            self.state.unlink(missing_ok=True)  # of one that was killed: its ports are not ours
            try:
                with _asked_to_end() as asked, self._running(children) as processes:
                    write_atomically(self.state, json.dumps({"pid": os.getpid(), **self.facts}).encode())
                    return _first_to_end(children, processes, asked)
            finally:
                # Last: who waits for this file to go finds no child left.
                self.state.unlink(missing_ok=True)

    @contextmanager
    def _running(self, children: Sequence[Child]) -> Iterator[list[subprocess.Popen[bytes]]]:
        processes: list[subprocess.Popen[bytes]] = []
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
                            preexec_fn=_end_with_parent,
                        )
                    )
                child.ready(processes[-1])
            yield processes
        finally:
            for process in processes:
                _end_group(process)


def _first_to_end(children: Sequence[Child], processes: Sequence[subprocess.Popen[bytes]], asked: Sequence[int]) -> str:
    """Wait for a child to end by itself, and say so, or for being asked to end."""
    while not asked:
        for child, process in zip(children, processes, strict=True):
            if process.poll() is not None:
                return f"{child.name} ended with code {process.returncode}, see {child.log}"
        time.sleep(0.5)
    return ""


def _end_with_parent() -> None:
    """In the child: be asked to end when the supervisor is gone, however it went. Linux only."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def _asked_to_end() -> Iterator[list[int]]:
    """Signals that ask this process to end, instead of ending it."""
    asked: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started."""
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
    """Hold the lock that says that a process lives; it goes with it, however that ends.

    Raises
    ------
    DataError
        If another one holds it.
    """
    state.parent.mkdir(parents=True, exist_ok=True)
    with _lock_of(state).open("ab") as lock:
        end = time.monotonic() + _SECONDS_TO_LOCK
        while not _locks(lock, fcntl.LOCK_EX):
            if time.monotonic() > end:
                raise DataError(f"{state.parent}: {otherwise}")
            time.sleep(0.05)  # who looks whether one lives holds the lock for a moment
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
    """Whether a living process holds the lock."""
    if not _lock_of(state).exists():
        return False
    with _lock_of(state).open("rb") as lock:
        return not _locks(lock, fcntl.LOCK_SH)


def running(state: Path) -> dict[str, object] | None:
    """What a supervisor wrote, if it is alive: by its lock, not by its number, which may be another's by now."""
    if not is_held(state):
        return None
    try:
        found: dict[str, object] = json.loads(state.read_bytes())
    except FileNotFoundError:
        return None  # it is starting, or ending
    return found


def is_running(path: Path) -> bool:
    """Whether a server or site of this folder runs."""
    return running(path / STATE) is not None


def end_with(state: Path) -> None:
    """Let this process end soon after the supervisor that it works for; Flower's apps would try on for ever."""

    def watch() -> None:
        missed = 0
        while missed < _SECONDS_ALONE:
            missed = 0 if running(state) is not None else missed + 1
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def start_detached(command: Sequence[str], state: Path, log: Path, seconds: float = 60.0) -> None:
    """Start a supervisor that outlives this process, and wait until it runs.

    Raises
    ------
    DataError
        With the end of its log if it does not.
    """
    if running(state) is not None:
        raise DataError(f"{state.parent}: is running already")
    log.parent.mkdir(parents=True, exist_ok=True)
    before = log.stat().st_size if log.exists() else 0
    with log.open("ab") as file:
        process = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    _DETACHED.append(process)
    end = time.monotonic() + seconds
    while running(state) is None:
        if process.poll() is not None or time.monotonic() > end:
            tail = " ".join(log.read_bytes()[before:].decode(errors="replace").split()[-60:])
            raise DataError(f"{log}: it did not start: {tail}")
        time.sleep(0.2)


def stop(state: Path, seconds: float = 60.0) -> bool:
    """Ask a supervisor to end and wait for it; whether there was one.

    Raises
    ------
    DataError
        If it does not end.
    """
    found = running(state)
    if found is None:
        return False
    os.kill(int(str(found["pid"])), signal.SIGTERM)
    end = time.monotonic() + seconds
    while running(state) is not None:
        if time.monotonic() > end:
            raise DataError(f"{state.parent}: process {found['pid']} does not end")
        time.sleep(0.2)
    return True
