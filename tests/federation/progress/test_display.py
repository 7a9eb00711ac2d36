"""Lines of progress at a fake clock; the channel between processes."""

import io
import json
import multiprocessing
import os
import time

import pytest

from federation.progress import Board, Channel, Display, Event, Part, duration, ended, sender, sending, within
from federation.progress.bars import Bars
from federation.progress.display import Lines
from federation.worker_pool import WorkerDied, Workers, run_jobs
from recon import DataError, doing, made


def training(process: int, site: str, done: int, *, round: int = 1, loss: float | None = 0.0834) -> Event:
    return Event(process, "training", done, 25, "steps", loss, site, f"round {round}/40", (round - 1) / 40)


class Clock:
    """A display whose thread does not run: the test ticks."""

    def __init__(self, level="normal") -> None:
        # The true time, as that of `say` and `result`: the test lets it run on.
        self.stream, self.now = io.StringIO(), time.monotonic()
        self.display = Display(level, bars=False, stream=self.stream)
        self.display._painter = Lines(self.display.board, self.display._print, self.now)
        self.display._log_lines = Lines(self.display.board, self.display._write_log, self.now)

    def tick(self, seconds: float, *events: Event) -> list[str]:
        """Lines that are printed when time goes on."""
        self.now += seconds
        before = len(self.stream.getvalue())
        self.display.tick(events, self.now)
        return self.stream.getvalue()[before:].splitlines()


def test_lines_come_every_nine_seconds_with_site_step_loss_round_and_time() -> None:
    clock = Clock()
    clock.display.board.begin([Part(["north", "south"], seconds=3980.0)], clock.now)
    assert clock.tick(8.5, training(1, "north", 11), training(2, "south", 3)) == []
    assert clock.tick(0.6, training(1, "north", 12)) == [
        "north training 12/25 steps, loss 0.0834, round 1/40, about 66 min left"
    ]
    assert clock.tick(8.0) == []
    assert clock.tick(1.1) == ["south training 3/25 steps, loss 0.0834, round 1/40, about 66 min left"]


def test_no_ten_seconds_are_silent_whatever_the_processes_say() -> None:
    """Nobody tells anything, then one process works at one step for minutes, then dies."""
    clock = Clock()
    clock.display._painter.say("checking 30 files, once ...", clock.now)
    printed = [(clock.now, line) for _ in range(25) for line in clock.tick(1)]
    assert [line for _, line in printed] == [f"checking 30 files, once: {n} s so far" for n in (9, 18)]
    clock.tick(0, Event(7, "tuning tv, value 1 of 5,", 1, 3, site="north"))
    lines = [line for _ in range(60) for line in clock.tick(1)]
    assert len(lines) == 7 and lines[-1] == "north tuning tv, value 1 of 5, 1/3 slices, for 56 s"
    clock.tick(0, Event(7))
    assert [line for _ in range(10) for line in clock.tick(1)] == ["checking 30 files, once: 90 s so far"]
    clock.tick(0, Event(7, "scoring tv,", site="north", part="tests"))
    assert clock.tick(10) == ["north scoring tv, tests"]


def test_the_time_left_follows_the_measured_pace_and_later_parts() -> None:
    board = Board()
    parts = [Part(["a", "b"], seconds=100.0), Part(["a", "b"], seconds=50.0)]
    board.begin(parts, 0.0)
    assert board.seconds_left(30.0) == 120
    board.advance({"a": 0.5, "b": 0.5}, 60.0)
    assert board.seconds_left(60.0) == pytest.approx(60 + 50 * 1.2)  # 20 % slower than announced
    assert board.seconds_left(70.0) == pytest.approx(110)
    board.advance({"a": 0.4}, 61.0)  # an older event changes nothing
    board.begin(parts[1:], 130.0, at_most=True)
    assert board.left_text(130.0) == "at most 50 s left" and board.left_text(181.0) == "nearly done"
    board.begin([], 200.0)
    assert board.seconds_left(200.0) is None and board.left_text(200.0) == ""


def test_without_seconds_of_later_parts_the_time_is_that_of_the_part() -> None:
    board = Board()
    board.begin([Part(["a"]), Part(["a"])], 0.0)
    assert board.left_text(5.0) == ""
    board.advance({"a": 0.5}, 60.0)
    assert board.left_text(60.0) == "about 1 min left in this part" and board.seconds_left(60.0) is None


