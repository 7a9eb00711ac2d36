"""The process at a site that reads the data; it answers at a socket of this machine.

Another process talks to the network. It handles signed bytes only and sends this process two kinds of questions:
whether a bundle is approved, and the reply to a signed request.
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

#: First byte of a question; a signed request follows, or SHA-256 and size of a bundle as text.
REQUEST, BUNDLE = b"r", b"b"
APPROVED, REFUSED = b"approved", b"refused"


class DataProcess:
    """Answers questions at a socket, one at a time.

    Parameters
    ----------
    folder
        The site's folder, read for each question: approvals and policy may change while the site runs.
    socket
        Path of the socket, in a folder that only this user can enter.
    """

    def __init__(self, folder: Path, socket: Path) -> None:
        self.folder, self.socket = folder, socket
        self.software = software_digest()
        self._turn = threading.Lock()

    def serve(self) -> None:
        """Answer questions until this process ends."""
        torch.set_num_threads(SiteFolder(self.folder).settings.threads)
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
        """The reply to a question."""
        folder, kind, content = SiteFolder(self.folder), asked[:1], asked[1:]
        if kind == REQUEST:
            return SiteService(folder, self.software).answer(content)
        digest, _, size = content.decode("ascii", "replace").partition(" ")
        if kind == BUNDLE and folder.approvals.has_bundle(digest):
            return APPROVED
        folder.audit.append("bundle refused", bundle=digest[:64], bytes=size[:20])
        return REFUSED


def main() -> None:
    """``python -m federation.deploy.data_process DIR SOCKET``: serve until SIGTERM, then remove the socket."""
    folder, socket = Path(sys.argv[1]), Path(sys.argv[2])
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())
    try:
        DataProcess(folder, socket).serve()
    finally:
        socket.unlink(missing_ok=True)
        with suppress(OSError):
            socket.parent.rmdir()


if __name__ == "__main__":
    main()
