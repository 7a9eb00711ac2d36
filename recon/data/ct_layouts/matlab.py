"""MATLAB files of versions 5 to 7.3 as nested dictionaries, lists, arrays and texts."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

from ..hdf5_file import opened
from ..other_formats import unreadable

#: Levels of structs and cells that are followed; references of a damaged file may lead in circles.
_DEPTH = 6


def read_matlab(path: Path) -> dict[str, Any]:
    """Variables of a MATLAB file.

    A struct is a dictionary, an array of structs or a cell array a list, a text a ``str``; arrays have MATLAB's axes.
    Arrays of more than two axes of version 7.3 are zeros of their shape: they may be larger than the memory.

    Raises
    ------
    DataError
        If it is no MATLAB file or is cut off.
    """
    if h5py.is_hdf5(path):
        with opened(path) as file:
            return _members(file, file, _DEPTH)
    try:
        content: dict[str, Any] = scipy.io.loadmat(path)
    except Exception as error:  # scipy raises many kinds
        found, expected = f"no readable MATLAB file ({error})", "a MATLAB file"
        raise unreadable(path, found, expected, "copy it again", own="a MATLAB file") from None
    return {name: _from_scipy(value) for name, value in content.items() if not name.startswith("__")}


def _from_scipy(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.names:
        records = value.ravel(order="F")
        return _single([{name: _from_scipy(record[name]) for name in value.dtype.names} for record in records])
    if value.dtype.kind == "O":
        return _single([_from_scipy(item) for item in value.ravel(order="F")])
    return "".join(value.ravel()) if value.dtype.kind == "U" else value


def _members(file: h5py.File, group: h5py.Group, depth: int) -> dict[str, Any]:
    # Links, which may lead to other files, are not followed; #refs# holds what references lead to.
    names = [
        name for name in group if not name.startswith("#") and isinstance(group.get(name, getlink=True), h5py.HardLink)
    ]
    return {name: _from_hdf5(file, group[name], depth - 1) for name in names}


def _from_hdf5(file: h5py.File, entry: Any, depth: int) -> Any:
    if depth < 0:
        return None
    if isinstance(entry, h5py.Group):
        members = _members(file, entry, depth)
        # An array of structs is stored as a struct of lists.
        lengths = {len(value) if isinstance(value, list) else 0 for value in members.values()}
        if len(lengths) == 1 and (length := lengths.pop()) > 1:
            return [{name: values[index] for name, values in members.items()} for index in range(length)]
        return members
    if entry.dtype == h5py.ref_dtype:
        return _single([_from_hdf5(file, file[reference], depth - 1) for reference in entry[()].ravel() if reference])
    if entry.ndim > 2:
        return np.broadcast_to(np.float32(0), entry.shape[::-1])
    values = np.asarray(entry[()]).T
    if entry.attrs.get("MATLAB_class") == b"char":
        return "" if "MATLAB_empty" in entry.attrs else "".join(map(chr, values.ravel(order="F")))
    return values


def _single(items: list[Any]) -> Any:
    return items[0] if len(items) == 1 else items
