"""Calgary-Campinas raw data (CC359): hybrid k-space ``(x, ky, kz, 2 coils)``, .h5 of several coils or .npy of one.

Its authors reconstruct by a plain inverse FFT over ``(ky, kz)``, without shifts. The zero frequency may then lie in the
middle or in the corner: both give the same magnitude, so it is told from the peak.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from ...errors import data_error
from ..complex_values import Array, as_complex
from ..hdf5_file import dataset_of, opened, read_part
from ..mri_center import zero_frequency
from ..mri_header import Header
from .array_volume import ArrayVolume, array_volume
from .hdf5_content import hdf5_content
from .numpy_file import is_numpy, mapped

#: Part of the slab encoding that was measured with several coils; what lies beyond is set to zero by its authors.
_MEASURED = 0.85


def is_cc359_hdf5(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
    """Whether ``kspace`` holds real and imaginary parts by turns along its last axis."""
    return dtype.kind == "f" and len(shape) == 4 and shape[-1] > 2 and shape[-1] % 2 == 0


def is_cc359(path: Path) -> bool:
    """Whether a file is hybrid k-space of CC359."""
    if (content := hdf5_content(path)) is not None:
        return "kspace" in content.datasets and not content.is_matlab and is_cc359_hdf5(*content.datasets["kspace"])
    with path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":
            return False
    array = mapped(path)
    return array.dtype.kind == "f" and array.ndim == 4 and array.shape[-1] % 2 == 0 and not is_numpy(path)


def open_cc359(path: Path) -> ArrayVolume:
    """Check a file of CC359.

    Slices are positions along the readout, planes are ``(ky, kz)``. Of several coils the last 15 % of kz count as not
    measured.

    Raises
    ------
    DataError
        If the layout is another, or the place of the zero frequency is unclear.
    """
    shape = _read(path, None).shape
    if len(shape) != 4 or shape[-1] % 2 or 0 in shape:
        raise data_error(path, "kspace", f"shape {shape}", "(x, ky, kz, 2 coils)", "use raw data of CC359")
    slices, height, width, parts = shape
    middle = _centered(_read(path, slices // 2), False)
    if (most := float(np.abs(middle).max())) == 0:
        raise data_error(path, f"kspace[{slices // 2}]", "only zeros", "a measurement", "leave out the file")
    # Squares of large values would overflow; the volume refuses what is not finite.
    places = zero_frequency(torch.from_numpy(middle / most if math.isfinite(most) else middle))
    if len(set(places)) > 1 or "unclear" in places:
        found, expected = f"the peak of k-space {' and '.join(places)}", "it in the middle or in the corner"
        raise data_error(path, "kspace", found, expected, "write k-space with recon.write_kspace")
    in_corner = places[0] == "corner"
    limited = parts > 2 and not in_corner
    end = math.ceil(_MEASURED * width) if limited else width
    where = "the corner" if in_corner else "the middle"
    beyond = f"; kz from {end} on not measured, as by its authors" if limited else ""
    return array_volume(
        path, (slices, parts // 2, height, width), partial(_slice, path, in_corner),
        reading=f"hybrid k-space (x, ky, kz, coils): slices along x, image by a plain inverse FFT, zero frequency in "
        f"{where}, moved to the convention of fedrecon{beyond}",
        header=Header(encoded_shape=(height, width), recon_shape=(height, width), padding=(0, end)),
    )  # fmt: skip


def _slice(path: Path, in_corner: bool, index: int) -> Array:
    kspace = _centered(_read(path, index), in_corner)
    if not in_corner and kspace.shape[0] > 1:
        kspace[..., math.ceil(_MEASURED * kspace.shape[-1]) :] = 0
    return kspace


def _centered(stored: Any, in_corner: bool) -> Array:
    """k-space ``(coils, ky, kz)`` whose centered inverse FFT is the plain one of what is stored."""
    axes = (-2, -1)
    with np.errstate(invalid="ignore"):  # the volume refuses what is not finite
        kspace = np.moveaxis(as_complex(np.stack((stored[..., ::2], stored[..., 1::2]), -1)), -1, 0)
        centered = np.fft.fft2(np.fft.ifftshift(np.fft.ifft2(kspace, axes=axes), axes=axes), axes=axes)
    return np.asarray(np.fft.fftshift(centered, axes=axes) if in_corner else centered, np.complex64)


def _read(path: Path, index: int | None) -> Any:
    """One slice, or the whole array or dataset for its shape."""
    if not h5py.is_hdf5(path):
        array = mapped(path)
        return array if index is None else np.array(array[index], np.float32)
    with opened(path) as file:
        dataset = dataset_of(file, path, "kspace")
        return np.broadcast_to(np.float32(0), dataset.shape) if index is None else read_part(dataset, path, index)
