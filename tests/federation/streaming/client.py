"""A client of the MRD streaming protocol, written from its documented byte layout alone."""

import socket
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

#: https://ismrmrd.readthedocs.io: bytes of the fixed head of an image, and where its fields are.
HEAD_BYTES, MATRIX, VIEW, CHANNELS, COUNTERS, KIND, LENGTH = 198, 16, 22, 34, 96, 124, 194


@dataclass
class Image:
    """A message 1022."""

    head: bytes
    attributes: str
    values: np.ndarray[Any, Any]

    def numbers(self, kind: str, offset: int) -> tuple[Any, ...]:
        return struct.unpack_from("<" + kind, self.head, offset)

    @property
    def slice(self) -> int:
        return int(self.numbers("H", COUNTERS + 2)[0])


class Client:
    """Sends messages and reads those of the server."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def config(self, name: str = "fedrecon") -> None:
        self.send(struct.pack("<H1024s", 1, name.encode()))

    def text(self, number: int, text: str) -> None:
        self.send(struct.pack("<HI", number, len(text.encode())), text.encode())

    def header(self, xml: str) -> None:
        self.text(3, xml)

    def line(self, head: Any, values: np.ndarray[Any, Any]) -> None:
        self.send(struct.pack("<H", 1008), head.tobytes(), values.tobytes())

    def waveform(self) -> None:
        self.send(struct.pack("<H", 1026), struct.pack("<H6xQIIIHHfH2x", 1, 0, 1, 2, 3, 5, 2, 2.5, 0), bytes(40))

    def end(self) -> None:
        self.send(struct.pack("<H", 4))

    def replies(self) -> tuple[list[Image], list[str]]:
        """Images and texts up to the message 4, after which the server closes the connection."""
        images: list[Image] = []
        texts: list[str] = []
        while (number := struct.unpack("<H", self._read(2))[0]) != 4:
            if number == 5:
                texts.append(self._read(struct.unpack("<I", self._read(4))[0]).decode())
                continue
            assert number == 1022
            images.append(self._image())
        assert self.socket.recv(1) == b""
        return images, texts

    def image(self) -> Image:
        """The next message, which is an image."""
        assert self._read(2) == struct.pack("<H", 1022)
        return self._image()

    def _image(self) -> Image:
        head = self._read(HEAD_BYTES)
        attributes = self._read(struct.unpack("<Q", self._read(8))[0]).decode()
        assert struct.unpack_from("<I", head, LENGTH)[0] == len(attributes.encode())
        x, y, z = struct.unpack_from("<3H", head, MATRIX)
        channels = struct.unpack_from("<H", head, CHANNELS)[0]
        assert struct.unpack_from("<H", head, 2)[0] == 5, "32-bit numbers"
        values = np.frombuffer(self._read(4 * x * y * z * channels), "<f4").reshape(channels, z, y, x)
        return Image(head, attributes, values)

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            assert piece, f"the connection ended after {len(data)} of {count} bytes"
            data += piece
        return data
