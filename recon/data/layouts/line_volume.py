"""Cartesian raw data, lines as they were acquired, as a volume: sorted, with mask, header and noise."""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from torch import Tensor

from ...errors import data_error
from ..complex_values import Array
from ..mri_header import Header, require_cartesian
from ..noise_covariance import covariance_of_noise
from .array_volume import ArrayVolume, array_volume
from .ismrmrd_encoding import Encoding
from .ismrmrd_lines import Lines
from .ismrmrd_selection import LineFile, Selection, chosen_lines, selected_encoding
from .ismrmrd_sorting import Places, kept_readout, place_lines, sorted_kspace


def cartesian_volume(path: Path, selection: Selection) -> ArrayVolume:
    """The volume of the Cartesian lines that a selection chooses; they are sorted when the first slice is read.

    Raises
    ------
    DataError
        If the trajectory is not Cartesian, there is no such line, or lines do not fit the header.
    """
    version = (path.stat().st_size, path.stat().st_mtime_ns)
    lines, encodings, number = selected_encoding(path, version, selection)
    chosen = encodings[number]
    require_cartesian(chosen.header.trajectory, path)
    numbers, parts, notes = chosen_lines(path, lines, chosen, number, len(encodings), selection)
    at = place_lines(path, lines, numbers, chosen)
    count = at.count(chosen.size)
    measured = np.asarray((count > 0).any(0))
    if selection.calibration:
        return _calibration_volume(path, version, selection, lines, at, chosen, measured)
    header, mask, slices, height = _header(chosen, lines, at, measured)
    covariance, noise_words, noise_notes = line_noise(
        path, selection.source, lines, at.numbers, chosen, int(count[count > 0].min())
    )
    return array_volume(
        path,
        (slices, at.coils, height, header.encoded_shape[1]),
        partial(_slice, path, version, selection),
        reading="; ".join(_words(selection.source.name, lines, at, chosen, number, len(encodings), count, noise_words)),
        header=header,
        mask=mask,
        noise_covariance=covariance,
        patient_id=chosen.patient_id,
        acquisition=chosen.protocol,
        parts=parts,
        notes=(*notes, *noise_notes),
        find_zeros=False,
    )


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


def line_noise(
    path: Path, source: LineFile, lines: Lines, numbers: Array, encoding: Encoding, averages: int
) -> tuple[Tensor | None, str, tuple[str, ...]]:
    """Covariance of the noise in the mean of so many lines like these, what it was made from, and notes."""
    if not len(lines.noise):
        return None, "no noise scan", ()
    head, coils = lines.head[lines.noise], int(lines.head["active_channels"][numbers[0]])
    if (head["active_channels"] != coils).any():
        found, expected = f"a noise scan of {int(head['active_channels'][0])} coils", f"{coils}, those of the image"
        note = data_error(path, "data", found, expected, "it is not used: noise is estimated from the image")
        return None, "noise scan of other coils not used", (str(note),)
    covariance = covariance_of_noise(
        np.concatenate([values for _, values in source.samples(path, lines, lines.noise)], 1)
    )
    dwell = [float(lines.head["sample_time_us"][of][0]) for of in (lines.noise, numbers)]
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
    name: str, lines: Lines, at: Places, encoding: Encoding, number: int, n_encodings: int, count: Array, noise: str
) -> Iterator[str]:
    """What the file is read as."""
    of = f", encoding {number} of {n_encodings}" if n_encodings > 1 else ""
    yield f"{len(at.numbers)} {name} lines sorted by phase encoding{of}"
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
        reading=f"{len(at.numbers)} {selection.source.name} calibration lines, the {shape[1]} around the center",
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
    lines, encodings, number = selected_encoding(path, version, selection)
    numbers, _, _ = chosen_lines(path, lines, encodings[number], number, len(encodings), selection)
    at = place_lines(path, lines, numbers, encodings[number])
    kspace, mask, _ = sorted_kspace(path, lines, at, encodings[number], selection.source)
    if selection.calibration:
        start, stop = _block(path, mask)
        kspace = kspace[..., start:stop]
    return kspace


def _slice(path: Path, version: tuple[int, int], selection: Selection, index: int) -> Array:
    return np.array(_sorted(path, version, selection)[index])
