"""A site's door as a process of its own, behind a socket of this machine: the one that reads the data.

What talks to the network is another process, which knows sealed bytes and this socket only. It asks two things: whether
a bundle is approved, and for the reply to a sealed request.
"""

import signal
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection, Listener
from pathlib import Path

import torch

from .approval import software_digest
from .site_folder import SiteFolder
from .site_service import SiteService

#: What a message to the door begins with: a sealed request, or SHA-256 and size of a bundle in text.
REQUEST, BUNDLE = b"r", b"b"
APPROVED, REFUSED = b"approved", b"refused"


class Door:
    """Answers at a socket, one request at a time.

    Parameters
    ----------
    folder
        Read anew for every question: what is approved and allowed may change while the site runs.
    socket
        Path of the socket, in a folder that only this user can enter.
    """

    def __init__(self, folder: Path, socket: Path) -> None:
        self.folder, self.socket = folder, socket
        self.software = software_digest()
        self._turn = threading.Lock()

    def serve(self) -> None:
        """Answer until this process ends."""
        torch.set_num_threads(1)  # as in process: bits depend on the number of threads
        with Listener(str(self.socket), family="AF_UNIX") as listener:
            while True:
                threading.Thread(target=self._converse, args=(listener.accept(),), daemon=True).start()

    def _converse(self, connection: Connection) -> None:
        with connection:
            while True:
                try:
                    asked = connection.recv_bytes()
                except (EOFError, OSError):
                    return
                with self._turn:
                    connection.send_bytes(self.answer(asked))

    def answer(self, asked: bytes) -> bytes:
        """The reply to what a message asks."""
        folder, kind, content = SiteFolder(self.folder), asked[:1], asked[1:]
        if kind == REQUEST:
            return SiteService(folder, self.software).answer(content)
        digest, _, size = content.decode("ascii", "replace").partition(" ")
        if kind == BUNDLE and folder.approvals.has_bundle(digest):
            return APPROVED
        folder.audit.append("bundle refused", bundle=digest[:64], bytes=size[:20])
        return REFUSED


def main() -> None:
    """``python -m federation.deploy.data_process DIR SOCKET``: serve until ended, then remove the socket."""
    folder, socket = Path(sys.argv[1]), Path(sys.argv[2])
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())
    try:
        Door(folder, socket).serve()
    finally:
        socket.unlink(missing_ok=True)
        with suppress(OSError):
            socket.parent.rmdir()


if __name__ == "__main__":
    main()
