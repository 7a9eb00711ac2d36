"""Which lines of a file of raw data are read: encoding, contrast, repetition, calibration."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from ...errors import data_error
from ..complex_values import Array
from .ismrmrd_encoding import Encoding, read_encodings
from .ismrmrd_lines import Lines, read_lines, read_samples

#: Units of positions in a file, and ways to know the angles of spokes without positions.
TrajectoryUnit = Literal[
    "cycles/pixel", "rad/pixel", "cycles/fov", "cycles/encoded_fov", "1/mm", "1/m", "rad/mm", "rad/m"
]  # fmt: skip
SpokeAngles = Literal["golden", "uniform"]
#: Counters whose values are volumes of their own.
_VOLUMES = ("contrast", "repetition", "set")
#: Ways to acquire calibration lines that make them a part of the image data.
_EMBEDDED = ("embedded", "interleaved")


class LineFile(Hashable, Protocol):
    """How files of one format are read. Equal readers read equally: they are keys of caches."""

    @property
    def name(self) -> str:
        """Of the format, for `reading`."""

    def heads(self, path: Path) -> tuple[Lines, tuple[Encoding, ...]]:
        """Heads of all lines, and the encodings."""

    def samples(self, path: Path, lines: Lines, numbers: Array) -> Iterator[tuple[int, Array]]:
        """Number and samples ``(coils, samples)`` of lines, see :func:`read_samples`."""


@dataclass(frozen=True)
class IsmrmrdFile:
    """Reads ISMRMRD files."""

    name: str = "ISMRMRD"

    def heads(self, path: Path) -> tuple[Lines, tuple[Encoding, ...]]:
        xml, lines = read_lines(path)
        return lines, tuple(read_encodings(xml, path, cartesian=False))

    def samples(self, path: Path, lines: Lines, numbers: Array) -> Iterator[tuple[int, Array]]:
        return read_samples(path, lines, numbers)


@dataclass(frozen=True)
class Selection:
    """Which lines of a file are read: fields are the options of :func:`open_ismrmrd`, and the format of the file."""

    encoding: int | None = None
    contrast: int | None = None
    repetition: int | None = None
    set: int | None = None
    frame: int | None = None
    calibration: bool = False
    embed: bool | None = None
    trajectory_unit: TrajectoryUnit | None = None
    angles: SpokeAngles | None = None
    source: LineFile = IsmrmrdFile()


@lru_cache(maxsize=2)
def _heads(path: Path, version: tuple[int, int], source: LineFile) -> tuple[Lines, tuple[Encoding, ...]]:
    return source.heads(path)


def selected_encoding(
    path: Path, version: tuple[int, int], selection: Selection
) -> tuple[Lines, tuple[Encoding, ...], int]:
    """Lines, with calibration lines where they belong, encodings and the number of the chosen one."""
    lines, encodings = _heads(path, version, selection.source)
    numbers = lines.calibration if selection.calibration else lines.imaging
    if not len(numbers):
        what = "calibration lines" if selection.calibration else "lines of image data"
        raise data_error(path, "data", f"no {what} among {len(lines.head)} lines", what, "use a file with such lines")
    references = lines.head["encoding_space_ref"].astype(np.int64)
    present = np.bincount(references[numbers])
    number = int(present.argmax()) if selection.encoding is None else selection.encoding
    if number >= len(encodings) or number >= len(present) or not present[number]:
        held = ", ".join(str(i) for i in np.flatnonzero(present))
        found = f"encoding {number}, of which the file has no lines or header"
        raise data_error(path, "encoding", found, f"one of {held}", "choose another one")
    if not selection.calibration and len(lines.calibration):
        embed = encodings[number].calibration in _EMBEDDED if selection.embed is None else selection.embed
        if embed:
            own = lines.calibration[references[lines.calibration] == number]
            rest = np.setdiff1d(lines.calibration, own)
            imaging = np.sort(np.concatenate((lines.imaging, own)))
            lines = replace(lines, imaging=imaging, calibration=rest, embedded=len(own))
    return lines, encodings, number


def chosen_lines(
    path: Path, lines: Lines, encoding: Encoding, number: int, n_encodings: int, selection: Selection
) -> tuple[Array, tuple[tuple[str, dict[str, Any]], ...], tuple[str, ...]]:
    """Numbers of the lines that are read, the volumes of the file, and notes on those that are not read."""
    of_kind = lines.calibration if selection.calibration else lines.imaging
    numbers = of_kind[lines.head["encoding_space_ref"][of_kind] == number]
    notes = []
    if n_encodings > 1 and selection.encoding is None and (left := len(of_kind) - len(numbers)):
        found, expected = f"{n_encodings} encodings, {left} lines of others", "lines of one encoding"
        advice = f"encoding {number} is read, it has most lines; set encoding for another"
        notes.append(str(data_error(path, "encoding", found, expected, advice)))
    several: dict[str, list[int]] = {}
    for name in (*_VOLUMES, "phase"):
        key = "frame" if name == "phase" else name
        values = np.unique(lines.counter(name)[numbers]).tolist()
        wanted = getattr(selection, key)
        if wanted is None and name != "phase":
            if len(values) > 1:
                several[key] = values
            wanted = values[0]
        if wanted is None:
            continue
        if wanted not in values:
            expected = f"one of {', '.join(map(str, values))}"
            raise data_error(path, key, f"no lines of {key} {wanted}", expected, "choose another one")
        numbers = numbers[lines.counter(name)[numbers] == wanted]
    frames = np.unique(lines.counter("phase")[numbers]).tolist()
    differ = _positions_differ if encoding.is_cartesian else _counts_differ
    if len(frames) > 1 and differ(lines, numbers, "phase"):
        several["frame"] = frames
        numbers = numbers[lines.counter("phase")[numbers] == frames[0]]
    if differ(lines, numbers, "slice"):
        if not encoding.is_cartesian:
            advice = "write each slice with recon.write_non_cartesian"
            raise data_error(path, "data", "slices of different numbers of spokes", "as many in every slice", advice)
        found, advice = "slices whose sampled lines differ", "write each slice with recon.write_kspace"
        raise data_error(path, "data", found, "one sampling for all slices of a volume", advice)
    for key, values in several.items():
        found = f"{key} {', '.join(map(str, values[:8]))}{', ...' if len(values) > 8 else ''}"
        advice = f"{key} {values[0]} is read; set {key} for another, or use `fedrecon convert`"
        notes.append(str(data_error(path, "data", found, "one volume", advice)))
    if len(lines.calibration) and not selection.calibration:
        mode = encoding.calibration or "not stated"
        found, expected = f"{len(lines.calibration)} separate calibration lines ({mode})", "lines of the image"
        advice = "they are not part of k-space; `fedrecon convert` writes them beside it, for data.calibration_scan"
        if encoding.size[2] > 1 or not encoding.is_cartesian:
            advice = "they are not used; set embed = true if they belong to the image"
        notes.append(str(data_error(path, "data", found, expected, advice)))
    return numbers, tuple(_parts(lines, several, selection, encoding)), tuple(notes)


def _positions_differ(lines: Lines, numbers: Array, name: str) -> bool:
    """Whether the positions of lines differ between the values of a counter."""
    values = lines.counter(name)[numbers]
    positions = lines.counter("kspace_encode_step_1")[numbers] * 65536 + lines.counter("kspace_encode_step_2")[numbers]
    all_positions = np.unique(positions)
    return any(not np.array_equal(np.unique(positions[values == value]), all_positions) for value in np.unique(values))


def _counts_differ(lines: Lines, numbers: Array, name: str) -> bool:
    """Whether the numbers of lines differ between the values of a counter."""
    return len(set(np.unique(lines.counter(name)[numbers], return_counts=True)[1].tolist())) > 1


def _parts(
    lines: Lines, several: dict[str, list[int]], selection: Selection, encoding: Encoding
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and options of every volume of a file; nothing where there is one alone."""
    separate = len(lines.calibration) > 0 and not selection.calibration and encoding.size[2] == 1
    separate = separate and encoding.is_cartesian
    if not several and not separate:
        return
    for values in product(*several.values()):
        keys = dict(zip(several, values, strict=True))
        yield "_".join(f"{key}{value}" for key, value in keys.items()), keys
    if separate:
        unset = [key for key in ("encoding", "contrast", "frame") if getattr(selection, key) is not None]
        yield "calibration", {"calibration": True, **dict.fromkeys(unset)}
