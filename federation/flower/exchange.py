"""The message exchange: one message to every site and one back, over Flower's Message API."""

import itertools
import time
from collections.abc import Iterator, Mapping

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from ..runtime import SiteFailure

#: The one record of a message, and the one array in it.
RECORD, ARRAY = "fedrecon", "sealed"
_POLL_SECONDS = 1.0


def content_of(data: bytes) -> RecordDict:
    """One array of bytes: many small tensors would cost seconds each."""
    return RecordDict({RECORD: ArrayRecord({ARRAY: Array(np.frombuffer(data, np.uint8))})})


def data_of(message: Message) -> bytes:
    """The bytes of a message that holds exactly what :func:`content_of` makes.

    Raises
    ------
    ValueError
        If it holds anything else.
    """
    content = message.content
    record = content[RECORD] if set(content) == {RECORD} else None
    if not isinstance(record, ArrayRecord) or set(record) != {ARRAY}:
        raise ValueError("a message with other records than those of fedrecon")
    array = record[ARRAY].numpy()
    if array.dtype != np.uint8 or array.ndim != 1:
        raise ValueError("a message with an array that is not bytes")
    return bytes(array.tobytes())


class GridChannel:
    """A :class:`federation.deploy.hub.Channel` over the grid of a ServerApp.

    Parameters
    ----------
    nodes
        The number that Flower gave to each site's key: a message goes there, whatever a node calls itself.
    seconds
        How long a round waits.
    """

    def __init__(self, grid: Grid, nodes: Mapping[str, int], seconds: float) -> None:
        self.grid, self.nodes, self.seconds = grid, dict(nodes), seconds

    def reachable(self) -> list[str]:
        connected = set(self.grid.get_node_ids())
        return sorted(site for site, node in self.nodes.items() if node in connected)

    def send(self, messages: Mapping[str, bytes]) -> Iterator[tuple[str, bytes | Exception]]:
        """Sites that are not connected fail at once; those that do not answer in time stay silent."""
        connected = set(self.reachable())
        for name in sorted(messages.keys() - connected):
            yield name, SiteFailure("is not connected")
        names = sorted(messages.keys() & connected)
        sent = [
            Message(content_of(messages[name]), self.nodes[name], MessageType.TRAIN, ttl=self.seconds) for name in names
        ]
        sites = {node: name for name, node in self.nodes.items()}
        # None for one that could not be sent; nothing at all where one was too large.
        numbers = dict(itertools.zip_longest(names, self.grid.push_messages(sent)))
        for name in [name for name, number in numbers.items() if not number]:
            yield name, SiteFailure("could not be sent to")
        waiting = {number for number in numbers.values() if number}
        end = time.monotonic() + self.seconds
        while waiting and time.monotonic() < end:
            for reply in self.grid.pull_messages(list(waiting)):
                waiting.discard(reply.metadata.reply_to_message_id)
                sender = sites.get(reply.metadata.src_node_id)
                if sender is not None:
                    yield sender, _answer(reply)
            if waiting:
                time.sleep(_POLL_SECONDS)


def _answer(reply: Message) -> bytes | Exception:
    if reply.has_error():
        # The text is the site's, or Flower's; only its number is repeated.
        return SiteFailure(f"its process failed (error {reply.error.code} of Flower)")
    try:
        return data_of(reply)
    except ValueError as error:
        return SiteFailure(f"sent {error}")
