"""What is kept up to date while a run is trained."""

from types import TracebackType
from typing import Protocol, Self


class Follower(Protocol):
    """Follows a training: a report, or curves for another program. A context manager; its end is that of the training.

    A failure of it must not end the training.
    """

    def begin(self, now: str) -> None:
        """A part of the run begins; ``now`` is a sentence for the reader."""

    def round_made(self, number: int) -> None:
        """A round is made, the first is 1."""

    def write(self) -> None:
        """Write what is new; called every few seconds, in a thread of its own."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
