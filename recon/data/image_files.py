"""Read magnitude images from NIfTI and DICOM files."""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import torch
from pydicom.errors import InvalidDicomError
from torch import Tensor

from ..errors import data_error
from ..files import shown_files
from .other_formats import DICOM, NIFTI, format_of, unreadable

_NIFTI, _DICOM = (".nii", ".nii.gz"), (".dcm", ".ima")


def read_images(path: Path | str) -> Tensor:
    """Read magnitude images from a NIfTI or DICOM file, or from a folder of one DICOM series.

    NIfTI volumes become axial slices from feet to head, anterior at the top, the patient's left at the right
    of the image. DICOM slices keep their orientation and are sorted along their normal. Values are rescaled
    as stated in the file. For a phase see :func:`with_realistic_phase`.

    Returns
    -------
        float32 ``(slices, height, width)``.

    Raises
    ------
    DataError
        If the file is missing, broken or no volume, or the folder does not hold exactly one series.
    """
    path = Path(path)
    if path.is_dir():
        files = [file for file in shown_files(path) if file.suffix.lower() in _DICOM or _is_dicom(file)]
        if not files:
            raise data_error(path, "folder", "no DICOM file", "one DICOM series", "correct the path")
        return _finite(_read_dicom(files, path), path)
    if not path.is_file():
        raise data_error(path, "file", "nothing", "a NIfTI or DICOM file", "correct the path")
    if path.name.lower().endswith(_NIFTI):
        return _finite(_read_nifti(path), path)
    if format_of(path) == NIFTI:
        raise data_error(path, "file name", "a NIfTI image", "a name that ends with .nii or .nii.gz", "rename it")
    return _finite(_read_dicom([path], path), path)


def _read_nifti(path: Path) -> np.ndarray[Any, Any]:
    import nibabel  # late: slow to import

    canonical: Callable[[Any], Any] = nibabel.as_closest_canonical
    try:
        image: Any = canonical(nibabel.load(path))
        volume = np.squeeze(np.asarray(image.dataobj, dtype=np.float32))
    except (nibabel.filebasedimages.ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        found = f"no readable NIfTI ({error})"
        raise unreadable(path, found, "a NIfTI volume", "copy it again", own="a NIfTI image") from None
    if volume.ndim != 3:
        raise data_error(path, "data", f"shape {volume.shape}", "a 3-D volume", "write one volume per file")
    # Canonical axes point to the right, to anterior and to superior.
    return np.ascontiguousarray(volume[::-1, ::-1, :].transpose(2, 1, 0))


def _read_dicom(files: Sequence[Path], path: Path) -> np.ndarray[Any, Any]:
    slices: list[tuple[float, np.ndarray[Any, Any]]] = []
    series = set()
    for number, file in enumerate(files):
        try:
            dataset = pydicom.dcmread(file)
            pixels = dataset.pixel_array.astype(np.float32)
        except (InvalidDicomError, AttributeError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
            found, advice = f"no readable DICOM ({error})", "copy it again, uncompressed"
            raise unreadable(file, found, "a NIfTI or DICOM image", advice, own="a DICOM image") from None
        pixels = pixels * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
        series.add(dataset.get("SeriesInstanceUID"))
        slices.append((_slice_position(dataset, number), pixels))
    if len(series) > 1:
        raise data_error(path, "SeriesInstanceUID", f"{len(series)} series", "one series", "use one folder per series")
    shapes = {pixels.shape for _, pixels in slices}
    if len(shapes) > 1 or len(next(iter(shapes))) not in ((2, 3) if len(files) == 1 else (2,)):
        raise data_error(path, "PixelData", f"shapes {sorted(shapes)}", "gray images of one shape", "sort the series")
    slices.sort(key=lambda entry: entry[0])
    volume = np.stack([pixels for _, pixels in slices])
    return volume[0] if volume.ndim == 4 else volume


def _is_dicom(file: Path) -> bool:
    return file.is_file() and format_of(file) == DICOM and file.name != "DICOMDIR"  # the index of the files on a disc


def _slice_position(dataset: pydicom.Dataset, number: int) -> float:
    position, orientation = dataset.get("ImagePositionPatient"), dataset.get("ImageOrientationPatient")
    if position is not None and orientation is not None:
        axes = np.asarray(orientation, dtype=float)
        return float(np.dot(np.cross(axes[:3], axes[3:]), np.asarray(position, dtype=float)))
    return float(dataset.get("InstanceNumber") or number)


def _finite(volume: np.ndarray[Any, Any], path: Path) -> Tensor:
    if not np.isfinite(volume).all():
        raise data_error(path, "data", "NaN or infinite values", "finite values", "repair the image")
    return torch.from_numpy(volume)
