"""What a long computation is doing: its steps, for a receiver that prints them; without a receiver nothing happens."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

#: Steps of the same work are received at most this often.
SECONDS_BETWEEN = 0.1
#: Name of the work between other works, such as opening files.
PREPARING = "preparing"


@dataclass(frozen=True)
class Step:
    """Work of a process at one moment, such as ``training``, 12 of 25 steps, with the loss of the last one.

    An empty ``what`` says that the work has ended.
    """

    what: str
    done: int = 0
    of: int | None = None
    unit: str = "slices"
    loss: float | None = None


_RECEIVERS: list[Callable[[Step], None]] = []


class _Work(threading.local):
    """The works of a thread, the innermost last."""

    def __init__(self) -> None:
        self.steps: list[Step] = []


_WORK = _Work()
_LAST = [0.0]


@contextmanager
def receiving_steps(receiver: Callable[[Step], None]) -> Iterator[None]:
    """Context in which the receiver, and no other, gets the steps of this process."""
    _RECEIVERS.append(receiver)
    try:
        yield
    finally:
        _RECEIVERS.remove(receiver)


@contextmanager
def doing(what: str, of: int | None = None, unit: str = "slices") -> Iterator[None]:
    """Context of a work; after it, the work around it goes on."""
    _WORK.steps.append(Step(what, 0, of, unit))
    _send(_WORK.steps[-1])
    try:
        yield
    finally:
        _WORK.steps.pop()
        _send(_WORK.steps[-1] if _WORK.steps else Step(""))


@contextmanager
def doing_unless_named(what: str, of: int | None = None, unit: str = "slices") -> Iterator[None]:
    """As :func:`doing`, under the name of the work around it if that has one."""
    around = _WORK.steps[-1].what if _WORK.steps else PREPARING
    with doing(what if around == PREPARING else around, of, unit):
        yield


def made(done: int, loss: float | None = None) -> None:
    """Say how many steps of the innermost work are done."""
    if _WORK.steps:
        _WORK.steps[-1] = replace(_WORK.steps[-1], done=done, loss=loss)
        if _RECEIVERS and time.monotonic() - _LAST[0] >= SECONDS_BETWEEN:
            _send(_WORK.steps[-1])


def _send(step: Step) -> None:
    if _RECEIVERS:
        _LAST[0] = time.monotonic()
        _RECEIVERS[-1](step)
