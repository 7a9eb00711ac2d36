"""NIfTI: one file per scan, axes as columns, rows and slices."""

import gzip
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data import ImageHeader
from ..errors import data_error
from .reconstruction import Images, Reconstruction

#: Codes of an affine: those of the scanner, and one that states voxel sizes alone.
_SCANNER, _ALIGNED = 1, 2


def nifti_bytes(found: Reconstruction, *, compressed: bool, images: Images | None = None) -> bytes:
    """The displayed images, or others of their shape, as NIfTI-1, float32, in Hounsfield units or units of the scan.

    The array holds ``[column, row, slice]``. Without a placement in the file, rows run to posterior, columns to the
    left and slices to the head, around the center of the volume, which is beside the axis of the scanner by the
    ``center_mm`` of a CT image.

    Raises
    ------
    DataError
        If the positions of the slices are not evenly spaced, which no affine describes.
    """
    import nibabel  # late: slow to import

    images, header = found.displayed if images is None else images, found.header
    affine = _affine(header, images.shape, found.scan)
    image: Any = nibabel.Nifti1Image(np.ascontiguousarray(images.transpose(2, 1, 0)), affine)  # type: ignore[no-untyped-call]
    code = _ALIGNED if header.placement is None else _SCANNER
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    if header.pixel_mm is not None:
        image.header.set_xyzt_units("mm")
    image.header["descrip"] = f"fedrecon {found.method}; not for diagnosis"[:79].encode("ascii", "replace")
    data: bytes = image.to_bytes()
    return gzip.compress(data, mtime=0) if compressed else data


def _affine(header: ImageHeader, shape: tuple[int, ...], scan: str) -> npt.NDArray[np.float64]:
    """From indices (column, row, slice) to mm, axes to the right, to anterior and to the head."""
    slices, height, width = shape
    rows_mm, columns_mm = header.pixel_mm or (1.0, 1.0)
    thickness = header.thickness_mm or (1.0 if header.pixel_mm is None else columns_mm)
    directions = np.eye(3)
    if (placement := header.placement) is not None:
        directions[:2], directions[2] = placement.orientation, np.cross(*placement.orientation)
    affine = np.eye(4)
    affine[:3, :3] = (directions * np.array([[columns_mm], [rows_mm], [thickness]])).T
    if placement is None:
        affine[:3, 3] = -affine[:3, :3] @ (np.array([width, height, slices]) - 1) / 2
        affine[:2, 3] += header.center_mm[1], -header.center_mm[0]  # rows run to posterior, y of the scanner upwards
    else:
        affine[:3, 3] = placement.positions[0]
        if slices > 1:
            if (step := placement.step()) is None:
                advice = "write DICOM or HDF5 (--out NAME.dcm, NAME.h5)"
                raise data_error(scan, "ImagePositionPatient", "uneven steps", "evenly spaced slices", advice)
            affine[:3, 2] = step
    affine[:2] *= -1  # DICOM's axes point to the left and to posterior
    return affine
