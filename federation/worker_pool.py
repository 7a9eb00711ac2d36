"""Runs independent jobs, in this process or in worker processes, with one thread each."""

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch

from recon import Said, said_warnings, say_no_more

from .config import Plugin, load_again, loaded_plugins

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(function: Callable[[Job], Result], jobs: Sequence[Job], processes: int) -> Iterator[Result]:
    """Yield ``function(job)`` in the order of the jobs.

    Parameters
    ----------
    function, jobs
        Picklable; the function is module-level.
    processes
        1: all jobs in this process. More: number of spawned processes; an exception or Ctrl-C in this one ends them.
    """
    if min(processes, len(jobs)) <= 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield from map(function, jobs)
        finally:
            torch.set_num_threads(threads)
        return
    given = (loaded_plugins(), said_warnings())
    # At the end of the block the pool terminates its processes, even busy ones.
    with multiprocessing.get_context("spawn").Pool(min(processes, len(jobs)), _prepare, given) as pool:
        yield from pool.imap(function, jobs)


def _prepare(plugins: Sequence[Plugin], said: Iterable[Said]) -> None:
    """Use one thread; leave Ctrl-C to the parent; register its parts, repeat none of its warnings."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    load_again(plugins)
    say_no_more(said)
