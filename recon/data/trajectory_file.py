"""Files of samples along a trajectory: read and write fedrecon's own layout."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..errors import data_error
from ..files import write_hdf5
from .array_scans import as_array, checked_noise
from .complex_values import complex_shape
from .hdf5_file import dataset_of, not_found, opened, text_of
from .mri_header import Header, header_xml, read_header
from .noise_covariance import checked_covariance
from .trajectory_volume import TrajectoryVolume, checked_positions

#: Most pixels per side of an image of a trajectory.
_LARGEST_IMAGE = 4096


def is_trajectory(path: Path) -> bool:
    """Whether a file is HDF5 with ``kspace`` and ``trajectory``."""
    if not h5py.is_hdf5(path):
        return False
    with opened(path) as file:
        return {"kspace", "trajectory"} <= set(file)


def open_trajectory(path: Path) -> TrajectoryVolume:
    """Check a file of samples along a trajectory, as :func:`write_non_cartesian` writes it.

    Expected: ``kspace`` complex ``(slices, coils, spokes, samples)``; ``trajectory`` real ``(spokes, samples, 2)``, or
    with slices in front, in cycles per pixel along height and width; ``ismrmrd_header`` XML, whose ``encodedSpace`` is
    the size of the image. Optional: ``noise_covariance``, attributes ``acquisition`` and ``patient_id``.

    Raises
    ------
    DataError
        If the file is no complete HDF5, differs from the layout, or a position is not finite or beyond half a cycle.
    """
    path = Path(path)
    with opened(path) as file:
        for key in ("kspace", "trajectory"):
            if key not in file:
                raise not_found(file, path, key, f"dataset {key}", "write it with recon.write_non_cartesian")
        if "ismrmrd_header" not in file:
            advice = "write it with recon.write_non_cartesian"
            raise data_error(path, "ismrmrd_header", "nothing", "the header, with the size of the image", advice)
        dataset = dataset_of(file, path, "kspace")
        stored = complex_shape(dataset.dtype, tuple(dataset.shape))
        expected = "complex (slices, coils, spokes, samples)"
        if stored is None or len(stored[0]) != 4 or 0 in stored[0]:
            found = f"{dataset.dtype} of shape {tuple(dataset.shape)}"
            raise data_error(path, "kspace", found, expected, "write it with recon.write_non_cartesian")
        shape = stored[0]
        _require_trajectory(path, dataset_of(file, path, "trajectory"), shape)
        xml = np.asarray(dataset_of(file, path, "ismrmrd_header")[()]).reshape(-1)
        if xml.size != 1 or not isinstance(xml[0], bytes | str):
            found = f"dtype {xml.dtype} with {xml.size} entries"
            raise data_error(path, "ismrmrd_header", found, "one string", "write it again")
        covariance = None
        if "noise_covariance" in file:
            covariance = checked_covariance(path, dataset_of(file, path, "noise_covariance"), shape[1])
        acquisition, patient_id = (text_of(file.attrs.get(key)) for key in ("acquisition", "patient_id"))
    volume = TrajectoryVolume(
        path=path,
        shape=(shape[0], shape[1], shape[2], shape[3]),
        header=read_header(xml[0], path, cartesian=False),
        noise_covariance=covariance,
        reading="samples along a trajectory in cycles per pixel",
        acquisition=acquisition,
        patient_id=patient_id,
    )
    require_image(volume)
    volume.positions(0)
    return volume


def _require_trajectory(path: Path, dataset: h5py.Dataset, shape: tuple[int, ...]) -> None:
    one = (*shape[2:], 2)
    if dataset.dtype.kind != "f" or tuple(dataset.shape) not in (one, (shape[0], *one)):
        found, expected = f"{dataset.dtype} of shape {tuple(dataset.shape)}", f"real {one} or {(shape[0], *one)}"
        raise data_error(path, "trajectory", found, expected, "write a position for every sample of kspace")


def require_image(volume: TrajectoryVolume) -> None:
    """Refuse an image size that no scan has.

    Raises
    ------
    DataError
        If a side is below 2 or above 4096 pixels.
    """
    if not all(2 <= side <= _LARGEST_IMAGE for side in volume.image_shape):
        found, expected = "x".join(map(str, volume.image_shape)), f"2 to {_LARGEST_IMAGE} pixels per side"
        key, advice = "ismrmrd_header encodedSpace/matrixSize", "correct the size of the image"
        raise data_error(volume.path, key, found, expected, advice)


def write_non_cartesian(
    path: Path | str,
    samples: Any,
    trajectory: Any,
    shape: tuple[int, int],
    *,
    header: Header | None = None,
    noise: Any = None,
    patient_id: str | None = None,
    acquisition: str | None = None,
) -> bool:
    """Write samples along a trajectory, such as a radial or spiral scan, as :func:`open_trajectory` reads them.

    Parameters
    ----------
    path
        The file to write; an existing one is replaced.
    samples
        Complex ``(coils, spokes, samples)``, ``(slices, coils, spokes, samples)``, or ``(spokes, samples)`` of one
        coil; the scale is free.
    trajectory
        Positions in cycles per pixel along height and width, from -0.5 to 0.5, real ``(spokes, samples, 2)``, or with
        slices in front. A sample is the sum over pixels r of the coil image times exp(-2 pi i k r), with
        r = 0 at pixel ``(height // 2, width // 2)``.
    shape
        ``(height, width)`` of the image.
    header
        Facts about the scanner and fields of view; its encoded size must be `shape`. None: none are known.
    noise
        As for :func:`write_kspace`.
    patient_id, acquisition
        As for :func:`write_kspace`.

    Returns
    -------
        Whether the array is a single slice.

    Raises
    ------
    DataError
        If samples are real, empty, not finite or only zeros, positions are not finite or beyond half a cycle per pixel,
        shapes or noise do not fit, or the file cannot be written.
    """
    path, data, positions = Path(path), as_array(samples), as_array(trajectory)
    if data.dtype.kind != "c" or data.ndim not in (2, 3, 4) or 0 in data.shape:
        found, expected = (
            f"{data.dtype} of shape {data.shape}",
            "complex (coils, spokes, samples), slices in front or not",
        )
        raise data_error(path, "samples", found, expected, "join real and imaginary part, and order the axes")
    stack = np.asarray(data.reshape((1,) * (4 - data.ndim) + data.shape), np.complex64)
    one = (*stack.shape[2:], 2)
    if positions.dtype.kind != "f" or positions.shape not in (one, (len(stack), *one)):
        found, expected = f"{positions.dtype} of shape {positions.shape}", f"real {one} or {(len(stack), *one)}"
        raise data_error(path, "trajectory", found, expected, "pass a position for every sample")
    if not np.isfinite(stack).all():
        raise data_error(path, "samples", "NaN or infinite values", "finite values", "repair or leave out the scan")
    if not stack.any():
        raise data_error(path, "samples", "only zeros", "a measurement", "leave out the scan")
    size = (int(shape[0]), int(shape[1]))
    if header is None:
        header = Header(encoded_shape=size, recon_shape=size, padding=(0, size[1]), trajectory="other")
    if header.encoded_shape != size:
        found, expected = f"encoded matrix {header.encoded_shape}", f"the size of the image, {size}"
        raise data_error(path, "header", found, expected, "pass the header of this scan")
    arrays = {
        "kspace": stack,
        "trajectory": checked_positions(path, "trajectory", positions),
        "ismrmrd_header": header_xml(header),
    }
    if noise is not None:
        arrays["noise_covariance"] = checked_noise(path, as_array(noise), stack.shape[1])
    attributes = {"patient_id": patient_id, "acquisition": acquisition}
    write_hdf5(path, arrays, {key: text for key, text in attributes.items() if text is not None})
    return data.ndim < 4
