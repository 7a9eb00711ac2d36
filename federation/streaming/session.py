"""One session: a thread reads lines while the slices that are complete are reconstructed, one after another."""

import ctypes
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Full, Queue
from tempfile import TemporaryDirectory

from recon import DataError, SliceCollector, StreamedSlice, fedrecon_version, forget_volumes, os_error_line

from ..experiment import Method, Say
from .connection import ClosedByClientError, Connection
from .messages import Config, Header, close_message, image_message, read_messages, text_message

logger = logging.getLogger(__name__)

#: Most complete slices that wait for their reconstruction; the client has to wait with further lines.
_AHEAD = 4
#: Longest wait at the end of a session for a client that goes on sending.
SECONDS_TO_END = 3.0
#: Name of the reader of the files of a slice.
FORMAT = "ismrmrd"


@dataclass(frozen=True, eq=False)
class _Arrived:
    """A complete slice, and the time at which its last line was there."""

    lines: StreamedSlice
    at: float


class Session:
    """Lines of one client in, images out.

    Parameters
    ----------
    connection
        Closed at the end of the session.
    method
        Reconstructs the slices.
    say
        Prints a line.
    """

    def __init__(self, connection: Connection, method: Method, say: Say) -> None:
        self.connection, self.method, self.say = connection, method, say
        self._arrived: Queue[_Arrived | Exception | None] = Queue(_AHEAD)
        self._stopped = threading.Event()
        self._is_working = False
        self._images = 0
        self._said: set[str] = set()

    def run(self) -> None:
        """Read, reconstruct and reply until the client is done, or something cannot be used; says how it ended."""
        reader = threading.Thread(target=self._read, name="fedrecon-stream", daemon=True)
        self.connection.is_busy = lambda: self._is_working or not self._arrived.empty()
        reader.start()
        try:
            with TemporaryDirectory(prefix="fedrecon-stream-") as folder:
                for arrived in self._slices():
                    self._reconstruct(arrived, Path(folder))
            self.connection.write(close_message())
            self.say(f"closed: {self._images} images")
        except ClosedByClientError as error:
            self.say(f"closed after {self._images} images: {error}")
        except (DataError, OSError) as error:
            reason = os_error_line(error) if isinstance(error, OSError) else str(error)
            self.say(f"closed after {self._images} images: {reason}")
            self._tell(reason)
        except Exception as error:  # of fedrecon or of a plugin: the next session may do without it
            logger.exception("a session ended")
            self.say(f"closed after {self._images} images: {type(error).__name__}: {' '.join(str(error).split())}")
            self._tell("the server met an error; its log has more")
        except BaseException:  # Ctrl-C
            self._tell("the server was stopped")
            raise
        finally:
            self._stopped.set()
            self.connection.finish()
            reader.join(SECONDS_TO_END)
            self.connection.close()
            reader.join()

    def _tell(self, reason: str) -> None:
        """Send the reason of an early end."""
        try:
            self.connection.write(text_message(f"fedrecon: {reason}") + close_message())
        except DataError:
            return  # The client is gone: the log has the reason.

    def _slices(self) -> Iterator[_Arrived]:
        """Slices as they arrive."""
        while True:
            self._is_working = False
            item = self._arrived.get()
            self._is_working = True
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item

    def _read(self) -> None:
        """Read the client to its end, in a thread of its own."""
        try:
            for arrived in self._collect():
                if not self._offer(arrived):
                    self.connection.drain()
                    return
            self._offer(None)
        except Exception as error:
            self._offer(error)
            self.connection.drain()

    def _offer(self, item: _Arrived | Exception | None) -> bool:
        """Pass an item on; False: the session has ended."""
        while not self._stopped.is_set():
            try:
                self._arrived.put(item, timeout=0.1)
                return True
            except Full:
                continue
        return False

    def _collect(self) -> Iterator[_Arrived]:
        """Slices of the lines that the client sends."""
        collector: SliceCollector | None = None
        for message in read_messages(self.connection.read):
            if self._stopped.is_set():
                self.connection.drain()
                return
            if isinstance(message, Config):
                self.say(f"configuration of the client, not used: {' '.join(message.text.split())[:80] or 'none'}")
            elif isinstance(message, Header):
                collector = SliceCollector(message.xml)
            elif collector is not None:
                for lines in collector.add(message.head, message.samples):
                    yield _Arrived(lines, time.monotonic())
        if collector is not None:
            for lines in collector.rest():
                yield _Arrived(lines, time.monotonic())

    def _reconstruct(self, arrived: _Arrived, folder: Path) -> None:
        """Reconstruct a slice and send its image."""
        lines, begin = arrived.lines, time.monotonic()
        # A name of its own: readers remember facts of a file by name and time.
        path = folder / f"image_{self._images + 1}.h5"
        try:
            lines.write(path)
            found = self.method.reconstruct(path, format=FORMAT)
        except DataError as error:
            raise DataError(f"{lines.key}: {str(error).replace(str(path), 'its lines')}") from error
        finally:
            path.unlink(missing_ok=True)
            forget_volumes()
        self._images += 1
        attributes = {
            "DataRole": "Image",
            "ImageProcessingHistory": f"fedrecon {fedrecon_version()}, {self.method.name}",
            "ImageComments": "not for diagnosis",
        }
        image = found.magnitude[0]
        message = image_message(
            image,
            lines.head,
            index=self._images,
            series=lines.key.encoding + 1,
            field_of_view_mm=lines.field_of_view_mm,
            attributes=attributes,
        )
        self.connection.write(message)
        now = time.monotonic()
        if not lines.is_flagged:
            self._say_once("note: slices whose last line is not flagged are reconstructed at the end of the stream")
        height, width = image.shape
        self.say(
            f"{lines.key}: {height}x{width}, {now - arrived.at:.3f} s after its last line "
            f"({now - begin:.3f} s of reconstruction)"
        )
        _free_memory()

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.say(text)


def _free_memory() -> None:
    """Return free memory to the system: small objects that stay would else keep the pages of large arrays."""
    with suppress(AttributeError, OSError, TypeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)
