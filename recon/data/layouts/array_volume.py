"""A volume of another layout than fastMRI's, whose slices a function reads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import data_error
from ..complex_values import Array
from ..mri_center import half_a_field_off, zero_frequency
from ..mri_header import Header
from ..mri_volume import KSpaceVolume
from ..mri_zeros import without_zeros

#: Reads k-space of one slice, complex ``(coils, readout, phase)``.
ReadSlice = Callable[[int], Array]


@dataclass(frozen=True, eq=False)
class ArrayVolume(KSpaceVolume):
    """k-space that ``read`` reads slice by slice; a function that can be pickled."""

    read: ReadSlice | None = None

    def _read(self, what: str, index: int) -> Array:
        if what != "kspace" or self.read is None:
            raise data_error(self.path, what, "nothing", what, "use another reference and other maps")
        return self.read(index)


def array_volume(
    path: Path,
    shape: tuple[int, ...],
    read: ReadSlice,
    *,
    reading: str,
    header: Header | None = None,
    mask: Any = None,
    notes: tuple[str, ...] = (),
    parts: tuple[tuple[str, Mapping[str, Any]], ...] = (),
    sources: tuple[Path, ...] = (),
    find_zeros: bool = True,
    **facts: Any,
) -> ArrayVolume:
    """A checked volume.

    Parameters
    ----------
    shape
        ``(slices, coils, readout, phase)``.
    read
        See `ArrayVolume`.
    reading, notes, parts, sources
        See :class:`KSpaceVolume`.
    header
        None: the whole image is displayed, every column counts as encoded.
    mask
        Sampled positions, ``(phase,)`` or ``(readout, phase)``; None: all, less those of zeros.
    find_zeros
        Whether positions of zeros count as not measured.
    facts
        Other fields of :class:`KSpaceVolume`.

    Raises
    ------
    DataError
        If an axis is empty, the header or the mask has another size, or no position was sampled.
    """
    if len(shape) != 4 or 0 in shape:
        advice = "check the layout of the file"
        raise data_error(path, "kspace", f"shape {tuple(shape)}", "(slices, coils, readout, phase)", advice)
    slices, coils, height, width = shape
    if header is None:
        header = Header(encoded_shape=(height, width), recon_shape=(height, width), padding=(0, width))
    if header.encoded_shape[1] != width:
        key, found = "header encodedSpace/matrixSize/y", str(header.encoded_shape[1])
        raise data_error(path, key, found, f"the width of kspace, {width}", "write the header of this scan")
    volume = ArrayVolume(
        path=path, shape=(slices, coils, height, width), header=header, mask=_mask(path, mask, (height, width)),
        notes=notes, reading=reading, parts=parts, sources=sources, read=read, **facts,
    )  # fmt: skip
    if not volume.available.any():
        raise data_error(path, "mask", "no sampled position", "at least one", "correct the mask or the header")
    if not find_zeros:
        return volume

    def rows_of(index: int, coils: slice, rows: slice) -> Array:
        return np.asarray(volume.read_slice(index))[coils, rows]

    masked = without_zeros(volume, rows_of)
    assert isinstance(masked, ArrayVolume)
    return masked


def require_middle(volume: ArrayVolume) -> None:
    """Refuse k-space of another Fourier convention, told from the middle slice.

    Raises
    ------
    DataError
        If the zero frequency lies in the corner along any axis, or the image lies around the corners.
    """
    kspace = volume.read_slice(volume.shape[0] // 2)
    places = zero_frequency(kspace)
    if "corner" in places:
        axes = ", ".join(str(axis - 2) for axis, place in enumerate(places) if place == "corner")
        found, advice = "the zero frequency in the corner", f"apply np.fft.fftshift along axes {axes}"
        raise data_error(volume.path, "kspace", found, "it in the middle", advice)
    if half_a_field_off(kspace):
        found, expected = "an image half a field of view off", "k-space of a centered FFT"
        advice = "multiply every second row and column by -1; raw data of CC359 have the format cc359"
        raise data_error(volume.path, "kspace", found, expected, advice)


def require_same_columns(path: Path, columns: Array, what: str = "slices") -> None:
    """Refuse slices whose measured columns differ, bool ``(slices, phase)``: a volume has one mask.

    Raises
    ------
    DataError
        If they do; slices of zeros count as any.
    """
    filled = columns[columns.any(1)]
    if len(filled) and (filled != filled[0]).any():
        found, advice = f"{what} whose measured columns differ", f"write each of the {what} with recon.write_kspace"
        raise data_error(path, "kspace", found, "one sampling for all of them", advice)


def _mask(path: Path, mask: Any, shape: tuple[int, int]) -> torch.Tensor | None:
    if mask is None:
        return None
    values = np.asarray(mask)
    expected = f"0 and 1 of shape ({shape[1]},) or {shape}"
    if values.shape not in ((shape[1],), (1, shape[1]), shape) or not np.isin(values, (0, 1)).all():
        found = f"{values.dtype} of shape {values.shape}"
        raise data_error(path, "mask", found, expected, "write one mask per file, without coil axis")
    flags = torch.from_numpy(np.ascontiguousarray(values != 0))
    return flags.reshape(shape[1]) if values.shape != shape or values.ndim == 1 else flags
