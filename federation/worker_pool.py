"""Independent jobs of one site each, in this process or in worker processes with one thread each."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(function: Callable[[Job], Result], jobs: Sequence[Job], processes: int) -> Iterator[Result]:
    """Yield ``function(job)`` in the order of the jobs.

    Parameters
    ----------
    function, jobs
        Picklable; the function is module-level.
    processes
        1: all in this process. More: so many spawned processes; an exception or Ctrl-C here ends them.
    """
    if min(processes, len(jobs)) <= 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield from map(function, jobs)
        finally:
            torch.set_num_threads(threads)
        return
    # Leaving the pool terminates its processes, finished or not.
    with multiprocessing.get_context("spawn").Pool(min(processes, len(jobs)), _prepare) as pool:
        yield from pool.imap(function, jobs)


def _prepare() -> None:
    """One thread, and Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
