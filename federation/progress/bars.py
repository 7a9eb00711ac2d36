"""Live bars in a terminal."""

from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .board import Board, duration, work_text

_SECONDS_BETWEEN = 0.5


class Bars:
    """One bar per process at work, with site, part, step and loss; below them the time that is left."""

    def __init__(self, board: Board, stream: TextIO) -> None:
        self.board = board
        self.console = Console(file=stream, highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._painted = 0.0

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, emoji=False)

    def paint(self, now: float) -> None:
        """Draw the bars anew."""
        if now - self._painted < _SECONDS_BETWEEN:
            return
        self._painted = now
        if not self.board.at_work:
            self.close()
            return
        if self._live is None:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(self.table(now), refresh=True)

    def table(self, now: float) -> Table:
        """The bars."""
        table = Table.grid(padding=(0, 1))
        for _ in range(3):
            table.add_column(no_wrap=True, overflow="ellipsis")
        for process in sorted(self.board.at_work, key=lambda one: (self.board.at_work[one][0].site, one)):
            event, since = self.board.at_work[process]
            bar = ProgressBar(total=event.of or 1, completed=event.done, width=24)
            waited = f"for {duration(now - since)}" if now - since >= 10 else ""
            table.add_row(event.site, bar, Text(", ".join(filter(None, (work_text(event), event.part, waited)))))
        if left := self.board.left_text(now):
            table.add_row("", "", Text(left, style="bold"))
        return table

    def close(self) -> None:
        """Remove the bars."""
        if self._live is not None:
            self._live.stop()
            self._live = None
