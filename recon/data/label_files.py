"""Labels of scans: label maps in NIfTI, NumPy and HDF5 files, and tables of classes."""

import csv
import gzip
import hashlib
import math
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import DataError, data_error
from ..files import write_atomically
from .hdf5_file import dataset_of, opened
from .image_files import read_nifti
from .image_header import ImageHeader
from .task_labels import UNLABELLED, TaskLabels

#: Array of a NumPy or HDF5 file of labels.
LABELS_KEY = "labels"
#: Columns of a table of classes, beside one for each class.
_FILE, _SLICE = "file", "slice"
#: Value of a pixel without a label in files of unsigned integers.
_UNLABELLED_BYTE = 255
#: Label maps that a process keeps in memory, one byte a pixel.
_KEPT = 64


@dataclass(frozen=True)
class DisplayedGrid:
    """Grid of the displayed images of a scan, on which its labels lie.

    Parameters
    ----------
    scan
        The file.
    shape
        ``(slices, height, width)``.
    affine
        From indices (column, row, slice) to mm as in NIfTI, see :meth:`recon.ImageHeader.affine`; None: the slices are
        not evenly spaced.
    is_placed
        Whether the scan states its place in the patient; else `affine` holds directions alone.
    """

    scan: Path
    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64] | None
    is_placed: bool


@dataclass(frozen=True)
class ScanLabels(ABC):
    """Labels of the scans of a dataset, in the order of its files."""

    task: TaskLabels

    @abstractmethod
    def of_slice(self, number: int, i: int, grid: DisplayedGrid) -> Tensor:
        """Label of one slice of a scan, see :attr:`Sample.label`.

        Raises
        ------
        DataError
            If the labels cannot be read, do not lie on the grid, or have unknown values.
        """

    @abstractmethod
    def digest(self, number: int) -> str | None:
        """SHA-256 of the labels of a scan; None: it has none.

        Raises
        ------
        DataError
            If they cannot be read.
        """


@dataclass(frozen=True)
class LabelMaps(ScanLabels):
    """Segmentation: a label map for each scan, in a file of its own; None: the scan has no labels.

    Values are 0 for the background and k for ``classes[k - 1]``; 255 or -1 are pixels without a label. NIfTI files lie
    on the images that ``fedrecon reconstruct`` writes, in any order of their axes. ``.npz`` and HDF5 files have the
    array ``labels`` ``(slices, height, width)``, row 0 at the top.

    Raises
    ------
    DataError
        If a file is missing or has another format.
    """

    files: tuple[Path | None, ...]

    def __post_init__(self) -> None:
        for file in self.files:
            if file is not None:
                _require_labels(file)

    def of_slice(self, number: int, i: int, grid: DisplayedGrid) -> Tensor:
        if (file := self.files[number]) is None:
            return torch.full(grid.shape[1:], UNLABELLED)
        stored, affine = _stored(file, _version(file), len(self.task.classes))
        values = stored if affine is None else _turned(stored, affine, grid, file)
        if values.shape != grid.shape:
            expected = f"{grid.shape}, the displayed images of {grid.scan.name}"
            advice = "draw labels on the images that `fedrecon reconstruct` writes"
            raise data_error(file, LABELS_KEY, f"shape {values.shape}", expected, advice)
        label = torch.from_numpy(values[i].astype(np.int64))
        return torch.where(label == _UNLABELLED_BYTE, UNLABELLED, label)

    def digest(self, number: int) -> str | None:
        if (path := self.files[number]) is None:
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class ClassTable(ScanLabels):
    """Classification: rows of a table for each scan, by slice, or for all slices under None; None: no labels.

    See :func:`read_class_table`.
    """

    table: Path
    rows: tuple[Mapping[int | None, tuple[float, ...]] | None, ...]

    def of_slice(self, number: int, i: int, grid: DisplayedGrid) -> Tensor:
        unknown = (math.nan,) * len(self.task.classes)
        rows = self.rows[number]
        if rows is None:
            return torch.tensor(unknown)
        if beyond := [row for row in rows if row is not None and row >= grid.shape[0]]:
            found, expected = f"slice {beyond[0]} of {grid.scan.name}", f"0 to {grid.shape[0] - 1}"
            raise data_error(self.table, _SLICE, found, expected, "correct the table: slices count from 0")
        return torch.tensor(rows.get(None, rows.get(i, unknown)))

    def digest(self, number: int) -> str | None:
        rows = self.rows[number]
        if rows is None:
            return None
        lines = sorted((-1 if row is None else row, values) for row, values in rows.items())
        return hashlib.sha256(repr((self.task.classes, lines)).encode()).hexdigest()


