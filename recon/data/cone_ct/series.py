"""A folder of DICOM-CT-PD files: one series, checked, with its scan and its line integrals."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from physics import MU_WATER, ConeScan, ConeViews

from ...errors import DataError, data_error
from ...files import shown_files
from ..progress import doing, made
from .dead import constant_elements, dead_line, named_elements, require_live
from .header import ViewHeader, is_dicom, is_projection, read_header, read_projection

#: Elements that all views of a series share.
_SHARED = (
    "NumberofDetectorRows", "NumberofDetectorColumns", "DetectorElementTransverseSpacing",
    "DetectorElementAxialSpacing", "DetectorShape", "DetectorFocalCenterRadialDistance", "ConstantRadialDistance",
    "DetectorCentralElement", "SpectrumIndex", "TypeofProjectionData", "TypeofProjectionGeometry", "LogFlag",
    "WaterAttenuationCoefficient",
)  # fmt: skip
#: Attenuation of water at the energies of CT, in 1/mm: beyond, the unit is another one.
_WATER = (0.012, 0.04)
#: Elements with one possible value, and what to do about another one.
_NEEDED = {
    "DetectorShape": ("CYLINDRICAL", "projections of flat and spherical detectors are not read"),
    "TypeofProjectionGeometry": ("FANBEAM", "projections of other scanners are not read"),
    "LogFlag": ("YES", "take the logarithm of the transmission and set the flag, or ask for corrected projections"),
}
#: Relative difference of the stated pitch that is none.
_SAME_PITCH = 0.05
#: Numbers of views that an error names.
_NAMED = 6


@dataclass(frozen=True, eq=False)
class ProjectionSeries:
    """One series of views, in their order.

    ``scale`` is slope and intercept of every view that make line integrals of stored values, for water of
    ``water_per_mm``. ``field_mm`` is the diameter of the field of view. ``photons`` says whether the files state the
    number of photons. ``dead`` are the dead elements ``(columns, rows)``, named or found; ``dead_found`` those that
    nobody named.
    """

    folder: Path
    files: tuple[Path, ...]
    scan: ConeScan
    scale: npt.NDArray[np.float64]
    water_per_mm: float
    field_mm: float
    photons: bool
    helical: bool
    patient_id: str | None
    vendor: str | None
    model: str | None
    description: str | None
    anatomy: str | None
    stated_pitch: float | None = None
    dead: npt.NDArray[np.bool_] | None = None
    dead_found: npt.NDArray[np.bool_] | None = None

    def warnings(self) -> list[str]:
        """What makes geometry or values of the files doubtful, one line each."""
        stated, pitch = self.stated_pitch, self.scan.pitch
        found = []
        if self.dead_found is not None and self.dead_found.any():
            found.append(dead_line(self.folder, self.dead_found))
        if self.helical and stated is not None and stated > 0 and abs(pitch / stated - 1) >= _SAME_PITCH:
            found.append(
                f"{self.folder}: SpiralPitchFactor is {stated:g}, but positions, angles and rows have a pitch of "
                f"{pitch:.3g}: compare the images with those of the scanner"
            )
        return found

    @property
    def water_scale(self) -> float:
        """Factor of line integrals that makes water :data:`physics.MU_WATER`, so that Hounsfield units are right."""
        return MU_WATER / self.water_per_mm

    @property
    def n_bytes(self) -> int:
        """Size of the projections in the files."""
        return 2 * math.prod(self.scan.shape)

    def views(self) -> ConeViews:
        """The views, read when they are needed, as line integrals in units where water is :data:`physics.MU_WATER`."""
        _, columns, rows = self.scan.shape

        def read(view: int) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float64] | None]:
            return read_projection(self.files[view], columns, rows, photons=self.photons)

        return ConeViews(self.scan, read, self.scale * self.water_scale, self.dead)


def series_folders(folder: Path) -> dict[Path, str | None]:
    """Folders at or below a folder that hold DICOM files, sorted, with the description of their first file.

    None stands for a folder whose first file is an image and no projection.
    """
    first: dict[Path, Path] = {}
    for file in shown_files(folder, recursive=True):
        if file.parent not in first and is_dicom(file):
            first[file.parent] = file
    return {parent: None if not is_projection(file) else _description(file) for parent, file in sorted(first.items())}


def _description(file: Path) -> str:
    try:
        return read_header(file).description
    except DataError:
        return ""


def open_series(
    folder: Path, *, water_per_mm: float | None = None, dead_elements: Sequence[str] = ()
) -> ProjectionSeries:
    """Read the headers of a folder of DICOM-CT-PD files and check that they are one complete series.

    Elements that are equal in all of 64 evenly chosen views, while others change, are dead.

    Parameters
    ----------
    water_per_mm
        Attenuation of water; None: as the files state it.
    dead_elements
        Further dead elements, ``COLUMN:ROW`` from 1 as in the manual, or ``COLUMN:all``, ``all:ROW``.

    Raises
    ------
    DataError
        If a file is damaged, files are of several series or differ in what a series shares, views are missing or
        double, the scan is of a kind that is not read, more than a quarter of the elements are dead, or an element is
        named that is not there.
    """
    files = [file for file in shown_files(folder) if is_dicom(file)]
    if not files:
        raise data_error(folder, "folder", "no DICOM file", "DICOM-CT-PD projections", "correct the path")
    headers = []
    with doing("reading headers", len(files), "views"):
        for number, file in enumerate(files, 1):
            headers.append(read_header(file))
            made(number)
    _require_one_series(folder, headers)
    headers.sort(key=lambda header: header.instance)
    _require_all_views(folder, headers)
    first, scan = headers[0], _scan(headers)
    water, scale = _require_readable(first, scan, water_per_mm), _scale(headers)
    named = named_elements(dead_elements, scan.columns, scan.rows, folder)
    constant = constant_elements(lambda view: read_projection(headers[view].path, *scan.shape[1:])[0], scale)
    require_live(folder, dead := named | constant)

    def text(name: str) -> str | None:
        return str(first.public[name] or "").strip() or None

    covered = 2 * scan.source_to_axis_mm * math.sin(np.abs(scan.fan_angles[[0, -1]]).max())
    field = _number(first.public["DataCollectionDiameter"])
    return ProjectionSeries(
        folder,
        tuple(header.path for header in headers),
        scan,
        scale,
        water_per_mm=water,
        field_mm=covered if field is None or not 0 < field <= covered else field,
        photons=all(header.has_photons for header in headers),
        helical=scan.feed_mm > 0,
        patient_id=text("PatientID"),
        vendor=text("Manufacturer"),
        model=text("ManufacturerModelName"),
        description=text("SeriesDescription"),
        anatomy=text("BodyPartExamined"),
        stated_pitch=_number(first.public["SpiralPitchFactor"]),
        dead=dead,
        dead_found=constant & ~named,
    )


def _require_readable(first: ViewHeader, scan: ConeScan, water_per_mm: float | None) -> float:
    """Refuse kinds of scans that are not read; returns the attenuation of water."""
    for name, (needed, advice) in _NEEDED.items():
        if (found := first.text(name)) != needed:
            raise data_error(first.path, name, found or "nothing", needed, advice)
    kind = first.text("TypeofProjectionData")
    if kind not in ("HELICAL", "AXIAL"):
        raise data_error(first.path, "TypeofProjectionData", kind or "nothing", "HELICAL or AXIAL", "repair the file")
    if (kind == "HELICAL") != (scan.feed_mm > 0):
        found = f"{kind}, and z {'moves' if scan.feed_mm > 0 else 'is the same'} from view to view"
        key, expected = "DetectorFocalCenterAxialPosition (7031,1002)", "z that moves in helical scans alone"
        raise data_error(first.path.parent, key, found, expected, "repair the files")
    water = first.water_per_mm if water_per_mm is None else water_per_mm
    if water is None or not _WATER[0] <= water <= _WATER[1]:
        found, expected = "nothing" if water is None else f"{water:g}", "{} to {} per mm".format(*_WATER)
        raise data_error(first.path, "WaterAttenuationCoefficient", found, expected, "state it with --water")
    return water


def _require_one_series(folder: Path, headers: Sequence[ViewHeader]) -> None:
    counts = Counter((header.series, header.description) for header in headers)
    if len(counts) > 1:
        found = ", ".join(
            f"{count} files of {text or name or 'no series'}" for (name, text), count in counts.most_common(3)
        )
        rarest = min(counts, key=lambda key: counts[key])
        example = next(header.path.name for header in headers if (header.series, header.description) == rarest)
        advice = f"put every series into a folder of its own; of the smaller one is {example}"
        raise data_error(folder, "SeriesInstanceUID", f"{len(counts)} series ({found})", "one series", advice)
    for name in _SHARED:
        common = Counter(str(header.values.get(name)) for header in headers).most_common()
        if len(common) > 1:
            other = next(header for header in headers if str(header.values.get(name)) != common[0][0])
            found, expected = str(other.values.get(name)), f"{common[0][0]} as in most files of the series"
            raise data_error(other.path, name, found, expected, "leave the file out, or repair it")


def _require_all_views(folder: Path, headers: Sequence[ViewHeader]) -> None:
    """Views are numbered without a gap; parts of a scan may begin at any number."""
    numbers = Counter(header.instance for header in headers)
    double = [number for number, count in numbers.items() if count > 1]
    first, last = headers[0].instance, headers[-1].instance
    if double:
        found = f"two files of view {_list(double)}"
        raise data_error(folder, "InstanceNumber", found, "one file per view", "leave the copies out")
    if last - first + 1 > len(headers):
        missing = [number for number in range(first, last + 1) if number not in numbers]
        found = f"{len(headers)} of the views {first} to {last}, without {_list(missing)}"
        raise data_error(folder, "InstanceNumber", found, "all of them", "copy the missing files")
    if len(headers) < 3:
        raise data_error(folder, "InstanceNumber", f"{len(headers)} views", "a scan", "copy the missing files")


def _list(numbers: Sequence[int]) -> str:
    named = ", ".join(map(str, numbers[:_NAMED]))
    return named if len(numbers) <= _NAMED else f"{named} and {len(numbers) - _NAMED} more"


def _scan(headers: Sequence[ViewHeader]) -> ConeScan:
    first = headers[0]
    columns, rows = (int(first.number(f"NumberofDetector{name}")) for name in ("Columns", "Rows"))
    pitch, height = (first.number(f"DetectorElement{name}Spacing") for name in ("Transverse", "Axial"))
    column, row = first.pair("DetectorCentralElement")

    def of_views(name: str, default: float | None = None) -> npt.NDArray[np.float64]:
        return np.array([header.number(name, default) for header in headers])

    try:
        # The manual puts angle 0 at the top, seen from the table, and column 1 at the left of a detector at the bottom:
        # against u. Row 1 is the farthest from the table, which is the largest z.
        return ConeScan(
            np.unwrap(of_views("DetectorFocalCenterAngularPosition")) + math.pi,
            of_views("DetectorFocalCenterAxialPosition"),
            columns, rows, pitch, height,
            first.number("DetectorFocalCenterRadialDistance"), first.number("ConstantRadialDistance"),
            (column - (columns + 1) / 2) * pitch, (row - (rows + 1) / 2) * height,
            of_views("SourceAngularPositionShift", 0.0), of_views("SourceRadialDistanceShift", 0.0),
            of_views("SourceAxialPositionShift", 0.0),
        )  # fmt: skip
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"{first.path.parent}: {error}") from None


def _scale(headers: Iterable[ViewHeader]) -> npt.NDArray[np.float64]:
    scale = []
    for header in headers:
        slope, intercept = (_number(header.public[f"Rescale{name}"]) for name in ("Slope", "Intercept"))
        if slope is None or intercept is None or slope <= 0:
            found = f"{header.public['RescaleSlope']} and {header.public['RescaleIntercept']}"
            raise data_error(header.path, "RescaleSlope and RescaleIntercept", found, "two numbers", "repair the file")
        scale.append((slope, intercept))
    return np.array(scale)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
