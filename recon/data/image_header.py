"""What a scan states of its images: pixel size, place in space, person, and the header that goes along with them.

The files of the readers state no orientation. A file may add it under the keywords of DICOM: the attribute
``ImageOrientationPatient`` (six direction cosines: along a row, along a column) and the dataset or attribute
``ImagePositionPatient`` ``(slices, 3)``, the center in mm of the first pixel of every displayed image.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import h5py
import numpy as np
import numpy.typing as npt
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from physics import MU_WATER, ImageGrid, TiltedPlanes

from ..errors import data_error
from .hdf5_file import dataset_of, opened, text_of

ORIENTATION, POSITION = "ImageOrientationPatient", "ImagePositionPatient"
#: Attributes of a file that go along with its images.
_ATTRIBUTES = ("acquisition", "patient_id", "simulated", ORIENTATION, POSITION)
#: Datasets that go along with its images.
_DATASETS = ("ismrmrd_header", "grid/shape", "grid/pixel_mm", "grid/center_mm", POSITION)

_TEXT, _NAME, _UID, _DATE = r"(.{1,64})", r"(.{1,64})", r"([0-9][0-9.]{0,63})", r"(\d{4})-?(\d\d)-?(\d\d)"
_NUMBER = r"(\d{1,15}\.?\d{0,15}|\.\d{1,15})"
#: Elements of an ISMRMRD header by the keyword of DICOM, with the form of their text; groups are joined.
_ELEMENTS: dict[str, tuple[str, str]] = {
    "PatientName": ("subjectInformation/patientName", _NAME),
    "PatientID": ("subjectInformation/patientID", _TEXT),
    "PatientBirthDate": ("subjectInformation/patientBirthdate", _DATE),
    "PatientSex": ("subjectInformation/patientGender", "([MFO])"),
    "StudyInstanceUID": ("studyInformation/studyInstanceUID", _UID),
    "StudyDate": ("studyInformation/studyDate", _DATE),
    "StudyTime": ("studyInformation/studyTime", r"(\d\d):?(\d\d):?(\d\d).*"),
    "StudyID": ("studyInformation/studyID", r"(.{1,16})"),
    "AccessionNumber": ("studyInformation/accessionNumber", r"(.{1,16})"),
    "StudyDescription": ("studyInformation/studyDescription", _TEXT),
    "PatientPosition": ("measurementInformation/patientPosition", "([HF]F[SPDLR]{1,2})"),
    "ProtocolName": ("measurementInformation/protocolName", _TEXT),
    "FrameOfReferenceUID": ("measurementInformation/frameOfReferenceUID", _UID),
    "Manufacturer": ("acquisitionSystemInformation/systemVendor", _TEXT),
    "ManufacturerModelName": ("acquisitionSystemInformation/systemModel", _TEXT),
    "MagneticFieldStrength": ("acquisitionSystemInformation/systemFieldStrength_T", _NUMBER),
    "RepetitionTime": ("sequenceParameters/TR", _NUMBER),
    "EchoTime": ("sequenceParameters/TE", _NUMBER),
    "InversionTime": ("sequenceParameters/TI", _NUMBER),
    "FlipAngle": ("sequenceParameters/flipAngle_deg", _NUMBER),
}


@dataclass(frozen=True)
class Placement:
    """Place of the displayed images in the coordinates of the patient, in mm, as in DICOM.

    ``orientation`` holds the directions along a row and along a column, ``(2, 3)``; ``positions`` the centers of the
    first pixels, ``(slices, 3)``. Axes point to the left, to posterior and to the head.
    """

    orientation: npt.NDArray[np.float64]
    positions: npt.NDArray[np.float64]

    def step(self) -> npt.NDArray[np.float64] | None:
        """From one slice to the next; None for a single slice, or slices that are not evenly spaced."""
        steps = np.diff(self.positions, axis=0)
        distance = np.linalg.norm(steps.mean(0)) if len(steps) else 0.0
        even = distance > 0 and np.abs(steps - steps.mean(0)).max() <= 1e-2 * distance
        return np.asarray(steps.mean(0)) if even else None


@dataclass(frozen=True)
class ImageHeader:
    """What a file states of the images that are reconstructed from it; None: not stated.

    Parameters
    ----------
    modality
        Name of the modality in DICOM.
    shape
        ``(height, width)`` of the displayed images.
    pixel_mm
        Distance of rows and distance of columns.
    thickness_mm
        Thickness of a slice.
    stated
        Other facts by the keyword of DICOM, such as ``PatientID``.
    carried
        Arrays and attributes of the file that go along with its images.
    is_attenuation
        Whether values are attenuation in 1/mm, which is shown in Hounsfield units.
    mu_water
        Attenuation of water in 1/mm, at 0 HU.
    center_mm
        Middle of the image ``(y, x)``, upwards and to the right from the axis of the scanner. Places in the patient
        that a file states contain it.
    z_mm
        Places of the images along the axis of the scanner, ``(slices,)``.
    planes
        Planes of the images, if they are tilted; None: they are axial, or along ``placement``. Tilted images become
        axial ones by :func:`recon.axial_reconstruction`.
    """

    modality: str = "OT"
    shape: tuple[int, int] | None = None
    pixel_mm: tuple[float, float] | None = None
    thickness_mm: float | None = None
    placement: Placement | None = None
    stated: Mapping[str, str] = field(default_factory=dict)
    carried: tuple[Mapping[str, Any], Mapping[str, Any]] = field(default_factory=lambda: ({}, {}))
    is_attenuation: bool = False
    mu_water: float = MU_WATER
    center_mm: tuple[float, float] = (0.0, 0.0)
    z_mm: npt.NDArray[np.float64] | None = None
    planes: TiltedPlanes | None = None

    def at_heights(self, z_mm: npt.NDArray[np.float64]) -> "ImageHeader":
        """The header of axial images at these places along the axis of the scanner."""
        arrays, attributes = self.carried
        return replace(self, z_mm=z_mm, planes=None, carried=({**arrays, "z_mm": z_mm}, attributes))

    @property
    def grid(self) -> ImageGrid | None:
        """Grid of the displayed images; None where no pixel size is stated."""
        if self.shape is None or self.pixel_mm is None:
            return None
        return ImageGrid(self.shape, self.pixel_mm, self.center_mm)

    def cropped(self, shape: tuple[int, int]) -> "ImageHeader":
        """The header of images cut out of the center, see :func:`recon.center_crop`.

        The first pixel is another one. Its place follows from the pixel size; without that, it is not known.
        """
        if shape == self.shape:
            return self
        placement, center = None, self.center_mm
        if self.pixel_mm is not None and self.shape is not None:
            sizes = list(zip(self.shape, shape, strict=True))
            top, left = (((full - kept) // 2) for full, kept in sizes)
            down, right = (((full - kept) // 2 - (full - kept) / 2) for full, kept in sizes)
            center = center[0] - down * self.pixel_mm[0], center[1] + right * self.pixel_mm[1]
            if self.placement is not None:
                along_row, along_column = self.placement.orientation
                shift = top * self.pixel_mm[0] * along_column + left * self.pixel_mm[1] * along_row
                placement = Placement(self.placement.orientation, self.placement.positions + shift)
        gone = {POSITION, ORIENTATION, "grid/shape", "grid/center_mm"}
        arrays, attributes = ({key: value for key, value in kept.items() if key not in gone} for kept in self.carried)
        if placement is not None:
            attributes[ORIENTATION], arrays[POSITION] = placement.orientation, placement.positions
        return replace(self, shape=shape, placement=placement, carried=(arrays, attributes), center_mm=center)

    def affine(self, shape: tuple[int, ...]) -> npt.NDArray[np.float64] | None:
        """Affine of the displayed images as NIfTI; None: the slices are not evenly spaced.

        Maps indices (column, row, slice) to mm, axes to the right, to anterior and to the head. Without a placement,
        rows run to posterior, columns to the left and slices to the head, around the center of the volume.

        Parameters
        ----------
        shape
            ``(slices, height, width)``.

        Raises
        ------
        ValueError
            If the images are of tilted planes, which no affine describes.
        """
        if self.planes is not None:
            raise ValueError("ImageHeader: images of tilted planes have no affine, expected axial images")
        slices, height, width = shape
        rows_mm, columns_mm = self.pixel_mm or (1.0, 1.0)
        thickness = self.thickness_mm or (1.0 if self.pixel_mm is None else columns_mm)
        directions = np.eye(3)
        if self.placement is not None:
            directions[:2], directions[2] = self.placement.orientation, np.cross(*self.placement.orientation)
        affine = np.eye(4)
        affine[:3, :3] = (directions * np.array([[columns_mm], [rows_mm], [thickness]])).T
        if self.placement is None:
            if self.z_mm is not None and slices > 1:
                steps = np.diff(self.z_mm)
                if np.abs(steps - steps.mean()).max() > 1e-2 * abs(steps.mean()):
                    return None
                affine[:3, 2] = directions[2] * steps.mean()
            affine[:3, 3] = -affine[:3, :3] @ (np.array([width, height, slices]) - 1) / 2
            # Rows run to posterior, y of the scanner upwards.
            affine[:2, 3] += self.center_mm[1], -self.center_mm[0]
        else:
            affine[:3, 3] = self.placement.positions[0]
            if slices > 1:
                if (step := self.placement.step()) is None:
                    return None
                affine[:3, 2] = step
        affine[:2] *= -1  # DICOM's axes point to the left and to posterior
        return affine


def read_image_header(
    path: Path,
    slices: int,
    *,
    modality: str,
    shape: tuple[int, int],
    pixel_mm: tuple[float, float] | None,
    patient_id: str | None,
    is_attenuation: bool = False,
    mu_water: float = MU_WATER,
    center_mm: tuple[float, float] = (0.0, 0.0),
    z_mm: npt.NDArray[np.float64] | None = None,
    thickness_mm: float | None = None,
    planes: TiltedPlanes | None = None,
) -> ImageHeader:
    """Read what a file states of its images, beside what its reader knows.

    Parameters
    ----------
    slices
        Number of images.
    modality, shape, pixel_mm, patient_id, is_attenuation, mu_water, center_mm, z_mm, thickness_mm, planes
        Known from the reader.

    Raises
    ------
    DataError
        If the orientation or the positions in the file are impossible, or stated for tilted planes.
    """
    stated: dict[str, str] = {}
    carried: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    placement, thickness = None, None
    if h5py.is_hdf5(path):
        with opened(path) as file:
            carried = _carried(file, path)
            root = _xml(carried[0].get("ismrmrd_header"))
            stated, thickness = _stated(root), _thickness(root)
            placement = _placement(file, path, slices)
    if patient_id is not None:
        stated["PatientID"] = patient_id[:64]
    if planes is not None and placement is not None:
        found, advice = "one orientation of tilted planes", "remove it: every plane has another one"
        raise data_error(path, ORIENTATION, found, "none", advice)
    if thickness_mm is not None:
        thickness = carried[1]["thickness_mm"] = thickness_mm
    if z_mm is not None:
        carried[0]["z_mm"] = z_mm
    return ImageHeader(
        modality, shape, pixel_mm, thickness, placement, stated, carried, is_attenuation, mu_water, center_mm, z_mm,
        planes,
    )  # fmt: skip


def _carried(file: h5py.File, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    arrays = {key: dataset_of(file, path, key)[()] for key in _DATASETS if key in file}
    return arrays, {key: file.attrs[key] for key in _ATTRIBUTES if key in file.attrs}


def _xml(header: Any) -> Element | None:
    """Root of an ISMRMRD header; None where there is none, or the reader of the file has no use for it."""
    if header is None:
        return None
    text = np.asarray(header).reshape(-1)[0]
    try:
        root: Element = fromstring(text, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, TypeError):
        return None
    return root


def _text(root: Element, element: str) -> str:
    found = root.find("/".join(f"{{*}}{name}" for name in element.split("/")))
    return " ".join((found.text or "").split()) if found is not None else ""


def _stated(root: Element | None) -> dict[str, str]:
    if root is None:
        return {}
    found = {key: re.fullmatch(form, _text(root, element)) for key, (element, form) in _ELEMENTS.items()}
    return {key: "".join(match.groups()) for key, match in found.items() if match is not None}


def _thickness(root: Element | None) -> float | None:
    """Thickness of a slice: the field of view across the slices over their number in the encoded slab."""
    for space in ("reconSpace", "encodedSpace") if root is not None else ():
        assert root is not None
        fov, count = (_text(root, f"encoding/{space}/{key}/z") for key in ("fieldOfView_mm", "matrixSize"))
        try:
            thickness = float(fov) / max(int(count or 1), 1)
        except ValueError:
            continue
        if 0 < thickness < np.inf:
            return thickness
    return None


def _placement(file: h5py.File, path: Path, slices: int) -> Placement | None:
    if ORIENTATION not in file.attrs and POSITION not in file.attrs and POSITION not in file:
        return None
    stored = file.attrs.get(POSITION) if POSITION in file.attrs or POSITION not in file else file[POSITION][()]
    orientation = _numbers(path, ORIENTATION, file.attrs.get(ORIENTATION), (2, 3))
    positions = _numbers(path, POSITION, stored, (slices, 3))
    if np.abs(orientation @ orientation.T - np.eye(2)).max() > 1e-3:
        advice = "correct or remove the attribute"
        raise data_error(path, ORIENTATION, str(orientation.ravel().tolist()), "two perpendicular unit vectors", advice)
    return Placement(orientation, positions)


def _numbers(path: Path, key: str, value: Any, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    expected = f"{shape[0] * shape[1]} numbers, {shape[0]} x {shape[1]}"
    try:
        numbers = np.asarray(value, dtype=np.float64).reshape(shape)
    except (TypeError, ValueError):
        found = "nothing" if value is None else f"{text_of(value)!r:.60}"
        raise data_error(path, key, found, expected, "give both, or neither of them") from None
    if not np.isfinite(numbers).all():
        raise data_error(path, key, "NaN or infinite values", expected, "correct the file")
    return numbers
