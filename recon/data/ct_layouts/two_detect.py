"""2DeteCT: measured fan-beam scans, one folder ``slice00001/mode1`` each with sinogram, dark field and flat fields.

The geometry is that of the authors' scripts, which call ASTRA's ``fanflat``: angles and columns as they are stored.

References
----------
.. [2DeteCT] Kiss et al., 2DeteCT, a large 2D expandable, trainable, experimental Computed Tomography dataset for
   machine learning, Scientific Data 10, 576, 2023; scripts at github.com/mbkiss/2DeteCTcodes.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge
from torch import Tensor

from physics import FanBeam, ImageGrid

from ...errors import data_error
from ..ct_file import SinogramVolume, checked
from .open_beam import open_beam
from .tiff_image import is_tiff, read_tiff, tiff_shape

#: Rows and columns of ``sinogram.tif``; the last view repeats the first.
_STORED = (3601, 1912)
_VIEWS, _ELEMENTS = _STORED[0] - 1, _STORED[1] // 2
#: Two columns are one element, as in the authors' reconstructions.
_PITCH_MM = 2 * 0.0748
_R_MM, _D_MM = 431.019989, 529.000488
#: Pixels per side of the authors' images, which are as wide as the detector seen from the source at the axis.
_SIZE = 1024
_PIXEL_MM = _PITCH_MM * _ELEMENTS * _R_MM / _D_MM / _SIZE
_FLATS = ("flat1.tif", "flat2.tif")
#: Slices that were measured with the first detector; the authors move its data by one element of two columns.
_FIRST_DETECTOR = (range(1, 2831), range(5521, 5871))


@dataclass(frozen=True, eq=False)
class TwoDetectVolume(SinogramVolume):
    """One ``sinogram.tif`` of 2DeteCT; ``truth`` is the reconstruction that serves as reference, None: not found."""

    truth: Path | None = None

    def _measured(self, index: int) -> np.ndarray[Any, Any]:
        return _pairs(read_tiff(self.path)[:_VIEWS] - read_tiff(self.path.with_name("dark.tif")))

    def read_flat(self, index: int) -> Tensor:
        dark, *flats = (_pairs(read_tiff(self.path.with_name(name))) for name in ("dark.tif", *_FLATS))
        return open_beam(np.mean(flats, axis=0)[0] - dark[0], self.path.with_name(_FLATS[0]), "file", index)

    def _reference(self, index: int) -> np.ndarray[Any, Any]:
        assert self.truth is not None
        size = self.grid.shape[0]
        block = _SIZE // size
        # The authors' unit of length is a pixel of 1024.
        means = read_tiff(self.truth).reshape(size, block, size, block).mean((1, 3))
        return np.asarray(means / _PIXEL_MM)

    def warnings(self) -> list[str]:
        if self.truth is not None:
            return []
        expected = "reconstruction.tif of the same slice in its folder mode2"
        advice = "unpack the reconstructions over the sinograms, set ground_truth in [data], or list it for test only"
        return [str(data_error(self.path, "reference", "no ground truth", expected, advice))]


def is_two_detect(path: Path) -> bool:
    """Whether a file is a TIFF beside a dark field or a flat field of 2DeteCT, and none of them itself."""
    fields = ("dark.tif", *_FLATS)
    return path.name not in fields and is_tiff(path) and any(path.with_name(name).is_file() for name in fields)


def open_two_detect(
    path: Path,
    *,
    size: Annotated[int, Ge(1)] | None = None,
    ground_truth: str | None = None,
    reference_mode: Literal[1, 2, 3] = 2,
    offset_mm: float | None = None,
) -> TwoDetectVolume:
    """Check a ``sinogram.tif`` of 2DeteCT.

    Parameters
    ----------
    size
        Pixels per side of the image, a divisor of 1024, which covers the same square; None: 1024.
    ground_truth
        Folder that holds ``slice00001/mode2/reconstruction.tif`` ..., absolute or from the folder of the slices; None:
        that folder.
    reference_mode
        Mode whose reconstruction is the reference.
    offset_mm
        Shift of the detector towards its last column; None: that of the authors for the number of the slice.

    Raises
    ------
    DataError
        If a file is missing or has another shape, ``size`` is no divisor, ``ground_truth`` does not hold the
        reference, or neither the folder nor ``offset_mm`` says where the detector is.
    """
    advice = "use the folders of 2DeteCT as the archives unpack"
    for name, expected in (
        (path.name, _STORED),
        ("dark.tif", (1, _STORED[1])),
        *((n, (1, _STORED[1])) for n in _FLATS),
    ):
        if (found := tiff_shape(path.with_name(name))) != expected:
            raise data_error(path.with_name(name), "file", f"shape {found}", f"{expected}", advice)
    size = size or _SIZE
    if _SIZE % size:
        raise data_error(path, "size", f"{size}", f"a divisor of {_SIZE}", "correct size in [data]")
    folder = path.absolute().parent.parent
    shift = _author_offset(path, folder.name) if offset_mm is None else offset_mm
    angles = tuple((np.arange(_VIEWS) * (2 * np.pi / _VIEWS)).tolist())
    geometry = checked(lambda: FanBeam(angles, _ELEMENTS, _PITCH_MM, _R_MM, _D_MM, offset_mm=shift), path)
    slices = folder.parent if ground_truth is None else folder.parent / Path(ground_truth).expanduser()
    truth = slices / folder.name / f"mode{reference_mode}" / "reconstruction.tif"
    if not truth.is_file() and ground_truth is not None:
        raise data_error(path, "ground_truth", f"no {truth}", "its reconstruction", "correct ground_truth in [data]")
    if truth.is_file() and (found := tiff_shape(truth)) != (_SIZE, _SIZE):
        raise data_error(truth, "file", f"shape {found}", f"{(_SIZE, _SIZE)}", advice)
    # Rows and columns 511 to 1534 of 2048 are the authors' image: its middle is one pixel up and to the left.
    grid = ImageGrid((size, size), _PIXEL_MM * _SIZE / size, (_PIXEL_MM, -_PIXEL_MM))
    return TwoDetectVolume(
        path, (1, _VIEWS, _ELEMENTS), grid, geometry, "raw",
        has_reference=truth.is_file(),
        # The three modes of a slice show one object.
        patient_id=folder.name if _number(folder.name) else None,
        truth=truth if truth.is_file() else None,
    )  # fmt: skip


def _pairs(counts: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Sums of neighboring columns."""
    return np.asarray(counts[:, ::2] + counts[:, 1::2])


def _number(folder: str) -> int | None:
    found = re.fullmatch(r"slice(\d{5})", folder)
    return int(found[1]) if found else None


def _author_offset(path: Path, folder: str) -> float:
    number = _number(folder)
    if number is None:
        expected = "slice00001 to slice06370, which says where the detector is"
        advice = "keep the names of the folders, or set offset_mm in [data]"
        raise data_error(path, "folder of the slice", repr(folder), expected, advice)
    return -_PITCH_MM if any(number in numbers for numbers in _FIRST_DETECTOR) else 0.0
