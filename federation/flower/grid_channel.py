"""One message to each site and one reply from each, over Flower's Message API."""

import itertools
import time
from collections.abc import Iterator, Mapping

from flwr.app import Message, MessageType
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import Grid

from ..rounds import SiteFailure, StillWaiting
from .client_process import content_of, data_of

_POLL_SECONDS = 1.0
#: Time in which a site whose heartbeats Flower missed, for a minute, may come back before it fails in this round.
_SECONDS_AWAY = 30.0
#: A connected site that does not answer gets its message again after this time, then after twice as long, and so on.
_SECONDS_UNTIL_AGAIN = 600.0


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

        A late site yields nothing. A site that is not connected, or loses its connection, gets its message (again) once
        it is back; it fails if it does not come back in time. A connected site gets its message again from time to
        time: Flower hands out a message once, and loses it if its database was busy at that moment. A site answers the
        same message with the same reply, without training again.
        """
        self.asked = sorted(messages)
        begin = time.monotonic()
        away = dict.fromkeys(self.asked, begin)  # the sites without a message on its way, and since when
        waiting: dict[str, str] = {}  # site by the number of its message
        again = {name: (begin + _SECONDS_UNTIL_AGAIN, 2 * _SECONDS_UNTIL_AGAIN) for name in self.asked}  # time, pause
        while (waiting or away) and (now := time.monotonic()) < begin + self.seconds:
            back = [name for name in self.reachable() if name in away] if away else []
            silent = [name for name in dict.fromkeys(waiting.values()) if now >= again[name][0]]
            for name in silent:
                pause = again[name][1]
                again[name] = now + pause, 2 * pause
            for name, number in self._push({name: messages[name] for name in (*back, *silent)}).items():
                if number:
                    away.pop(name, None)
                    waiting[number] = name
                elif name in away:
                    del away[name]
                    yield name, SiteFailure("could not be reached: its message was not sent")
            for name in [name for name, since in away.items() if time.monotonic() > since + _SECONDS_AWAY]:
                del away[name]
                yield name, SiteFailure(f"is not connected, and did not come back in {_SECONDS_AWAY:.0f} s")
            for reply in self.grid.pull_messages(list(waiting)) if waiting else ():
                name = waiting.pop(str(reply.metadata.reply_to_message_id), "")
                if not name:
                    continue  # a second answer to one message
                if _is_lost(reply):
                    away[name] = time.monotonic()
                elif self.nodes.get(name) == reply.metadata.src_node_id:
                    yield name, _answer(reply)
                else:
                    continue
                waiting = {number: site for number, site in waiting.items() if site != name}  # copies of the message
            if waiting or away:
                yield "", StillWaiting()
                time.sleep(_POLL_SECONDS)

    def _push(self, messages: Mapping[str, bytes]) -> dict[str, str | None]:
        """Number of each message, by site; None if Flower could not send it: its list is shorter then."""
        sent = [
            Message(content_of(content), self.nodes[name], MessageType.TRAIN, ttl=self.seconds)
            for name, content in messages.items()
        ]
        return dict(itertools.zip_longest(messages, self.grid.push_messages(sent))) if sent else {}


def _is_lost(reply: Message) -> bool:
    """Whether Flower itself answered, because it missed the site's heartbeats."""
    return reply.has_error() and reply.metadata.src_node_id == SUPERLINK_NODE_ID


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
