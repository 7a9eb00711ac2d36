"""Formats of files, recognized by content: the name of a format and the way from it to a file that fedrecon reads."""

import gzip
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import h5py

from ..errors import DataError, data_error

_WRITE = "write k-space with recon.write_kspace, projections with recon.write_sinograms"
_CONVERT = "convert it with `fedrecon convert`, or name its format: {}"
_ARRAYS = (
    "convert k-space with `fedrecon convert`, or name its format: {}; write projections with recon.write_sinograms"
)
_SIMULATE = "simulate a scan of it: `fedrecon sites make images` (MRI) or `ct-images` (CT)"
_MATLAB = "CT of Helsinki: formats fips, htc2022"
_UNPACK = "unpack it first"


@dataclass(frozen=True)
class FileFormat:
    """A format: its name with article, and what to do with a file of it."""

    name: str
    advice: str
    #: Whether the name is that of a format, not a list of what an unknown file holds.
    is_named: bool = True


TIFF = FileFormat("a TIFF picture", f"name the format of 2DeteCT, 2detect; else stack the projections, then {_WRITE}")
#: First bytes of files of one format.
_SIGNATURES = (
    (b"\x93NUMPY", FileFormat("a NumPy array", _ARRAYS.format("numpy, cc359"))),
    (b"MATLAB 5.0", FileFormat("a MATLAB file", f"{_MATLAB}; else read it with scipy.io.loadmat, then {_WRITE}")),
    (b"NRRD", FileFormat("an NRRD image", f"convert it to NIfTI, then {_SIMULATE}")),
    (b"\0\5\x16\7", FileFormat("a ._ file of macOS without the data", "use the file without ._ in its name")),
    (b"version https://git-lfs", FileFormat("a Git LFS pointer without the data", "run `git lfs pull`")),
    (b"\x89PNG", FileFormat("a PNG picture", "use the scan that it was made from")),
    (b"\xff\xd8\xff", FileFormat("a JPEG picture", "use the scan that it was made from")),
    (b"II*\0", TIFF),
    (b"MM\0*", TIFF),
    (b"7z\xbc\xaf'\x1c", FileFormat("a 7z archive", _UNPACK)),
    (b"Rar!", FileFormat("a RAR archive", _UNPACK)),
    (b"BZh", FileFormat("a bzip2 archive", _UNPACK)),
    (b"\xfd7zXZ", FileFormat("an xz archive", _UNPACK)),
    (b"\x28\xb5\x2f\xfd", FileFormat("a Zstandard archive", _UNPACK)),
    (b"%PDF", FileFormat("a PDF document", "use the scan itself")),
)
NIFTI = FileFormat("a NIfTI image", _SIMULATE)
DICOM = FileFormat("a DICOM image", _SIMULATE)
_BART = FileFormat("a BART file (.cfl, .hdr)", _CONVERT.format("bart"))
_TWIX = FileFormat("Siemens raw data (twix)", _CONVERT.format("twix"))
_ISMRMRD = FileFormat("an ISMRMRD file, the lines as acquired", _CONVERT.format("ismrmrd"))


