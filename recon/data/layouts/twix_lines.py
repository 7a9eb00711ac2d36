"""Lines of Siemens raw data as heads of the ISMRMRD standard, and their samples."""

import contextlib
import io
import struct
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...errors import data_error
from ..complex_values import Array
from ..other_formats import is_twix_head
from .ismrmrd_encoding import Encoding
from .ismrmrd_lines import Lines, sorted_by_kind
from .ismrmrd_stream import LINE_HEAD
from .twix_header import dwell_us, refuse_trajectory, twix_encoding

#: Flags of a line and the number of the ISMRMRD flag that means the same.
_FLAGS = {
    "NOISEADJSCAN": 19, "PATREFSCAN": 20, "PATREFANDIMASCAN": 21, "REFLECT": 22, "noname60": 23, "PHASCOR": 24,
    "HPFEEDBACK": 26, "RETRO_DUMMYSCAN": 27, "RTFEEDBACK": 28, "MDH_VOP": 28, "B1_CONTROLLOOP": 28,
    "REFPHASESTABSCAN": 30, "PHASESTABSCAN": 31,
}  # fmt: skip
#: Counters of a line by the name of the ISMRMRD counter.
_COUNTERS = {
    "kspace_encode_step_1": "Lin", "kspace_encode_step_2": "Par", "average": "Ave", "slice": "Sli", "contrast": "Eco",
    "phase": "Phs", "repetition": "Rep", "set": "Set", "segment": "Seg",
}  # fmt: skip
#: Bits of the mask of a line that has no samples: end of the acquisition, data of other devices.
_END, _SYNC = 1, 1 << 5
#: Distance in mm of slices that have different places.
_APART = 0.01


@dataclass(frozen=True)
class TwixLines:
    """Reads one measurement of files, by its number; None: the last one."""

    measurement: int | None = None
    name: str = "Siemens"

    def heads(self, path: Path) -> tuple[Lines, tuple[Encoding, ...]]:
        """Heads of all lines and the encoding; noise lines of earlier measurements stand first."""
        scans, chosen = _scans(path, _version(path)), self._chosen(path)
        protocol, lines = scans[chosen]
        refuse_trajectory(path, protocol, lines)
        head = np.concatenate(
            [_heads(_scans(path, _version(path))[number][0], lines) for number, lines in self._lines(path)]
        )
        _sort_slices(head)
        image = sorted_by_kind(head)
        if not len(image.imaging):
            found = f"no image lines in measurement {chosen} of {len(scans)}"
            raise data_error(path, "measurement", found, "lines of an image", "choose another measurement")
        return image, (twix_encoding(path, protocol, lines, head[image.imaging]),)

    def samples(self, path: Path, lines: Lines, numbers: Array) -> Iterator[tuple[int, Array]]:
        """Number and samples ``(coils, samples)`` of lines, as :func:`read_samples` of ISMRMRD files."""
        blocks = [block for _, of in self._lines(path) for block in of]
        with path.open("rb") as file:
            for number in numbers.tolist():
                head, block = lines.head[number], blocks[number]
                block.fid = file
                values = np.array(block.data, np.complex64)
                values = values[:, int(head["discard_pre"]) : values.shape[1] - int(head["discard_post"])]
                yield number, values[:, ::-1] if lines.reverse[number] else values

    def _chosen(self, path: Path) -> int:
        count = len(_scans(path, _version(path)))
        chosen = count - 1 if self.measurement is None else self.measurement
        if chosen >= count:
            expected = f"0 to {count - 1}"
            raise data_error(path, "measurement", str(chosen), expected, "choose another measurement")
        return chosen

    def _lines(self, path: Path) -> list[tuple[int, list[Any]]]:
        """Measurements and their blocks that are read: noise lines of those before the chosen one where it has none."""
        scans, chosen = _scans(path, _version(path)), self._chosen(path)
        blocks = scans[chosen][1]
        if any(block.is_flag_set("NOISEADJSCAN") for block in blocks):
            return [(chosen, blocks)]
        for number in range(chosen - 1, -1, -1):
            if noise := [block for block in scans[number][1] if block.is_flag_set("NOISEADJSCAN")]:
                return [(number, noise), (chosen, blocks)]
        return [(chosen, blocks)]


def _version(path: Path) -> tuple[int, int]:
    return path.stat().st_size, path.stat().st_mtime_ns


