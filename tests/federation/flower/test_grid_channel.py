"""Messages to sites whose connection comes and goes, over a grid of which Flower's part is scripted."""

from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from federation.rounds import SiteFailure

NODES = {"north": 11, "south": 22}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what Flower imports


def reply(number: str, node: int, data: bytes) -> Any:
    from federation.flower.client_process import content_of

    metadata = SimpleNamespace(reply_to_message_id=number, src_node_id=node)
    return SimpleNamespace(metadata=metadata, content=content_of(data), has_error=lambda: False)


def heartbeats_missed(number: str) -> Any:
    from flwr.app import Error
    from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode

    metadata = SimpleNamespace(reply_to_message_id=number, src_node_id=SUPERLINK_NODE_ID)
    error = Error(code=ErrorCode.NODE_UNAVAILABLE, reason="")
    return SimpleNamespace(metadata=metadata, error=error, has_error=lambda: True)


class Grid:
    """Sites that are connected at a second, and what a message to one of them is answered with, if at all."""

    def __init__(self, connected: Callable[[float], set[int]], answer: Callable[[str, int, float], Any]) -> None:
        self.connected, self.answer = connected, answer
        self.now, self.sent = 0.0, []  # type: float, list[tuple[int, bytes]]

    def get_node_ids(self) -> Iterable[int]:
        return self.connected(self.now)

    def push_messages(self, messages: Sequence[Any]) -> list[str]:
        from federation.flower.client_process import data_of

        first = len(self.sent)
        self.sent += [(message.metadata.dst_node_id, data_of(message)) for message in messages]
        return [str(number) for number in range(first, len(self.sent))]

    def pull_messages(self, numbers: Sequence[str]) -> list[Any]:
        answers = (self.answer(number, self.sent[int(number)][0], self.now) for number in numbers)
        return [answer for answer in answers if answer is not None]


def exchange(grid: Grid, monkeypatch: pytest.MonkeyPatch, seconds: float = 1000.0) -> dict[str, bytes | Exception]:
    from federation.flower import grid_channel

    monkeypatch.setattr(grid_channel.time, "monotonic", lambda: grid.now)
    monkeypatch.setattr(grid_channel.time, "sleep", lambda pause: setattr(grid, "now", grid.now + pause))
    # Flower's own message needs a run.
    monkeypatch.setattr(
        grid_channel,
        "Message",
        lambda content, node, kind, ttl: SimpleNamespace(metadata=SimpleNamespace(dst_node_id=node), content=content),
    )
    found: dict[str, bytes | Exception] = {}
    channel: Any = grid_channel.GridChannel(grid, NODES, seconds)  # type: ignore[arg-type]
    for name, answer in channel.send({name: name.encode() for name in NODES}):
        if name:
            assert name not in found
            found[name] = answer
    return found


def test_every_site_answers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid(lambda now: set(NODES.values()), lambda number, node, now: reply(number, node, b"reply"))
    assert exchange(grid, monkeypatch) == {"north": b"reply", "south": b"reply"}
    assert grid.sent == [(11, b"north"), (22, b"south")]


def test_a_site_whose_heartbeats_were_missed_gets_its_message_again_once_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(number: str, node: int, now: float) -> Any:
        if node == 22 or number == "2":
            return reply(number, node, b"reply")
        return heartbeats_missed(number) if now >= 60 else None

    grid = Grid(lambda now: {22} if 60 <= now < 80 else {11, 22}, answer)
    assert exchange(grid, monkeypatch) == {"north": b"reply", "south": b"reply"}
    assert grid.sent == [(11, b"north"), (22, b"south"), (11, b"north")] and 80 <= grid.now < 83


@pytest.mark.parametrize("lost", [0, 60])
def test_a_site_that_does_not_come_back_fails_after_half_a_minute(monkeypatch: pytest.MonkeyPatch, lost: int) -> None:
    def answer(number: str, node: int, now: float) -> Any:
        return reply(number, node, b"reply") if node == 22 else heartbeats_missed(number) if now >= lost else None

    grid = Grid(lambda now: {11, 22} if now < lost else {22}, answer)
    found = exchange(grid, monkeypatch)
    assert found["south"] == b"reply" and isinstance(found["north"], SiteFailure)
    assert str(found["north"]) == "is not connected, and did not come back in 30 s"
    assert lost + 30 <= grid.now < lost + 33


def test_a_silent_site_gets_its_message_again_after_ever_longer_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower lost the first two messages to north, whose heartbeats arrive."""

    def answer(number: str, node: int, now: float) -> Any:
        return None if node == 11 and now < 2000 else reply(number, node, b"reply")

    grid = Grid(lambda now: set(NODES.values()), answer)
    assert exchange(grid, monkeypatch, seconds=1e4) == {"north": b"reply", "south": b"reply"}
    assert grid.sent == [(11, b"north"), (22, b"south"), (11, b"north"), (11, b"north")]
    assert 2000 <= grid.now < 2003


def test_a_late_reply_to_the_first_message_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(number: str, node: int, now: float) -> Any:
        return reply(number, node, b"reply") if number != "2" and now >= 700 else None

    grid = Grid(lambda now: set(NODES.values()), answer)
    assert exchange(grid, monkeypatch, seconds=1e4) == {"north": b"reply", "south": b"reply"}
    assert len(grid.sent) == 4 and 700 <= grid.now < 703


def test_a_reply_in_the_name_of_another_site_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid(lambda now: set(NODES.values()), lambda number, node, now: reply(number, 22, b"reply"))
    assert exchange(grid, monkeypatch, seconds=100.0) == {"south": b"reply"}
