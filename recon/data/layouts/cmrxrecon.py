"""CMRxRecon: MATLAB 7.3 files with k-space ``(kx, ky, coils, slices, frames)``, which HDF5 stores in reverse order."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
from annotated_types import Ge

from ...errors import data_error
from ..complex_values import Array, as_complex, complex_shape
from ..hdf5_file import dataset_of, opened, read_part
from ..mri_zeros import ROUNDED
from .array_volume import ArrayVolume, array_volume, require_middle
from .hdf5_content import hdf5_content


def is_cmrxrecon(path: Path) -> bool:
    """Whether a file is a MATLAB 7.3 file with k-space."""
    content = hdf5_content(path)
    return content is not None and content.is_matlab and bool(_candidates(content.datasets))


def open_cmrxrecon(
    path: Path, *, variable: str | None = None, frame: Annotated[int, Ge(0)] | None = None
) -> ArrayVolume:
    """Check a file of CMRxRecon.

    Arrays of five axes are ``(kx, ky, coils, slices, frames)`` in MATLAB's order; of four and three without the last
    ones; a variable with ``single`` in its name has no axis of coils. kx is the readout. Slices of the volume are
    slices and frames, the slice counts fastest.

    Parameters
    ----------
    variable
        Name of the array, if the file holds several.
    frame
        Read this frame alone, from 0; None: all frames, or the first if the sampled positions differ between frames.

    Raises
    ------
    DataError
        If the array is missing, several could be meant, or its axes are unclear.
    """
    with opened(path) as file:
        name = _variable(file, path, variable)
        dataset = dataset_of(file, path, name)
        stored = complex_shape(dataset.dtype, tuple(dataset.shape))
        if stored is None:
            raise data_error(path, name, f"values of type {dataset.dtype}", "complex numbers", "use a file of k-space")
        shape, numbers = stored
        single = "single" in name
        most = 4 if single else 5
        if not most - 2 <= len(shape) <= most or 0 in shape:
            expected = f"{most - 2} to {most} axes, (kx, ky{'' if single else ', coils'}, slices, frames) in MATLAB"
            raise data_error(path, name, f"shape {shape}", expected, "use a file of CMRxRecon")
        full = (1,) * (most - len(shape)) + shape
        if single:
            full = (*full[:2], 1, *full[2:])
        frames, slices, coils, width, height = full
        if frame is not None and frame >= frames:
            raise data_error(path, "frame", str(frame), f"0 to {frames - 1}", "choose another one")
        measured = [_measured(dataset, path, (index, slices // 2), full) for index in range(frames)]
    differ = any(not np.array_equal(one, measured[0]) for one in measured)
    parts: tuple[tuple[str, dict[str, Any]], ...] = ()
    notes: tuple[str, ...] = ()
    if frame is None and differ:
        keys = {} if variable is None else {"variable": variable}
        parts = tuple((f"frame{index}", {**keys, "frame": index}) for index in range(frames))
        found, expected = f"{frames} frames of different sampling", "one mask for all slices of a volume"
        notes = (str(data_error(path, name, found, expected, "frame 0 is read; set frame in [data] for another")),)
        frame = 0
    chosen = tuple(range(frames)) if frame is None else (frame,)
    said = f"{len(chosen)} frames x {slices} slices, the slice fastest" if frame is None else f"frame {frame}"
    axes = "kx, ky, slices, frames" if single else "kx, ky, coils, slices, frames"
    axes = ", ".join(axes.split(", ")[: len(shape)])
    volume = array_volume(
        path, (len(chosen) * slices, coils, height, width), partial(_slice, path, name, full, chosen),
        reading=f"{name} ({axes}) of MATLAB, kx as the readout, complex numbers as {numbers}; {said}",
        mask=None if measured[chosen[0]].all() else measured[chosen[0]],
        notes=notes, parts=parts, frames=len(chosen),
    )  # fmt: skip
    require_middle(volume)
    return volume


def _candidates(datasets: Any) -> list[str]:
    return [name for name in datasets if name.startswith("kspace") or name == "kus"]


def _variable(file: h5py.File, path: Path, variable: str | None) -> str:
    found = _candidates(file)
    if variable is not None:
        if variable not in file:
            raise data_error(path, "variable", repr(variable), f"one of {', '.join(file)}", "correct the name")
        return variable
    if len(found) != 1:
        held = ", ".join(found or file) or "nothing"
        raise data_error(path, "variable", held, "one array of k-space", "name it, variable in [data]")
    return found[0]


def _measured(dataset: h5py.Dataset, path: Path, index: tuple[int, int], full: tuple[int, ...]) -> Array:
    """Measured columns ``(ky,)`` of one slice, or positions ``(kx, ky)`` where columns have holes."""
    positions = np.asarray((_planes(dataset, path, index, full) != 0).any(0))
    rows, columns = np.asarray(positions.any(1)), np.asarray(positions.any(0))
    inside = positions[np.ix_(rows, columns)]
    return columns if inside.size == 0 or inside.mean() >= 1 - ROUNDED else positions


def _planes(dataset: h5py.Dataset, path: Path, index: tuple[int, int], full: tuple[int, ...]) -> Array:
    """k-space of one slice, ``(coils, kx, ky)``; ``index`` is that of frame and slice."""
    stored_axes = len(dataset.shape) - (dataset.dtype.kind == "f")
    leading = stored_axes - (2 if full[2] == 1 and stored_axes <= 4 and _lacks_coils(dataset) else 3)
    values = as_complex(read_part(dataset, path, index[2 - leading :] if leading else ()))
    return np.asarray(values.reshape(full[2:]).swapaxes(-1, -2))


def _lacks_coils(dataset: h5py.Dataset) -> bool:
    return "single" in str(dataset.name)


def _slice(path: Path, name: str, full: tuple[int, ...], frames: tuple[int, ...], index: int) -> Array:
    number, of_slice = divmod(index, full[1])
    with opened(path) as file:
        return np.ascontiguousarray(
            _planes(dataset_of(file, path, name), path, (frames[number], of_slice), full), np.complex64
        )
