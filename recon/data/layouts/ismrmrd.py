"""ISMRMRD raw data (.h5, .mrd), as converters of scanners and mridata.org write it: lines as they were acquired."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
from annotated_types import Ge
from torch import Tensor

from ...errors import data_error
from ..complex_values import Array
from ..hdf5_file import opened
from ..mri_header import Header
from ..noise_covariance import covariance_of_noise
from .array_volume import ArrayVolume, array_volume
from .ismrmrd_encoding import Encoding, read_encodings
from .ismrmrd_lines import Lines, group_of, read_lines, read_samples
from .ismrmrd_sorting import Places, kept_readout, place_lines, sorted_kspace

#: Counters whose values are volumes of their own.
_VOLUMES = ("contrast", "repetition", "set")
_Count = Annotated[int, Ge(0)] | None
#: Ways to acquire calibration lines that make them a part of the image data.
_EMBEDDED = ("embedded", "interleaved")


@dataclass(frozen=True)
class Selection:
    """Which lines of a file are read: fields are the options of :func:`open_ismrmrd`."""

    encoding: int | None = None
    contrast: int | None = None
    repetition: int | None = None
    set: int | None = None
    frame: int | None = None
    calibration: bool = False
    embed: bool | None = None


def is_ismrmrd(path: Path) -> bool:
    """Whether a file is HDF5 with a group of ``xml`` and ``data``."""
    if not h5py.is_hdf5(path):
        return False
    with opened(path) as file:
        return group_of(file) is not None


def open_ismrmrd(
    path: Path,
    *,
    encoding: _Count = None,
    contrast: _Count = None,
    repetition: _Count = None,
    set: _Count = None,
    frame: _Count = None,
    calibration: bool = False,
    embed: bool | None = None,
) -> ArrayVolume:
    """Check a file of Cartesian raw data; lines are sorted when the first slice is read.

    Slices of the volume are the phases (frames) and slices of the file, the slice counts fastest; 3-D scans become
    slices, see :func:`slab_as_slices`. A noise scan gives the covariance, scaled to the bandwidth of the image lines.
    Averages are averaged, reversed lines turned round, readout oversampling is removed. Navigators, phase correction
    and other lines that are no image data are left out.

    Parameters
    ----------
    encoding
        Number of the encoding, from 0; None: the one with most lines.
    contrast, repetition, set
        Value of the counter; None: the first, with a note if there are several.
    frame
        Value of the counter ``phase``; None: all, or the first if their sampled lines differ.
    calibration
        Read the separate calibration lines, the center of k-space, in place of the image.
    embed
        Whether calibration lines are part of the image data; None: as `calibrationMode` of the header states, without
        it they are not.

    Raises
    ------
    DataError
        If the trajectory is not Cartesian, there is no such line, or lines do not fit the header.
    """
    selection = Selection(encoding, contrast, repetition, set, frame, calibration, embed)
    version = (path.stat().st_size, path.stat().st_mtime_ns)
    lines, encodings, number = _read(path, version, selection)
    chosen = encodings[number]
    numbers, parts, notes = _chosen(path, lines, chosen, number, len(encodings), selection)
    at = place_lines(path, lines, numbers, chosen)
    count = at.count(chosen.size)
    measured = np.asarray((count > 0).any(0))
    if calibration:
        return _calibration_volume(path, version, selection, lines, at, chosen, measured)
    header, mask, slices, height = _header(chosen, lines, at, measured)
    covariance, noise_words, noise_notes = _noise(path, lines, at, chosen, int(count[count > 0].min()))
    return array_volume(
        path,
        (slices, at.coils, height, header.encoded_shape[1]),
        partial(_slice, path, version, selection),
        reading="; ".join(_words(lines, at, chosen, number, len(encodings), count, noise_words)),
        header=header,
        mask=mask,
        noise_covariance=covariance,
        patient_id=chosen.patient_id,
        acquisition=chosen.protocol,
        parts=parts,
        notes=(*notes, *noise_notes),
        find_zeros=False,
    )


@lru_cache(maxsize=2)
def _heads(path: Path, version: tuple[int, int]) -> tuple[Lines, tuple[Encoding, ...]]:
    xml, lines = read_lines(path)
    return lines, tuple(read_encodings(xml, path))


def _read(path: Path, version: tuple[int, int], selection: Selection) -> tuple[Lines, tuple[Encoding, ...], int]:
    """Lines, with calibration lines where they belong, encodings and the number of the chosen one."""
    lines, encodings = _heads(path, version)
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


def _chosen(
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
    if len(frames) > 1 and _differ(lines, numbers, "phase"):
        several["frame"] = frames
        numbers = numbers[lines.counter("phase")[numbers] == frames[0]]
    if _differ(lines, numbers, "slice"):
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
        if encoding.size[2] > 1:
            advice = "they are not used; set embed = true if they belong to the image"
        notes.append(str(data_error(path, "data", found, expected, advice)))
    return numbers, tuple(_parts(lines, several, selection, encoding)), tuple(notes)


def _differ(lines: Lines, numbers: Array, name: str) -> bool:
    """Whether the positions of lines differ between the values of a counter."""
    values = lines.counter(name)[numbers]
    positions = lines.counter("kspace_encode_step_1")[numbers] * 65536 + lines.counter("kspace_encode_step_2")[numbers]
    all_positions = np.unique(positions)
    return any(not np.array_equal(np.unique(positions[values == value]), all_positions) for value in np.unique(values))


def _parts(
    lines: Lines, several: dict[str, list[int]], selection: Selection, encoding: Encoding
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and options of every volume of a file; nothing where there is one alone."""
    separate = len(lines.calibration) > 0 and not selection.calibration and encoding.size[2] == 1
    if not several and not separate:
        return
    for values in product(*several.values()):
        keys = dict(zip(several, values, strict=True))
        yield "_".join(f"{key}{value}" for key, value in keys.items()), keys
    if separate:
        yield "calibration", {"calibration": True, "encoding": None, "contrast": None, "frame": None}


