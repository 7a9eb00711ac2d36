"""The transport of one machine: sites run in this process or in worker processes."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from recon import PREPARING, DataError, doing, os_error_line

from ..config.plugin_errors import line_in_plugin
from ..progress import within
from ..serialization import MessageError
from ..worker_pool import Answer, Queue, WorkerDied, Workers, computing_with
from .site import SiteSpec
from .transport import ReplyStream, SiteFailure

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class InProcessRuntime:
    """Sites on this machine, each built for one request and released: memory does not grow with their number.

    Every site computes with the same number of threads, so that the results do not depend on ``jobs``. As a context
    manager it ends the worker processes.

    Parameters
    ----------
    specs
        The sites.
    jobs
        1: all sites in this process. More: number of processes of their own, each with one site at a time; the calling
        script then needs ``if __name__ == "__main__"``.
    threads
        Threads of PyTorch at every site.
    """

    def __init__(self, specs: Sequence[SiteSpec], jobs: int = 1, threads: int = 1) -> None:
        self._specs = {spec.name: spec for spec in specs}
        if len(self._specs) < len(specs) or not specs:
            raise ValueError(f"InProcessRuntime: sites are {[s.name for s in specs]}, expected some, all different")
        for name, number in (("jobs", jobs), ("threads", threads)):
            if number < 1:
                raise ValueError(f"InProcessRuntime: {name} is {number}, expected at least 1")
        self.jobs = min(jobs, len(specs))
        self.threads, self.workers = threads, Workers(self.jobs, threads)
        #: Places of the sites, by name: those that share a GPU with little room wait for each other.
        self.queue = Queue()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes, busy or idle; a later exchange starts new ones."""
        self.workers.close()

    def use(self, jobs: int) -> None:
        """Change the number of processes; idle ones beyond it end."""
        jobs = min(jobs, len(self._specs))
        if jobs < self.jobs:
            self.close()
        self.jobs = self.workers.most = jobs

    def sites(self) -> list[str]:
        return sorted(self._specs)

    def exchange(self, requests: Mapping[str, bytes]) -> ReplyStream:
        """See :class:`Transport`."""
        work = ((site, (self._specs[site], requests[site])) for site in sorted(requests))
        for site, answer in self._answers(_reply, work):
            try:
                yield site, _unwrap(answer.get())
            except WorkerDied as error:
                yield site, SiteFailure(str(error))

    def call(self, function: Callable[[Any], Result], arguments: Mapping[str, Any]) -> dict[str, Result]:
        """Call a function for some sites, where and as many at a time as they will train.

        Raises
        ------
        SiteFailure
            If a process ends.
        """
        found = {}
        for site, answer in self._answers(function, ((site, arguments[site]) for site in sorted(arguments))):
            try:
                found[site] = answer.get()
            except WorkerDied as error:
                raise SiteFailure(f"site {site}: {error}") from None
        return found

    def _answers(
        self, function: Callable[[Any], Result], work: Iterator[tuple[str, Any]]
    ) -> Iterator[tuple[str, Answer[Result]]]:
        if self.jobs > 1:
            yield from self.workers.call(function, work, self.queue)
            return
        with computing_with(self.threads):
            for site, argument in work:
                yield site, Answer(function(argument))


def _reply(job: tuple[SiteSpec, bytes]) -> bytes | str:
    """Build the site and let it answer. A failure becomes text: a traceback would keep the data in memory."""
    spec, request = job
    try:
        with within(site=spec.name), doing(PREPARING):
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
