"""Transport: brings requests to sites and their replies back."""

from collections.abc import Generator, Mapping
from typing import Protocol

#: Pairs ``(site, reply)``; an exception says why a site has no reply.
ReplyStream = Generator[tuple[str, bytes | Exception], None, None]


class SiteFailure(RuntimeError):
    """Why a site did not answer, in one line."""


class Transport(Protocol):
    """Takes requests to sites and brings the replies, in any order and unchecked."""

    #: How many sites compute at the same time.
    jobs: int

    def sites(self) -> list[str]:
        """Names of the sites, sorted."""

    def exchange(self, requests: Mapping[str, bytes]) -> ReplyStream:
        """Ask each site and yield the replies as they arrive; closing the generator ends the wait.

        Each request is taken from ``requests`` once, right before it is sent: they need not all be in memory.
        """
