"""BART files: dimensions as text (.hdr), complex64 in column-major order (.cfl)."""

import math
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from ...errors import data_error
from ..complex_values import Array
from .array_volume import ArrayVolume, array_volume, require_middle, require_same_columns
from .slab import slab_as_slices

#: Names of the dimensions in order.
_NAMES = (
    "READ", "PHS1", "PHS2", "COIL", "MAPS", "TE", "COEFF", "COEFF2", "ITER", "CSHIFT", "TIME", "TIME2", "LEVEL",
    "SLICE", "AVG", "BATCH",
)  # fmt: skip
#: Dimensions that become slices, the last one fastest.
_SLICES = ("BATCH", "TE", "TIME2", "TIME", "SLICE")
_USED = {"READ", "PHS1", "PHS2", "COIL", "AVG", *_SLICES}


def is_bart(path: Path) -> bool:
    """Whether a file is one of a pair .cfl and .hdr whose header states dimensions."""
    header = path.with_suffix(".hdr")
    if path.suffix not in (".cfl", ".hdr") or not header.is_file() or not path.with_suffix(".cfl").is_file():
        return False
    with header.open("rb") as file:
        return file.read(12) == b"# Dimensions"


def open_bart(path: Path) -> ArrayVolume:
    """Check a pair of BART files with Cartesian k-space; either names both.

    The zero frequency is in the middle, as BART writes it. 3-D k-space becomes slices, see :func:`slab_as_slices`;
    averages are averaged over the measured ones.

    Raises
    ------
    DataError
        If a file of the pair is missing, sizes and dimensions disagree, or a dimension has no meaning in k-space.
    """
    data, header = path.with_suffix(".cfl"), path.with_suffix(".hdr")
    for file in (data, header):
        if not file.is_file():
            raise data_error(file, "file", "nothing", f"the other file of {path.name}", "copy both files")
    sizes = _sizes(header)
    held, wanted = data.stat().st_size, 8 * math.prod(sizes.values())
    if held != wanted:
        expected = f"{wanted}, complex64 of the dimensions of {header.name}"
        raise data_error(data, "file", f"{held} bytes", expected, "copy both files again")
    if odd := [name for name, size in sizes.items() if size > 1 and name not in _USED]:
        found, expected = f"dimension {odd[0]} of {sizes[odd[0]]}", f"k-space: only {', '.join(sorted(_USED))}"
        raise data_error(header, "Dimensions", found, expected, "maps and coefficients are no k-space")
    in_plane = [name for name in ("READ", "PHS1", "PHS2") if sizes[name] > 1]
    if len(in_plane) < 2:
        found = f"{', '.join(f'{name} {sizes[name]}' for name in ('READ', 'PHS1', 'PHS2'))}"
        raise data_error(header, "Dimensions", found, "two or three axes of k-space", "write Cartesian k-space")
    version = (data.stat().st_size, data.stat().st_mtime_ns)
    kspace, mask, words = _ordered(data, version, tuple(sizes.items()))
    several = [name for name in _SLICES if sizes[name] > 1]
    flattened = f"; slices are {' x '.join(several)}, the last one fastest" if len(several) > 1 else ""
    volume = array_volume(
        data, kspace.shape, partial(_slice, data, version, tuple(sizes.items())),
        reading=f"BART k-space, {' x '.join(f'{name} {size}' for name, size in sizes.items() if size > 1)}; {words}"
        f"{flattened}",
        mask=None if mask is None or mask.all() else mask,
        sources=(header,),
    )  # fmt: skip
    require_middle(volume)
    return volume


def _sizes(header: Path) -> dict[str, int]:
    """Size of every dimension."""
    lines = header.read_text("utf-8", "replace").splitlines()
    words = lines[1].split() if len(lines) > 1 and lines[0].startswith("# Dimensions") else []
    if not words or len(words) > len(_NAMES) or not all(word.isdecimal() and 0 < int(word) < 1 << 31 for word in words):
        found = repr(lines[1][:60]) if len(lines) > 1 else "no dimensions"
        raise data_error(header, "Dimensions", found, f"1 to {len(_NAMES)} sizes", "copy the file again")
    return dict(zip(_NAMES, [int(word) for word in words] + [1] * (len(_NAMES) - len(words)), strict=True))


@lru_cache(maxsize=1)
def _ordered(
    path: Path, version: tuple[int, int], sizes: tuple[tuple[str, int], ...]
) -> tuple[Array, Array | None, str]:
    """k-space ``(slices, coils, readout, phase)``, its mask (None: to be found) and what was done; the last is kept."""
    size = dict(sizes)
    stored = np.memmap(path, np.complex64, "r", shape=tuple(size.values()), order="F")
    axes = [_NAMES.index(name) for name in (*_SLICES, "AVG", "COIL", "READ", "PHS1", "PHS2")]
    rest = [axis for axis in range(len(_NAMES)) if axis not in axes]
    outer = math.prod(size[name] for name in _SLICES)
    each = stored.transpose(rest + axes).reshape(
        outer, size["AVG"], size["COIL"], size["READ"], size["PHS1"], size["PHS2"]
    )
    require_same_columns(path, (each != 0).any((1, 2, 3, 5)), "scans")
    count = (each != 0).any((2, 3), keepdims=True).sum(1)
    with np.errstate(invalid="ignore"):  # the volume refuses what is not finite
        scans = np.asarray(each.sum(1, dtype=np.complex64) / np.maximum(count, 1), np.complex64)
    averages = f"mean of {size['AVG']} averages; " if size["AVG"] > 1 else ""
    if 1 not in (size["READ"], size["PHS1"], size["PHS2"]):
        measured = (scans != 0).any((0, 1, 2))
        slabs = [slab_as_slices(scan, measured) for scan in scans]
        return np.concatenate([slab[0] for slab in slabs]), slabs[0][1], averages + slabs[0][2]
    gone = next(axis for axis, name in enumerate(("READ", "PHS1", "PHS2")) if size[name] == 1) + 2
    names = [name for name in ("READ", "PHS1", "PHS2") if size[name] > 1]
    return scans.squeeze(gone), None, f"{averages}planes ({', '.join(names)})"


def _slice(path: Path, version: tuple[int, int], sizes: tuple[tuple[str, int], ...], index: int) -> Array:
    return np.array(_ordered(path, version, sizes)[0][index])
