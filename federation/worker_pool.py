"""Runs independent jobs, in this process or in worker processes, with the same number of threads each."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.forkserver import ensure_running
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from multiprocessing.process import BaseProcess
from pickle import PicklingError
from typing import Any, Generic, TypeVar

import torch

from recon import DataError, Said, doing, made, said_warnings, say_no_more

from .config import Plugin, load_again, loaded_plugins
from .progress import ended, sender, sending

logger = logging.getLogger(__name__)

Job = TypeVar("Job")
Result = TypeVar("Result")

_SECONDS_TO_END = 5.0
#: Beginnings of the names of variables that are read when packages are imported.
_READ_AT_IMPORT = ("CUDA_", "HOME", "MALLOC_", "MKL_", "NUMBA_", "OMP_", "OPENBLAS_", "PYTHON", "TORCH_", "XDG_")
#: Their values when the process that workers are forks of was started; empty before.
_FORKED_WITH: list[dict[str, str]] = []
#: What every worker needs, the module that an optimizer's first step imports included. A process that has imported it
#: waits, and each worker is a fork of that.
_PRELOADED = ["federation.worker_pool", "federation.rounds.site", "federation.experiment.task", "torch._dynamo"]


class WorkerDied(Exception):
    """A worker process ended before it answered."""

    def __init__(self, exitcode: int | None) -> None:
        killed = ", killed: probably by lack of memory, run fewer at a time (--jobs)"
        super().__init__(f"its process ended with exit code {exitcode}{killed if exitcode == -signal.SIGKILL else ''}")


@dataclass(frozen=True)
class Queue:
    """Jobs that share places with little room, such as GPUs; other jobs wait for a process alone.

    Parameters
    ----------
    places
        Place of a job, by its key; a job that is absent has none.
    most
        Jobs at a time in a place, at least 1; a place that is absent has room for all.
    """

    places: Mapping[Any, str] = field(default_factory=dict)
    most: Mapping[str, int] = field(default_factory=dict)

    def in_order(self, keys: Sequence[Any]) -> "Queue":
        """The queue of jobs by their numbers from 0, with the places of these keys."""
        return Queue({n: self.places[key] for n, key in enumerate(keys) if key in self.places}, self.most)

    def has_room(self, key: Any, running: Iterable[Any]) -> bool:
        """Whether the job of a key may begin beside those of the running keys."""
        place = self.places.get(key)
        if place is None or place not in self.most:
            return True
        return sum(self.places.get(other) == place for other in running) < max(1, self.most[place])


@dataclass(frozen=True)
class Answer(Generic[Result]):
    """Outcome of a call in a worker."""

    value: Result | None
    error: BaseException | None = None

    def get(self) -> Result:
        """The result; raises the exception of the call, or :class:`WorkerDied`."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]


def run_jobs(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    processes: int,
    *,
    threads: int = 1,
    what: str = "",
    unit: str = "jobs",
    queue: Queue | None = None,
) -> Iterator[Result]:
    """Yield ``function(job)`` in the order of the jobs.

    Parameters
    ----------
    function, jobs
        Picklable; the function is module-level.
    processes
        1: all jobs in this process. More: number of other processes; an exception or Ctrl-C in this one ends them.
    threads
        Threads of PyTorch in every job, wherever it runs.
    what, unit
        Name of the work and of a job in the progress; empty: the jobs tell their own.
    queue
        Places of the jobs, by their numbers from 0; None: they have none.

    Raises
    ------
    DataError
        If a process ends, for example because the memory is full.
    """
    if not what:
        yield from _results(function, jobs, processes, threads, queue)
        return
    with doing(what, len(jobs), unit):
        for number, result in enumerate(_results(function, jobs, processes, threads, queue), 1):
            made(number)
            yield result


