"""Open HDF5 files with errors of one line, and without following links to other files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..errors import DataError, data_error
from .other_formats import format_of, layout_of


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading.

    Raises
    ------
    DataError
        If there is no file or it is no complete HDF5 file, also where this shows only while it is read; a file of
        another format is named as such.
    """
    expected, advice = "a complete HDF5 file", "copy it again"
    if not path.is_file():
        raise data_error(path, "file", "a folder" if path.is_dir() else "nothing", expected, "correct the path")
    if path.stat().st_size == 0:
        raise data_error(path, "file", "an empty file", expected, advice)
    if not os.access(path, os.R_OK):
        raise data_error(path, "file", "no right to read it", "a readable file", "change its rights")
    try:
        # Network folders that are mounted read-only often have no file locks.
        with h5py.File(path, "r", locking="best-effort") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        if not h5py.is_hdf5(path) and (known := format_of(path)) is not None:
            raise data_error(path, "file", known.name, "HDF5 with k-space or projections", known.advice) from None
        raise data_error(path, "file", f"no readable HDF5 ({error})", expected, advice) from None


def dataset_of(file: h5py.File, path: Path, key: str) -> h5py.Dataset:
    """A dataset whose bytes lie in this file: links and external storage could name other files.

    Raises
    ------
    DataError
        If the dataset is missing or its bytes lie elsewhere.
    """
    if key not in file:
        raise data_error(path, key, f"only {', '.join(sorted(file)) or 'an empty file'}", f"dataset {key}", "add it")
    advice = "copy the data into the file"
    link = file.get(key, getlink=True)
    if not isinstance(link, h5py.HardLink):
        kind = "an external link" if isinstance(link, h5py.ExternalLink) else "a soft link"
        raise data_error(path, key, kind, "a plain dataset", advice)
    dataset = file[key]
    if not isinstance(dataset, h5py.Dataset):
        raise data_error(path, key, "a group", "a dataset", "write the file again")
    if dataset.is_virtual:
        raise data_error(path, key, "a virtual dataset", "a plain dataset", advice)
    if dataset.external:
        raise data_error(path, key, "external storage", "a plain dataset", advice)
    return dataset


def numbers_of(file: h5py.File, path: Path, key: str) -> h5py.Dataset:
    """:func:`dataset_of` for real numbers.

    Raises
    ------
    DataError
        If the dataset holds complex numbers, text or records.
    """
    dataset = dataset_of(file, path, key)
    if dataset.dtype.kind not in "iuf":
        raise data_error(path, key, f"values of type {dataset.dtype}", "real numbers", "write the file again")
    return dataset


def not_found(file: h5py.File, path: Path, key: str, expected: str, advice: str) -> DataError:
    """Error for a file without what is expected; names the layout of the file where it is known."""
    known = layout_of(file)
    if known is None:
        found = f"only {', '.join(sorted(file)) or 'an empty file'}"
        return data_error(path, key, found, expected, advice)
    return data_error(path, "file", known.name, expected, known.advice)


def read_part(dataset: h5py.Dataset, path: Path, part: Any) -> np.ndarray[Any, Any]:
    """Read one slice of a dataset, or the part of it at an index.

    Raises
    ------
    DataError
        If it cannot be read; names the slice.
    """
    try:
        return np.asarray(dataset[part])
    except (OSError, ValueError) as error:
        name = f"{dataset.name.strip('/')}[{part[0] if isinstance(part, tuple) else part}]"
        found = f"unreadable data ({error})"
        raise data_error(path, name, found, "a complete file", "copy the file again") from None


def text_of(value: Any) -> str | None:
    """Text of an attribute or a scalar dataset; None where it is missing or blank."""
    if value is None:
        return None
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text.strip() or None