def test_a_resumed_part_counts_from_where_it_begins() -> None:
    board = Board()
    board.begin([Part(["a"], done=0.5)], 0.0)
    assert board.seconds_left(1.0) is None
    board.take(training(1, "a", 0, round=21), 5.0)  # half is done already
    assert board.seconds_left(5.0) is None
    board.advance({"a": 0.75}, 100.0)
    assert board.seconds_left(100.0) == pytest.approx(100)


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("quiet", ["warning: w", "result"]),
        ("normal", ["plain", "warning: w", "result"]),
        ("verbose", ["plain", "warning: w", "north training 1/25 steps, loss 0.0834, round 1/40", "result"]),
    ],
)
def test_levels_and_the_log_file(tmp_path, level, shown) -> None:
    clock = Clock(level)
    clock.display.say("plain")
    clock.display.log_into(tmp_path)
    clock.display.log_into(tmp_path / "another")
    clock.display.say("warning: w")
    clock.tick(0, training(1, "north", 1))
    clock.tick(1, training(1, "north", 2))  # the same work
    clock.display.result("result")
    assert clock.stream.getvalue().splitlines() == shown
    clock.display._log.close()
    logged = [line[21:] for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert [line for line in logged if not line.startswith("north")] == ["plain", "warning: w", "result"]


def test_bars_show_every_process_and_leave_lines_alone() -> None:
    stream, board = io.StringIO(), Board()
    bars = Bars(board, stream)
    board.begin([Part(["north"], seconds=600.0)], 0.0)
    board.take(training(1, "north", 12), 1.0)
    bars.paint(10.0)
    bars.say("round   1/40  [north] 30.00 dB")
    bars.console.width = 120
    bars.console.print(bars.table(20.0))
    bars.close()
    text = stream.getvalue()
    for words in ("north", "training 12/25 steps, loss 0.0834, round 1/40, for 19 s", "about 10 min left", "[north]"):
        assert words in text


def test_an_event_fits_into_one_write_whatever_its_names() -> None:
    event = Event(2**22, "w" * 300, 10**9, 10**9, "u" * 99, 1 / 3, "s" * 64, "p" * 300, 1 / 3)
    assert len(event.to_bytes()) <= 508 and Event.from_bytes(event.to_bytes()).site == event.site
    assert Event.from_bytes(b'["cut') is None


def test_events_carry_site_and_part_and_a_full_pipe_delays_nothing(monkeypatch) -> None:
    monkeypatch.setattr("recon.data.progress.SECONDS_BETWEEN", 0.0)
    with Channel() as channel, sending(channel.writer):
        with within(job="arm", site="north", part="round 1/3", share=0.0), doing("training", 2, "steps"):
            made(1, 0.5)
            with doing("coil maps"):
                pass
        found = [(e.site, e.part, e.what, e.done, e.loss) for e in channel.receive(1.0)]
        begun = ("north", "arm, round 1/3", "training")
        inside = ("north", "arm, round 1/3", "coil maps", 0, None)
        end = ("north", "arm, round 1/3", "", 0, None)
        assert found == [(*begun, 0, None), (*begun, 1, 0.5), inside, (*begun, 1, 0.5), end]
        begin = time.monotonic()
        with doing("many", 2000):
            for step in range(2000):
                made(step)
        assert time.monotonic() - begin < 5.0
        ended(3)
        assert len(channel.receive(0.0)) > 100
    doing_alone = doing("nobody listens")
    with doing_alone:
        made(1)
    assert sender() is None


def double(number: int) -> int:
    with within(site=f"s{number}"), doing("doubling"):
        if number == 3:
            os._exit(9)
        if number == 4:
            raise DataError("four")
        return 2 * number


@pytest.mark.slow
def test_workers_send_events_and_one_that_dies_hangs_nothing() -> None:
    with Channel() as channel, sending(channel.writer):
        assert list(run_jobs(double, [1, 2], 2)) == [2, 4]
        assert {event.site for event in channel.receive(1.0)} >= {"s1", "s2"}
        with pytest.raises(DataError, match="four"):
            list(run_jobs(double, [1, 4], 2))
        with pytest.raises(DataError, match="job 2 of 2: its process ended with exit code 9"):
            list(run_jobs(double, [1, 3], 2))
        board = Board()
        for event in channel.receive(1.0):
            board.take(event, 0.0)
        assert board.at_work == {}
    assert multiprocessing.active_children() == []


def test_an_answer_says_how_a_process_died() -> None:
    assert "lack of memory" in str(WorkerDied(-9)) and str(WorkerDied(3)) == "its process ended with exit code 3"
    assert Workers(2).workers == set()


def test_durations() -> None:
    assert [duration(s) for s in (0.2, 59, 60, 840, 6000, 90000)] == ["1 s", "59 s", "1 min", "14 min", "1.7 h", "25 h"]


def test_the_thread_of_a_display_prints_and_ends(tmp_path) -> None:
    stream = io.StringIO()
    with Display(bars=False, stream=stream) as display:
        display.say("hello")
        with doing("work", 3):
            made(2)
        called = []
        display.refresh_with(lambda: called.append(1))
        for _ in range(100):
            if called:
                break
            time.sleep(0.05)
        assert called
    assert stream.getvalue() == "hello\n"
    assert not display._thread.is_alive()
    assert json.dumps(display._unlogged)
