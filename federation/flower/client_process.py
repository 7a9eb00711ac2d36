"""The process in which Flower runs a site's app: here it runs the installed fedrecon, and for approved bundles only.

Flower's SuperNode starts `flwr-clientapp`, which installs the app bundle that the server sent and runs the code in it.
A program of that name that comes first on the SuperNode's PATH is this module: it puts four names of
`flwr.supernode.runtime.run_clientapp` in place of its own and then runs Flower's entry point. These are private names,
so the versions are pinned and a test holds them; the documented extension point (`--trusted-entities`) accepts only
bundles that Flower's hub has signed.
"""

import hashlib
import importlib.metadata
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from flwr.app import Error, Message
from flwr.clientapp import ClientApp

from ..deploy.service import SiteService
from ..deploy.site_folder import SiteFolder
from .exchange import content_of, data_of
from .processes import STATE, end_with

#: Names the site's folder to the process.
SITE_VARIABLE = "FEDRECON_SITE"
#: Versions of Flower whose private names are known.
VERSIONS = ("1.41.", "1.42.")
#: What is told of any error that is not in a sealed reply.
TOLD = "refused or failed; the site's own log says why"


class RefusedError(Exception):
    """Something that this site does not run or send."""


def main() -> None:
    """Run in place of `flwr-clientapp`."""
    folder = SiteFolder(Path(os.environ[SITE_VARIABLE]))
    guard(folder)
    if sys.argv[1:] == ["--self-test"]:
        _self_test()
        return
    end_with(folder.path / STATE)
    torch.set_num_threads(1)  # as in process: bits depend on the number of threads
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

    flwr_clientapp()


def _self_test() -> None:
    """Offer a bundle that nobody can have approved to what Flower would call, and say whether it was refused."""
    from flwr.supernode.runtime import run_clientapp as process

    try:
        getattr(process, "install_from_fab")(os.urandom(64), skip_prompt=True)  # noqa: B009  a name that is not exported
    except RefusedError:
        print("refused")


def guard(folder: SiteFolder) -> None:
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
    replacements = _replacements(folder, process.push_message, process.push_task_output)
    for name, replacement in replacements.items():
        setattr(process, name, replacement)


def _replacements(
    folder: SiteFolder, push_message: Callable[..., None], push_task_output: Callable[..., None]
) -> dict[str, Callable[..., Any]]:
    def check_bundle(content: bytes, *arguments: Any, **options: Any) -> None:
        """In place of the installation: the bundle is looked at, its code is never unpacked."""
        digest = hashlib.sha256(content).hexdigest()
        if not folder.approvals.has_bundle(digest):
            folder.audit.append("bundle refused", bundle=digest, bytes=len(content))
            raise RefusedError(TOLD)

    def load(*arguments: Any, **options: Any) -> Callable[..., ClientApp]:
        return lambda *names: client_app(folder)

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


def client_app(folder: SiteFolder) -> ClientApp:
    """The app of a site: every message goes through :class:`SiteService`."""
    app = ClientApp()

    @app.train()
    def answer(message: Message, context: Any) -> Message:
        return Message(content_of(SiteService(folder).answer(data_of(message))), reply_to=message)

    return app


if __name__ == "__main__":
    main()
