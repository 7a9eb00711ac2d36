"""The process in which Flower runs a site's app. It forwards signed bytes and runs no code that arrives.

Flower's SuperNode starts `flwr-clientapp`, which installs the bundle that the server sent and runs its code. This file
is a program of the same name, first on the SuperNode's PATH: it replaces functions in
`flwr.supernode.runtime.run_clientapp`, then calls Flower's entry point. The functions are private, so Flower's versions
are pinned and a test checks them; the documented extension point (`--trusted-entities`) accepts only bundles signed by
Flower Hub.

Flower starts this process for every message. So it is run by its path and imports neither torch nor fedrecon: data,
network and keys are in the process of :mod:`federation.deploy.data_process`, which it asks through a socket.
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

#: Environment variable with the path of the data process's socket.
SOCKET_VARIABLE = "FEDRECON_SOCKET"
#: Versions of Flower in which the private functions were checked.
VERSIONS = ("1.41.", "1.42.")
#: Text of every error that leaves outside a signed reply.
ERROR_TEXT = "refused or failed; the site's own log says why"
#: As in :mod:`federation.deploy.data_process`, which cannot be imported here; a test compares them.
REQUEST, BUNDLE, APPROVED = b"r", b"b", b"approved"
#: Name of the only record in a message, and of the only array in it.
RECORD, ARRAY = "fedrecon", "sealed"


class RefusedError(Exception):
    """A bundle, message or version of Flower that this site does not accept."""


def content_of(data: bytes) -> RecordDict:
    """A record with one array of bytes: Flower needs seconds for many small tensors."""
    return RecordDict({RECORD: ArrayRecord({ARRAY: Array(np.frombuffer(data, np.uint8))})})


def data_of(message: Message) -> bytes:
    """The bytes of a message with exactly the content that :func:`content_of` makes.

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
    data_process = Client(os.environ[SOCKET_VARIABLE], family="AF_UNIX")
    install_checks(data_process)
    if sys.argv[1:] == ["--self-test"]:
        _self_test()
        return
    threading.Thread(target=_exit_without_data_process, args=(os.environ[SOCKET_VARIABLE],), daemon=True).start()
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

    flwr_clientapp()


def _exit_without_data_process(socket: str) -> None:
    """Exit once the data process has ended: Flower's process would retry for ever."""
    try:
        Client(socket, family="AF_UNIX").recv_bytes()
    except (EOFError, OSError):
        os._exit(1)


def _self_test() -> None:
    """Call the function that Flower calls with a random bundle, and print whether it was refused."""
    from flwr.supernode.runtime import run_clientapp as process

    try:
        getattr(process, "install_from_fab")(os.urandom(64), skip_prompt=True)  # noqa: B009  a name that is not exported
    except RefusedError:
        print("refused")


def install_checks(data_process: "Connection[Any, Any]") -> None:
    """Replace functions of Flower's process by the checks of this site.

    Raises
    ------
    RefusedError
        If the checks were not tested with this version of Flower; nothing is run then.
    """
    found = importlib.metadata.version("flwr")
    if not found.startswith(VERSIONS):
        raise RefusedError(f"flwr is {found}, expected {' or '.join(version + 'x' for version in VERSIONS)}")
    from flwr.supernode.runtime import run_clientapp as process

    for name in ("install_from_fab", "get_load_client_app_fn", "push_message", "push_task_output", "Error"):
        if not hasattr(process, name):
            raise RefusedError(f"flwr {found} has no {name}; the checks of this site would not work")
    replacements = _replacements(data_process, process.push_message, process.push_task_output)
    for name, replacement in replacements.items():
        setattr(process, name, replacement)


def _replacements(
    data_process: "Connection[Any, Any]", push_message: Callable[..., None], push_task_output: Callable[..., None]
) -> dict[str, Callable[..., Any]]:
    def check_bundle(content: bytes, *arguments: Any, **options: Any) -> None:
        """Instead of an installation: compare the bundle with the approvals, never unpack its code."""
        data_process.send_bytes(BUNDLE + f"{hashlib.sha256(content).hexdigest()} {len(content)}".encode())
        if data_process.recv_bytes() != APPROVED:
            raise RefusedError(ERROR_TEXT)

    def load(*arguments: Any, **options: Any) -> Callable[..., ClientApp]:
        return lambda *names: _client_app(data_process)

    def push(client: Any, message: Message, context: Any) -> None:
        """Send a signed reply, or an error without a text of this site."""
        if not message.has_error():
            data_of(message)
        push_message(client, message, context)

    def push_output(client: Any, context: Any, sub_status: str, details: str) -> None:
        push_task_output(client=client, context=context, sub_status=sub_status, details=ERROR_TEXT if details else "")

    return {
        "install_from_fab": check_bundle,
        "get_load_client_app_fn": load,
        "push_message": push,
        "push_task_output": push_output,
        "Error": lambda code, reason=None: Error(code, ERROR_TEXT),
    }


def _client_app(data_process: "Connection[Any, Any]") -> ClientApp:
    """The app of a site: the data process answers every message."""
    app = ClientApp()

    @app.train()
    def answer(message: Message, context: Any) -> Message:
        data_process.send_bytes(REQUEST + data_of(message))
        return Message(content_of(data_process.recv_bytes()), reply_to=message)

    return app


if __name__ == "__main__":
    main()