@lru_cache(maxsize=1)
def _scans(path: Path, version: tuple[int, int]) -> list[tuple[dict[str, Any], list[Any]]]:
    """Protocol and blocks with samples of every measurement; those of the last file stay in memory."""
    with path.open("rb") as file:
        if not is_twix_head(file.read(1024)):
            found, expected = "a file that does not begin as one", "Siemens raw data (twix)"
            raise data_error(path, "file", found, expected, "name its format")
    try:
        import twixtools  # late: an extra
    except ImportError:
        advice = "pip install -e '.[twix]', or convert the file with siemens_to_ismrmrd"
        raise data_error(path, "file", "Siemens raw data (twix)", "the package twixtools to read it", advice) from None
    require_whole(path)
    if not path.suffix:
        raise data_error(path, "file", "a name without suffix", "*.dat", "rename it")
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            found = twixtools.read_twix(
                str(path), parse_pmu=False, parse_geometry=False, verbose=False, keep_syncdata=False
            )
        except (ValueError, LookupError, AttributeError, TypeError, struct.error) as error:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)  # twixtools leaves the file open
                traceback.clear_frames(error.__traceback__)
            words = f"a header that cannot be read ({error})"
            raise data_error(path, "file", words, "Siemens raw data (twix)", "copy the file again") from None
    return [(scan["hdr"], scan["mdb"]) for scan in found]


def require_whole(path: Path) -> None:
    """Refuse a file whose blocks do not follow each other to the end of each measurement.

    Raises
    ------
    DataError
        If a measurement is cut off or a block has no length.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        first, count = _unpacked(path, file, 0, "<II")
        is_vd = first < 10000 and count <= 64
        places = [(0, size)]
        if is_vd:
            entries = [_unpacked(path, file, 8 + 152 * k, "<8xQQ") for k in range(count)]
            places = [(start, length or size - start) for start, length in entries]
        for number, (start, length) in enumerate(places):
            end = start + length
            if end > size or start + 8 > size:
                expected = f"{end}, those of measurement {number}"
                raise data_error(path, "file", f"{size} bytes", expected, "copy the file again")
            at = start + _unpacked(path, file, start, "<I")[0]
            while at + 128 < end:
                layout = "<I36xQHH" if is_vd else "<I16xQHH"
                length, flags, samples, channels = _unpacked(path, file, at, layout)
                step = length % (1 << 25)
                if not flags & (_END | _SYNC):
                    step = channels * (8 * samples + (32 if is_vd else 128)) + (192 if is_vd else 0)
                if step == 0 or at + step > end:
                    found = f"a block of {step} bytes at byte {at} of measurement {number}"
                    raise data_error(path, "file", found, "blocks up to its end", "copy the file again")
                if flags & _END:
                    break
                at += step
            else:
                found = f"measurement {number} without its last block"
                raise data_error(path, "file", found, "a complete acquisition", "copy the file again")


def _unpacked(path: Path, file: BinaryIO, at: int, layout: str) -> tuple[int, ...]:
    """Integers at a byte of a file."""
    file.seek(at)
    held = file.read(struct.calcsize(layout))
    if len(held) < struct.calcsize(layout):
        raise data_error(path, "file", f"its end at byte {at + len(held)}", "a header", "copy the file again")
    return struct.unpack(layout, held)


def _heads(protocol: dict[str, Any], blocks: Sequence[Any]) -> Array:
    heads = np.zeros(len(blocks), LINE_HEAD)
    dwell = dwell_us(protocol)
    has_image = any(not block.is_flag_set("NOISEADJSCAN") for block in blocks)
    for head, block in zip(heads, blocks, strict=True):
        mdh = block.mdh
        for flag, number in _FLAGS.items():
            if block.is_flag_set(flag):
                head["flags"] |= np.uint64(1 << (number - 1))
        head["number_of_samples"], head["active_channels"] = mdh.SamplesInScan, mdh.UsedChannels
        head["center_sample"] = mdh.CenterCol
        head["discard_pre"], head["discard_post"] = mdh.CutOff.Pre, mdh.CutOff.Post
        # The protocol of an image scan does not state the dwell time of its own noise lines.
        head["sample_time_us"] = 0 if has_image and block.is_flag_set("NOISEADJSCAN") else dwell
        place = mdh.SliceData.SlicePos
        head["position"] = place.Sag, place.Cor, place.Tra
        for name, counter in _COUNTERS.items():
            head["idx"][name] = getattr(mdh.Counter, counter)
    return heads


def _sort_slices(head: Array) -> None:
    """Number slices by their place along the line that they stand on, where all have a place of their own."""
    image = sorted_by_kind(head).imaging
    counters = head["idx"]["slice"]
    numbers = np.unique(counters[image])
    if len(numbers) < 2:
        return
    places = np.array([head["position"][image][counters[image] == number][0] for number in numbers], np.float64)
    away = places - places[0]
    direction = away[np.linalg.norm(away, axis=1).argmax()]
    # From feet to head, right to left, or anterior to posterior: the largest part decides.
    direction = direction * np.sign(direction[np.abs(direction).argmax()])
    along = places @ (direction / max(float(np.linalg.norm(direction)), 1e-9))
    if np.diff(np.sort(along)).min() < _APART:
        return
    rank = np.zeros(int(counters.max()) + 1, np.uint16)
    rank[numbers] = along.argsort().argsort()
    rest = np.setdiff1d(np.arange(len(rank)), numbers)  # of noise and other lines
    rank[rest] = rest
    head["idx"]["slice"] = rank[counters]