def _results(
    function: Callable[[Job], Result], jobs: Sequence[Job], processes: int, threads: int, queue: Queue | None
) -> Iterator[Result]:
    if min(processes, len(jobs)) <= 1:
        with computing_with(threads):
            yield from map(function, jobs)
        return
    with Workers(min(processes, len(jobs)), threads) as workers:
        early: dict[int, Answer[Result]] = {}
        wanted = 0
        for number, answer in workers.call(function, enumerate(jobs), queue):
            early[number] = answer
            while wanted in early:
                try:
                    yield early.pop(wanted).get()
                except WorkerDied as error:
                    raise DataError(f"job {wanted + 1} of {len(jobs)}: {error}") from None
                wanted += 1


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Context in which PyTorch computes with this many threads: the last bits of sums depend on the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Workers:
    """Processes of their own that answer calls, one at a time each; a context manager that ends them, busy or idle.

    Parameters
    ----------
    most
        Processes at a time. They are started when they are needed, and serve later calls again.
    threads
        Threads of PyTorch in each of them.
    """

    def __init__(self, most: int, threads: int = 1) -> None:
        self.most, self.threads = most, threads
        self.workers: set[_Worker] = set()
        # Runs at exit of the interpreter too, which would otherwise wait for the workers.
        self._finalizer = weakref.finalize(self, _stop_all, self.workers)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; a later call starts new ones."""
        _stop_all(self.workers)

    def call(
        self, function: Callable[[Any], Result], jobs: Iterable[tuple[Any, Any]], queue: Queue | None = None
    ) -> Iterator[tuple[Any, Answer[Result]]]:
        """Call a function with the argument of every ``(key, argument)``; yields keys with answers as they arrive.

        An argument is read from ``jobs`` right before it is sent; those of jobs that wait for room in their place are
        kept. A process serves one place alone: it keeps some memory of a GPU until it ends. Closing the iterator ends
        the processes.
        """
        queue, waiting, held = queue or Queue(), iter(jobs), deque[tuple[Any, Any]]()
        busy: dict[Connection, tuple[_Worker, Any]] = {}
        try:
            while True:
                running = [key for _, key in busy.values()]
                while len(busy) < self.most and (job := _next_job(held, waiting, queue, running)) is not None:
                    worker = self._idle(busy, queue.places.get(job[0]))
                    busy[worker.connection] = (worker, job[0])
                    running.append(job[0])
                    worker.send(function, job[1])
                if not busy:
                    return
                for connection in wait(list(busy)):
                    assert isinstance(connection, Connection)
                    worker, key = busy.pop(connection)
                    answer = worker.receive()
                    ended(worker.process.pid or 0)
                    if isinstance(answer.error, WorkerDied):
                        self.workers.discard(worker)
                    yield key, answer
        except BaseException:
            # After Ctrl-C or a closed generator no worker may continue.
            self.close()
            raise

    def _idle(self, busy: Mapping[Connection, "tuple[_Worker, Any]"], place: str | None) -> "_Worker":
        """An idle process of a place; a new one where there is none, instead of an idle one of another place."""
        idle = [worker for worker in self.workers if worker.connection not in busy and worker.process.is_alive()]
        for worker in idle:
            if worker.place == place:
                return worker
        if idle and len(idle) + len(busy) >= self.most:
            self.workers.discard(idle[0])
            idle[0].stop()
        try:
            worker = _Worker(_context(), self.threads, place)
        except (OSError, EOFError) as error:  # the socket of the process to fork was removed, or that process has died
            logger.debug("a worker is not forked: %s", error)
            worker = _Worker(multiprocessing.get_context("spawn"), self.threads, place)
        self.workers.add(worker)
        return worker


def _next_job(
    held: deque[tuple[Any, Any]], waiting: Iterator[tuple[Any, Any]], queue: Queue, running: Sequence[Any]
) -> tuple[Any, Any] | None:
    """The first job whose place has room, taken out of those held back or of those to come; None: there is none."""
    for index, job in enumerate(held):
        if queue.has_room(job[0], running):
            del held[index]
            return job
    for job in waiting:
        if queue.has_room(job[0], running):
            return job
        held.append(job)
    return None


def _context() -> BaseContext:
    """How workers begin: as forks of a process that has imported PyTorch, else as new interpreters, in seconds.

    That process computes nothing. It is started with the path of imports of this one, without the current folder. New
    interpreters serve where it cannot: on other systems than Linux, where its socket has no place, and if variables
    have changed that it has read.
    """
    spawned = multiprocessing.get_context("spawn")
    if sys.platform != "linux":
        return spawned
    read = {key: value for key, value in os.environ.items() if key.startswith(_READ_AT_IMPORT)}
    if not _FORKED_WITH:
        multiprocessing.set_forkserver_preload(_PRELOADED)
        own = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"}
        before = {key: os.environ.get(key) for key in own}
        os.environ.update(own)
        try:
            ensure_running()
        except OSError as error:  # such as a TMPDIR too long for a socket
            logger.debug("no process to fork workers of: %s", error)
            return spawned
        finally:
            for key, value in before.items():
                os.environ.pop(key) if value is None else os.environ.update({key: value})
        _FORKED_WITH.append(read)
    return multiprocessing.get_context("forkserver") if read == _FORKED_WITH[0] else spawned


class _Worker:
    """A process of its own that answers calls in turn, all in one place of a :class:`Queue` or in none."""

    def __init__(self, context: BaseContext, threads: int, place: str | None = None) -> None:
        self.place = place
        self.connection, theirs = context.Pipe()
        # Ends the worker when it is closed, also one that cannot be reached by signals.
        lifeline, self._lifeline = context.Pipe(duplex=False)
        # Not daemonic: a daemon may not have children, and a site may read its data in child processes.
        arguments = (theirs, lifeline, dict(os.environ), threads, loaded_plugins(), said_warnings(), sender())
        self.process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=_serve, args=arguments, name="fedrecon-worker"
        )
        self.process.start()
        theirs.close()
        lifeline.close()

    def send(self, function: Callable[[Any], Any], argument: Any) -> None:
        try:
            self.connection.send((function, argument))
        except OSError:
            # The process has died; `receive` says so then.
            logger.debug("worker %s is gone", self.process.pid)

    def receive(self) -> Answer[Any]:
        try:
            answer: Answer[Any] = Answer(*self.connection.recv())
        except (EOFError, OSError):
            self.process.join(1.0)
            self.stop()
            return Answer(None, WorkerDied(self.process.exitcode))
        return answer

    def stop(self) -> None:
        self.process.terminate()
        self.process.join(_SECONDS_TO_END)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()
        self._lifeline.close()


def _stop_all(workers: set[_Worker]) -> None:
    while workers:
        workers.pop().stop()


def _serve(
    connection: Connection,
    lifeline: Connection,
    environment: Mapping[str, str],
    threads: int,
    plugins: Sequence[Plugin],
    said: Iterable[Said],
    events: Connection | None,
) -> None:
    """Main loop of a worker process: deaf to Ctrl-C, ends with its parent, repeats no warning of it."""
    os.environ.clear()  # that of the process of which this one is a fork, which may have changed since
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    torch.set_num_threads(threads)
    load_again(plugins)
    say_no_more(said)
    with sending(events):
        while True:
            try:
                function, argument = connection.recv()
            except EOFError:
                return
            _answer(connection, function, argument)
            del function, argument  # for the next call the memory is free


def _answer(connection: Connection, function: Callable[[Any], Any], argument: Any) -> None:
    try:
        result = function(argument)
    except Exception as error:
        _send(connection, None, ExceptionWithTraceback(error, error.__traceback__))
    else:
        _send(connection, result, None)


def _send(connection: Connection, result: Any, error: Any) -> None:
    try:
        connection.send((result, error))
    except (TypeError, AttributeError, PicklingError) as failure:
        connection.send((None, RuntimeError(f"cannot be sent to the parent process: {failure}")))


def _end_with_parent(lifeline: Connection) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel, lifeline])
    # Immediately: an orphan must not write into the kept state that a resumed run is using.
    os._exit(1)
