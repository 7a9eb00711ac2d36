"""The format of a file by the end of its name, and its writing: completely or not at all."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import DataError, data_error, os_error_line
from ..files import write_atomically, write_hdf5
from .reconstruction import PngSlices, Reconstruction

#: Ends of names of files; a name without an end is a folder of DICOM files.
SUFFIXES = (".h5", ".hdf5", ".nii", ".nii.gz", ".dcm", ".png")
_DICOM = (".dcm", "")


def suffix_of(path: Path) -> str:
    """The end of a name in lower case: one of :data:`SUFFIXES`, any other, or nothing."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def require_export(path: Path, *, overwrite: bool, slices: PngSlices = "middle") -> None:
    """Refuse a name before any work; ``slices`` is that of :func:`write_reconstruction`.

    Raises
    ------
    DataError
        If the end of the name is unknown, all slices are asked for and it is no PNG, or something that must not be
        replaced stands there.
    """
    suffix, expected = suffix_of(path), "a name that ends in " + ", ".join(SUFFIXES)
    if not path.name:
        raise data_error(path, "--out", "no name", expected, "choose one")
    if suffix and suffix not in SUFFIXES:
        advice = "choose one; a name without an end is a folder of DICOM files"
        raise data_error(path, "--out", f"the ending {suffix!r}", expected, advice)
    if slices == "all":
        require_png(suffix)
    numbered = _numbered(path) if slices == "all" else []
    if path.is_dir():
        _require_own_folder(path, overwrite)
    elif not overwrite and (numbered or path.exists()):
        where = numbered[0] if numbered else path
        raise data_error(where, "--out", "a file that exists", "a new name", "choose another --out or add --overwrite")


def require_png(suffix: str) -> None:
    """Refuse the choice of all slices for a format that holds them anyway.

    Raises
    ------
    DataError
        If the end of a name is not ``.png``.
    """
    if suffix != ".png":
        found, expected = f"all, with {suffix or 'a folder of DICOM files'}", "a name that ends in .png"
        raise data_error("reconstruct", "--slices", found, expected, "leave it out: other formats hold all slices")


def _numbered(path: Path) -> list[Path]:
    """Pictures of all slices that were written under a name."""
    numbered = re.compile(rf"{re.escape(path.stem)}_\d{{3,}}")  # not those of a name that begins alike
    return sorted(file for file in path.parent.glob(f"*{path.suffix}") if numbered.fullmatch(file.stem))


def _require_own_folder(path: Path, overwrite: bool) -> None:
    """A folder is replaced only if it is empty, or holds nothing but DICOM files and ``--overwrite`` is given."""
    if suffix_of(path) not in _DICOM:
        raise data_error(path, "--out", "a folder", "the name of a file", "choose another --out")
    if not (files := list(path.iterdir())):
        return
    if any(file.is_dir() or file.suffix != ".dcm" for file in files):
        raise data_error(path, "--out", "a folder with other files", "a new folder", "choose another --out")
    if not overwrite:
        raise data_error(path, "--out", "a folder that exists", "a new one", "choose another --out or add --overwrite")


