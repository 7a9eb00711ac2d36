"""DICOM: one file per slice. MR or CT images where the scan states its place in the patient, else secondary captures.

A viewer shows left and right of every MR or CT image, which nothing but the scan can know.
"""

import hashlib
import io
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from pydicom.valuerep import format_number_as_ds

from .picture import window_of
from .reconstruction import Images, Reconstruction, fedrecon_version

#: Largest value of 16 bits without and with sign.
_UNSIGNED, _SIGNED = 65535, 32767
_PLACED = {"MR": MRImageStorage, "CT": CTImageStorage}
#: Attributes that every image has, empty where the scan does not state them (type 2).
_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
#: The same of one kind of image.
_EMPTY_OF = {
    MRImageStorage: ("Manufacturer", "PatientPosition", "PositionReferenceIndicator", "ScanOptions", "RepetitionTime",
                     "EchoTime", "EchoTrainLength", "MRAcquisitionType", "SliceThickness"),
    CTImageStorage: ("Manufacturer", "PatientPosition", "PositionReferenceIndicator", "KVP", "AcquisitionNumber",
                     "SliceThickness"),
    SecondaryCaptureImageStorage: ("PatientOrientation",),
}  # fmt: skip


def dicom_files(found: Reconstruction) -> list[bytes]:
    """One DICOM file per displayed image, in their order.

    CT images are rounded to Hounsfield units, others to 65535 levels of one scale per scan, ``RescaleSlope``. UIDs are
    new and depend on the images alone, so that the same reconstruction has the same ones; those of the study and of the
    frame of reference are those of the scan, if it states them.
    """
    stored, slope = _stored(found, found.displayed, whole_steps=found.header.is_attenuation)
    key = _key(found, stored)
    common = _common(found, stored, slope, key)
    return [_file(found, common, stored[index], index, key) for index in range(len(stored))]


def error_bar_files(found: Reconstruction) -> list[bytes]:
    """The half-widths as a second series of the same study, one DICOM file per image, in levels of one scale.

    Raises
    ------
    ValueError
        If there are no error bars.
    """
    if (widths := found.displayed_half_width) is None:
        raise ValueError(f"error_bar_files: {found.scan} has no error bars, expected half-widths")
    stored, slope = _stored(found, widths, whole_steps=False)
    common = _common(found, stored, slope, _key(found, _stored(found, found.displayed, found.header.is_attenuation)[0]))
    key = _key(found, stored)
    common.SeriesInstanceUID, common.SeriesNumber = _uid(key, "series"), 2
    common.SeriesDescription = f"fedrecon error bars, {found.coverage:.0%}"[:64]
    common.ImageComments = f"half-width of an interval around every pixel; {common.ImageComments}"[:1024]
    _set_window(common, widths)
    return [_file(found, common, stored[index], index, key) for index in range(len(stored))]


def _key(found: Reconstruction, stored: npt.NDArray[np.generic]) -> str:
    return hashlib.sha256(stored.tobytes() + found.derivation.encode() + found.scan.encode()).hexdigest()


def is_placed(found: Reconstruction) -> bool:
    """Whether the images become MR or CT images, and not secondary captures."""
    header = found.header
    return header.placement is not None and header.pixel_mm is not None and header.modality in _PLACED


def _stored(found: Reconstruction, images: Images, whole_steps: bool) -> tuple[npt.NDArray[np.generic], str]:
    """Whole numbers of 16 bits, and the value of one step as DICOM writes it; ``whole_steps``: a whole number."""
    values = images.astype(np.float64)
    largest = float(np.abs(values).max())
    signed = found.header.is_attenuation or bool((values < 0).any())
    limit = _SIGNED if signed else _UNSIGNED
    step = max(1.0, float(np.ceil(largest / limit))) if whole_steps else (largest or 1.0) / limit
    text = format_number_as_ds(step)
    whole = np.clip(np.round(values / float(text)), -limit if signed else 0, limit)
    return whole.astype(np.int16 if signed else np.uint16), text


