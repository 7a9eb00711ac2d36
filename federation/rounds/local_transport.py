"""The transport of one machine: sites run in this process or in worker processes."""

import logging
import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from types import TracebackType
from typing import Self

import torch

from recon import DataError, Said, os_error_line, said_warnings, say_no_more

from ..config import Plugin, load_again, loaded_plugins
from ..config.plugin_errors import line_in_plugin
from ..serialization import MessageError
from .site import SiteSpec
from .transport import ReplyStream, SiteFailure

logger = logging.getLogger(__name__)

_SECONDS_TO_END = 5.0


class InProcessRuntime:
    """Sites on this machine, each built for one request and released: memory does not grow with their number.

    Every site computes with one thread, so that the results do not depend on ``jobs``. As a context manager it ends the
    worker processes.

    Parameters
    ----------
    specs
        The sites.
    jobs
        1: all sites in this process. More: number of spawned processes, each with one site at a time; the calling
        script then needs ``if __name__ == "__main__"``.
    """

    def __init__(self, specs: Sequence[SiteSpec], jobs: int = 1) -> None:
        self._specs = {spec.name: spec for spec in specs}
        if len(self._specs) < len(specs) or not specs:
            raise ValueError(f"InProcessRuntime: sites are {[s.name for s in specs]}, expected some, all different")
        if jobs < 1:
            raise ValueError(f"InProcessRuntime: jobs is {jobs}, expected at least 1")
        self.jobs = min(jobs, len(specs))
        self._workers: set[_Worker] = set()
        # Runs at exit of the interpreter too, which would otherwise wait for the workers.
        self._finalizer = weakref.finalize(self, _stop_all, self._workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes, busy or idle; a later exchange starts new ones."""
        _stop_all(self._workers)

    def sites(self) -> list[str]:
        return sorted(self._specs)

    def exchange(self, requests: Mapping[str, bytes]) -> ReplyStream:
        """See :class:`Transport`."""
        return self._in_workers(requests) if self.jobs > 1 else self._here(requests)

    def _here(self, requests: Mapping[str, bytes]) -> ReplyStream:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for site in sorted(requests):
                yield site, _unwrap(_answer(self._specs[site], requests[site]))
        finally:
            torch.set_num_threads(threads)

    def _in_workers(self, requests: Mapping[str, bytes]) -> ReplyStream:
        waiting = sorted(requests, reverse=True)
        busy: dict[Connection, tuple[_Worker, str]] = {}
        try:
            while waiting or busy:
                while waiting and len(busy) < self.jobs:
                    worker, site = self._idle(busy), waiting.pop()
                    busy[worker.connection] = (worker, site)
                    worker.send(self._specs[site], requests[site])
                for connection in wait(list(busy)):
                    assert isinstance(connection, Connection)
                    worker, site = busy.pop(connection)
                    reply = worker.receive()
                    if reply is None:
                        worker.stop()
                        self._workers.discard(worker)
                        yield site, SiteFailure(f"its process ended with exit code {worker.process.exitcode}")
                    else:
                        yield site, _unwrap(reply)
        except BaseException:
            # After Ctrl-C or a closed generator no worker may continue.
            self.close()
            raise

    def _idle(self, busy: Mapping[Connection, "tuple[_Worker, str]"]) -> "_Worker":
        for worker in self._workers:
            if worker.connection not in busy and worker.process.is_alive():
                return worker
        worker = _Worker(multiprocessing.get_context("spawn"))
        self._workers.add(worker)
        return worker


class _Worker:
    """A spawned process that answers requests in turn."""

    def __init__(self, context: SpawnContext) -> None:
        self.connection, theirs = context.Pipe()
        # Not daemonic: a daemon may not have children, and a site may read its data in child processes.
        given = (theirs, loaded_plugins(), said_warnings())
        self.process = context.Process(target=_serve, args=given, name="fedrecon-site")
        self.process.start()
        theirs.close()

    def send(self, spec: SiteSpec, request: bytes) -> None:
        try:
            self.connection.send((spec, request))
        except OSError:
            # The process has died; `receive` returns None then.
            logger.debug("worker %s is gone", self.process.pid)

    def receive(self) -> bytes | str | None:
        """A reply, a reason, or None if the process has ended."""
        try:
            reply: bytes | str = self.connection.recv()
        except (EOFError, OSError):
            return None
        return reply

    def stop(self) -> None:
        self.process.terminate()
        self.process.join(_SECONDS_TO_END)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()


def _stop_all(workers: set[_Worker]) -> None:
    while workers:
        workers.pop().stop()


def _serve(connection: Connection, plugins: Sequence[Plugin], said: Iterable[Said]) -> None:
    """Main loop of a worker process: one thread, deaf to Ctrl-C, ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    load_again(plugins)
    say_no_more(said)
    while True:
        try:
            spec, request = connection.recv()
        except EOFError:
            return
        connection.send(_answer(spec, request))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    # Immediately: an orphan must not write into the kept state that a resumed run is using.
    os._exit(1)


def _answer(spec: SiteSpec, request: bytes) -> bytes | str:
    """Build the site and let it answer. A failure becomes text: a traceback would keep the data in memory."""
    try:
        return spec.build().handle(request)
    except Exception as error:
        logger.debug("site %s failed", spec.name, exc_info=True)
        text = " ".join(str(error).split())
        if isinstance(error, DataError | MessageError):
            return text
        if isinstance(error, OSError):
            return os_error_line(error)
        where = line_in_plugin(error)
        return f"{type(error).__name__}: {text}" + (f" ({where})" if where else "")


def _unwrap(reply: bytes | str) -> bytes | Exception:
    return SiteFailure(reply) if isinstance(reply, str) else reply
