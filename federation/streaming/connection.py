"""The connection to one client: exact reads and writes, each with a time limit."""

import socket
import time
from collections.abc import Callable
from contextlib import suppress

from recon import DataError, data_error

#: Most bytes that are read at once.
_CHUNK = 2**20
#: How long a client may go on sending after the server has closed the session, in seconds.
_LINGER = 2.0


class ClosedByClientError(DataError):
    """The client ended the connection."""


class Connection:
    """A socket, read by one thread and written by another.

    Parameters
    ----------
    opened
        The socket; it is closed by `close`.
    seconds
        Longest wait for the next bytes of the client, and for the client to take an image.
    """

    def __init__(self, opened: socket.socket, seconds: float) -> None:
        self.socket, self.seconds = opened, seconds
        #: Whether the server is busy: waiting for the client then is no reason to close.
        self.is_busy: Callable[[], bool] = lambda: False
        opened.settimeout(seconds)
        with suppress(OSError):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read(self, count: int) -> bytes:
        """Exactly so many bytes, within the time limit.

        Raises
        ------
        ClosedByClientError
            If the client closed the connection.
        DataError
            If the time is over, while the server is not busy.
        """
        data = bytearray()
        limit = time.monotonic() + self.seconds
        while len(data) < count:
            try:
                piece = self.socket.recv(min(count - len(data), _CHUNK))
            except TimeoutError:
                piece = None
            except OSError as error:
                raise _closed(f"{error.strerror or error}") from None
            if piece == b"":
                raise _closed("the end of the connection" + (" within a message" if data else ""))
            data += piece or b""
            if len(data) < count and time.monotonic() >= limit:
                if not self.is_busy():
                    found, expected = f"no complete message for {self.seconds:g} s", "lines, or a close message (4)"
                    raise data_error("stream", "client", found, expected, "send faster, or raise --timeout")
                limit = time.monotonic() + self.seconds
        return bytes(data)

    def write(self, data: bytes) -> None:
        """Send bytes, within the time limit; errors as of `read`."""
        try:
            self.socket.sendall(data)
        except TimeoutError:
            found, expected = f"no room for an image for {self.seconds:g} s", "a client that reads while it sends"
            raise data_error("stream", "client", found, expected, "read images in a thread of their own") from None
        except OSError as error:
            raise _closed(f"{error.strerror or error}") from None

    def finish(self) -> None:
        """Send no more."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def drain(self) -> None:
        """Read and forget what the client still sends, for two seconds: a reset would delete the last messages."""
        limit = time.monotonic() + _LINGER
        with suppress(OSError):
            while (left := limit - time.monotonic()) > 0:
                self.socket.settimeout(left)
                if not self.socket.recv(_CHUNK):
                    return

    def close(self) -> None:
        """Close the connection; a thread that reads or writes stops."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def _closed(found: str) -> ClosedByClientError:
    return ClosedByClientError(f"stream: client: found {found}, expected a close message (4); see the client's log")
