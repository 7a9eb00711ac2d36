"""Positions of k-space that hold only zeros: zero padding or missing samples that neither header nor mask states."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..errors import data_error
from .mri_volume import KSpaceVolume, one_sided

Plane = np.ndarray[Any, np.dtype[np.bool_]]
#: Reads rows of some coils of a slice, ``(coils, rows, width)``.
ReadRows = Callable[[int, slice, slice], np.ndarray[Any, Any]]

#: Rows of a slice that are looked at first.
_PROBED_ROWS = 8
#: Largest fraction of zeros that may be rounding, as in raw data stored as small integers.
ROUNDED = 0.1


def without_zeros(volume: KSpaceVolume, read: ReadRows) -> KSpaceVolume:
    """The volume, with the zeros of its k-space as padding or as not measured, and a note that says so.

    Reads a few rows of one coil; up to three slices where these hold a zero. Columns of zeros are padding if they
    lie alike on both sides and the file has no mask. All other columns of zeros were not measured; nor were single
    positions if they are more than a tenth of the plane. Rows of zeros at the ends of the readout are left alone.

    Parameters
    ----------
    volume
        The file, with its header and mask.
    read
        Reads a part of its k-space: slice, coils, rows.
    """
    n_slices, _, height, width = volume.shape
    encoded = volume.acquired.numpy()
    mask = encoded if volume.mask is None else encoded & volume.mask.numpy()
    stated = np.broadcast_to(mask, (height, width))
    rows, middle = slice(0, height, max(height // _PROBED_ROWS, 1)), n_slices // 2
    if (read(middle, slice(0, 1), rows)[0][stated[rows]] != 0).all():
        return volume
    # Several slices: rounded zeros lie elsewhere in every slice, missing samples do not.
    nonzero = np.zeros((height, width), bool)
    for index in {middle, 0, n_slices - 1}:
        nonzero |= (read(index, slice(None), slice(None)) != 0).any(0)
    columns, measured_rows = np.any(nonzero, axis=0, keepdims=True)[0], np.any(nonzero, axis=1, keepdims=True)
    missing = stated & ~nonzero & measured_rows & columns
    lost = np.asarray(stated.any(0)) & ~columns
    if not columns.any():
        return volume  # empty slices tell nothing
    if missing.sum() > ROUNDED * (stated & measured_rows & columns).sum():
        zeros = f"only zeros at {int((stated & ~nonzero).sum())} of {int(stated.sum())} positions of kspace"
        return _masked(volume, stated & nonzero, zeros)
    if not lost.any():
        return volume
    zeros = f"only zeros in {int(lost.sum())} of {int(stated.any(0).sum())} columns of kspace ({ranges(lost)})"
    first, last = np.flatnonzero(columns)[[0, -1]].tolist()
    skewed = one_sided(first, last + 1, width)
    if volume.mask is not None or skewed or not columns[first:last].all():
        return _masked(volume, mask & columns, zeros)
    expected, advice = "them outside encodingLimits", "they are read as padding; correct the header"
    note = str(data_error(volume.path, "ismrmrd_header encodingLimits", zeros, expected, advice))
    header = replace(volume.header, padding=(first, last + 1))
    return replace(volume, header=header, notes=(*volume.notes, note))


def _masked(volume: KSpaceVolume, mask: Plane, zeros: str) -> KSpaceVolume:
    found, expected = f"no dataset, and {zeros}", "the positions that were measured"
    if volume.mask is not None:
        found, expected = f"1 for {zeros}", "0 there"
    note = str(data_error(volume.path, "mask", found, expected, "the zeros are read as not measured; correct the mask"))
    return replace(volume, mask=torch.from_numpy(mask), notes=(*volume.notes, note))


def ranges(flags: Iterable[Any]) -> str:
    """Indices of what is true: ``"0-3, 7"``; at most four runs of them."""
    padded = np.concatenate(([False], np.fromiter(flags, bool), [False]))
    starts, ends = np.flatnonzero(padded[1:] & ~padded[:-1]), np.flatnonzero(padded[:-1] & ~padded[1:]) - 1
    runs = [str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]
    return ", ".join(runs[:4]) + (", ..." if len(runs) > 4 else "")