def read_class_table(
    path: Path | str, task: TaskLabels, files: Sequence[str], unlabelled: Sequence[str] = ()
) -> ClassTable:
    """Read a CSV table of classes.

    The columns are ``file``, the name of a scan, optionally ``slice``, from 0, and one for each class: 1 present, 0
    absent, empty unknown. A row without a slice holds for all slices of the scan. A slice without a row is unknown.
    Rows of other scans are passed over: several sites may share a table.

    Parameters
    ----------
    files
        Names of the scans of a dataset, as in the table.
    unlabelled
        Those that have no rows.

    Raises
    ------
    DataError
        If the table is unreadable, a column is missing, twice or unknown, a cell is wrong, a row is there twice, or a
        scan has no row.
    """
    path = Path(path)
    rows: dict[str, dict[int | None, tuple[float, ...]]] = {}
    for line, cells in _lines(path, task):
        where = f"line {line}"
        of_file = rows.setdefault(cells[_FILE], {})
        row = _slice_number(path, where, cells.get(_SLICE, ""))
        if row in of_file or (of_file and (row is None or None in of_file)):
            found = f"a second row for {cells[_FILE]}{'' if row is None else f' slice {row}'}"
            raise data_error(path, where, found, "a row for the file, or one for each slice", "remove one")
        of_file[row] = tuple(_presence(path, where, name, cells[name]) for name in task.classes)
    for name in files:
        if name not in rows and name not in unlabelled:
            advice = "add one, or list the file in task.unlabelled of the manifest"
            raise data_error(path, _FILE, f"no row for {name}", "one", advice)
    return ClassTable(task, path, tuple(None if name in unlabelled else rows[name] for name in files))


def write_label_map(path: Path, labels: Tensor, header: ImageHeader) -> None:
    """Write a label map as compressed NIfTI on the displayed images of a scan; the file appears complete or not at all.

    Parameters
    ----------
    path
        The file, ``.nii.gz``; an existing one is replaced.
    labels
        Integers ``(slices, height, width)``, -1 where there is no label.
    header
        What the scan states of its images.

    Raises
    ------
    DataError
        If the slices are not evenly spaced, or the file cannot be written.
    """
    import nibabel  # late: slow to import

    if (affine := header.affine(tuple(labels.shape))) is None:
        raise data_error(path, "affine", "slices at uneven steps", "evenly spaced slices", "write labels as .npz")
    values = np.ascontiguousarray(labels.numpy().astype(np.int16).transpose(2, 1, 0))
    image: Any = nibabel.Nifti1Image(values, affine)  # type: ignore[no-untyped-call]
    write_atomically(path, gzip.compress(image.to_bytes(), mtime=0))


