"""The process in which Flower runs a site's app: here it passes sealed bytes on, and no code that arrives is run.

Flower's SuperNode starts `flwr-clientapp`, which installs the app bundle that the server sent and runs the code in it.
A program of that name that comes first on the SuperNode's PATH is this file: it puts names of
`flwr.supernode.runtime.run_clientapp` in place of its own and then runs Flower's entry point. These are private names,
so the versions are pinned and a test holds them; the documented extension point (`--trusted-entities`) accepts only
bundles that Flower's hub has signed.

It is started by its path and imports neither torch nor fedrecon, because Flower starts it anew for every message: the
data, the network and the keys are in the process behind :mod:`federation.deploy.data_process`, which it asks.
"""

import hashlib
import importlib.metadata
import os
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Client, Connection
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Error, Message, RecordDict
from flwr.clientapp import ClientApp

#: Names the socket of the site's door to the process.
DOOR_VARIABLE = "FEDRECON_DOOR"
#: Versions of Flower whose private names are known.
VERSIONS = ("1.41.", "1.42.")
#: What is told of any error that is not in a sealed reply.
TOLD = "refused or failed; the site's own log says why"
#: The words of :mod:`federation.deploy.data_process`, which cannot be imported here; a test compares them.
REQUEST, BUNDLE, APPROVED = b"r", b"b", b"approved"
#: The one record of a message, and the one array in it.
RECORD, ARRAY = "fedrecon", "sealed"


class RefusedError(Exception):
    """Something that this site does not run or send."""


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


def main() -> None:
    """Run in place of `flwr-clientapp`."""
    door = Client(os.environ[DOOR_VARIABLE], family="AF_UNIX")
    guard(door)
    if sys.argv[1:] == ["--self-test"]:
        _self_test()
        return
    threading.Thread(target=_end_without, args=(os.environ[DOOR_VARIABLE],), daemon=True).start()
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

    flwr_clientapp()


def _end_without(door: str) -> None:
    """End this process when nobody is behind the door any more: Flower's would try on for ever."""
    try:
        Client(door, family="AF_UNIX").recv_bytes()
    except (EOFError, OSError):
        os._exit(1)


def _self_test() -> None:
    """Offer a bundle that nobody can have approved to what Flower would call, and say whether it was refused."""
    from flwr.supernode.runtime import run_clientapp as process

    try:
        getattr(process, "install_from_fab")(os.urandom(64), skip_prompt=True)  # noqa: B009  a name that is not exported
    except RefusedError:
        print("refused")


def guard(door: "Connection[Any, Any]") -> None:
    """Put this site's checks into Flower's process.

    Raises
    ------
    RefusedError
        If this is no version of Flower that they are known to hold in: nothing is run then.
    """
    found = importlib.metadata.version("flwr")
    if not found.startswith(VERSIONS):
        raise RefusedError(f"flwr is {found}, expected {' or '.join(version + 'x' for version in VERSIONS)}")
    from flwr.supernode.runtime import run_clientapp as process

    for name in ("install_from_fab", "get_load_client_app_fn", "push_message", "push_task_output", "Error"):
        if not hasattr(process, name):
            raise RefusedError(f"flwr {found} has no {name}; its guards would not hold")
    replacements = _replacements(door, process.push_message, process.push_task_output)
    for name, replacement in replacements.items():
        setattr(process, name, replacement)


def _replacements(
    door: "Connection[Any, Any]", push_message: Callable[..., None], push_task_output: Callable[..., None]
) -> dict[str, Callable[..., Any]]:
    def check_bundle(content: bytes, *arguments: Any, **options: Any) -> None:
        """In place of the installation: the bundle is looked at, its code is never unpacked."""
        door.send_bytes(BUNDLE + f"{hashlib.sha256(content).hexdigest()} {len(content)}".encode())
        if door.recv_bytes() != APPROVED:
            raise RefusedError(TOLD)

    def load(*arguments: Any, **options: Any) -> Callable[..., ClientApp]:
        return lambda *names: _client_app(door)

    def push(client: Any, message: Message, context: Any) -> None:
        """Only a sealed reply or an error without words leaves; what is left of the context stays."""
        if not message.has_error():
            data_of(message)
        push_message(client, message, context)

    def push_output(client: Any, context: Any, sub_status: str, details: str) -> None:
        push_task_output(client=client, context=context, sub_status=sub_status, details=TOLD if details else "")

    return {
        "install_from_fab": check_bundle,
        "get_load_client_app_fn": load,
        "push_message": push,
        "push_task_output": push_output,
        "Error": lambda code, reason=None: Error(code, TOLD),
    }


def _client_app(door: "Connection[Any, Any]") -> ClientApp:
    """The app of a site: every message goes through its door."""
    app = ClientApp()

    @app.train()
    def answer(message: Message, context: Any) -> Message:
        door.send_bytes(REQUEST + data_of(message))
        return Message(content_of(door.recv_bytes()), reply_to=message)

    return app


if __name__ == "__main__":
    main()