def _header(encoding: Encoding, lines: Lines, at: Places, measured: Array) -> tuple[Header, Array | None, int, int]:
    """Header and mask of the sorted k-space, its number of slices and the length of its readout."""
    width, height, depth = encoding.size
    kept, images = kept_readout(at, lines, encoding), len(at.images)
    fov = None if encoding.fov_mm is None else (encoding.fov_mm[0] * kept / width, *encoding.fov_mm[1:])
    across = depth > 1 and not bool((measured.all(1) | ~measured.any(1)).all())
    if across:  # planes (ky, kz)
        header = replace(
            encoding.header,
            encoded_shape=(height, depth),
            recon_shape=encoding.recon_size[1:],
            padding=(0, depth),
            encoded_fov_mm=None if fov is None else fov[1:],
            recon_fov_mm=None if encoding.recon_fov_mm is None else encoding.recon_fov_mm[1:],
            partitions=1,
        )
        return header, measured, kept * images, height
    columns = np.asarray(measured.any(1))
    first, last = np.flatnonzero(columns)[[0, -1]].tolist()
    left, right = encoding.header.padding
    left, right = min(max(left, 0), first), max(min(right, height), last + 1)
    mask: Array | None = columns
    if columns[first : last + 1].all():  # partial Fourier or less resolution, no line is left out
        mask, left, right = None, first, last + 1
    elif columns[left:right].all():
        mask = None
    header = replace(
        encoding.header,
        encoded_shape=(kept, height),
        padding=(left, right),
        encoded_fov_mm=None if fov is None else fov[:2],
        partitions=1,
        acceleration=1.0 if mask is None else encoding.header.acceleration,  # all lines are there
    )
    inner = depth
    if depth > 1 and (ratio := encoding.oversampling(2)) > 1.05:
        inner = max(round(depth / ratio), 1)
    return header, mask, images * inner, kept


def _noise(
    path: Path, lines: Lines, at: Places, encoding: Encoding, averages: int
) -> tuple[Tensor | None, str, tuple[str, ...]]:
    """Covariance of the noise in the sorted k-space, what it was made from, and notes."""
    if not len(lines.noise):
        return None, "no noise scan", ()
    head = lines.head[lines.noise]
    if (head["active_channels"] != at.coils).any():
        found, expected = f"a noise scan of {int(head['active_channels'][0])} coils", f"{at.coils}, those of the image"
        note = data_error(path, "data", found, expected, "it is not used: noise is estimated from the image")
        return None, "noise scan of other coils not used", (str(note),)
    covariance = covariance_of_noise(
        np.concatenate([values for _, values in read_samples(path, lines, lines.noise)], 1)
    )
    dwell = [float(lines.head["sample_time_us"][of][0]) for of in (lines.noise, at.numbers)]
    words, scale = f"noise scan of {len(lines.noise)} lines", 1.0
    notes: tuple[str, ...] = ()
    if min(dwell) > 0:
        scale = dwell[0] / dwell[1] / encoding.receiver_bandwidth
        words += f" ({dwell[0]:g} us per sample, image {dwell[1]:g} us)" if dwell[0] != dwell[1] else ""
    else:
        found, expected = "no time per sample", "that of noise scan and image, to scale the noise"
        notes = (str(data_error(path, "data sample_time_us", found, expected, "noise is taken as it is")),)
    return covariance * (scale / averages), words, notes


