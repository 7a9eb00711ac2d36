"""NumPy files: one array (.npy), or ``kspace`` with its mask, header and noise (.npz); axes are named or by rule."""

import zipfile
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import data_error
from ..complex_values import Array, as_complex, complex_shape
from ..hdf5_file import text_of
from ..mri_center import zero_frequency
from ..mri_header import read_header
from ..noise_covariance import checked_covariance
from .array_volume import ArrayVolume, array_volume, require_middle, require_same_columns

#: Axes of k-space in the order in which slices are read; those before the coils are flattened, the last one fastest.
_AXES = ("contrast", "repetition", "frame", "slice", "coil", "readout", "phase")
_BY_RULE = {
    2: ("readout", "phase"),
    3: ("coil", "readout", "phase"),
    4: ("slice", "coil", "readout", "phase"),
}
_ADVICE = "name the axes, axes=['slice', 'coil', 'readout', 'phase'], in an .npz, or use recon.write_kspace"


def is_numpy(path: Path) -> bool:
    """Whether a file is an .npz with ``kspace`` or an .npy with complex numbers; .npy of CC359 is not."""
    with path.open("rb") as file:
        head = file.read(6)
    if head == b"\x93NUMPY":
        array = mapped(path)
        if complex_shape(array.dtype, array.shape) is None:
            return False
        return array.dtype.kind == "c" or array.ndim != 4 or not _in_corner(array)
    if not head.startswith(b"PK\3\4"):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return "kspace.npy" in archive.namelist()
    except zipfile.BadZipFile:
        return False


def open_numpy(path: Path) -> ArrayVolume:
    """Check a NumPy file.

    An .npz holds ``kspace`` and optionally ``axes`` (names of its axes, see below), ``mask``, ``noise_covariance``,
    ``ismrmrd_header``, ``patient_id`` and ``acquisition``; an .npy holds k-space alone. Complex numbers are complex,
    or floating point with a last axis of two. Names of axes are ``slice``, ``coil``, ``readout`` and ``phase`` (the
    phase encoding), also ``frame``, ``repetition`` and ``contrast``, in any order. Without names k-space is
    ``(slice, coil, readout, phase)``, ``(coil, readout, phase)`` or ``(readout, phase)``. The zero frequency is in the
    middle. No object arrays are read: they hold code.

    Raises
    ------
    DataError
        If there is no k-space, the axes are unclear, or the zero frequency lies in the corner.
    """
    content = _content(path)
    if (trajectory := next((key for key in content if key.lower().startswith("traj")), None)) is not None:
        raise data_error(
            path, trajectory, "a trajectory", "Cartesian k-space", "write it with recon.write_non_cartesian"
        )
    array = content.get("kspace")
    if array is None:
        raise data_error(path, "kspace", f"only {', '.join(content) or 'nothing'}", "an array kspace", _ADVICE)
    if (stored := complex_shape(array.dtype, array.shape)) is None:
        found = f"{array.dtype} of shape {array.shape}"
        raise data_error(path, "kspace", found, "complex numbers", "write k-space, not images")
    shape, numbers = stored
    names = _named(path, content.get("axes"), len(shape))
    kept = [name for name in _AXES if name in names]
    order = [names.index(name) for name in kept]
    sizes = {name: shape[names.index(name)] for name in kept}
    slices = [name for name in kept if name not in ("coil", "readout", "phase")]
    full = (int(np.prod([sizes[name] for name in slices])), sizes.get("coil", 1), sizes["readout"], sizes["phase"])
    flattened = f"; slices are {' x '.join(slices)}, the last one fastest" if len(slices) > 1 else ""
    header = content.get("ismrmrd_header")
    covariance = content.get("noise_covariance")
    volume = array_volume(
        path, full, partial(_slice, path, _version(path), tuple(order), full),
        reading=f"kspace ({', '.join(names)}) {'as named' if 'axes' in content else 'by the rule for its axes'}, "
        f"complex numbers as {numbers}{flattened}",
        header=None if header is None else read_header(str(header), path),
        mask=content.get("mask"),
        noise_covariance=None if covariance is None else checked_covariance(path, covariance, full[1]),
        patient_id=text_of(content.get("patient_id")),
        acquisition=text_of(content.get("acquisition")),
    )  # fmt: skip
    require_middle(volume)
    if full[0] > 1 and content.get("mask") is None:
        ordered = _ordered(path, _version(path), tuple(order), full)
        require_same_columns(path, np.stack([(one != 0).any((0, 1)) for one in ordered]))
    return volume


def mapped(path: Path) -> Array:
    """The array of an .npy, not read yet.

    Raises
    ------
    DataError
        If it is cut off or holds objects.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except (ValueError, OSError, EOFError) as error:
        raise data_error(path, "file", f"an .npy that cannot be read ({error})", "an array", "copy it again") from None


def _content(path: Path) -> dict[str, Any]:
    """Arrays of a file by name; text as text."""
    with path.open("rb") as file:
        if file.read(6) == b"\x93NUMPY":
            return {"kspace": mapped(path)}
    try:
        with np.load(path, allow_pickle=False) as archive:
            content = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        found = f"an .npz that cannot be read ({error})"
        raise data_error(path, "file", found, "arrays of numbers and text", "copy it again") from None
    return {name: array.item() if array.ndim == 0 else array for name, array in content.items()}


def _named(path: Path, axes: Any, count: int) -> tuple[str, ...]:
    """Names of the axes of k-space."""
    if axes is None:
        if count not in _BY_RULE:
            raise data_error(path, "kspace", f"{count} axes without names", "2 to 4, or names", _ADVICE)
        return _BY_RULE[count]
    named = axes.replace(",", " ").split() if isinstance(axes, str) else [str(name) for name in np.ravel(axes)]
    unknown = [name for name in named if name not in _AXES]
    if unknown or len(named) != count or len(set(named)) != count or not {"readout", "phase"} <= set(named):
        expected = f"{count} different names of {', '.join(_AXES)}, with readout and phase"
        raise data_error(path, "axes", ", ".join(named) or "nothing", expected, "correct the names")
    return tuple(named)


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=1)
def _ordered(path: Path, version: tuple[int, int], order: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """k-space ``(slices, coils, readout, phase)``; that of the last file stays in memory."""
    array = _content(path)["kspace"]
    complex_axes = as_complex(array) if array.dtype.kind != "c" else array
    return np.asarray(complex_axes.transpose(order).reshape(shape))


def _slice(path: Path, version: tuple[int, int], order: tuple[int, ...], shape: tuple[int, ...], index: int) -> Array:
    return np.array(_ordered(path, version, order, shape)[index], np.complex64)


def _in_corner(array: Array) -> bool:
    """Whether the zero frequency of ``(slices, height, width, 2)`` lies in the corner along both axes."""
    middle = np.array(array[len(array) // 2], np.float32)
    return zero_frequency(torch.from_numpy(as_complex(middle)[None])) == ("corner", "corner")
