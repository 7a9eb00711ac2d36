"""Safe, lazy reading of k-space volumes in the fastMRI HDF5 layout."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from physics import Registry

from ..errors import data_error
from .mri_header import Header, read_header

RSS_KEYS = ("reconstruction_rss", "reconstruction_esc")


@dataclass(frozen=True, eq=False)
class KSpaceVolume:
    """One k-space file: checked facts, slices read on demand. It holds no open file and may be pickled.

    ``shape`` is ``(slices, coils, readout, phase)``; ``mask`` is that of the file, ``(width,)`` or
    ``(height, width)``, None where the file has none; ``noise_covariance`` is complex ``(coils, coils)``,
    the covariance of the noise in the file's k-space in its squared units (all zero: noise-free).
    """

    path: Path
    shape: tuple[int, int, int, int]
    header: Header
    mask: Tensor | None
    acquisition: str | None
    patient_id: str | None
    rss_key: str | None
    rss_shape: tuple[int, int] | None
    has_maps: bool
    noise_covariance: Tensor | None
    #: Inode, bytes and time of change of the file that all this was read from.
    version: tuple[int, int, int]

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
        """Whether the file's own mask leaves out encoded positions."""
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
        array = self._read("kspace", index)
        coils, height, width = self.shape[1:]
        return torch.from_numpy(array.astype(np.complex64, copy=False).reshape(coils, height, width))

    def read_rss(self, index: int) -> Tensor:
        """The file's root-sum-of-squares reconstruction of one slice, float32 ``(height, width)``."""
        if self.rss_key is None:
            raise data_error(self.path, RSS_KEYS[0], "nothing", "a reconstruction", "use another reference")
        return torch.from_numpy(self._read(self.rss_key, index).astype(np.float32, copy=False))

    def read_maps(self, index: int) -> Tensor:
        """The simulator's true coil maps of one slice, complex64 ``(coils, height, width)``."""
        if not self.has_maps:
            raise data_error(self.path, "maps", "nothing", "true coil maps", 'estimate them (maps = "espirit")')
        return torch.from_numpy(self._read("maps", index).astype(np.complex64, copy=False))

    def _read(self, key: str, index: int) -> np.ndarray[Any, Any]:
        if not 0 <= index < self.shape[0]:
            raise IndexError(f"KSpaceVolume: slice {index} of {self.path}, expected 0 to {self.shape[0] - 1}")
        with _opened(self.path) as file:
            dataset = _dataset(file, self.path, key)
            try:
                # Maps may be one set for all slices.
                array = np.asarray(dataset[()] if key == "maps" and dataset.ndim == 3 else dataset[index])
            except (OSError, ValueError) as error:
                raise data_error(
                    self.path,
                    f"{key}[{index}]",
                    f"unreadable data ({error})",
                    "a complete file",
                    "copy the file again",
                ) from None
        if not np.isfinite(array).all():
            raise data_error(
                self.path,
                f"{key}[{index}]",
                "NaN or infinite values",
                "finite values",
                "repair or leave out the file",
            )
        return array


