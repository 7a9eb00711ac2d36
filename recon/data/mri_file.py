"""Read k-space files of the fastMRI HDF5 layout."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from ..errors import data_error
from .complex_values import Array, as_complex, complex_shape
from .hdf5_file import dataset_of, not_found, opened, read_part, text_of
from .mri_fields import without_contradiction
from .mri_header import Header, read_header
from .mri_volume import KSpaceVolume
from .mri_zeros import without_zeros
from .noise_covariance import checked_covariance


def open_volume(path: Path | str) -> KSpaceVolume:
    """Check a file of the fastMRI layout; of k-space a few rows are read, to find zeros that no mask states.

    Expected: ``kspace`` complex ``(slices, coils, readout, phase)``, or ``(slices, readout, phase)`` for a
    single coil; ``ismrmrd_header`` XML. Complex numbers may be records of ``real`` and ``imag``, or floating point with
    a last axis of two. Optional: ``mask`` ``(width,)`` or ``(height, width)``,
    ``reconstruction_rss`` (``reconstruction_esc`` of a single coil, where ``reconstruction_rss`` is that of the
    multi-coil scan), ``maps``, ``noise_covariance``, attributes ``acquisition``,
    ``patient_id``, ``is_calibration`` and ``frames``, see :class:`KSpaceVolume`.

    Without ``ismrmrd_header`` the sizes follow from ``kspace``, the reconstruction and the attributes ``recon_size``,
    ``padding_left`` and ``padding_right``, where they exist.

    Returns
    -------
        The volume; its notes say what the file contradicts or leaves out.

    Raises
    ------
    DataError
        If the file is missing, empty, truncated, not HDF5, differs from the layout, is not Cartesian, or refers to
        other files by links, virtual datasets or external storage.
    """
    path = Path(path)
    with opened(path) as file:
        shape, numbers = _kspace_shape(file, path)
        rss_key = _rss_key(file, shape[1])
        rss_shape = _rss_shape(file, path, rss_key, shape[0])
        header, notes = _header(file, path, shape, rss_shape)
        volume = KSpaceVolume(
            path=path,
            shape=shape,
            header=header,
            mask=_mask(file, path, shape),
            acquisition=text_of(file.attrs.get("acquisition")),
            patient_id=text_of(file.attrs.get("patient_id")),
            rss_shape=rss_shape,
            rss_key=rss_key,
            has_maps="maps" in file and _maps_fit(file, path, shape),
            noise_covariance=_covariance(file, path, shape[1]),
            notes=notes,
            is_calibration=bool(np.any(file.attrs.get("is_calibration", False))),
            frames=_frames(file, path, shape[0]),
            reading=f"kspace (slices, coils, readout, phase) of {numbers} numbers"
            if numbers == "complex"
            else f"kspace (slices, coils, readout, phase), complex numbers as {numbers}",
        )
        if not volume.available.any():
            key = "ismrmrd_header" if volume.mask is None else "mask"
            found = f"no sampled position (padding {volume.header.padding}, width {shape[-1]})"
            raise data_error(path, key, found, "at least one", "correct the mask or the header's encodingLimits")
        volume = without_zeros(volume, partial(_read_rows, dataset_of(file, path, "kspace"), volume))
    return replace(volume, notes=(*volume.notes, *_unmeasured(volume)))


def _unmeasured(volume: KSpaceVolume) -> list[str]:
    """What the header says was not measured, and no mask states."""
    path, header, lines = volume.path, volume.header, []
    if header.acceleration > 1 and volume.mask is None:
        key, found = "ismrmrd_header parallelImaging", f"acceleration {header.acceleration:g} and no mask"
        advice = "lines that parallel imaging filled in are no measurement: add the mask"
        lines.append(str(data_error(path, key, found, "the mask of the scan", advice)))
    if (share := volume.partial_fourier) is not None:
        columns = volume.acquired.nonzero().flatten().tolist()
        found = f"columns {columns[0]} to {columns[-1]} of {volume.shape[3]}, partial Fourier ({share:.0%} of lines)"
        advice = "the others count as zero: references of this k-space are blurred along the phase"
        expected = "as many lines on both sides of the center"
        lines.append(str(data_error(path, "ismrmrd_header encodingLimits", found, expected, advice)))
    return lines


def _read_rows(dataset: h5py.Dataset, volume: KSpaceVolume, index: int, coils: slice, rows: slice) -> Array:
    has_coils = len(dataset.shape) - (dataset.dtype.kind == "f") == 4
    part = (index, 0 if coils == slice(0, 1) else coils, rows) if has_coils else (index, rows)
    values = as_complex(read_part(dataset, volume.path, part))
    return values if values.ndim == 3 else values[None]


def _kspace_shape(file: h5py.File, path: Path) -> tuple[tuple[int, int, int, int], str]:
    """Shape of k-space and how its complex numbers are stored."""
    if "kspace" not in file:
        raise not_found(file, path, "kspace", "dataset kspace", "add it")
    dataset = dataset_of(file, path, "kspace")
    advice = "write the file in the fastMRI layout"
    stored = complex_shape(dataset.dtype, tuple(dataset.shape))
    if stored is None:
        raise data_error(path, "kspace", f"dtype {dataset.dtype}", "complex64", advice)
    shape, numbers = stored
    if len(shape) == 3:
        shape = (shape[0], 1, *shape[1:])
    if len(shape) != 4 or 0 in shape:
        raise data_error(path, "kspace", f"shape {tuple(dataset.shape)}", "(slices, coils, readout, phase)", advice)
    return shape, numbers


def _header(
    file: h5py.File, path: Path, shape: tuple[int, int, int, int], rss_shape: tuple[int, int] | None
) -> tuple[Header, tuple[str, ...]]:
    """Header of the file, or one that follows from its arrays and attributes; and notes."""
    key, advice, image_shape = "ismrmrd_header", "write the header of this scan", (shape[2], shape[3])
    if key not in file:
        padding = (_attribute(file, path, "padding_left", 0), _attribute(file, path, "padding_right", shape[3]))
        found, expected = "nothing", "the header of the scan"
        note = data_error(path, key, found, expected, "sizes are those of kspace, every column counts as encoded")
        if padding != (0, shape[3]):
            note = data_error(path, key, found, expected, "sizes are those of kspace, padding that of the attributes")
        recon = rss_shape or _recon_size(file, image_shape)
        return Header(image_shape, recon, padding), (str(note),)
    xml = np.asarray(dataset_of(file, path, key)[()]).reshape(-1)
    if xml.size != 1 or not isinstance(xml[0], bytes | str):
        raise data_error(path, key, f"dtype {xml.dtype} with {xml.size} entries", "one string", advice)
    header, contradictions = without_contradiction(read_header(xml[0], path), path)
    readout, phase = header.encoded_shape
    matrix = f"{key} encodedSpace/matrixSize"
    if phase != shape[3]:
        raise data_error(path, f"{matrix}/y", str(phase), f"the width of kspace, {shape[3]}", advice)
    notes = list(contradictions)
    if readout != shape[2]:
        expected = f"the height of kspace, {shape[2]}"
        if header.recon_shape[0] != shape[2]:
            raise data_error(path, f"{matrix}/x", str(readout), expected, advice)
        removed = "read as a readout whose oversampling was removed; correct the header"
        notes.append(str(data_error(path, f"{matrix}/x", str(readout), expected, removed)))
    if header.partitions > 1:
        found, expected = str(header.partitions), "1: slices are reconstructed one by one"
        advice = "make sure that the slices are transformed along the slab, then write 1"
        notes.append(str(data_error(path, f"{matrix}/z", found, expected, advice)))
    return header, tuple(notes)


def _attribute(file: h5py.File, path: Path, key: str, default: int) -> int:
    """An attribute that is a whole number, as fastMRI's loader adds them."""
    value = file.attrs.get(key, default)
    if np.size(value) != 1 or not np.issubdtype(np.asarray(value).dtype, np.integer):
        raise data_error(path, f"attribute {key}", repr(value), "a whole number", "correct or remove it")
    return int(np.ravel(value)[0])


def _frames(file: h5py.File, path: Path, n_slices: int) -> int:
    frames = _attribute(file, path, "frames", 1)
    if frames < 1 or n_slices % frames:
        expected = f"a divisor of the {n_slices} slices, which are slices and frames"
        raise data_error(path, "attribute frames", str(frames), expected, "correct or remove it")
    return frames


def _recon_size(file: h5py.File, image_shape: tuple[int, int]) -> tuple[int, int]:
    size = np.ravel(file.attrs.get("recon_size", image_shape))
    fits = size.size >= 2 and size.dtype.kind in "iu" and (size[:2] > 0).all()
    return (int(size[0]), int(size[1])) if fits else image_shape


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


def _rss_key(file: h5py.File, n_coils: int) -> str:
    """Dataset of the reconstruction; that of a single coil beside a multi-coil one is ``reconstruction_esc``."""
    keys = ("reconstruction_rss", "reconstruction_esc")
    return next((key for key in (keys[::-1] if n_coils == 1 else keys) if key in file), keys[0])


def _rss_shape(file: h5py.File, path: Path, key: str, n_slices: int) -> tuple[int, int] | None:
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
    return checked_covariance(path, dataset_of(file, path, key), n_coils) if key in file else None
