"""Flower's `flower-supernode`, which here outlives every cut of its connection to the server.

Flower repeats a request after a cut, with five gaps. If the error's text names TLS, as the text of a connection cut
within a handshake does, if the site's HTTP proxy answered with an error, or if the server answered 408 or 500 because
it was too busy, the SuperNode ends, or drops the reply that it was sending. If the cut came after the server had stored
a part of a reply, the server refuses the repeated part, and the SuperNode drops the reply, too. A heartbeat has 5 s,
too few behind two parts of a reply on a slow link; after two missed ones the server gives the site up. After a
heartbeat that was answered with an error none follows. If the process for a message ends before it has read the
message, nobody replies, and the SuperNode waits for ever. This file repeats the request in the first case, announces
the reply again in the second, gives heartbeats more time, goes on with them, and replies that the process has failed; a
certificate that is refused still ends the SuperNode. It replaces functions in private modules of Flower, so Flower's
versions are pinned and a test checks the modules.
"""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import httpx

_PAUSE_SECONDS = 1.0
#: Time for each step of a heartbeat: connect, write, read. The server waits for a minute.
_HEARTBEAT_SECONDS = 20.0
#: Answers of a server that was too slow or too busy, or whose database was locked.
_BUSY = {408, 500, 502, 503, 504}


def is_cut(error: Exception) -> bool:
    """Whether a request failed on its way or at a busy server, so that it can succeed when it is repeated."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in _BUSY and not _is_refusal(error.response.text)
    return isinstance(error, httpx.TransportError) and "certificate verify failed" not in str(error)


def _is_refusal(text: str) -> bool:
    """Whether Flower refused a request: it numbers its refusals in JSON, but not a failure of its own."""
    try:
        return "code" in json.loads(text)
    except (ValueError, TypeError):
        return False


def patient(make_invoker: Callable[[], Any]) -> Callable[[], Any]:
    """Flower's function that makes a `RetryInvoker`; the invoker repeats a request after every cut."""

    def make() -> Any:
        invoker = make_invoker()
        gives_up = invoker.should_giveup
        invoker.recoverable_exceptions = (*invoker.recoverable_exceptions, httpx.TransportError, httpx.HTTPStatusError)
        invoker.should_giveup = lambda error: not is_cut(error) and gives_up(error)
        return invoker

    return make


class Resent:
    """The functions of a SuperNode that send a reply and its parts; a refused part is sent until the server has it.

    The server answers a repeated announcement of a reply with the parts that it lacks.
    """

    def __init__(self, send: Callable[..., tuple[set[str], str]], push: Callable[..., None]) -> None:
        self._send, self._push = send, push
        self._announced: tuple[Any, ...] = ()
        self._session = ""
        self._turn = threading.Lock()

    def send(self, *announced: Any) -> tuple[set[str], str]:
        missing, self._session = self._send(*announced)
        self._announced = announced
        return missing, self._session

    def push_object(self, run: int, session: str, part: str, content: bytes) -> None:
        """Send a part; several threads may."""
        from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

        while True:
            session = self._session
            try:
                return self._push(run, session, part, content)
            except ObjectPushError:
                time.sleep(_PAUSE_SECONDS)
                with self._turn:
                    if session == self._session and part not in self.send(*self._announced)[0]:
                        return None


def resending(connect: Callable[..., AbstractContextManager[Any]]) -> Callable[..., AbstractContextManager[Any]]:
    """Flower's function that connects a SuperNode, with :class:`Resent`."""

    @contextmanager
    def connection(*arguments: Any, **options: Any) -> Iterator[Any]:
        with connect(*arguments, **options) as (node, receive, send, get_run, get_fab, pull, push, confirm):
            resent = Resent(send, push)
            yield node, receive, resent.send, get_run, get_fab, pull, resent.push_object, confirm

    return connection


def kept_up(make_sender: Callable[[Callable[[], bool]], Any]) -> Callable[[Callable[[], bool]], Any]:
    """Flower's function that makes a sender of heartbeats; one that failed, however, is sent again within a second."""

    def make(send: Callable[[], bool]) -> Any:
        def beat() -> bool:
            with suppress(httpx.HTTPError):
                return send()
            return False

        sender = make_sender(beat)
        sender._retry_invoker.wait_gen_factory = lambda: itertools.repeat(_PAUSE_SECONDS)
        return sender

    return make


def always_replying(state: Any) -> Any:
    """Flower's class of the state of a SuperNode; a process that fails has a reply in it, even to an unread message."""

    class Replying(state):  # type: ignore[misc]
        def finish_task(self, task_id: int, sub_status: str, details: str) -> bool:
            from flwr.common.constant import SubStatus
            from flwr.supercore.constant import TaskType
            from flwr.supernode.nodestate.in_memory_nodestate import CLIENT_APP_CRASHED_ERROR

            finished: bool = super().finish_task(task_id, sub_status, details)
            if finished and sub_status == SubStatus.FAILED:
                runs = {task.run_id for task in self.get_tasks(task_ids=[task_id]) if task.type == TaskType.CLIENT_APP}
                self._store_error_replies(runs, CLIENT_APP_CRASHED_ERROR)
            return finished

        def _store_error_replies(self, run_ids: set[int], error: Any) -> None:
            with self.lock_msg_store:
                for entry in self.msg_store.values():
                    if entry.message.metadata.run_id in run_ids and not entry.message.metadata.reply_to_message_id:
                        entry.is_retrieved = True  # Flower replies to these alone
            super()._store_error_replies(run_ids, error)

    return Replying


def main() -> None:
    """Run in place of `flower-supernode`."""
    from flwr.supernode import fleet_http_client, fleet_http_connection, start_client_internal
    from flwr.supernode.cli.flower_supernode import flower_supernode
    from flwr.supernode.nodestate import nodestate_factory

    names = vars(fleet_http_connection)
    names["make_simple_http_retry_invoker"] = patient(names["make_simple_http_retry_invoker"])
    names["HeartbeatSender"] = kept_up(names["HeartbeatSender"])
    vars(fleet_http_client)["HEARTBEAT_CALL_TIMEOUT"] = _HEARTBEAT_SECONDS
    names = vars(start_client_internal)
    names["http_request_response"] = resending(names["http_request_response"])
    names = vars(nodestate_factory)
    names["InMemoryNodeState"] = always_replying(names["InMemoryNodeState"])
    flower_supernode()


if __name__ == "__main__":
    main()
