"""k-space files: volumes of the fastMRI HDF5 layout."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from ..errors import data_error
from .hdf5_file import dataset_of, not_found, opened, text_of
from .mri_header import Header, read_header

#: Largest value of k-space and images: sums of squares stay finite in single precision.
LARGEST_VALUE = 1e15
_RSS_KEYS = ("reconstruction_rss", "reconstruction_esc")


@dataclass(frozen=True, eq=False)
class KSpaceVolume:
    """One k-space file: checked facts; slices are read on demand. No file stays open; pickling is allowed.

    Volumes of other layouts derive from it and override :meth:`_read`.

    Parameters
    ----------
    shape
        ``(slices, coils, readout, phase)``.
    mask
        Mask of the file, bool ``(width,)`` or ``(height, width)``; None where the file has none.
    rss_shape
        ``(height, width)`` of the root-sum-of-squares reconstructions; None where the file has none.
    has_maps
        Whether the file holds the true coil maps of a simulation.
    noise_covariance
        Covariance of the noise in k-space, complex ``(coils, coils)``, in squared units of the file; all zero: no
        noise; None: unknown.
    """

    path: Path
    shape: tuple[int, int, int, int]
    header: Header
    mask: Tensor | None = None
    acquisition: str | None = None
    patient_id: str | None = None
    rss_shape: tuple[int, int] | None = None
    has_maps: bool = False
    noise_covariance: Tensor | None = None
    #: Inode, size in bytes and time of change of the file when it was checked; read from the file.
    version: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        status = self.path.stat()
        object.__setattr__(self, "version", (status.st_ino, status.st_size, status.st_mtime_ns))

    @property
    def description(self) -> str:
        return f"{self.shape[1]} coils {self.shape[2]}x{self.shape[3]}"

    @property
    def acquired(self) -> Tensor:
        """Columns that the scanner encoded, bool ``(width,)``; the others are padding."""
        left, right = self.header.padding
        columns = torch.zeros(self.shape[-1], dtype=torch.bool)
        columns[max(left, 0) : max(right, 0)] = True
        return columns

    @property
    def undersampled(self) -> bool:
        """Whether the mask of the file leaves out encoded positions."""
        return self.mask is not None and not bool((self.mask | ~self.acquired).all())

    @property
    def crop_shape(self) -> tuple[int, int]:
        """Size of the displayed and scored image, from the header's reconstruction size."""
        return fitting_crop((self.shape[-2], self.shape[-1]), self.header.recon_shape)

    def read_slice(self, index: int) -> Tensor:
        """k-space of one slice, complex64 ``(coils, height, width)``; nothing else of the file is read.

        Raises
        ------
        DataError
            If the slice cannot be read or is not finite.
        """
        return torch.from_numpy(self._checked("kspace", index, np.complex64).reshape(self.shape[1:]))

    def read_rss(self, index: int) -> Tensor:
        """Root-sum-of-squares reconstruction of one slice, float32 ``(height, width)``."""
        if self.rss_shape is None:
            raise data_error(self.path, _RSS_KEYS[0], "nothing", "a reconstruction", "use another reference")
        return torch.from_numpy(self._checked(_RSS_KEYS[0], index, np.float32))

    def read_maps(self, index: int) -> Tensor:
        """True coil maps of one simulated slice, complex64 ``(coils, height, width)``."""
        if not self.has_maps:
            raise data_error(self.path, "maps", "nothing", "true coil maps", 'estimate them (maps = "espirit")')
        return torch.from_numpy(self._checked("maps", index, np.complex64))

    def _checked(self, what: str, index: int, dtype: type[np.generic]) -> np.ndarray[Any, Any]:
        if not 0 <= index < self.shape[0]:
            raise IndexError(f"KSpaceVolume: slice {index} of {self.path}, expected 0 to {self.shape[0] - 1}")
        array, key = self._read(what, index), f"{what}[{index}]"
        if not np.isfinite(array).all():
            raise data_error(self.path, key, "NaN or infinite values", "finite values", "repair or leave out the file")
        if (largest := max(np.abs(array.real).max(), np.abs(array.imag).max())) > LARGEST_VALUE:
            expected = f"at most {LARGEST_VALUE:g}, as squares are in single precision"
            raise data_error(self.path, key, f"values up to {largest:.1e}", expected, "divide the data by a constant")
        return np.require(array, dtype, "W")

    def _read(self, what: str, index: int) -> np.ndarray[Any, Any]:
        """One slice of ``kspace``, ``reconstruction_rss`` or ``maps``."""
        with opened(self.path) as file:
            dataset = dataset_of(file, self.path, _rss_key(file) if what == _RSS_KEYS[0] else what)
            try:
                # Maps may be one set for all slices.
                return np.asarray(dataset[()] if what == "maps" and dataset.ndim == 3 else dataset[index])
            except (OSError, ValueError) as error:
                found, key = f"unreadable data ({error})", f"{what}[{index}]"
                raise data_error(self.path, key, found, "a complete file", "copy the file again") from None