def write_reconstruction(found: Reconstruction, out: Path | str, *, slices: PngSlices = "middle") -> list[str]:
    """Write the images of a scan in the format of the name.

    Parameters
    ----------
    out
        ``.h5``: displayed and complex images with the header of the scan; ``.nii``, ``.nii.gz``; ``.dcm``, or no end:
        a folder with one DICOM file per slice, for ``.dcm`` a file if there is one slice; ``.png``.
    slices
        Slices of a PNG: the middle one, or all, each in a file with its number.

    Returns
    -------
        What a user must know of the file, one line each.

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    require_export(out := Path(out), overwrite=True)
    if found.header.planes is not None and suffix_of(out) not in (".h5", ".hdf5"):
        advice = "call recon.axial_reconstruction before, or write HDF5"
        raise data_error(out, "--out", "images of tilted planes", "axial images", advice)
    return _WRITERS[suffix_of(out)](found, out, slices)


def _write_hdf5(found: Reconstruction, out: Path, slices: PngSlices) -> list[str]:
    arrays, attributes = found.header.carried
    if found.header.planes is not None:
        arrays = {**arrays, "slopes": found.header.planes.slopes}
    images = {"reconstruction": found.magnitude, "image": found.image}
    method: dict[str, Any] = {"derivation": found.derivation, "scan": found.scan}
    if found.half_width is not None:
        images["half_width"] = found.half_width
        method["half_width_coverage"] = found.coverage
    write_hdf5(out, {**arrays, **images}, {**attributes, **method, **found.attributes})
    return []


def _write_nifti(found: Reconstruction, out: Path, slices: PngSlices) -> list[str]:
    from .nifti import nifti_bytes

    compressed = suffix_of(out) == ".nii.gz"
    write_atomically(out, nifti_bytes(found, compressed=compressed))
    if found.half_width is None:
        return _unstated(found)
    bars = _beside(out)
    write_atomically(bars, nifti_bytes(found, compressed=compressed, images=found.displayed_half_width))
    return [*_unstated(found), f"error bars of {found.coverage:.0%} coverage: {bars}"]


def _write_dicom(found: Reconstruction, out: Path, slices: PngSlices) -> list[str]:
    from .dicom import dicom_files, error_bar_files, is_placed

    lines, bars = _unstated(found), _beside(out)
    if not is_placed(found):
        lines.append("written as secondary captures, without a place in the patient")
    if found.half_width is not None:
        require_export(bars, overwrite=True)  # before anything is written
        lines.append(f"error bars of {found.coverage:.0%} coverage, a second series: {bars}")
    _write_series(dicom_files(found), out)
    if found.half_width is not None:
        _write_series(error_bar_files(found), bars)
    return lines


def _write_series(files: list[bytes], out: Path) -> None:
    if len(files) == 1 and suffix_of(out) == ".dcm" and not out.is_dir():
        write_atomically(out, files[0])
    else:
        digits = max(3, len(str(len(files))))
        _write_folder(out, {f"slice_{number + 1:0{digits}d}.dcm": data for number, data in enumerate(files)})


def _beside(out: Path) -> Path:
    """Name of the error bars of an image."""
    suffix = suffix_of(out)
    return out.with_name(f"{out.name[: len(out.name) - len(suffix)]}_error_bars{suffix}")


def _write_png(found: Reconstruction, out: Path, slices: PngSlices) -> list[str]:
    from .picture import png_files, window_of

    done: list[Path] = []
    try:
        for end, data in png_files(found, slices).items():
            write_atomically(file := out.with_name(f"{out.stem}{end}{out.suffix}"), data)
            done.append(file)
    except DataError:
        for file in done:
            file.unlink(missing_ok=True)
        raise
    for file in set(_numbered(out)) - set(done) if slices == "all" else ():
        file.unlink()  # of a scan with more slices
    black, white = window_of(found.displayed)
    lines = [f"window: black {black:.4g}, white {white:.4g} ({found.unit})"]
    return lines if found.half_width is None else [*lines, "without error bars: HDF5, NIfTI and DICOM hold them"]


_WRITERS: dict[str, Callable[[Reconstruction, Path, PngSlices], list[str]]] = {
    ".h5": _write_hdf5,
    ".hdf5": _write_hdf5,
    ".nii": _write_nifti,
    ".nii.gz": _write_nifti,
    ".dcm": _write_dicom,
    "": _write_dicom,
    ".png": _write_png,
}


def _write_folder(out: Path, files: dict[str, bytes]) -> None:
    """Write all files beside the folder, then put them in its place; a reader never sees a part.

    Raises
    ------
    DataError
        If this fails; the former folder stays.
    """
    temporary, former = (out.with_name(f".{out.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    try:
        for name, data in files.items():
            write_atomically(temporary / name, data)
        if out.is_dir():
            _require_own_folder(out, overwrite=True)
            os.replace(out, former)
        elif out.exists():
            out.unlink()
        os.replace(temporary, out)
        shutil.rmtree(former, ignore_errors=True)
    except OSError as error:
        raise DataError(os_error_line(error)) from None
    finally:
        if former.exists() and not out.exists():
            os.replace(former, out)
        shutil.rmtree(temporary, ignore_errors=True)


def _unstated(found: Reconstruction) -> list[str]:
    """What the file of the scan leaves open and the written one therefore cannot state."""
    header, lines = found.header, []
    if header.pixel_mm is None:
        lines.append(f"{found.scan} states no pixel size: distances in the image are not known")
    if header.thickness_mm is None and (header.placement is None or header.placement.step() is None):
        lines.append(f"{found.scan} states no slice thickness: distances across slices are not known")
    elif header.placement is None and header.z_mm is None and len(found.displayed) > 1:
        lines.append(f"{found.scan} states no positions of its slices: they are taken as adjacent")
    if header.placement is None:
        reason = "states no orientation, or no pixel size of an image that is cropped"
        lines.append(f"{found.scan} {reason}: left and right of the image are not known")
    return lines
