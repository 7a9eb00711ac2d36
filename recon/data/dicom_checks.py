"""Checks of DICOM images: modality and units, orientation of CT slices, padding."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom

from ..errors import data_error

#: Values of RescaleType of CT images that are not Hounsfield units: densities, atomic numbers, percentages.
_OTHER_UNITS = ("OD", "MGML", "Z_EFF", "ED", "EDW", "PCT")
#: Least cosine between the normal of CT slices and the patient's long axis: a gantry is tilted by up to 30 degrees.
_LEAST_AXIAL = 0.8
#: Padding is stored with this many values, of either sign.
_WORD = 2**16


def require_modality(dataset: pydicom.Dataset, file: Path, modality: str) -> None:
    """Refuse images of another modality, and CT images that are no slices in Hounsfield units.

    Raises
    ------
    DataError
        If the header states one of these.
    """
    found, advice = str(dataset.get("Modality") or modality), f"use {modality} images"
    if found not in (modality, "OT"):  # OT: other, such as images that a program has derived
        raise data_error(file, "Modality", found, modality, advice)
    if modality != "CT":
        return
    if "LOCALIZER" in (kinds := dataset.get("ImageType") or ()):
        raise data_error(file, "ImageType", "/".join(kinds), "axial slices", "leave out localizers")
    if (unit := str(dataset.get("RescaleType") or "HU").upper()) in _OTHER_UNITS:
        raise data_error(file, "RescaleType", unit, "HU, Hounsfield units", advice)


def require_axial(file: Path, orientation: tuple[float, ...]) -> None:
    """Refuse CT slices along the patient, which a reformation made from the axial ones.

    Raises
    ------
    DataError
        If the direction cosines of rows and columns say so.
    """
    if len(orientation) != 6:
        return
    normal = np.abs(np.cross(orientation[:3], orientation[3:]))
    if normal[2] < _LEAST_AXIAL:
        plane = ("sagittal", "coronal", "oblique")[int(normal.argmax())]
        expected, advice = "axial slices, as a CT scanner measures them", "use the axial series"
        raise data_error(file, "ImageOrientationPatient", f"{plane} slices", expected, advice)


def without_padding(dataset: pydicom.Dataset, stored: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Stored values ``(frames, rows, columns)``; bright padding takes the smallest of the others.

    Padding surrounds an image: values that stand in none of its corners are no padding, whatever the header says.
    """
    if (value := dataset.get("PixelPaddingValue")) is None:
        return stored
    limit = dataset.get("PixelPaddingRangeLimit")
    first, last = sorted((float(value), float(value if limit is None else limit)))
    # The header may state the value without the sign of the pixels, or with it.
    padding = (stored - first) % _WORD <= last - first
    corners = padding[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    padding &= np.any(corners, axis=-1).reshape(-1, 1, 1)
    if not padding.any() or padding.all() or stored[padding].max() <= (least := stored[~padding].min()):
        return stored
    return np.where(padding, least, stored)
