"""Lines of a running scan, collected until a slice is complete, and written as a file of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from ...errors import data_error
from ..complex_values import Array
from .ismrmrd_encoding import Encoding, read_encodings
from .ismrmrd_lines import NOISE, has_flag, sorted_by_kind

_LAST_IN_SLICE, _LAST_IN_MEASUREMENT = 8, 25
#: Most bytes of lines whose slices are not complete.
MOST_BYTES = 4 * 2**30
#: Most bytes of the noise scan.
_MOST_NOISE = 64 * 2**20

_COUNTERS = (
    "kspace_encode_step_1", "kspace_encode_step_2", "average", "slice", "contrast", "phase", "repetition", "set",
    "segment",
)  # fmt: skip
#: Head of a line, 340 bytes without gaps, as in files and messages of the standard.
LINE_HEAD = np.dtype(
    [
        ("version", "<u2"), ("flags", "<u8"), ("measurement_uid", "<u4"), ("scan_counter", "<u4"),
        ("acquisition_time_stamp", "<u4"), ("physiology_time_stamp", "<u4", 3), ("number_of_samples", "<u2"),
        ("available_channels", "<u2"), ("active_channels", "<u2"), ("channel_mask", "<u8", 16), ("discard_pre", "<u2"),
        ("discard_post", "<u2"), ("center_sample", "<u2"), ("encoding_space_ref", "<u2"),
        ("trajectory_dimensions", "<u2"), ("sample_time_us", "<f4"), ("position", "<f4", 3), ("read_dir", "<f4", 3),
        ("phase_dir", "<f4", 3), ("slice_dir", "<f4", 3), ("patient_table_position", "<f4", 3),
        ("idx", [*((name, "<u2") for name in _COUNTERS), ("user", "<u2", 8)]), ("user_int", "<i4", 8),
        ("user_float", "<f4", 8),
    ]
)  # fmt: skip


class SliceKey(NamedTuple):
    """Counters that tell the slices of a scan apart."""

    encoding: int
    contrast: int
    repetition: int
    set: int
    phase: int
    slice: int

    def __str__(self) -> str:
        """The slice, and the counters that are not 0."""
        rest = [f"{name} {value}" for name, value in zip(self._fields[:-1], self, strict=False) if value]
        return ", ".join([f"slice {self.slice}", *rest])


@dataclass(frozen=True, eq=False)
class StreamedSlice:
    """All lines of a slice, with the noise scan.

    Parameters
    ----------
    key
        Counters of the slice.
    xml
        Header of the scan.
    heads
        Records of :data:`LINE_HEAD`; those of the noise scan stand first.
    samples
        Samples of each line, float32, real and imaginary parts in turn, coil by coil.
    head
        Head of the image line nearest to the center of k-space.
    field_of_view_mm
        Reconstructed field of view along readout, phase and slice; zeros: not stated.
    is_flagged
        Whether a line was flagged as the last one of the slice or the measurement.
    """

    key: SliceKey
    xml: str
    heads: Array
    samples: tuple[Array, ...]
    head: np.void
    field_of_view_mm: tuple[float, float, float]
    is_flagged: bool

    def write(self, path: Path) -> None:
        """Write an ISMRMRD file of these lines, for the reader ``ismrmrd``."""
        values = h5py.vlen_dtype(np.float32)
        records = np.zeros(len(self.heads), np.dtype([("head", LINE_HEAD), ("traj", values), ("data", values)]))
        records["head"] = self.heads
        for number, samples in enumerate(self.samples):
            records["traj"][number], records["data"][number] = np.zeros(0, np.float32), samples
        with h5py.File(path, "w") as file:
            group = file.create_group("dataset")
            group.create_dataset("xml", (1,), h5py.string_dtype())[0] = self.xml
            group.create_dataset("data", data=records)


class SliceCollector:
    """Collects the lines of a Cartesian 2-D scan until their slices are complete.

    A slice is complete with the line of its last average that is flagged as the last one in slice, or with the last
    line of the measurement. Lines of the noise scan belong to all slices after them.

    Parameters
    ----------
    xml
        Header of the scan.
    name
        Name of the stream in errors.
    most_bytes
        Most bytes of lines whose slices are not complete.

    Raises
    ------
    DataError
        If the header cannot be used, or the trajectory of an encoding is not Cartesian.
    """

    def __init__(self, xml: str, name: str = "stream", most_bytes: int = MOST_BYTES) -> None:
        self.xml, self.path, self.most_bytes = xml, Path(name), most_bytes
        self.encodings: tuple[Encoding, ...] = tuple(read_encodings(xml, self.path))
        self._noise: list[tuple[np.void, Array]] = []
        self._lines: dict[SliceKey, list[tuple[np.void, Array]]] = {}
        self._done: set[SliceKey] = set()
        self._bytes = self._noise_bytes = 0

    def add(self, head: np.void, samples: Array) -> Iterator[StreamedSlice]:
        """Add a line; yields the slices that it completes.

        Parameters
        ----------
        head
            Record of :data:`LINE_HEAD`.
        samples
            float32, ``2 * coils * samples`` values.

        Raises
        ------
        DataError
            If the line belongs to a 3-D encoding, to none, or to a slice that was complete; if lines of slices that are
            not complete, or of the noise scan, become too many.
        """
        flags = int(head["flags"])
        if has_flag(flags, NOISE):
            self._add_noise(head, samples)
        else:
            yield from self._add_line(head, samples, flags)
        if has_flag(flags, _LAST_IN_MEASUREMENT):
            yield from self.rest(is_flagged=True)

    def rest(self, is_flagged: bool = False) -> Iterator[StreamedSlice]:
        """Slices with image lines that are left at the end of a measurement, in the order of their first lines."""
        for key in list(self._lines):
            if (found := self._complete(key, is_flagged)) is not None:
                yield found

    def _add_noise(self, head: np.void, samples: Array) -> None:
        self._noise_bytes += samples.nbytes
        if self._noise_bytes > _MOST_NOISE:
            found, expected = f"more than {_MOST_NOISE / 2**20:.0f} MiB of noise lines", "a noise scan of some lines"
            raise data_error(self.path, "noise scan", found, expected, "send fewer lines")
        self._noise.append((head, samples))

    def _add_line(self, head: np.void, samples: Array, flags: int) -> Iterator[StreamedSlice]:
        idx, number = head["idx"], int(head["encoding_space_ref"])
        if number >= len(self.encodings):
            expected = f"0 to {len(self.encodings) - 1}, the encodings of the header"
            raise data_error(self.path, "encoding_space_ref", str(number), expected, "send the header of this scan")
        encoding = self.encodings[number]
        if encoding.size[2] > 1:
            found, advice = f"a 3-D scan, {encoding.size[2]} partitions", "reconstruct the file of the whole scan"
            raise data_error(self.path, "encodedSpace/matrixSize/z", found, "2-D slices", advice)
        key = SliceKey(number, *(int(idx[name]) for name in SliceKey._fields[1:]))
        if key in self._done:
            found, expected = f"a line of {key} after its last one", "lines of slices that are not complete"
            advice = "flag the last line of the last average alone, and state the averages in encodingLimits"
            raise data_error(self.path, "flags", found, expected, advice)
        self._bytes += samples.nbytes
        if self._bytes > self.most_bytes:
            found = f"{self._bytes / 2**30:.1f} GiB of lines of {len(self._lines)} slices that are not complete"
            expected = f"at most {self.most_bytes / 2**30:.1f} GiB"
            raise data_error(self.path, "flags", found, expected, "flag the last line of every slice")
        self._lines.setdefault(key, []).append((head, samples))
        if has_flag(flags, _LAST_IN_SLICE) and int(idx["average"]) + 1 >= encoding.averages:
            found_slice = self._complete(key, is_flagged=True)
            if found_slice is not None:
                yield found_slice

    def _complete(self, key: SliceKey, is_flagged: bool) -> StreamedSlice | None:
        """A slice, whose lines are then forgotten; None where it has calibration or other lines alone."""
        lines = self._lines[key]
        heads = _stacked([head for head, _ in lines])
        imaging = heads[sorted_by_kind(heads).imaging]
        if not len(imaging):
            return None
        del self._lines[key]
        self._done.add(key)
        self._bytes -= sum(samples.nbytes for _, samples in lines)
        encoding = self.encodings[key.encoding]
        center = encoding.size[1] // 2 if encoding.center[0] is None else encoding.center[0]
        nearest = np.abs(imaging["idx"]["kspace_encode_step_1"].astype(np.int64) - center).argmin()
        noise = _stacked([head for head, _ in self._noise])
        return StreamedSlice(
            key=key,
            xml=self.xml,
            heads=np.concatenate((noise, heads)),
            samples=tuple(samples for _, samples in [*self._noise, *lines]),
            head=imaging[nearest],
            field_of_view_mm=encoding.recon_fov_mm or (0.0, 0.0, 0.0),
            is_flagged=is_flagged,
        )


def _stacked(heads: Sequence[np.void]) -> Array:
    stacked = np.zeros(len(heads), LINE_HEAD)
    for number, head in enumerate(heads):
        stacked[number] = head
    return stacked
