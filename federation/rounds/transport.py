"""Transport of requests to the sites and of their replies."""

from collections.abc import Generator, Mapping
from typing import Protocol

#: Pairs ``(site, reply)``; an exception instead of bytes is the reason why there is no reply.
ReplyStream = Generator[tuple[str, bytes | Exception], None, None]


class SiteFailure(RuntimeError):
    """A site did not answer; the text is the reason, in one line."""


class StillWaiting(RuntimeError):
    """In place of a reply: none has come since the last one. A transport may yield it, for no site, now and then."""


class Transport(Protocol):
    """Delivers requests to the sites and returns their replies unchecked, in any order."""

    #: Number of sites that compute at the same time.
    jobs: int

    def sites(self) -> list[str]:
        """Names of the sites, sorted."""

    def exchange(self, requests: Mapping[str, bytes]) -> ReplyStream:
        """Send each site its request and yield the replies as they arrive; closing the generator ends the wait.

        Each request is read from ``requests`` once, right before it is sent, so that one is in memory at a time.
        """
