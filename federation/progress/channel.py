"""The channel of events: a pipe into which every process of a command writes, and from which one thread reads.

A message is shorter than what a pipe takes at once, so no lock is needed: a process that dies leaves nothing locked. A
full pipe loses the event instead of delaying the computation.
"""

import json
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from recon import Step, receiving_steps

#: Most bytes that every system writes into a pipe at once (PIPE_BUF), less the header of a message.
_MOST_BYTES = 500


@dataclass(frozen=True)
class Event:
    """Work of one process: a step of :class:`recon.Step`, with site, part of the run, and its place in the part.

    ``share`` is the fraction of its job in this part that is done, if it is known. An event without ``what`` says that
    the process has finished its job.
    """

    process: int
    what: str = ""
    done: int = 0
    of: int | None = None
    unit: str = "slices"
    loss: float | None = None
    site: str = ""
    part: str = ""
    share: float | None = None

    def to_bytes(self) -> bytes:
        """At most 500 bytes."""
        work = (self.process, self.what[:60], self.done, self.of, self.unit[:20], self.loss)
        return json.dumps((*work, self.site[:64], self.part[:60], self.share)).encode()[:_MOST_BYTES]

    @classmethod
    def from_bytes(cls, data: bytes) -> "Event | None":
        """The event; None if the text was too long."""
        try:
            return cls(*json.loads(data))
        except ValueError:
            return None


class Channel:
    """The pipe; a context manager that closes it."""

    def __init__(self) -> None:
        self._reader, self.writer = multiprocessing.Pipe(duplex=False)
        os.set_blocking(self.writer.fileno(), False)

    def __enter__(self) -> "Channel":
        return self

    def __exit__(self, *error: object) -> None:
        self.writer.close()
        self._reader.close()

    def receive(self, seconds: float) -> list[Event]:
        """Events that have arrived; waits at most ``seconds`` for the first one."""
        found: list[Event] = []
        wait = seconds
        with suppress(EOFError, OSError):
            while len(found) < 1000 and self._reader.poll(wait):
                wait = 0
                event = Event.from_bytes(self._reader.recv_bytes())
                if event is not None:
                    found.append(event)
        return found


@dataclass
class Sender:
    """Writes the events of this process, each with site, part and share of :func:`within`."""

    connection: Connection
    job: str = ""
    site: str = ""
    part: str = ""
    share: float | None = None

    def take(self, step: Step) -> None:
        """Send a step."""
        part = ", ".join(filter(None, (self.job, self.part)))
        work = (step.what, step.done, step.of, step.unit, step.loss)
        self.send(Event(os.getpid(), *work, self.site, part, self.share))

    def send(self, event: Event) -> None:
        """Send an event, unless the pipe is full or closed."""
        with suppress(OSError):
            self.connection.send_bytes(event.to_bytes())


_SENDER: list[Sender] = []


def sender() -> Connection | None:
    """The end of the pipe into which this process writes, for its child processes; None: nobody listens."""
    return _SENDER[-1].connection if _SENDER else None


@contextmanager
def sending(connection: Connection | None) -> Iterator[None]:
    """Context in which the steps of this process are sent; does nothing without a connection."""
    if connection is None:
        yield
        return
    _SENDER.append(one := Sender(connection))
    try:
        with receiving_steps(one.take):
            yield
    finally:
        _SENDER.pop()


@contextmanager
def within(
    *, job: str | None = None, site: str | None = None, part: str | None = None, share: float | None = None
) -> Iterator[None]:
    """Context whose steps belong to a job of several runs, a site, a part of the run; None: as around the context."""
    if not _SENDER:
        yield
        return
    one = _SENDER[-1]
    before = one.job, one.site, one.part, one.share
    one.job = one.job if job is None else job
    one.site = one.site if site is None else site
    one.part = one.part if part is None else part
    one.share = one.share if share is None else share
    try:
        yield
    finally:
        one.job, one.site, one.part, one.share = before


def ended(process: int) -> None:
    """Say that a process has finished its job, or has died."""
    if _SENDER:
        _SENDER[-1].send(Event(process))