def open_volume(path: Path | str) -> KSpaceVolume:
    """Check a file of the fastMRI layout; reads no k-space.

    Expected: ``kspace`` complex ``(slices, coils, readout, phase)``, or ``(slices, readout, phase)`` for a
    single coil; ``ismrmrd_header`` XML. Optional: ``mask`` ``(width,)`` or ``(height, width)``,
    ``reconstruction_rss`` (or ``reconstruction_esc``), ``maps``, ``noise_covariance``, attributes
    ``acquisition`` and ``patient_id``.

    Raises
    ------
    DataError
        If the file is missing, empty, truncated, not HDF5, differs from the layout, or refers to other files
        by links, virtual datasets or external storage.
    """
    path = Path(path)
    with opened(path) as file:
        shape = _kspace_shape(file, path)
        volume = KSpaceVolume(
            path=path,
            shape=shape,
            header=_header(file, path, shape),
            mask=_mask(file, path, shape),
            acquisition=text_of(file.attrs.get("acquisition")),
            patient_id=text_of(file.attrs.get("patient_id")),
            rss_shape=_rss_shape(file, path, shape[0]),
            has_maps="maps" in file and _maps_fit(file, path, shape),
            noise_covariance=_covariance(file, path, shape[1]),
        )
    sampled = volume.acquired if volume.mask is None else volume.acquired & volume.mask
    if not sampled.any():
        key = "ismrmrd_header" if volume.mask is None else "mask"
        found = f"no sampled position (padding {volume.header.padding}, width {shape[-1]})"
        raise data_error(path, key, found, "at least one", "correct the mask or the header's encodingLimits")
    return volume


def fitting_crop(image_shape: tuple[int, int], recon_shape: tuple[int, int]) -> tuple[int, int]:
    """The center crop that fastMRI scores: the reconstruction size, or a square where the image is too narrow.

    Parameters
    ----------
    image_shape
        ``(height, width)`` of the encoded image.
    recon_shape
        Reconstruction size of the header or shape of the target. If it does not fit into the image, the crop
        is a square with the image's shorter side.
    """
    if all(wanted <= size for wanted, size in zip(recon_shape, image_shape, strict=True)):
        return recon_shape
    side = min(image_shape)
    return (side, side)


def _kspace_shape(file: h5py.File, path: Path) -> tuple[int, int, int, int]:
    if "kspace" not in file:
        raise not_found(file, path, "kspace", "dataset kspace", "add it")
    dataset = dataset_of(file, path, "kspace")
    advice = "write the file in the fastMRI layout"
    if dataset.dtype.kind != "c":
        raise data_error(path, "kspace", f"dtype {dataset.dtype}", "complex64", advice)
    shape = tuple(dataset.shape)
    if len(shape) == 3:
        shape = (shape[0], 1, *shape[1:])
    if len(shape) != 4 or 0 in shape:
        raise data_error(path, "kspace", f"shape {tuple(dataset.shape)}", "(slices, coils, readout, phase)", advice)
    return shape


