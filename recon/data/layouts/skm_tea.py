"""SKM-TEA: HDF5 with hybrid k-space (x, ky, kz) of knees, two echoes, zero-padded to the size of the images."""

from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge

from ...errors import data_error
from ..complex_values import Array
from ..hdf5_file import dataset_of, opened, read_part
from .array_volume import ArrayVolume, array_volume, require_middle
from .hdf5_content import hdf5_content


def is_skm_tea(path: Path) -> bool:
    """Whether a file is HDF5 with complex ``kspace`` of five axes, and ``maps`` or ``target`` of equal first three."""
    content = hdf5_content(path)
    if content is None or content.is_matlab or "kspace" not in content.datasets:
        return False
    dtype, shape = content.datasets["kspace"]
    others = [content.datasets[name][1] for name in ("maps", "target") if name in content.datasets]
    return dtype.kind == "c" and len(shape) == 5 and any(other[:3] == shape[:3] for other in others)


def open_skm_tea(path: Path, *, echo: Annotated[int, Ge(0)] | None = None) -> ArrayVolume:
    """Check a file of SKM-TEA, ``kspace`` ``(x, ky, kz, echoes, coils)``, already transformed along x.

    Slices are along x, planes are ``(ky, kz)``. Zero padding around the measured block is cut off, so that images have
    the measured resolution. What its authors filled in by parallel imaging counts as measured, and so do the zeros in
    the corners that elliptical sampling left. ``maps`` and ``target`` are not used.

    Parameters
    ----------
    echo
        Number of the echo, from 0; None: the first, with a note if there are several.

    Raises
    ------
    DataError
        If the layout is another, the echo is not there, or the zero frequency does not lie in the middle.
    """
    with opened(path) as file:
        dataset = dataset_of(file, path, "kspace")
        shape = tuple(dataset.shape)
        if dataset.dtype.kind != "c" or len(shape) != 5 or 0 in shape:
            found, expected = f"{dataset.dtype} of shape {shape}", "complex (x, ky, kz, echoes, coils)"
            raise data_error(path, "kspace", found, expected, "use raw data of SKM-TEA")
        slices, height, width, echoes, coils = shape
        number = 0 if echo is None else echo
        if number >= echoes:
            expected = f"0 to {echoes - 1}"
            raise data_error(path, "echo", str(number), expected, "choose another echo")
        middle = np.asarray(read_part(dataset, path, (slices // 2, slice(None), slice(None), number)))
    measured = np.asarray((middle != 0).any(-1))
    if not measured.any():
        key = f"kspace[{slices // 2}]"
        raise data_error(path, key, "only zeros", "a measurement", "leave out the file")
    block = (_block(np.asarray(measured.any(1))), _block(np.asarray(measured.any(0))))
    inner = measured[block[0][0] : block[0][1], block[1][0] : block[1][1]]
    found, expected = "k-space of which parallel imaging filled in lines (ARC)", "a measurement"
    advice = "they count as measured; references of this data set are made so"
    notes = [str(data_error(path, "kspace", found, expected, advice))]
    if empty := int((~inner).sum()):
        found, expected = f"zeros at {empty} of {inner.size} positions", "samples"
        advice = "the corners that elliptical sampling leaves out; they count as measured"
        notes.append(str(data_error(path, "kspace", found, expected, advice)))
    parts: tuple[tuple[str, dict[str, int]], ...] = ()
    if echoes > 1 and echo is None:
        advice = "echo 0 is read; set echo for another, or use `fedrecon convert`"
        notes.append(str(data_error(path, "kspace", f"{echoes} echoes", "one volume", advice)))
        parts = tuple((f"echo{one}", {"echo": one}) for one in range(echoes))
    size = block[0][1] - block[0][0], block[1][1] - block[1][0]
    volume = array_volume(
        path, (slices, coils, *size), partial(_slice, path, number, block),
        reading=f"hybrid k-space (x, ky, kz, echoes, coils), echo {number} of {echoes}: slices along x, the measured "
        f"{size[0]}x{size[1]} of {height}x{width} zero-padded positions",
        parts=parts, notes=tuple(notes), find_zeros=False,
    )  # fmt: skip
    require_middle(volume)
    return volume


def _block(measured: Array) -> tuple[int, int]:
    """First and last position of the smallest block around the center, in the middle of which it stays."""
    first, last = np.flatnonzero(measured)[[0, -1]].tolist()
    middle = len(measured) // 2
    half = max(middle - first, last + 1 - middle)
    return max(middle - half, 0), min(middle + half, len(measured))


def _slice(path: Path, echo: int, block: tuple[tuple[int, int], tuple[int, int]], index: int) -> Array:
    (top, bottom), (left, right) = block
    with opened(path) as file:
        dataset = dataset_of(file, path, "kspace")
        values = read_part(dataset, path, (index, slice(top, bottom), slice(left, right), echo))
    return np.ascontiguousarray(np.moveaxis(values, -1, 0), np.complex64)