def open_volume(path: Path | str) -> KSpaceVolume:
    """Check a file of the fastMRI layout and return its facts; reads no k-space.

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
    with _opened(path) as file:
        shape = _kspace_shape(file, path)
        rss_key = next((key for key in RSS_KEYS if key in file), None)
        volume = KSpaceVolume(
            path=path,
            shape=shape,
            header=_header(file, path, shape),
            mask=_mask(file, path, shape),
            acquisition=_attribute(file, "acquisition"),
            patient_id=_attribute(file, "patient_id"),
            rss_key=rss_key,
            rss_shape=None if rss_key is None else _rss_shape(file, path, rss_key, shape[0]),
            has_maps="maps" in file and _maps_fit(file, path, shape),
            noise_covariance=_covariance(file, path, shape[1]),
            version=_version(path),
        )
    sampled = volume.acquired if volume.mask is None else volume.acquired & volume.mask
    if not sampled.any():
        raise data_error(
            path,
            "mask" if volume.mask is not None else "ismrmrd_header",
            f"no sampled position (padding {volume.header.padding}, width {shape[-1]})",
            "at least one",
            "correct the mask or the header's encodingLimits",
        )
    return volume


#: Readers of k-space files by the value of ``format`` in a manifest; their keyword arguments are keys of ``[data]``.
MRI_READERS: Registry[KSpaceVolume] = Registry("MRI reader", {"fastmri": open_volume})


def open_kspace(path: Path | str, format: str = "fastmri", **options: Any) -> KSpaceVolume:
    """Check a k-space file and return its facts; reads no k-space.

    Parameters
    ----------
    format
        A name in :data:`MRI_READERS`.
    options
        Keyword arguments of the reader.

    Raises
    ------
    DataError
        If the file cannot be used.
    """
    return MRI_READERS[format](Path(path), **options)


def _version(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def fitting_crop(image_shape: tuple[int, int], recon_shape: tuple[int, int]) -> tuple[int, int]:
    """The center crop that fastMRI scores: the reconstruction size, a square where the image is too narrow.

    Parameters
    ----------
    image_shape
        ``(height, width)`` of the encoded image.
    recon_shape
        Reconstruction size of the header or shape of the target. If it does not fit into the image, the crop
        is a square of the image's narrower side.
    """
    if all(wanted <= size for wanted, size in zip(recon_shape, image_shape, strict=True)):
        return recon_shape
    side = min(image_shape)
    return (side, side)


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    layout = "an HDF5 file in the fastMRI layout"
    if not path.is_file():
        raise data_error(path, "file", "a folder" if path.is_dir() else "nothing", layout, "correct the path")
    if path.stat().st_size == 0:
        raise data_error(path, "file", "an empty file", layout, "copy the file again")
    try:
        # Read-only network folders often have no file locks.
        file = h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        truncated = "truncated" in str(error)
        what = f"a truncated HDF5 file ({error})" if truncated else f"no readable HDF5 ({error})"
        raise data_error(path, "file", what, layout, "copy the file again") from None
    with file:
        yield file


def _dataset(file: h5py.File, path: Path, key: str) -> h5py.Dataset:
    """A dataset whose bytes lie in this very file: what it names elsewhere on the disk is never followed."""
    if key not in file:
        found = ", ".join(sorted(file)) or "an empty file"
        raise data_error(path, key, f"only {found}", f"dataset {key}", "write the file in the fastMRI layout")
    advice = "copy the data into the file"
    link = file.get(key, getlink=True)
    if not isinstance(link, h5py.HardLink):
        kind = "an external link" if isinstance(link, h5py.ExternalLink) else "a soft link"
        raise data_error(path, key, kind, "a plain dataset", advice)
    dataset = file[key]
    if not isinstance(dataset, h5py.Dataset):
        raise data_error(path, key, "a group", "a dataset", "write the file in the fastMRI layout")
    if dataset.is_virtual:
        raise data_error(path, key, "a virtual dataset", "a plain dataset", advice)
    if dataset.external:
        raise data_error(path, key, "external storage", "a plain dataset", advice)
    return dataset


def _kspace_shape(file: h5py.File, path: Path) -> tuple[int, int, int, int]:
    dataset = _dataset(file, path, "kspace")
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
    xml = np.asarray(_dataset(file, path, key)[()]).reshape(-1)
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
    dataset = _dataset(file, path, "mask")
    fits = dataset.shape in ((width,), (1, width), (height, width))
    if not fits or dataset.dtype.kind not in "biuf":
        raise data_error(
            path,
            "mask",
            f"{dataset.dtype} of shape {dataset.shape}",
            f"0 and 1 of shape ({width},) or ({height}, {width})",
            "write one mask per file, without coil axis",
        )
    mask = np.asarray(dataset[()])
    if not np.isin(mask, (0, 1)).all():
        raise data_error(path, "mask", "values other than 0 and 1", "0 or 1", "write a mask, not weights")
    tensor = torch.from_numpy(mask != 0)
    return tensor.reshape(width) if tensor.shape[0] == 1 or tensor.ndim == 1 else tensor


def _rss_shape(file: h5py.File, path: Path, key: str, n_slices: int) -> tuple[int, int]:
    dataset = _dataset(file, path, key)
    shape = tuple(dataset.shape)
    if len(shape) != 3 or shape[0] != n_slices or 0 in shape or dataset.dtype.kind != "f":
        raise data_error(
            path,
            key,
            f"{dataset.dtype} of shape {shape}",
            f"floating point ({n_slices}, height, width)",
            "reconstruct it anew or remove it",
        )
    return (shape[1], shape[2])


def _maps_fit(file: h5py.File, path: Path, shape: tuple[int, int, int, int]) -> bool:
    dataset = _dataset(file, path, "maps")
    if dataset.dtype.kind != "c" or tuple(dataset.shape) not in (shape, shape[1:]):
        found = f"{dataset.dtype} of shape {tuple(dataset.shape)}"
        raise data_error(path, "maps", found, f"complex {shape} or {shape[1:]}", "simulate the file anew")
    return True


def _covariance(file: h5py.File, path: Path, n_coils: int) -> Tensor | None:
    key = "noise_covariance"
    if key not in file:
        return None
    dataset = _dataset(file, path, key)
    expected = f"a Hermitian positive semidefinite matrix ({n_coils}, {n_coils})"
    advice = "measure it anew or remove it"
    if tuple(dataset.shape) != (n_coils, n_coils) or dataset.dtype.kind not in "fc":
        raise data_error(path, key, f"{dataset.dtype} of shape {tuple(dataset.shape)}", expected, advice)
    matrix = np.asarray(dataset[()]).astype(np.complex128)
    if not np.isfinite(matrix).all():
        raise data_error(path, key, "NaN or infinite values", expected, advice)
    size = np.abs(matrix).max()
    if np.abs(matrix - matrix.conj().T).max() > 1e-5 * size or np.linalg.eigvalsh(matrix).min() < -1e-5 * size:
        raise data_error(path, key, "a matrix that is not Hermitian or has negative eigenvalues", expected, advice)
    return torch.from_numpy(matrix)


def _attribute(file: h5py.File, key: str) -> str | None:
    value = file.attrs.get(key)
    if value is None:
        return None
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text.strip() or None