def _common(found: Reconstruction, stored: npt.NDArray[np.generic], slope: str, key: str) -> pydicom.Dataset:
    """What all images of the scan have in common."""
    header, data = found.header, pydicom.Dataset()
    storage = _PLACED[header.modality] if is_placed(found) else SecondaryCaptureImageStorage
    for keyword in (*_EMPTY, *_EMPTY_OF[storage]):
        setattr(data, keyword, None)
    for keyword, value in header.stated.items():
        setattr(data, keyword, value)
    if "ProtocolName" not in header.stated and (name := header.carried[1].get("acquisition")):
        data.ProtocolName = str(name)[:64]
    data.SOPClassUID, data.SpecificCharacterSet = storage, "ISO_IR 192"
    data.StudyInstanceUID = header.stated.get("StudyInstanceUID") or _uid(key, "study")
    data.SeriesInstanceUID = _uid(key, "series")
    data.SeriesNumber, data.Modality = 1, header.modality
    data.SeriesDescription = f"fedrecon {found.method}"[:64]
    data.SoftwareVersions = f"fedrecon {fedrecon_version()}"
    data.DerivationDescription = found.derivation[:1024]
    data.ImageComments = f"of {found.scan}; not for diagnosis"[:1024]
    data.BurnedInAnnotation, data.LossyImageCompression = "NO", "00"
    now = datetime.now()
    data.ContentDate, data.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    _describe_pixels(data, stored, slope, found)
    if header.pixel_mm is not None:
        data.PixelSpacing = [format_number_as_ds(float(edge)) for edge in header.pixel_mm]
    if header.thickness_mm is not None:
        data.SliceThickness = format_number_as_ds(float(header.thickness_mm))
    _describe_kind(data, found, key)
    return data


def _describe_pixels(data: pydicom.Dataset, stored: npt.NDArray[np.generic], slope: str, found: Reconstruction) -> None:
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = stored.shape[1:]
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = int(stored.dtype == np.int16)
    data.RescaleSlope, data.RescaleIntercept = slope, "0"
    data.RescaleType = "HU" if found.header.is_attenuation else "US"
    _set_window(data, found.displayed)


def _set_window(data: pydicom.Dataset, images: Images) -> None:
    black, white = window_of(images)
    if white - black < 1:
        data.VOILUTFunction = "LINEAR_EXACT"  # DICOM's other windows are at least 1 wide
    data.WindowCenter, data.WindowWidth = (format_number_as_ds(v) for v in ((black + white) / 2, white - black))


def _describe_kind(data: pydicom.Dataset, found: Reconstruction, key: str) -> None:
    """What only MR images, CT images or secondary captures have."""
    if data.SOPClassUID == SecondaryCaptureImageStorage:
        data.ConversionType, data.ImageType = "WSD", ["DERIVED", "SECONDARY"]
        return
    assert found.header.placement is not None
    data.FrameOfReferenceUID = found.header.stated.get("FrameOfReferenceUID") or _uid(key, "frame")
    data.ImageOrientationPatient = [format_number_as_ds(float(v)) for v in found.header.placement.orientation.ravel()]
    if (step := found.header.placement.step()) is not None:
        data.SpacingBetweenSlices = format_number_as_ds(float(np.linalg.norm(step)))
    if data.SOPClassUID == MRImageStorage:
        data.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
        data.ScanningSequence, data.SequenceVariant = "RM", "NONE"  # research mode: the scan states no more
    else:
        data.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]


def _file(
    found: Reconstruction, common: pydicom.Dataset, pixels: npt.NDArray[np.generic], index: int, key: str
) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", common, file_meta=meta, preamble=b"\0" * 128)
    data.SOPInstanceUID = _uid(key, f"image {index}")
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    data.InstanceNumber = index + 1
    if (z_mm := found.header.z_mm) is not None:
        data.SliceLocation = format_number_as_ds(float(z_mm[index]))
    if is_placed(found) and found.header.placement is not None:
        position = found.header.placement.positions[index]
        data.ImagePositionPatient = [format_number_as_ds(float(v)) for v in position]
    data.PixelData = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<")).tobytes()
    data["PixelData"].VR = "OW"
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _uid(key: str, what: str) -> str:
    return str(generate_uid(entropy_srcs=[key, what]))
