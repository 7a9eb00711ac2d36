"""One message to each site and one reply from each, over Flower's Message API."""

import itertools
import time
from collections.abc import Iterator, Mapping

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from ..rounds import SiteFailure, StillWaiting
from .client_process import content_of, data_of

_POLL_SECONDS = 1.0


class GridChannel:
    """A :class:`federation.deploy.signed_transport.Channel` over the grid of a ServerApp.

    Parameters
    ----------
    nodes
        Flower's number for each site's key, by the site's name; a name that a node claims is ignored.
    seconds
        Longest time that a round waits for replies.
    """

    def __init__(self, grid: Grid, nodes: Mapping[str, int], seconds: float) -> None:
        self.grid, self.nodes, self.seconds = grid, dict(nodes), seconds
        #: The sites that were asked last.
        self.asked: list[str] = []

    def reachable(self) -> list[str]:
        connected = set(self.grid.get_node_ids())
        return sorted(site for site, node in self.nodes.items() if node in connected)

    def send(self, messages: Mapping[str, bytes]) -> Iterator[tuple[str, bytes | Exception]]:
        """Yield each reply as it arrives, and :class:`StillWaiting` every second.

        A site that is not connected fails at once, a late site yields nothing.
        """
        self.asked = sorted(messages)
        connected = set(self.reachable())
        for name in sorted(messages.keys() - connected):
            yield name, SiteFailure("is not connected")
        names = sorted(messages.keys() & connected)
        sent = [
            Message(content_of(messages[name]), self.nodes[name], MessageType.TRAIN, ttl=self.seconds) for name in names
        ]
        sites = {node: name for name, node in self.nodes.items()}
        # Flower returns None for a message that it could not send, and a shorter list if one was too large.
        numbers = dict(itertools.zip_longest(names, self.grid.push_messages(sent)))
        for name in [name for name, number in numbers.items() if not number]:
            yield name, SiteFailure("could not be reached: its message was not sent")
        waiting = {number for number in numbers.values() if number}
        end = time.monotonic() + self.seconds
        while waiting and time.monotonic() < end:
            for reply in self.grid.pull_messages(list(waiting)):
                waiting.discard(reply.metadata.reply_to_message_id)
                sender = sites.get(reply.metadata.src_node_id)
                if sender is not None:
                    yield sender, _answer(reply)
            if waiting:
                yield "", StillWaiting()
                time.sleep(_POLL_SECONDS)


def _answer(reply: Message) -> bytes | Exception:
    if reply.has_error():
        # The text may come from the site: only the number is repeated.
        return SiteFailure(
            f"its process failed or refused the bundle; its status says which (Flower's error {reply.error.code})"
        )
    try:
        return data_of(reply)
    except ValueError as error:
        return SiteFailure(f"sent {error}")