def format_of(path: Path) -> FileFormat | None:
    """Format of a file by its first bytes, HDF5 by its datasets, BART by its header file; None: not known.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(1024)
    if h5py.is_hdf5(path):
        return _layout_at(path)
    if head[128:132] == b"DICM":  # first: what stands before may be the head of a TIFF
        return DICOM
    for signature, known in _SIGNATURES:
        if head.startswith(signature):
            return known
    if head.startswith(b"PK\3\4"):
        return _in_zip(path)
    if head.startswith(b"\x1f\x8b"):
        start = _unzipped(path)
        return NIFTI if _is_nifti(start) else FileFormat("a gzip archive", _UNPACK) if start else None
    if head[257:262] == b"ustar":
        return FileFormat("a tar archive", _UNPACK)
    if _is_nifti(head):
        return NIFTI
    if head.startswith(b"# Dimensions") or (path.suffix == ".cfl" and path.with_suffix(".hdr").is_file()):
        return _BART
    if is_twix_head(head):
        return _TWIX
    return _text(head)


def layout_of(file: h5py.File) -> FileFormat | None:
    """Layout of an HDF5 file by the names of its datasets; None: not known."""
    # Links, which may lead to other files, are not followed.
    held = {name: file[name] for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)}
    top = held.keys()
    if any(isinstance(entry, h5py.Group) and {"xml", "data"} <= set(entry) for entry in held.values()):
        return _ISMRMRD
    ct, mri = 'read it as CT: modality = "ct", format', 'read it as MRI: modality = "mri", format'
    if top & {"counts", "line_integrals"} and "geometry" in top:
        return FileFormat("a CT scan of fedrecon", f'{ct} = "sinogram" in the manifest; weights of CT')
    if "exchange" in top:
        return FileFormat("CT projections (Data Exchange)", f'{ct} = "exchange" in the manifest')
    if {"kspace", "trajectory"} <= top:
        advice = 'read it with modality = "non_cartesian" and format = "trajectory" in the manifest'
        return FileFormat("radial or spiral samples of fedrecon", advice)
    if "kspace" in top:
        return FileFormat("an MRI scan (k-space)", f'{mri} = "fastmri" in the manifest; weights of MRI')
    if top == {"data"} and getattr(held["data"], "shape", ())[1:] == (1000, 513):
        return FileFormat("CT projections (LoDoPaB-CT)", f'{ct} = "lodopab" in the manifest')
    if {"reconstruction", "image"} <= top:
        return FileFormat("an image that fedrecon reconstructed", "use the scan that it was made from")
    if "#refs#" in top or any("MATLAB_class" in entry.attrs for entry in held.values()):
        return FileFormat(
            "a MATLAB 7.3 file",
            f"k-space of CMRxRecon: format cmrxrecon; {_MATLAB}; else read it with h5py, then {_WRITE}",
        )
    return None


def unreadable(path: Path, found: str, expected: str, advice: str, own: str) -> DataError:
    """Error for a file that its reader cannot read: names the format if it is another than the reader's ``own``."""
    known = format_of(path)
    if known is None or known.name == own:
        return data_error(path, "file", found, expected, advice)
    return data_error(path, "file", known.name, expected, known.advice)


def _layout_at(path: Path) -> FileFormat:
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            return layout_of(file) or FileFormat(
                f"HDF5 with {', '.join(sorted(file)) or 'nothing'}", "correct the path", is_named=False
            )
    except (OSError, RuntimeError, KeyError):
        return FileFormat("a broken HDF5 file", "copy it again")


def _is_nifti(head: bytes) -> bool:
    return head[344:347] in (b"n+1", b"ni1") or head[4:8] in (b"n+2\0", b"ni2\0")


def is_twix_head(head: bytes) -> bool:
    """Whether the first 1024 bytes of a file are those of Siemens raw data."""
    # VD and later: the number of measurements after a zero. VB: the length of a header of named buffers.
    first, second = (int.from_bytes(head[start : start + 4], "little") for start in (0, 4))
    if len(head) < 1024 or not 0 < second <= 64:
        return False
    return first == 0 or (first < 1 << 20 and any(name in head[8:64] for name in (b"Config", b"Dicom", b"Meas")))


def _in_zip(path: Path) -> FileFormat:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return FileFormat("a damaged zip archive, as .npz files are, too", "copy it again")
    if names and all(name.endswith(".npy") for name in names):
        return FileFormat("a NumPy archive (.npz)", _ARRAYS.format("numpy"))
    if any(name.endswith("data.pkl") for name in names):
        return FileFormat("a file of torch.save", _WRITE)
    return FileFormat("a zip archive", _UNPACK)


def _unzipped(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read(1024)
    except (OSError, EOFError, zlib.error):
        return b""


def _text(head: bytes) -> FileFormat | None:
    start = head.lstrip()[:100].lower()
    if start.startswith((b"<html", b"<!doctype html")):
        return FileFormat("a web page, such as a login page", "download the file anew")
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError:
        return None
    printable = bool(text) and all(character.isprintable() or character in "\t\r\n" for character in text)
    return FileFormat("a text file", "use the scan itself") if printable else None