def _lines(path: Path, task: TaskLabels) -> list[tuple[int, dict[str, str]]]:
    """Number and cells of every line below the header."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets write a byte order mark
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        found = f"no readable table ({error})"
        raise data_error(path, "file", found, "a CSV file in UTF-8", "correct the path or the file") from None
    header = lines[0][1] if lines else []
    wanted = [_FILE, *task.classes]
    if sorted(set(header) - {_SLICE}) != sorted(wanted) or len(set(header)) < len(header):
        expected = f"{_FILE}, optionally {_SLICE}, and the classes {', '.join(task.classes)}, each once"
        raise data_error(path, "header", f"columns {', '.join(header) or 'none'}", expected, "correct the header")
    for line, cells in lines:
        if len(cells) != len(header):
            found, expected = f"{len(cells)} cells", f"{len(header)}, as in the header"
            raise data_error(path, f"line {line}", found, expected, "correct it")
    return [(line, dict(zip(header, cells, strict=True))) for line, cells in lines[1:]]


def _slice_number(path: Path, where: str, text: str) -> int | None:
    if text and not (text.isascii() and text.isdigit()):
        raise data_error(path, where, f"slice {text!r}", "a whole number from 0, or nothing", "correct it")
    return int(text) if text else None


def _presence(path: Path, where: str, name: str, text: str) -> float:
    known = {"1": 1.0, "0": 0.0, "": math.nan}
    if text not in known:
        raise data_error(path, where, f"{text!r} for {name}", "1, 0 or nothing", "correct it")
    return known[text]


def _require_labels(path: Path) -> None:
    expected = "a label map (.nii, .nii.gz, .npz, .h5)"
    if not path.is_file():
        advice = "write it, correct task.labels of the manifest, or list the scan in task.unlabelled"
        raise data_error(path, "file", "a folder" if path.is_dir() else "nothing", expected, advice)
    if not path.name.lower().endswith((".nii", ".nii.gz", ".npz", ".h5", ".hdf5")):
        raise data_error(path, "file name", "another ending", expected, "convert the labels")


def _version(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


@lru_cache(maxsize=_KEPT)
def _stored(
    path: Path, version: tuple[int, int, int], classes: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64] | None]:
    """Values of a file in its own order of axes, one byte each, and its affine; None: axes as displayed."""
    name, affine = path.name.lower(), None
    if name.endswith((".nii", ".nii.gz")):
        image, values, _ = read_nifti(path)
        affine = np.asarray(image.affine, dtype=np.float64)
    elif name.endswith(".npz"):
        values = _from_npz(path)
    else:
        with opened(path) as file:
            values = dataset_of(file, path, LABELS_KEY)[()]
    if values.ndim != 3 or values.dtype.kind not in "biuf":
        found = f"shape {values.shape} of type {values.dtype}"
        raise data_error(path, LABELS_KEY, found, "integers (slices, height, width)", "write a volume of labels")
    found_values = np.unique(values)
    allowed = np.array([*range(classes + 1), UNLABELLED, _UNLABELLED_BYTE])
    if len(wrong := found_values[~np.isin(found_values, allowed)]):
        shown = ", ".join(f"{value:g}" for value in wrong[:5].astype(float)) + (" ..." if len(wrong) > 5 else "")
        expected = f"0 to {classes}, 255 or -1 for no label"
        advice = "name all classes in task.classes of the manifest, or correct the labels"
        raise data_error(path, LABELS_KEY, f"values {shown}", expected, advice)
    return np.where(values == UNLABELLED, _UNLABELLED_BYTE, values).astype(np.uint8), affine


def _from_npz(path: Path) -> npt.NDArray[Any]:
    try:
        with np.load(path, allow_pickle=False) as content:
            if LABELS_KEY not in content:
                found = f"only {', '.join(sorted(content)) or 'an empty file'}"
                raise data_error(path, LABELS_KEY, found, f"array {LABELS_KEY}", "add it")
            return np.asarray(content[LABELS_KEY])
    except DataError:
        raise
    except (OSError, EOFError, zipfile.BadZipFile, AttributeError, ValueError) as error:
        raise data_error(path, "file", f"no readable .npz ({error})", "label maps", "copy it again") from None


def _turned(
    stored: npt.NDArray[np.uint8], affine: npt.NDArray[np.float64], grid: DisplayedGrid, path: Path
) -> npt.NDArray[np.uint8]:
    """Values of a NIfTI file as ``(slices, height, width)`` of the displayed images.

    Axes are exchanged and reversed as the affine says. Where the scan states its place, the labels must lie there, to
    half a pixel.
    """
    from nibabel import orientations  # late: slow to import

    if grid.affine is None:
        expected, advice = "evenly spaced slices for labels in NIfTI", "write labels as .npz"
        raise data_error(path, "affine", f"{grid.scan.name}, whose slices are at uneven steps", expected, advice)
    directions = np.eye(4)
    directions[:3, :3] = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    turn = orientations.io_orientation(np.linalg.inv(directions) @ affine)  # type: ignore[no-untyped-call]
    turned = orientations.apply_orientation(stored, turn)  # type: ignore[no-untyped-call]
    if grid.is_placed and turned.shape == grid.shape[::-1]:
        own = affine @ orientations.inv_ornt_aff(turn, stored.shape)  # type: ignore[no-untyped-call]
        corners = np.array(np.meshgrid(*((0, n - 1) for n in turned.shape))).reshape(3, -1)
        shift = (own - grid.affine)[:3, :3] @ corners + (own - grid.affine)[:3, 3:]
        pixel = np.linalg.norm(grid.affine[:3, :2], axis=0).min()
        if (distance := np.linalg.norm(shift, axis=0).max()) > pixel / 2:
            found = f"labels {distance:.1f} mm beside the images of {grid.scan.name}"
            advice = "draw them on the images that `fedrecon reconstruct` writes, or write .npz"
            raise data_error(path, "affine", found, "them on the images, to half a pixel", advice)
    values: npt.NDArray[np.uint8] = turned.transpose(2, 1, 0)
    return values
