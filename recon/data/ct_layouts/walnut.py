"""Cone-beam scans of 42 walnuts: the slice in the plane of the source, which a fan beam measures.

A folder ``Walnut1/Projections/tubeV2`` holds 1201 projections, a dark field, two flat fields and
``scan_geom_corrected.geom``, a row of ASTRA's ``cone_vec`` for every view: source, middle of the detector, steps to the
next column and the next row, each ``(x, y, z)`` in mm. Rays in the plane ``z`` of the source meet the detector on a
line, which need not run along a row; the projections are interpolated on it.

References
----------
.. [Walnut] Der Sarkissian et al., A cone-beam X-ray computed tomography data collection designed for machine learning,
   Scientific Data 6, 215, 2019; scripts at github.com/cicwi/WalnutReconstructionCodes.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import scipy.ndimage
import torch
from annotated_types import Ge
from torch import Tensor

from physics import FanVectors, ImageGrid

from ...errors import data_error
from ..ct_file import SinogramVolume, checked
from ..other_formats import unreadable
from .open_beam import open_beam
from .tiff_image import read_tiff, tiff_shape

#: Voxels per side of the authors' volume, in the middle of which is the origin, and their edge.
_SIZE, _VOXEL_MM = 501, 0.1
#: Largest difference of the height of the source between views: the slice would be thicker than a voxel.
_MOST_HEIGHT_MM = _VOXEL_MM
_DARK, _FLATS = "di000000.tif", ("io000000.tif", "io000001.tif")
_ADVICE = "use the folders as the archives unpack"


@dataclass(frozen=True, eq=False)
class WalnutVolume(SinogramVolume):
    """The slice of one orbit in the plane of the source.

    Attributes
    ----------
    rows, columns
        Where the rays meet the detector, in elements from the first one, ``(views, detectors)`` each.
    truth
        The two slices of the authors' volume around the slice, and the part of the second.
    """

    dead_by_ray = True
    rows: Any = None
    columns: Any = None
    truth: tuple[Path, Path, float] | None = None

    def _measured(self, index: int) -> np.ndarray[Any, Any]:
        dark, *flats = (_upright(read_tiff(self.path.with_name(name))) for name in (_DARK, *_FLATS))
        used = slice(int(self.rows.min()), int(np.ceil(self.rows.max())) + 1)
        dark, beam = dark[used], np.mean(flats, axis=0)[used] - dark[used]
        beam = open_beam(beam, self.path.with_name(_FLATS[0]), "file", index).numpy()  # NaN: no ray near it has a value
        lines = np.empty(self.shape[1:], np.float32)
        for view in range(len(lines)):
            # Projections are in reverse order; the one beyond the last, number 0, repeats the first view.
            image = _upright(read_tiff(_projection(self.path, len(lines) - view)))[used]
            places = (self.rows[view] - used.start, self.columns[view])
            lines[view] = scipy.ndimage.map_coordinates((image - dark) / beam, places, order=1, mode="nearest")
        return lines

    def read_flat(self, index: int) -> Tensor:
        """Ones: every projection is divided by the open beam where its rays meet the detector."""
        return torch.ones(self.shape[2])

    def _reference(self, index: int) -> np.ndarray[Any, Any]:
        assert self.truth is not None
        below, above, part = self.truth
        # The rows of the volume start at the least y.
        image = ((1 - part) * read_tiff(below) + part * read_tiff(above))[::-1]
        means = _means(self.grid.shape[0])
        return np.asarray(means @ image @ means.T)

    def warnings(self) -> list[str]:
        if self.truth is not None:
            return []
        expected = "full_AGD_50_*.tiff in Reconstructions beside Projections"
        advice = "unpack them there, set ground_truth in [data], or list the file for test only"
        return [str(data_error(self.path, "reference", "no ground truth", expected, advice))]


def is_walnut(path: Path) -> bool:
    """Whether a file is a text whose first line is twelve numbers, or any numbers beside a dark field.

    The geometry before its correction, ``scan_geom_original.geom``, is used only where it is named.
    """
    numbers = _first_numbers(path)
    known = numbers == 12 or (numbers > 0 and path.with_name(_DARK).is_file())
    return known and "original" not in path.name


def open_walnut(
    path: Path, *, size: Annotated[int, Ge(1)] | None = None, ground_truth: str | None = None
) -> WalnutVolume:
    """Check a ``scan_geom_corrected.geom`` and the projections beside it.

    Parameters
    ----------
    size
        Pixels per side of the image, which covers the square of the authors' volume, 50.1 mm; None: 501.
    ground_truth
        Folder of ``full_AGD_50_000000.tiff`` ..., absolute or from the folder of the projections; None:
        ``Reconstructions`` beside ``Projections``.

    Raises
    ------
    DataError
        If the geometry has other columns, a projection is missing, the source changes its height, or its plane does not
        meet the detector.
    """
    vectors = _vectors(path)[:-1]
    views = len(vectors)
    for name in (_DARK, *_FLATS, *(_projection(path, number).name for number in range(1, views + 1))):
        if not path.with_name(name).is_file():
            expected = f"projections 1 to {views}, a dark field and two flat fields"
            raise data_error(path.with_name(name), "file", "nothing", expected, _ADVICE)
    stored = tiff_shape(path.with_name(_DARK))
    for name in (*_FLATS, _projection(path, 1).name, _projection(path, views).name):
        if (found := tiff_shape(path.with_name(name))) != stored:
            raise data_error(path.with_name(name), "file", f"shape {found}", f"{stored}, as of the dark field", _ADVICE)
    elements, n_rows = stored
    heights = vectors[:, 2]
    if np.ptp(heights) > _MOST_HEIGHT_MM:
        apart, advice = f"sources {np.ptp(heights):.3g} mm apart in z", "no slice is measured by a fan beam"
        raise data_error(path, "geometry", apart, f"one height up to {_MOST_HEIGHT_MM} mm", advice)
    geometry, rows, columns = checked(lambda: _fan(vectors, elements, n_rows), path)
    if rows.min() < 0 or rows.max() > n_rows - 1:
        met = f"rows {rows.min():.0f} to {rows.max():.0f}"
        advice = "use another orbit, such as tubeV2: the plane of this source is beside the detector"
        raise data_error(path, "geometry", met, f"rows 0 to {n_rows - 1}", advice)
    size = size or _SIZE
    grid = ImageGrid((size, size), _SIZE * _VOXEL_MM / size)
    truth = _truth(path, float(heights.mean()), ground_truth)
    name = path.absolute().parent.parent.parent.name
    return WalnutVolume(
        path, (1, views, elements), grid, geometry, "raw",
        has_reference=truth is not None,
        # The three orbits show one walnut.
        patient_id=name if re.fullmatch(r"Walnut\d+", name) else None,
        rows=rows, columns=columns, truth=truth,
    )  # fmt: skip


def _first_numbers(path: Path) -> int:
    """How many numbers the first line of a text holds; 0: it holds anything else."""
    with path.open("rb") as file:
        words = file.readline(2000).split()
    try:
        return len([float(word) for word in words])
    except ValueError:
        return 0


def _vectors(path: Path) -> np.ndarray[Any, Any]:
    """Rows of the geometry, ``(views + 1, 12)``."""
    expected = "twelve numbers a line, source, detector, columns and rows of ASTRA's cone_vec"
    if not _first_numbers(path):
        raise unreadable(path, "no line of twelve numbers", expected, _ADVICE, own="a text file")
    try:
        vectors = np.array([[float(word) for word in line.split()] for line in path.read_text().splitlines() if line])
    except ValueError as error:
        raise data_error(path, "file", f"{error}", expected, "copy it again") from None
    if vectors.ndim != 2 or vectors.shape[1] != 12 or len(vectors) < 2 or not np.isfinite(vectors).all():
        raise data_error(path, "file", f"shape {vectors.shape}", f"finite numbers, {expected}", "copy it again")
    if not vectors[:, 11].all():
        raise data_error(path, "geometry", "rows of the detector at one height", "rows along z", "correct the file")
    return vectors


def _fan(vectors: np.ndarray[Any, Any], elements: int, n_rows: int) -> tuple[FanVectors, Any, Any]:
    """Rays in the plane of the source, and where they meet the detector, rows and columns ``(views, elements)``."""
    source, middle, along, down = (vectors[:, 3 * part : 3 * part + 3] for part in range(4))
    # The plane is row first + k * slope of column k, both from the middle of the detector.
    first, slope = (source[:, 2] - middle[:, 2]) / down[:, 2], -along[:, 2] / down[:, 2]
    middles = (middle + first[:, None] * down)[:, :2]
    steps = (along + slope[:, None] * down)[:, :2]
    # A fan beam has its detector along u with the source at the right of u.
    away = middles - source[:, :2]
    reverse = np.where(steps[:, 0] * away[:, 1] < steps[:, 1] * away[:, 0], -1.0, 1.0)[:, None]
    # Wobble changes the distance between rays a little: all views get the mean one.
    lengths = np.hypot(*steps.T)[:, None]
    pitch = lengths.mean()
    k = reverse * (np.arange(elements) - (elements - 1) / 2) * pitch / lengths
    geometry = FanVectors.from_vectors(
        np.concatenate((source[:, :2], middles, reverse * steps * pitch / lengths), 1), elements
    )
    return geometry, first[:, None] + slope[:, None] * k + (n_rows - 1) / 2, k + (elements - 1) / 2


def _truth(path: Path, height_mm: float, ground_truth: str | None) -> tuple[Path, Path, float] | None:
    """Slices of the authors' volume below and above a height, and the part of the second; None: there are none."""
    beside = path.absolute().parent
    folder = beside.parent.parent / "Reconstructions"
    if ground_truth is not None:
        folder = beside / Path(ground_truth).expanduser()
    index = height_mm / _VOXEL_MM + (_SIZE - 1) / 2
    numbers = int(np.floor(index)), int(np.ceil(index))
    files = [folder / f"full_AGD_50_{number:06}.tiff" for number in numbers]
    if not all(file.is_file() for file in files):
        if ground_truth is not None:
            advice = "correct ground_truth in [data]"
            raise data_error(path, "ground_truth", f"no {files[0]} or {files[1].name}", "the authors' volume", advice)
        return None
    for file in files:
        if (found := tiff_shape(file)) != (_SIZE, _SIZE):
            raise data_error(file, "file", f"shape {found}", f"{(_SIZE, _SIZE)}", _ADVICE)
    return files[0], files[1], index - numbers[0]


def _projection(path: Path, number: int) -> Path:
    return path.with_name(f"scan_{number:06}.tif")


def _upright(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A stored image as rows and columns of the detector: it was read out on its side."""
    return image[::-1].T


def _means(size: int) -> np.ndarray[Any, Any]:
    """Matrix ``(size, 501)`` that averages pixels of the authors' images over larger or smaller ones."""
    edges, stored = np.arange(size + 1) * (_SIZE / size), np.arange(_SIZE)
    overlap = np.minimum(edges[1:, None], stored + 1) - np.maximum(edges[:-1, None], stored)
    return np.asarray(overlap.clip(0) * (size / _SIZE))
