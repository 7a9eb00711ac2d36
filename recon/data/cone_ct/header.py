"""Header of one DICOM-CT-PD file: a view of a CT scan with its place in private elements [C]_.

Private elements are of the groups 7029 (detector), 7031 (detector in a view), 7033 (source), 7037 (scan), 7039
(corrections) and 7041 (calibration). Files without value representations, as those of the Mayo Clinic, hold them as
bytes, which are decoded here.

References
----------
.. [C] Chen, Duan, Yu, Leng, Yu and McCollough, Development and validation of an open data format for CT projection
   data, Med. Phys. 42, 2015; DICOM-CT-PD User Manual, version 3, 2020.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.tag import BaseTag, Tag

from ...errors import DataError, data_error

#: Private elements by their names in the manual: tag and kind, ``f`` float32, ``H`` unsigned 16-bit, ``s`` text.
ELEMENTS: dict[str, tuple[int, str]] = {
    "NumberofDetectorRows": (0x70291010, "H"),
    "NumberofDetectorColumns": (0x70291011, "H"),
    "DetectorElementTransverseSpacing": (0x70291002, "f"),
    "DetectorElementAxialSpacing": (0x70291006, "f"),
    "DetectorShape": (0x7029100B, "s"),
    "DetectorFocalCenterAngularPosition": (0x70311001, "f"),
    "DetectorFocalCenterAxialPosition": (0x70311002, "f"),
    "DetectorFocalCenterRadialDistance": (0x70311003, "f"),
    "ConstantRadialDistance": (0x70311031, "f"),
    "DetectorCentralElement": (0x70311033, "f"),
    "SourceAngularPositionShift": (0x7033100B, "f"),
    "SourceAxialPositionShift": (0x7033100C, "f"),
    "SourceRadialDistanceShift": (0x7033100D, "f"),
    "SpectrumIndex": (0x70331063, "H"),
    "PhotonStatistics": (0x70331065, "f"),
    "TypeofProjectionData": (0x70371009, "s"),
    "TypeofProjectionGeometry": (0x7037100A, "s"),
    "LogFlag": (0x70391009, "s"),
    "WaterAttenuationCoefficient": (0x70411001, "s"),
}
#: Public elements that are read beside the private ones; the last is the water attenuation of older files.
_PUBLIC = (
    "Manufacturer", "ManufacturerModelName", "PatientID", "SeriesInstanceUID", "SeriesDescription", "BodyPartExamined",
    "InstanceNumber", "Rows", "Columns", "BitsAllocated", "PixelRepresentation", "RescaleSlope", "RescaleIntercept",
    "DataCollectionDiameter", "SpiralPitchFactor",
)  # fmt: skip
#: A number per column, which would fill the memory: read with the projection.
_PER_COLUMN = "PhotonStatistics"
_STORED = {"f": "<f4", "H": "<u2"}
_OLD_WATER = Tag(0x00180061)
_TAGS = [*_PUBLIC, _OLD_WATER, *(Tag(tag) for tag, _ in ELEMENTS.values())]
_FORMAT = "a DICOM-CT-PD projection"
#: Bytes of a file before its first element, and the tag of the pixels as it is stored.
_PREAMBLE, _PIXELS = 132, bytes.fromhex("e07f1000")


@dataclass(frozen=True)
class ViewHeader:
    """What one file states. Names of private elements are those of the manual, in :data:`ELEMENTS`."""

    path: Path
    instance: int
    series: str
    description: str
    values: dict[str, Any]
    public: dict[str, Any]
    has_photons: bool

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number; without a default it must be there.

        Raises
        ------
        DataError
            If it is not.
        """
        found = self.values.get(name)
        if found is None and default is not None:
            return default
        try:
            value = float(np.asarray(found, dtype=np.float64).reshape(-1)[0]) if found is not None else float("nan")
        except (TypeError, ValueError, IndexError):
            value = float("nan")
        if not np.isfinite(value):
            shown = "nothing" if found is None else f"{found!r:.40}"
            raise data_error(self.path, _key(name), shown, "a number", "repair the file, or leave out the series")
        return value

    def pair(self, name: str) -> tuple[float, float]:
        """Two finite numbers."""
        found = np.asarray(self.values.get(name, ()), dtype=np.float64).reshape(-1)
        if len(found) != 2 or not np.isfinite(found).all():
            raise data_error(self.path, _key(name), f"{len(found)} numbers", "column and row", "repair the file")
        return float(found[0]), float(found[1])

    def text(self, name: str) -> str:
        """Text in upper case; empty if there is none."""
        return str(self.values.get(name) or "").strip().upper()

    @property
    def water_per_mm(self) -> float | None:
        """Attenuation of water; None: not stated."""
        for found in (self.values.get("WaterAttenuationCoefficient"), self.public.get("water")):
            try:
                value = float(np.asarray(found, dtype=np.float64).reshape(-1)[0])
            except (TypeError, ValueError, IndexError):
                continue
            if np.isfinite(value):
                return value
        return None