def _header(file: h5py.File, path: Path, shape: tuple[int, int, int, int]) -> Header:
    key, advice = "ismrmrd_header", "write the header of this scan"
    xml = np.asarray(dataset_of(file, path, key)[()]).reshape(-1)
    if xml.size != 1 or not isinstance(xml[0], bytes | str):
        raise data_error(path, key, f"dtype {xml.dtype} with {xml.size} entries", "one string", advice)
    header = read_header(xml[0], path)
    if header.encoded_shape[1] != shape[-1]:
        key, expected = f"{key} encodedSpace/matrixSize/y", f"the width of kspace, {shape[-1]}"
        raise data_error(path, key, str(header.encoded_shape[1]), expected, advice)
    return header


def _mask(file: h5py.File, path: Path, shape: tuple[int, int, int, int]) -> Tensor | None:
    if "mask" not in file:
        return None
    height, width = shape[2:]
    dataset = dataset_of(file, path, "mask")
    fits = dataset.shape in ((width,), (1, width), (height, width))
    if not fits or dataset.dtype.kind not in "biuf":
        found = f"{dataset.dtype} of shape {dataset.shape}"
        expected = f"0 and 1 of shape ({width},) or ({height}, {width})"
        raise data_error(path, "mask", found, expected, "write one mask per file, without coil axis")
    mask = np.asarray(dataset[()])
    if not np.isin(mask, (0, 1)).all():
        raise data_error(path, "mask", "values other than 0 and 1", "0 or 1", "write a mask, not weights")
    tensor = torch.from_numpy(mask != 0)
    return tensor.reshape(width) if tensor.shape[0] == 1 or tensor.ndim == 1 else tensor


def _rss_key(file: h5py.File) -> str:
    return next((key for key in _RSS_KEYS if key in file), _RSS_KEYS[0])


def _rss_shape(file: h5py.File, path: Path, n_slices: int) -> tuple[int, int] | None:
    key = _rss_key(file)
    if key not in file:
        return None
    dataset = dataset_of(file, path, key)
    shape = tuple(dataset.shape)
    if len(shape) != 3 or shape[0] != n_slices or 0 in shape or dataset.dtype.kind != "f":
        found, expected = f"{dataset.dtype} of shape {shape}", f"floating point ({n_slices}, height, width)"
        raise data_error(path, key, found, expected, "reconstruct it again or remove it")
    return (shape[1], shape[2])


def _maps_fit(file: h5py.File, path: Path, shape: tuple[int, int, int, int]) -> bool:
    dataset = dataset_of(file, path, "maps")
    if dataset.dtype.kind != "c" or tuple(dataset.shape) not in (shape, shape[1:]):
        found = f"{dataset.dtype} of shape {tuple(dataset.shape)}"
        raise data_error(path, "maps", found, f"complex {shape} or {shape[1:]}", "simulate the file again")
    return True


def _covariance(file: h5py.File, path: Path, n_coils: int) -> Tensor | None:
    key = "noise_covariance"
    if key not in file:
        return None
    dataset = dataset_of(file, path, key)
    expected = f"a Hermitian positive semidefinite matrix ({n_coils}, {n_coils})"
    advice = "measure it again or remove it"
    if tuple(dataset.shape) != (n_coils, n_coils) or dataset.dtype.kind not in "fc":
        raise data_error(path, key, f"{dataset.dtype} of shape {tuple(dataset.shape)}", expected, advice)
    matrix = np.asarray(dataset[()]).astype(np.complex128)
    if not np.isfinite(matrix).all():
        raise data_error(path, key, "NaN or infinite values", expected, advice)
    size = np.abs(matrix).max()
    if np.abs(matrix - matrix.conj().T).max() > 1e-5 * size or np.linalg.eigvalsh(matrix).min() < -1e-5 * size:
        raise data_error(path, key, "a matrix that is not Hermitian or has negative eigenvalues", expected, advice)
    return torch.from_numpy(matrix)
