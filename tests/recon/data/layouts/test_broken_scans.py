"""Every layout has the properties of a reader; with every fault one clear line, and nothing is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from recon import MODALITIES, DataError, check_reader, convert_scan

from .raw_files import RawFile, encoding_xml, header_of

Array = NDArray[Any]


def _fastmri(path: Path, kspace: Array) -> Path:
    with h5py.File(path / "a.h5", "w") as file:
        file["kspace"] = kspace
    return path / "a.h5"


def _parts(path: Path, kspace: Array) -> Path:
    return _fastmri(path, np.stack((kspace.real, kspace.imag), -1))


def _npy(path: Path, kspace: Array) -> Path:
    np.save(path / "a.npy", kspace)
    return path / "a.npy"


def _npz(path: Path, kspace: Array) -> Path:
    np.savez(path / "a.npz", kspace=kspace)
    return path / "a.npz"


def _bart(path: Path, kspace: Array) -> Path:
    slices, coils, height, width = kspace.shape
    (path / "a.hdr").write_text(f"# Dimensions\n{height} {width} 1 {coils} 1 1 1 1 1 1 1 1 1 {slices}\n")
    (path / "a.cfl").write_bytes(kspace.transpose(2, 3, 1, 0).astype(np.complex64).tobytes(order="F"))
    return path / "a.cfl"


def _cc359(path: Path, kspace: Array) -> Path:
    height, width = kspace.shape[-2:]
    signs = (-1.0) ** np.add.outer(np.arange(height), np.arange(width))
    turns = np.moveaxis(np.stack((kspace.real * signs, kspace.imag * signs), -1), 1, 3)
    with h5py.File(path / "a.h5", "w") as file:
        file["kspace"] = turns.reshape(*turns.shape[:3], -1).astype(np.float32)
    return path / "a.h5"


def _cmrxrecon(path: Path, kspace: Array) -> Path:
    with h5py.File(path / "a.mat", "w", userblock_size=512) as file:
        file["kspace_full"] = kspace.swapaxes(-1, -2)
    with (path / "a.mat").open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file")
    return path / "a.mat"


def _ismrmrd(path: Path, kspace: Array) -> Path:
    raw = RawFile(header_of(encoding_xml((kspace.shape[2], kspace.shape[3], 1))))
    raw.add_slices(kspace)
    return raw.write(path / "a.mrd")


LAYOUTS: list[Callable[[Path, Array], Path]] = [
    _fastmri, _parts, _npy, _npz, _bart, _cc359, _cmrxrecon, _ismrmrd,
]  # fmt: skip


def _nan(kspace: Array) -> None:
    kspace[1, 0, 3, 3] = np.nan


def _infinite(kspace: Array) -> None:
    kspace[1] = np.inf


def _zeros(kspace: Array) -> None:
    kspace[:] = 0


def _huge(kspace: Array) -> None:
    kspace *= np.float32(1e25)


def _corner(kspace: Array) -> None:
    kspace[:] = np.fft.ifftshift(kspace, axes=-1)


#: What a line says is found, or advises, for every fault.
SAID: dict[Callable[[Array], None], tuple[str, ...]] = {
    _nan: ("NaN or infinite values",),
    _infinite: ("NaN or infinite values",),
    _zeros: ("only zeros", "no sampled position"),
    _huge: ("values up to",),
    _corner: ("the zero frequency in the corner", "the zero frequency lies in the corner", "the peak of k-space"),
}


def refuse(source: Path, out: Path) -> str:
    with pytest.raises(DataError) as caught:
        convert_scan(source, out / "out.h5")
    line = str(caught.value)
    assert line.startswith(str(source.parent)) and "\n" not in line and "found " in line and "; " in line, line
    assert not out.exists() or list(out.iterdir()) == []
    return line.removeprefix(str(source.parent))


@pytest.mark.parametrize("write", LAYOUTS)
def test_a_sound_scan_of_the_layout_is_converted(write: Callable[..., Path], kspace: Array, tmp_path: Path) -> None:
    source = write(tmp_path, kspace)
    (made,) = convert_scan(source, tmp_path / "out" / "out.h5")
    assert made.path.is_file()
    check_reader(made.format, MODALITIES["mri"], source)


@pytest.mark.parametrize("write", LAYOUTS)
@pytest.mark.parametrize("spoil", list(SAID))
def test_values_that_cannot_be_used(
    spoil: Callable[[Array], None], write: Callable[..., Path], kspace: Array, tmp_path: Path
) -> None:
    spoil(kspace)
    line = refuse(write(tmp_path, kspace), tmp_path / "out")
    assert any(words in line for words in SAID[spoil])


@pytest.mark.parametrize("write", LAYOUTS)
@pytest.mark.parametrize("part", [0.0, 0.02, 0.3, 0.7, 0.98])
def test_a_truncated_scan(part: float, write: Callable[..., Path], kspace: Array, tmp_path: Path) -> None:
    source = write(tmp_path, kspace)
    content = source.read_bytes()
    source.write_bytes(content[: int(part * len(content))])
    line = refuse(source, tmp_path / "out")
    assert "copy it again" in line or "copy both files again" in line


@pytest.mark.parametrize("write", [_fastmri, _npy, _npz, _cmrxrecon])
@pytest.mark.parametrize(
    "change",
    [
        lambda kspace: kspace.real.astype(np.float32),
        lambda kspace: kspace.real.astype(np.int16),
        lambda kspace: kspace[0, 0, 0],
        lambda kspace: kspace[None, None, None],
        lambda kspace: kspace[:0],
        lambda kspace: np.array(["k-space"], dtype="S8"),
    ],
)
def test_arrays_of_other_types_and_axes(
    change: Callable[[Array], Array], write: Callable[..., Path], kspace: Array, tmp_path: Path
) -> None:
    try:
        source = write(tmp_path, change(kspace))
    except np.exceptions.AxisError:
        pytest.skip("not an array of this layout")
    line = refuse(source, tmp_path / "out")
    assert any(word in line for word in ("shape", "axes", "dtype", "of type", "complex numbers", "NumPy array", "peak"))