def read_header(path: Path) -> ViewHeader:
    """Header of a file, without its projection.

    Raises
    ------
    DataError
        If it is no readable DICOM-CT-PD file.
    """
    dataset = _read(path, whole=True, stop_before_pixels=True, specific_tags=_TAGS)
    values = {name: _decoded(dataset, tag, kind) for name, (tag, kind) in ELEMENTS.items() if name != _PER_COLUMN}
    if values["DetectorFocalCenterAngularPosition"] is None:
        found = "no private element (7031,1001), the angle of a view"
        raise data_error(path, "file", found, _FORMAT, "leave images out")
    instance = dataset.get("InstanceNumber")
    if instance is None:
        raise data_error(path, "InstanceNumber", "nothing", "the number of the view", "repair the file")
    public = {name: dataset.get(name) for name in _PUBLIC}
    public["water"] = _decoded(dataset, _OLD_WATER, "s")
    return ViewHeader(
        path,
        int(instance),
        str(dataset.get("SeriesInstanceUID", "")),
        str(dataset.get("SeriesDescription", "") or ""),
        values={name: value for name, value in values.items() if value is not None},
        public=public,
        has_photons=ELEMENTS[_PER_COLUMN][0] in dataset,
    )


def read_projection(
    path: Path, columns: int, rows: int, *, photons: bool = False
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float64] | None]:
    """Stored values of a view ``(columns, rows)``, by increasing u and z of :class:`physics.ConeScan`, and its photons.

    The photons per ray are an array ``(columns,)``, None unless they are wanted.

    Files number columns against u and rows against z. The image of a file has a row per column of the detector, as
    those of the Mayo Clinic, or a row per row.

    Raises
    ------
    DataError
        If the projection is not there, compressed or of another size.
    """
    dataset = _read(path)
    found, size = (int(dataset.get("Rows", 0)), int(dataset.get("Columns", 0))), columns * rows
    if found not in ((columns, rows), (rows, columns)):
        expected = f"{columns}x{rows} as of the detector"
        raise data_error(path, "Rows and Columns", f"{found[0]}x{found[1]}", expected, "repair the file")
    bits = dataset.get("BitsAllocated"), dataset.get("PixelRepresentation", 0)
    if bits != (16, 0):
        found_text = f"{bits[0]} bits with PixelRepresentation {bits[1]}"
        raise data_error(path, "BitsAllocated", found_text, "unsigned values of 16 bits", "repair the file")
    stored = dataset.get("PixelData") or b""
    if len(stored) < 2 * size:
        advice = "copy the file again"
        raise data_error(path, "PixelData", f"{len(stored)} bytes", f"{2 * size}, 16 bits per element", advice)
    image = np.frombuffer(stored, dtype="<u2", count=size).reshape(found)
    values = np.ascontiguousarray((image if found == (columns, rows) else image.T)[::-1, ::-1], dtype=np.uint16)
    return values, _photons(path, dataset, columns) if photons else None