def _words(
    lines: Lines, at: Places, encoding: Encoding, number: int, n_encodings: int, count: Array, noise: str
) -> Iterator[str]:
    """What the file is read as."""
    of = f", encoding {number} of {n_encodings}" if n_encodings > 1 else ""
    yield f"{len(at.numbers)} ISMRMRD lines sorted by phase encoding{of}"
    frames = len({frame for frame, _ in at.images})
    if frames > 1:
        yield f"{frames} frames x {len(at.images) // frames} slices, the slice fastest"
    kept = kept_readout(at, lines, encoding)
    if kept < encoding.size[0]:
        yield f"readout oversampling removed ({encoding.size[0]} to {kept} samples)"
    if encoding.size[2] > 1:
        yield f"3-D, {encoding.size[2]} partitions, made slices by an inverse FFT"
    if (most := int(count.max())) > 1:
        least = int(count[count > 0].min())
        yield f"mean of {most if least == most else f'{least} to {most}'} averages"
    if lines.embedded:
        yield f"with {lines.embedded} embedded calibration lines"
    if turned := int(lines.reverse[at.numbers].sum()):
        yield f"{turned} reversed lines turned round"
    if lines.left_out:
        yield "left out: " + ", ".join(f"{n} {kind} lines" for kind, n in lines.left_out.items())
    yield noise


def _calibration_volume(
    path: Path,
    version: tuple[int, int],
    selection: Selection,
    lines: Lines,
    at: Places,
    encoding: Encoding,
    measured: Array,
) -> ArrayVolume:
    """Separate calibration lines as a volume of the same field of view, of the block around the center."""
    if encoding.size[2] > 1:
        advice = "keep the calibration lines in k-space (embed = true), or write them with recon.write_kspace"
        raise data_error(path, "calibration", "calibration lines of a 3-D scan", "those of 2-D slices", advice)
    start, stop = _block(path, np.asarray(measured[:, 0]))
    kept, width = kept_readout(at, lines, encoding), encoding.size[0]
    fov = encoding.fov_mm
    shape = (kept, stop - start)
    header = replace(
        encoding.header,
        encoded_shape=shape,
        recon_shape=shape,
        padding=(0, shape[1]),
        encoded_fov_mm=None if fov is None else (fov[0] * kept / width, fov[1]),
        recon_fov_mm=None if fov is None else (fov[0] * kept / width, fov[1]),
        acceleration=1.0,
        partitions=1,
    )
    return array_volume(
        path,
        (len(at.images), at.coils, *shape),
        partial(_slice, path, version, selection),
        reading=f"{len(at.numbers)} calibration lines of an ISMRMRD file, the {shape[1]} around the center",
        header=header,
        patient_id=encoding.patient_id,
        is_calibration=True,
        find_zeros=False,
    )


def _block(path: Path, columns: Array) -> tuple[int, int]:
    """The largest block of measured columns with the center in its middle."""
    middle, half = len(columns) // 2, 0
    while half < middle and columns[middle - half - 1] and columns[min(middle + half, len(columns) - 1)]:
        half += 1
    if half < 2:
        found = f"{int(columns.sum())} calibration lines, {2 * half} around the center"
        raise data_error(path, "calibration", found, "at least 4 around the center", "leave them out")
    return middle - half, middle + half


@lru_cache(maxsize=1)
def _sorted(path: Path, version: tuple[int, int], selection: Selection) -> Array:
    """k-space ``(slices, coils, readout, phase)``; that of the last file stays in memory."""
    lines, encodings, number = _read(path, version, selection)
    numbers, _, _ = _chosen(path, lines, encodings[number], number, len(encodings), selection)
    at = place_lines(path, lines, numbers, encodings[number])
    kspace, mask, _ = sorted_kspace(path, lines, at, encodings[number])
    if selection.calibration:
        start, stop = _block(path, mask)
        kspace = kspace[..., start:stop]
    return kspace


def _slice(path: Path, version: tuple[int, int], selection: Selection, index: int) -> Array:
    return np.array(_sorted(path, version, selection)[index])
