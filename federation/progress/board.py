"""What every process of a command is doing, and how much time is left; pure: the caller brings the time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .channel import Event


def duration(seconds: float) -> str:
    """Seconds in words, to about two digits."""
    if seconds < 59.5:
        return f"{max(seconds, 1):.0f} s"
    minutes = seconds / 60
    if minutes < 99.5:
        return f"{minutes:.0f} min"
    hours = minutes / 60
    return f"{hours:.1f} h" if hours < 9.95 else f"{hours:.0f} h"


@dataclass(frozen=True)
class Part:
    """A part of a command: names of its jobs, fraction that is done at its begin, seconds that it should take."""

    jobs: Sequence[str] = ()
    done: float = 0.0
    seconds: float | None = None


@dataclass
class Board:
    """State of a command.

    Attributes
    ----------
    at_work
        Last event of every process at work, with the time of the first event of this work.
    """

    at_work: dict[int, tuple[Event, float]] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    at_most: bool = False
    _begun: float = 0.0
    _shares: dict[str, float] = field(default_factory=dict)
    _left: tuple[float, float] | None = None  # seconds, and the time at which they were so many
    _of_part: bool = False  # whether these are the seconds of the first part alone

    def take(self, event: Event, now: float) -> bool:
        """Take an event; returns whether the process does something else than before."""
        old = self.at_work.get(event.process)
        if not event.what:
            self.at_work.pop(event.process, None)
            return False
        new = old is None or _work(old[0]) != _work(event)
        moved = new or (old is not None and old[0].done != event.done)
        self.at_work[event.process] = (event, now if moved or old is None else old[1])
        if event.share is not None:
            self.advance({event.site: event.share}, now)
        return new

    def begin(self, parts: Sequence[Part], now: float, *, at_most: bool | None = None) -> None:
        """The first of these parts begins, the others follow."""
        self.parts, self._begun, self._shares = list(parts), now, {}
        self.at_most = self.at_most if at_most is None else at_most
        known = [part.seconds for part in parts]
        total = sum(seconds for seconds in known if seconds is not None)
        self._left, self._of_part = (total, now) if known and None not in known else None, False

    def advance(self, shares: Mapping[str, float], now: float) -> None:
        """Set the fraction of jobs that is done; fractions do not fall."""
        jobs = self.parts[0].jobs if self.parts else ()
        new = {job: share for job, share in shares.items() if job in jobs and share > self._shares.get(job, 0.0)}
        if not new:
            return
        self._shares |= new
        part, *later = self.parts
        done = sum(self._shares.values()) / len(part.jobs)
        if done <= part.done:
            return
        whole = (now - self._begun) / (done - part.done)
        pace = whole * (1 - part.done) / part.seconds if part.seconds else 1.0
        after = [other.seconds for other in later]
        self._of_part = None in after
        later_seconds = 0.0 if self._of_part else sum(seconds for seconds in after if seconds is not None)
        self._left = (whole * (1 - done) + pace * later_seconds, now)

    def seconds_left(self, now: float) -> float | None:
        """Seconds until the end of the parts; None if nothing tells, or only the first part is known."""
        return None if self._of_part else self._seconds_left(now)

    def _seconds_left(self, now: float) -> float | None:
        if self._left is None:
            return None
        seconds, at = self._left
        return max(seconds - (now - at), 0.0)

    def line(self, process: int, now: float, *, width: int = 0) -> str:
        """Work of one process on one line, without the time that is left."""
        event, since = self.at_work[process]
        texts = [work_text(event)]
        if event.part:
            texts.append(event.part)
        if now - since >= 20:
            texts.append(f"for {duration(now - since)}")
        return f"{event.site:{width}s} {', '.join(texts)}".strip()

    def left_text(self, now: float) -> str:
        """The time that is left, or an empty text."""
        seconds = self._seconds_left(now)
        if seconds is None or (seconds < 1 and self._of_part):
            return ""
        if seconds < 1:
            return "nearly done"
        of = " in this part" if self._of_part else ""
        return f"{'at most' if self.at_most else 'about'} {duration(seconds)} left{of}"


def work_text(event: Event) -> str:
    """Work of an event, such as ``training 12/25 steps, loss 0.083``."""
    text = event.what
    if not event.of:
        text = text.removesuffix(",")  # names of work, such as "scoring tv,", end so before a count
    else:
        text += f" {event.done}/{event.of} {event.unit}"
    if event.loss is not None:
        text += f", loss {event.loss:.3g}"
    return text


def _work(event: Event) -> tuple[str, str, str, int | None]:
    return event.site, event.part, event.what, event.of