def _photons(path: Path, dataset: pydicom.Dataset, columns: int) -> npt.NDArray[np.float64]:
    """Noise-equivalent photons per ray of every column, the same in all rows."""
    tag, kind = ELEMENTS[_PER_COLUMN]
    found = np.asarray(_decoded(dataset, tag, kind), dtype=np.float64).reshape(-1)
    if found.size not in (1, columns) or not (np.isfinite(found) & (found > 0)).all():
        shown, expected = f"{found.size} values from {found.min():g}", f"{columns} positive numbers, one per column"
        raise data_error(path, _key(_PER_COLUMN), shown, expected, "repair the files, or remove the element")
    return np.broadcast_to(found, (columns,))[::-1]


def is_projection(path: Path) -> bool:
    """Whether a DICOM file holds the angle of a view; also True for a damaged one, whose reader says more."""
    try:
        return Tag(ELEMENTS["DetectorFocalCenterAngularPosition"][0]) in _read(path, stop_before_pixels=True)
    except DataError:
        return True


def is_dicom(path: Path) -> bool:
    """Whether a file has the signature of DICOM, or its name."""
    if path.suffix.lower() in (".dcm", ".ima"):
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _read(path: Path, *, whole: bool = False, **options: Any) -> pydicom.FileDataset:
    """Read a file; ``whole``: without its pixels, which must be there."""
    try:
        with path.open("rb") as file:
            dataset = pydicom.dcmread(file, **options)
            syntax = dataset.file_meta.get("TransferSyntaxUID")
            if syntax is None:
                raise _truncated(path, "within its header")
            readable = syntax.is_little_endian and not syntax.is_compressed
            if readable and whole:
                _require_pixels(path, file, explicit=not syntax.is_implicit_VR)
    except DataError:
        raise
    except Exception as error:  # pydicom raises many kinds for damaged files
        if path.stat().st_size < _PREAMBLE:
            raise _truncated(path, "within its header") from None
        raise data_error(path, "file", f"no readable DICOM file ({error})", _FORMAT, "copy it again") from None
    if not readable:
        found, advice = f"the transfer syntax {syntax.name}", "decompress it, for example with gdcmconv --raw"
        raise data_error(path, "file", found, "uncompressed values, little endian", advice)
    return dataset


def _require_pixels(path: Path, file: BinaryIO, *, explicit: bool) -> None:
    """Refuse a file, read up to its pixels, that ends before the last of them: rebinning would find it hours later."""
    # Explicit elements state their kind and two bytes more.
    head = file.read(12 if explicit else 8)
    end, size = file.tell() + int.from_bytes(head[-4:], "little"), path.stat().st_size
    if head[:4] != _PIXELS:
        raise _truncated(path, "before its pixels")
    if size < end:
        raise _truncated(path, f"{end - size} bytes before the last of its pixels")


def _truncated(path: Path, where: str) -> DataError:
    found = f"a truncated file, which ends after {path.stat().st_size} bytes, {where}"
    return data_error(path, "file", found, _FORMAT, "copy the file again")


def _decoded(dataset: pydicom.Dataset, tag: BaseTag | int, kind: str) -> Any:
    """Value of an element, decoded if its file states no value representation; None: not there."""
    if tag not in dataset:
        return None
    value = dataset[tag].value
    if isinstance(value, bytes):
        if kind == "s":
            return value.decode("latin-1").strip("\0 ")
        stored = np.dtype(_STORED[kind])
        return np.frombuffer(value[: len(value) // stored.itemsize * stored.itemsize], dtype=stored).tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [float(each) for each in value]
    return value


def _key(name: str) -> str:
    tag = ELEMENTS[name][0]
    return f"{name} ({tag >> 16:04X},{tag & 0xFFFF:04X})"
