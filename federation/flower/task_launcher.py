"""`flower-superexec` without tokens among the arguments of processes, which every user of a machine can list.

Flower starts this program beside a SuperLink or SuperNode. It starts a process per message, or the driver of a run,
and gives it the token with which it fetches its task. Flower passes the token as an argument; this file passes it in an
open file without a name, which its processes alone can read. It replaces `subprocess` in a private module of Flower, so
Flower's versions are pinned and a test checks the module.
"""

import subprocess
import tempfile
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any


def start(arguments: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
    """Start a process whose argument ``--token`` is replaced by a file, which it inherits."""
    command = list(arguments)
    with tempfile.TemporaryFile() as file:
        if "--token" in command:
            place = command.index("--token")
            file.write(command[place + 1].encode())
            file.seek(0)
            command[place : place + 2] = ["--token-file", f"/dev/fd/{file.fileno()}"]
        return subprocess.Popen(command, pass_fds=[file.fileno()], **options)


def main() -> None:
    """Run in place of `flower-superexec`."""
    from flwr.supercore.cli.flower_superexec import flower_superexec
    from flwr.supercore.superexec.executor import subprocess_executor

    names = vars(subprocess_executor)
    if names.get("subprocess") is not subprocess:
        raise RuntimeError("flwr starts its processes in another way; its tokens would be visible")
    names["subprocess"] = SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL)
    flower_superexec()


if __name__ == "__main__":
    main()
