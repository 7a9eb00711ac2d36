"""NIfTI: one file per scan, axes as columns, rows and slices."""

import gzip
from typing import Any

import numpy as np

from ..errors import data_error
from .reconstruction import Images, Reconstruction

#: Codes of an affine: those of the scanner, and one that states voxel sizes alone.
_SCANNER, _ALIGNED = 1, 2


def nifti_bytes(found: Reconstruction, *, compressed: bool, images: Images | None = None) -> bytes:
    """The displayed images, or others of their shape, as NIfTI-1, float32, in Hounsfield units or units of the scan.

    The array holds ``[column, row, slice]``, see :meth:`recon.ImageHeader.affine`.

    Raises
    ------
    DataError
        If the slices are not evenly spaced, which no affine describes.
    """
    import nibabel  # late: slow to import

    images, header = found.displayed if images is None else images, found.header
    affine = header.affine(images.shape)
    if affine is None:
        advice = "write DICOM or HDF5 (--out NAME.dcm, NAME.h5)"
        key = "ImagePositionPatient" if header.placement is not None else "z_mm"
        raise data_error(found.scan, key, "uneven steps", "evenly spaced slices", advice)
    image: Any = nibabel.Nifti1Image(np.ascontiguousarray(images.transpose(2, 1, 0)), affine)  # type: ignore[no-untyped-call]
    code = _ALIGNED if header.placement is None else _SCANNER
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    if header.pixel_mm is not None:
        image.header.set_xyzt_units("mm")
    image.header["descrip"] = f"fedrecon {found.method}; not for diagnosis"[:79].encode("ascii", "replace")
    data: bytes = image.to_bytes()
    return gzip.compress(data, mtime=0) if compressed else data
