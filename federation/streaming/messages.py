"""Messages of the MRD streaming protocol as bytes.

Every message starts with its number, two bytes. All numbers are little-endian, and there are no gaps between fields,
except in the head of a waveform. [MRD]_ has the layout.

References
----------
.. [MRD] ISMRM Raw Data, Streaming protocol, https://ismrmrd.readthedocs.io/en/latest/mrd_streaming_protocol.html
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from recon import LINE_HEAD, DataError, data_error

CONFIG_FILE, CONFIG_TEXT, HEADER, CLOSE, TEXT = 1, 2, 3, 4, 5
ACQUISITION, IMAGE, WAVEFORM = 1008, 1022, 1026
#: Bytes of the name in a message `CONFIG_FILE`.
_NAME_BYTES = 1024
#: Most bytes of a text, of the header, and of one line.
MOST_TEXT, MOST_LINE = 16 * 2**20, 64 * 2**20

_WAVEFORM_BYTES, _WAVEFORM_SIZE = 40, struct.Struct("<HH")  # samples and channels are at byte 28
_MAGNITUDE, _FLOAT = 1, 5
#: Head of an image, 198 bytes.
IMAGE_HEAD = np.dtype(
    [
        ("version", "<u2"), ("data_type", "<u2"), ("flags", "<u8"), ("measurement_uid", "<u4"),
        ("matrix_size", "<u2", 3), ("field_of_view", "<f4", 3), ("channels", "<u2"), ("position", "<f4", 3),
        ("read_dir", "<f4", 3), ("phase_dir", "<f4", 3), ("slice_dir", "<f4", 3), ("patient_table_position", "<f4", 3),
        ("average", "<u2"), ("slice", "<u2"), ("contrast", "<u2"), ("phase", "<u2"), ("repetition", "<u2"),
        ("set", "<u2"), ("acquisition_time_stamp", "<u4"), ("physiology_time_stamp", "<u4", 3), ("image_type", "<u2"),
        ("image_index", "<u2"), ("image_series_index", "<u2"), ("user_int", "<i4", 8), ("user_float", "<f4", 8),
        ("attribute_string_len", "<u4"),
    ]
)  # fmt: skip
#: Fields that an image has from the line nearest to the center of k-space.
_OF_LINE = (
    "measurement_uid", "position", "read_dir", "phase_dir", "slice_dir", "patient_table_position",
    "acquisition_time_stamp", "physiology_time_stamp",
)  # fmt: skip
_COUNTERS = ("slice", "contrast", "phase", "repetition", "set")

#: Reads exactly so many bytes.
Read = Callable[[int], bytes]


@dataclass(frozen=True)
class Config:
    """Name or text of a configuration."""

    text: str


@dataclass(frozen=True)
class Header:
    """XML header of a scan."""

    xml: str


@dataclass(frozen=True, eq=False)
class Line:
    """One readout: a record of :data:`recon.LINE_HEAD`, and float32 samples, coil by coil."""

    head: np.void
    samples: NDArray[np.float32]


Message = Config | Header | Line


def read_messages(read: Read) -> Iterator[Message]:
    """Messages of a client up to its message `CLOSE`; texts and waveforms are passed over.

    Parameters
    ----------
    read
        Reads exactly so many bytes; raises an error where there are fewer.

    Raises
    ------
    DataError
        If the number of a message is unknown, it is too long, or config, header and lines have another order.
    """
    has_config = has_header = False
    while (number := _unsigned(read(2))) != CLOSE:
        if number in (CONFIG_FILE, CONFIG_TEXT):
            if has_config:
                raise _bad("message", f"a second configuration ({number})", "one for each session", "connect again")
            has_config = True
            yield Config(_config_name(read(_NAME_BYTES)) if number == CONFIG_FILE else _text(read, "configuration"))
        elif number == HEADER:
            if not has_config or has_header:
                found = "a second header (3)" if has_header else "a header (3) without a configuration"
                raise _bad("message", found, "configuration, header, lines", "send them in this order")
            has_header = True
            yield Header(_text(read, "header"))
        elif number == ACQUISITION:
            if not has_header:
                found = f"a line ({number}) without a header"
                raise _bad("message", found, "configuration, header, lines", "send them in this order")
            yield _line(read)
        elif number == TEXT:
            _text(read, "text")
        elif number == WAVEFORM:
            _pass_waveform(read)
        else:
            expected = "1 to 5, 1008 (acquisition) or 1026 (waveform)"
            found = "1022 (image)" if number == IMAGE else str(number)
            raise _bad("message", found, expected, "send k-space; after a wrong length, no message can be told")


def text_message(text: str) -> bytes:
    """A message `TEXT`."""
    encoded = text.encode()
    return struct.pack("<HI", TEXT, len(encoded)) + encoded


def close_message() -> bytes:
    """A message `CLOSE`."""
    return struct.pack("<H", CLOSE)


def image_message(
    image: NDArray[np.float32],
    line: np.void,
    *,
    index: int,
    series: int,
    field_of_view_mm: tuple[float, float, float],
    attributes: Mapping[str, str],
) -> bytes:
    """A message `IMAGE` of magnitudes.

    Parameters
    ----------
    image
        ``(readout, phase)``.
    line
        Head of the image line nearest to the center of k-space, for place, time and counters.
    index, series
        Numbers of the image and of its series, from 1.
    field_of_view_mm
        Along readout, phase and slice.
    attributes
        Names and values of the attributes.
    """
    names = (f"<meta><name>{escape(n)}</name><value>{escape(v)}</value></meta>" for n, v in attributes.items())
    text = f'<?xml version="1.0"?><ismrmrdMeta>{"".join(names)}</ismrmrdMeta>'.encode()
    head = np.zeros((), IMAGE_HEAD)
    for name in _OF_LINE:
        head[name] = line[name]
    for name in _COUNTERS:
        head[name] = line["idx"][name]
    head["version"], head["data_type"], head["image_type"], head["channels"] = 1, _FLOAT, _MAGNITUDE, 1
    head["matrix_size"], head["field_of_view"] = (*image.shape, 1), field_of_view_mm
    head["image_index"], head["image_series_index"] = index % 2**16, series
    head["attribute_string_len"] = len(text)
    # The readout counts fastest.
    values = np.ascontiguousarray(image.T, "<f4").tobytes()
    return struct.pack("<H", IMAGE) + head.tobytes() + struct.pack("<Q", len(text)) + text + values


def _line(read: Read) -> Line:
    head = np.frombuffer(read(LINE_HEAD.itemsize), LINE_HEAD)[0]
    samples, coils = int(head["number_of_samples"]), int(head["active_channels"])
    trajectory, values = 4 * samples * int(head["trajectory_dimensions"]), 8 * samples * coils
    if not values or trajectory + values > MOST_LINE:
        found = f"a line of {samples} samples, {coils} coils and {int(head['trajectory_dimensions'])} coordinates"
        raise _bad("acquisition", found, f"1 byte to {MOST_LINE / 2**20:.0f} MiB", "send the head without gaps")
    read(trajectory)
    return Line(head, np.frombuffer(read(values), "<f4"))


def _pass_waveform(read: Read) -> None:
    samples, channels = _WAVEFORM_SIZE.unpack_from(read(_WAVEFORM_BYTES), 28)
    if 4 * samples * channels > MOST_LINE:
        found = f"{samples} samples of {channels} channels"
        raise _bad("waveform", found, f"at most {MOST_LINE / 2**20:.0f} MiB", "send the head in 40 bytes")
    read(4 * samples * channels)


def _text(read: Read, what: str) -> str:
    length = _unsigned(read(4))
    if length > MOST_TEXT:
        found = f"{length} bytes"
        raise _bad(what, found, f"at most {MOST_TEXT / 2**20:.0f} MiB", "send the length in four bytes, little-endian")
    return _decoded(read(length), what)


def _config_name(data: bytes) -> str:
    return _decoded(data.partition(b"\0")[0], "configuration")


def _decoded(data: bytes, what: str) -> str:
    try:
        return data.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        raise _bad(what, "bytes that are no text", "UTF-8", "send text as UTF-8") from None


def _unsigned(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _bad(key: str, found: str, expected: str, advice: str) -> DataError:
    return data_error(Path("stream"), key, found, expected, advice)
