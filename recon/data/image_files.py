"""Read magnitude images from NIfTI and DICOM files, in square pixels."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pydicom
import torch
from pydicom.errors import InvalidDicomError
from torch import Tensor

from ..errors import DataError, data_error
from ..files import shown_files
from .dicom_checks import require_axial, require_modality, without_padding
from .other_formats import DICOM, NIFTI, format_of, unreadable

_NIFTI, _DICOM = (".nii", ".nii.gz"), (".dcm", ".ima")
#: Relative difference of the two edges of a pixel that counts as none.
_SQUARE = 0.01
#: Longest pixel, longer over shorter edge, that is resampled: a longer one is the thickness of slices.
_LONGEST = 3.0


def read_images(path: Path | str, *, labels: bool = False, modality: Literal["CT", "MR"] | None = None) -> Tensor:
    """Read magnitude images from a NIfTI or DICOM file, or from a folder of one DICOM series.

    NIfTI volumes become axial slices from feet to head, anterior at the top, the patient's left at the right
    of the image; a volume of one slice becomes that slice, in its own plane. DICOM slices keep their orientation and
    are sorted along their normal. Values are rescaled as stated in the file, or for each frame in its functional
    groups. Padding of DICOM files that is brighter than the image (`PixelPaddingValue`) takes the smallest of the other
    values. Pixels that are not square are resampled to squares of their longer edge. For a phase see
    :func:`with_realistic_phase`.

    Parameters
    ----------
    labels
        The values are labels: resampling takes the nearest one.
    modality
        Modality of DICOM files; those that state another one are refused, and so are CT images that are not axial
        slices in Hounsfield units. None: any.

    Returns
    -------
        float32 ``(slices, height, width)``.

    Raises
    ------
    DataError
        If the file is missing, broken or no gray volume, its pixels are longer than slices have them, or the folder
        does not hold exactly one series of one size, orientation and rescaling.
    """
    path = Path(path)
    if path.is_dir():
        files = [file for file in shown_files(path) if file.suffix.lower() in _DICOM or _is_dicom(file)]
        if not files:
            raise data_error(path, "folder", "no DICOM file", "one DICOM series", "correct the path")
    elif not path.is_file():
        raise data_error(path, "file", "nothing", "a NIfTI or DICOM file", "correct the path")
    else:
        files = [path]
    nifti = path.is_file() and path.name.lower().endswith(_NIFTI)
    if path.is_file() and not nifti and format_of(path) == NIFTI:
        raise data_error(path, "file name", "a NIfTI image", "a name that ends with .nii or .nii.gz", "rename it")
    volume, edges = _read_nifti(path) if nifti else _read_dicom(files, path, modality)
    if not np.isfinite(volume).all():
        raise data_error(path, "data", "NaN or infinite values", "finite values", "repair the image")
    return _in_square_pixels(torch.from_numpy(volume), edges, path, labels)


def _in_square_pixels(volume: Tensor, edges: tuple[float, float], path: Path, labels: bool) -> Tensor:
    """Slices in squares of the longer edge; ``edges`` are those of a pixel along the rows and along the columns."""
    longer, shorter = max(edges), min(edges)
    found, expected = f"pixels of {edges[0]:g} x {edges[1]:g}", "square pixels"
    if not (shorter > 0 and math.isfinite(longer)):
        raise data_error(path, "pixel spacing", found, "lengths above zero", "correct the header")
    if longer <= (1 + _SQUARE) * shorter:
        return volume
    if longer > _LONGEST * shorter:
        advice = "resample it, or give slices in the plane in which they were scanned"
        raise data_error(path, "pixel spacing", found, f"{expected}, or edges that differ {_LONGEST:g}-fold", advice)
    size = [max(1, round(length * edge / longer)) for length, edge in zip(volume.shape[-2:], edges, strict=True)]
    how: dict[str, Any] = {"mode": "nearest-exact"} if labels else {"mode": "bilinear", "antialias": True}
    return torch.nn.functional.interpolate(volume[:, None], size, **how)[:, 0]


def _read_nifti(path: Path) -> tuple[npt.NDArray[np.float32], tuple[float, float]]:
    import nibabel  # late: slow to import

    image, stored, turn = read_nifti(path)
    lengths = np.ones(3)
    lengths[turn[:, 0].astype(int)] = edges = nibabel.affines.voxel_sizes(image.affine)  # type: ignore[no-untyped-call]
    stated = np.array((*image.header.get_zooms(), 1.0, 1.0)[:3])
    if np.abs(np.log(stated / stated[0] / (edges / edges[0]))).max() > 0.05:
        found = f"{stated.tolist()}, but an affine of {edges.round(4).tolist()}"
        raise data_error(path, "pixdim", found, "the same edges of a voxel", "correct the header")
    volume = nibabel.orientations.apply_orientation(stored, turn)  # type: ignore[no-untyped-call]
    # Canonical axes point to the right, to anterior and to superior; slices lie along the last, or the only thin one.
    thin = [axis for axis in range(3) if volume.shape[axis] == 1]
    across = thin[0] if len(thin) == 1 else 2
    columns, rows = (axis for axis in range(3) if axis != across)
    slices = np.ascontiguousarray(volume.transpose(across, rows, columns)[:, ::-1, ::-1])
    return slices, (float(lengths[rows]), float(lengths[columns]))


def read_nifti(path: Path) -> tuple[Any, npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """A NIfTI image, its values as three axes, and their orientation as nibabel has it.

    Raises
    ------
    DataError
        If the file is broken, holds no volume of gray values, or an axis has no direction.
    """
    import nibabel  # late: slow to import

    try:
        image: Any = nibabel.load(path)
        kind = np.dtype(image.get_data_dtype())
        if kind.kind not in "biuf":
            raise data_error(path, "data", f"values of type {kind}", "gray values", "write magnitudes")
        stored = np.asarray(image.dataobj, dtype=np.float32)
        # Axes without length stand at the end, for time and others; a single image may lack its third.
        shape = stored.shape + (1,) * (3 - stored.ndim)
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        turn = nibabel.orientations.io_orientation(image.affine)  # type: ignore[no-untyped-call]
    except DataError:
        raise
    except (nibabel.filebasedimages.ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        found = f"no readable NIfTI ({error})"
        raise unreadable(path, found, "a NIfTI volume", "copy it again", own="a NIfTI image") from None
    if len(shape) != 3 or 0 in shape:
        raise data_error(path, "data", f"shape {stored.shape}", "a 3-D volume", "write one volume per file")
    if np.isnan(turn).any():
        raise data_error(path, "affine", "an axis without direction", "three axes", "correct the header")
    return image, stored.reshape(shape), turn


@dataclass(frozen=True)
class _Frame:
    """A DICOM image: rescaled values, edges of a pixel along rows and columns in mm, direction cosines, order.

    ``is_placed``: the order is the position along the normal in mm.
    """

    pixels: npt.NDArray[np.float32]
    edges: tuple[float, ...]
    orientation: tuple[float, ...]
    position: float
    is_placed: bool
    series: str | None
    patient: str | None
    file: Path
    rescales: bool


def _read_dicom(
    files: Sequence[Path], path: Path, modality: str | None
) -> tuple[npt.NDArray[np.float32], tuple[float, float]]:
    frames = [frame for number, file in enumerate(files) for frame in _read_frames(file, number, modality)]
    if (found := len({frame.series for frame in frames})) > 1:
        raise data_error(path, "SeriesInstanceUID", f"{found} series", "one series", "use one folder per series")
    if (found := len({frame.patient for frame in frames})) > 1:
        raise data_error(path, "PatientID", f"{found} patients", "one patient", "use one folder per series")
    shapes = {frame.pixels.shape for frame in frames}
    if len(shapes) > 1:
        raise data_error(path, "PixelData", f"shapes {sorted(shapes)}", "gray images of one shape", "sort the series")
    for key, values in (
        ("PixelSpacing", [frame.edges for frame in frames]),
        ("ImageOrientationPatient", [frame.orientation for frame in frames]),
    ):
        for value in values:
            if len(value) != len(values[0]) or not np.allclose(value, values[0], rtol=_SQUARE, atol=0.01):
                raise data_error(path, key, f"{values[0]} and {value}", "one for all images", "sort the series")
    raw = [frame.file for frame in frames if not frame.rescales]
    if 0 < len(raw) < len(frames):
        expected, advice = "a rescale as in the other files of the series", "export the series again"
        raise data_error(raw[0], "RescaleIntercept", "no rescale to the values of the scanner", expected, advice)
    places = [round(frame.position, 2) for frame in frames if frame.is_placed]
    if len(files) > 1 and len(set(places)) < len(places):
        found_text = f"{len(places)} images at {len(set(places))} positions"
        advice = "use one folder per echo, contrast or time"
        raise data_error(path, "ImagePositionPatient", found_text, "one image at each", advice)
    frames.sort(key=lambda frame: frame.position)
    height, width = frames[0].edges or (1.0, 1.0)
    return np.stack([frame.pixels for frame in frames]), (height, width)


def _read_frames(file: Path, number: int, modality: str | None) -> list[_Frame]:
    """The images of a file; a multi-frame file has one per frame, with its functional groups."""
    try:
        dataset = pydicom.dcmread(file)
        pixels = dataset.pixel_array.astype(np.float32)
    except (InvalidDicomError, AttributeError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        found, advice = f"no readable DICOM ({error})", "copy it again, uncompressed"
        raise unreadable(file, found, "a NIfTI or DICOM image", advice, own="a DICOM image") from None
    kind = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    if int(dataset.get("SamplesPerPixel", 1)) != 1 or not kind.startswith("MONOCHROME"):
        raise data_error(file, "PhotometricInterpretation", kind, "gray values", "use the original images")
    if modality is not None:
        require_modality(dataset, file, modality)
    stack = without_padding(dataset, pixels[None] if pixels.ndim == 2 else pixels)
    try:
        frames = [_frame(dataset, frame, values, number, file) for frame, values in enumerate(stack)]
    except (TypeError, ValueError, IndexError) as error:
        raise data_error(file, "header", f"{error}", "numbers", "copy it again") from None
    if modality == "CT":
        require_axial(file, frames[0].orientation)
    return frames


def patient_of(path: Path) -> str | None:
    """PatientID of a DICOM file, or of the first one in a folder; None where there is none."""
    files = [file for file in shown_files(path) if _is_dicom(file)] if path.is_dir() else [path]
    if not files or not _is_dicom(files[0]):
        return None
    try:
        return str(pydicom.dcmread(files[0], stop_before_pixels=True).get("PatientID") or "").strip() or None
    except (InvalidDicomError, AttributeError, NotImplementedError, RuntimeError, ValueError, OSError):
        return None  # `read_images` says why


def _is_dicom(file: Path) -> bool:
    return file.is_file() and format_of(file) == DICOM and file.name != "DICOMDIR"  # the index of the files on a disc


def _frame(dataset: pydicom.Dataset, frame: int, values: npt.NDArray[np.float32], number: int, file: Path) -> _Frame:
    def numbers(sequence: str, keyword: str) -> tuple[float, ...]:
        value = _value(dataset, frame, sequence, keyword)
        return () if value is None else tuple(float(part) for part in np.atleast_1d(np.asarray(value, dtype=float)))

    slope = numbers("PixelValueTransformationSequence", "RescaleSlope")
    intercept = numbers("PixelValueTransformationSequence", "RescaleIntercept")
    orientation = numbers("PlaneOrientationSequence", "ImageOrientationPatient")
    position = numbers("PlanePositionSequence", "ImagePositionPatient")
    order = float(dataset.get("InstanceNumber") or number) + frame
    if is_placed := len(position) == 3 and len(orientation) == 6:
        order = float(np.dot(np.cross(orientation[:3], orientation[3:]), position))
    # An image without lengths may still state the ratio of its edges.
    edges = numbers("PixelMeasuresSequence", "PixelSpacing") or numbers("", "PixelAspectRatio")
    rescaled = values * np.float32((slope or (1.0,))[0]) + np.float32((intercept or (0.0,))[0])
    series, patient = dataset.get("SeriesInstanceUID"), dataset.get("PatientID")
    rescales = bool(slope and intercept)
    return _Frame(rescaled, edges, orientation, order, is_placed, series, patient, file, rescales)


def _value(dataset: pydicom.Dataset, frame: int, sequence: str, keyword: str) -> Any:
    """A value of a frame: in its own functional groups, in the shared ones, or at the top of the file."""
    own, shared = dataset.get("PerFrameFunctionalGroupsSequence"), dataset.get("SharedFunctionalGroupsSequence")
    for group in ([own[frame]] if own else []) + ([shared[0]] if shared else []):
        items = group.get(sequence) if sequence else None
        if items and items[0].get(keyword) is not None:
            return items[0].get(keyword)
    return dataset.get(keyword)
