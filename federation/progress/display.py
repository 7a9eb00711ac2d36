"""The display of a command: lines or bars, a log file, and a thread that keeps them up to date."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self, TextIO

from .board import Board, Part
from .channel import Channel, Event, sending

#: A command without a terminal prints a line after this time without one: it is never silent for 10 s.
SECONDS_BETWEEN_LINES = 9.0
#: The live report is written at most this often.
SECONDS_BETWEEN_REPORTS = 15.0

Level = Literal["quiet", "normal", "verbose"]

_LEADS = ("warning:", "note:")


class Painter(Protocol):
    """Shows the board; ``say`` prints a line that stays."""

    def say(self, text: str) -> None: ...

    def paint(self, now: float) -> None: ...

    def close(self) -> None: ...


class Lines:
    """Prints a line of progress where nothing was printed for nine seconds; of several processes, one after another.

    Parameters
    ----------
    write
        Prints a line.
    """

    def __init__(self, board: Board, write: Callable[[str], None], now: float) -> None:
        self.board, self.write = board, write
        self._printed, self._begun, self._last = now, now, ""
        self._shown: dict[int, float] = {}

    def say(self, text: str, now: float | None = None) -> None:
        self.write(text)
        self._last = text.strip().split("\n")[-1]
        self._printed = self._begun = time.monotonic() if now is None else now

    def paint(self, now: float) -> None:
        """Print a line if one is due."""
        if now - self._printed < SECONDS_BETWEEN_LINES:
            return
        self._printed = now
        self.write(progress_line(self.board, now, self._shown) or self._still(now))

    def _still(self, now: float) -> str:
        """A line for a command whose processes tell nothing."""
        since = f"{now - self._begun:.0f} s so far"
        return f"{self._last.removesuffix('...').strip()}: {since}" if self._last else f"working: {since}"

    def close(self) -> None: ...


def progress_line(board: Board, now: float, shown: dict[int, float]) -> str:
    """Line of the process that was shown longest ago, with the time that is left; empty if none is at work."""
    if not board.at_work:
        return ""
    process = min(board.at_work, key=lambda one: (shown.get(one, -1.0), one))
    shown[process] = now
    width = max(len(event.site) for event, _ in board.at_work.values())
    left = board.left_text(now)
    return board.line(process, now, width=width) + (f", {left}" if left else "")


class Display:
    """Shows what a command and its processes do; a context manager.

    Parameters
    ----------
    level
        ``quiet``: results and warnings alone; ``verbose``: every change of work as a line.
    bars
        Live bars in place of lines; None: where the output is a terminal.
    stream
        Output, by default standard output.
    """

    def __init__(self, level: Level = "normal", *, bars: bool | None = None, stream: TextIO | None = None) -> None:
        self.level: Level = level
        self.stream = stream or sys.stdout
        self.board = Board()
        self._lock = threading.RLock()
        self._stack = ExitStack()
        self._log: TextIO | None = None
        self._unlogged: list[str] = []
        self._bars = (bars if bars is not None else self.stream.isatty()) and level == "normal"
        self._refresh: Callable[[], None] | None = None
        self._refreshed = 0.0
        self._painter: Painter = Lines(self.board, self._print, time.monotonic())
        self._log_lines = Lines(self.board, self._write_log, time.monotonic())
        self._closing = threading.Event()

    def __enter__(self) -> Self:
        if self._bars:
            from .bars import Bars

            self._painter = Bars(self.board, self.stream)
        self._channel = self._stack.enter_context(Channel())
        self._stack.enter_context(sending(self._channel.writer))
        _DISPLAYS.append(self)
        self._stack.enter_context(self._taking_warnings())
        self._thread = threading.Thread(target=self._follow, name="fedrecon-display", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()
        with suppress(OSError):
            self._channel.writer.send_bytes(Event(0).to_bytes())  # the thread waits for an event
        self._thread.join(5.0)
        _DISPLAYS.remove(self)
        self._stack.close()
        with self._lock:
            self._painter.close()
            if error is not None and not isinstance(error, SystemExit):
                self._write_log(f"ended by {kind.__name__ if kind else ''}: {error}")
            if self._log is not None:
                self._log.close()

    def say(self, text: str) -> None:
        """Print a line of progress; those that begin with ``warning:`` or ``note:`` also if the command is quiet."""
        self._say(text, shown=self.level != "quiet" or text.lstrip().startswith(_LEADS))

    def result(self, text: str) -> None:
        """Print a result, also if the command is quiet."""
        self._say(text, shown=True)

    def warn(self, text: str, *, shown: bool = True) -> None:
        """Print a warning to standard error, and into the log."""
        with self._lock:
            self._write_log(text)
            if shown:
                self._painter.close()  # bars are drawn again below the line
                print(text, file=sys.stderr, flush=True)

    @contextmanager
    def _taking_warnings(self) -> Iterator[None]:
        """Context in which this display prints the warnings of the libraries, in place of :mod:`logging`."""
        root = logging.getLogger()
        replaced = [handler for handler in root.handlers if type(handler) is logging.StreamHandler]
        handler = _LogHandler(self, shown=bool(replaced))
        before, root.handlers = root.handlers, [h for h in root.handlers if h not in replaced] + [handler]
        try:
            yield
        finally:
            root.handlers = before

    def _say(self, text: str, shown: bool) -> None:
        with self._lock:
            self._log_lines.say(text)
            if shown:
                self._painter.say(text)

    def log_into(self, folder: Path) -> None:
        """Write everything that was and will be printed into ``log.txt`` of a folder; the first folder counts."""
        with self._lock:
            if self._log is None:
                with suppress(OSError):  # a log that cannot be written stops no training
                    self._log = (folder / "log.txt").open("a", encoding="utf-8")
                    for line in self._unlogged:
                        self._log.write(line)
                    self._log.flush()

    def begin_parts(self, parts: Sequence[Part], at_most: bool | None) -> None:
        """See :meth:`Board.begin`."""
        with self._lock:
            self.board.begin(parts, time.monotonic(), at_most=at_most)

    def advance(self, jobs: Iterable[str], share: float) -> None:
        """See :meth:`Board.advance`."""
        with self._lock:
            self.board.advance(dict.fromkeys(jobs, share), time.monotonic())

    def refresh_with(self, refresh: Callable[[], None] | None) -> None:
        """Call a function every few seconds in the thread of the display, first after the next event."""
        self._refresh = refresh

    def tick(self, events: Sequence[Event], now: float) -> None:
        """Take events and show what is due."""
        with self._lock:
            for event in events:
                if self.board.take(event, now) and self.level == "verbose":
                    self._say(self.board.line(event.process, now), shown=True)
            if self.level != "quiet":
                self._painter.paint(now)
            self._log_lines.paint(now)

    def _follow(self) -> None:
        while not self._closing.is_set():
            events = self._channel.receive(0.5)
            try:
                self.tick(events, time.monotonic())
                if self._refresh is not None and time.monotonic() - self._refreshed > SECONDS_BETWEEN_REPORTS:
                    self._refreshed = time.monotonic()
                    self._refresh()
            except Exception:  # the display must not end the computation
                logging.getLogger(__name__).debug("display", exc_info=True)

    def _print(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def _write_log(self, text: str) -> None:
        line = f"{datetime.now().isoformat(' ', 'seconds')}  {text.strip()}\n"
        if self._log is None:
            self._unlogged.append(line)
        else:
            with suppress(OSError, ValueError):
                self._log.write(line)
                self._log.flush()


class _LogHandler(logging.Handler):
    """Sends warnings of the libraries through the display."""

    def __init__(self, display: Display, *, shown: bool) -> None:
        super().__init__(logging.WARNING)
        self.display, self.shown = display, shown
        self.setFormatter(logging.Formatter("fedrecon: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.display.warn(self.format(record), shown=self.shown)


_DISPLAYS: list[Display] = []


def log_into(folder: Path) -> None:
    """Write the lines of the command into ``log.txt`` of its folder, see :meth:`Display.log_into`."""
    if _DISPLAYS:
        _DISPLAYS[-1].log_into(folder)


def begin_parts(parts: Sequence[Part], *, at_most: bool | None = None) -> None:
    """The first of some parts of the command begins, see :meth:`Board.begin`."""
    if _DISPLAYS:
        _DISPLAYS[-1].begin_parts(parts, at_most)


def advanced(jobs: Iterable[str], share: float) -> None:
    """Of these jobs of the present part this fraction is done."""
    if _DISPLAYS:
        _DISPLAYS[-1].advance(jobs, share)


def seconds_left() -> float | None:
    """Seconds until the command ends, if they are known."""
    return _DISPLAYS[-1].board.seconds_left(time.monotonic()) if _DISPLAYS else None


def refresh_with(refresh: Callable[[], None] | None) -> None:
    """Keep a report up to date, see :meth:`Display.refresh_with`."""
    if _DISPLAYS:
        _DISPLAYS[-1].refresh_with(refresh)
