"""Open CT data of the University of Helsinki and the Finnish Inverse Problems Society: MATLAB files with a geometry.

A struct ``CtData``, or of another name, holds ``sinogram`` ``(views, detectors)``, line integrals, and ``parameters``;
an array of such structs holds frames. Some files hold the same values as variables without a struct. The layout is that
of the HelTomo toolbox, which calls ASTRA's ``fanflat``: angles in degrees and columns as they are stored.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import h5py
import numpy as np
import scipy.io
from annotated_types import Ge, Gt

from physics import FanBeam, ImageGrid

from ...errors import data_error
from ..ct_file import SinogramVolume, checked
from ..layouts.hdf5_content import hdf5_content
from .matlab import read_matlab

_ADVICE = "use a file with sinogram and parameters, or write it with recon.write_sinograms"
_DISTANCES = ("distanceSourceOrigin", "distanceSourceDetector")
#: Pitch of the elements of the sinogram by the first of these; seen from the source at the axis by one of the second.
_PITCHES = ("pixelSizePost", "pixelSize")
_PITCHES_AT_AXIS = ("effectivePixelSizePost", "effectivePixelSize")
_COUNTS = ("numDetectorsPost", "numDetectors")
_GEOMETRY = (*_DISTANCES, *_PITCHES, *_PITCHES_AT_AXIS, "angles", "distanceUnit")
#: No ray has line integrals above: they are counts.
_MOST = 30.0


@dataclass(frozen=True, eq=False)
class FipsVolume(SinogramVolume):
    """One MATLAB file with sinograms and their geometry; slices are frames."""

    def _measured(self, index: int) -> np.ndarray[Any, Any]:
        sinogram: np.ndarray[Any, Any] = _scans(self.path)[index]["sinogram"]
        return sinogram


def is_fips(path: Path) -> bool:
    """Whether a file is of MATLAB with a struct of a sinogram, or with a sinogram and the place of its source."""
    if h5py.is_hdf5(path):
        content = hdf5_content(path)
        if content is None or not content.is_matlab:
            return False
        structs = any({"sinogram", "parameters"} <= set(members) for members in content.groups.values())
        return structs or {"sinogram", _DISTANCES[0]} <= content.datasets.keys()
    with path.open("rb") as file:
        if not file.read(10).startswith(b"MATLAB 5.0"):
            return False
    try:
        kinds = {name: kind for name, _, kind in scipy.io.whosmat(path)}
    except Exception:  # scipy raises many kinds; the reader says what is wrong
        return True
    return "struct" in kinds.values() or {"sinogram", _DISTANCES[0]} <= kinds.keys()


def open_fips(
    path: Path,
    *,
    size: Annotated[int, Ge(1)] | None = None,
    element_mm: Annotated[float, Gt(0)] | None = None,
    angle_unit: Literal["degrees", "radians"] | None = None,
) -> FipsVolume:
    """Check a MATLAB file with sinograms and their geometry.

    Parameters
    ----------
    size
        Pixels per side of the image, which always covers the detector seen from the source at the axis; None: one per
        element.
    element_mm
        Distance between the centers of two elements; None: ``pixelSizePost``, else ``pixelSize``.
    angle_unit
        Unit of the angles; None: degrees, refused where they span less than 7.

    Raises
    ------
    DataError
        If there is no sinogram or no geometry, they or two sizes of a pixel disagree, values are no line integrals, the
        unit of the angles is unclear, frames differ in their geometry, or the sinogram has three axes.
    """
    scans = _scans(path)
    known = scans[0]["parameters"]
    lines = np.asarray(scans[0]["sinogram"])
    for scan in scans:
        _require_lines(path, np.asarray(scan["sinogram"]), lines.shape)
        if any(not np.array_equal(scan["parameters"].get(key), known.get(key)) for key in _GEOMETRY):
            raise data_error(path, "parameters", "frames of different geometries", "one for all", _ADVICE)
    if (unit := known.get("distanceUnit", "mm")) != "mm":
        raise data_error(path, "distanceUnit", repr(unit), "mm", _ADVICE)
    views, elements = lines.shape
    key = next((key for key in _COUNTS if key in known), None)
    if key is not None and (stated := _number(path, known, key)) != elements:
        raise data_error(path, "sinogram", f"{elements} columns", f"{stated:g}, the {key}", _ADVICE)
    angles = np.ravel(known.get("angles", ())).astype(np.float64)
    if len(angles) != views:
        raise data_error(path, "angles", f"{len(angles)} angles", f"one per row of the sinogram, {views}", _ADVICE)
    if angle_unit is None and views > 1 and np.ptp(angles) < 7:
        found, advice = f"{views} angles that span {np.ptp(angles):.3g}", "set angle_unit in [data]"
        raise data_error(path, "angles", found, "degrees, as of this layout", advice)
    R, D = (_number(path, known, key) for key in _DISTANCES)
    pitch = _pitch(path, known, D / R) if element_mm is None else element_mm
    in_rad = tuple((angles if angle_unit == "radians" else np.deg2rad(angles)).tolist())
    geometry = checked(lambda: FanBeam(in_rad, elements, pitch, R, D), path)
    size = size or elements
    grid = ImageGrid((size, size), pitch * R / D * elements / size)
    return FipsVolume(path, (len(scans), views, elements), grid, geometry, "line_integrals")


def _scans(path: Path) -> list[dict[str, Any]]:
    """Frames of a file, each a dictionary of ``sinogram`` and ``parameters``."""
    content = read_matlab(path)
    if "sinogram" in content and _DISTANCES[0] in content:
        return [{"sinogram": content["sinogram"], "parameters": content}]
    frames = {name: value if isinstance(value, list) else [value] for name, value in content.items()}
    found = {name: scans for name, scans in frames.items() if scans and all(map(_is_scan, scans))}
    if len(found) != 1:
        held = ", ".join(found or content) or "nothing"
        expected = "one struct with sinogram and parameters"
        raise data_error(path, "variables", held, expected, _ADVICE)
    return next(iter(found.values()))


def _is_scan(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("parameters"), dict) and "sinogram" in value


def _require_lines(path: Path, values: np.ndarray[Any, Any], shape: tuple[int, ...]) -> None:
    if values.ndim != 2 or values.dtype.kind not in "iuf" or 0 in values.shape:
        found = f"shape {values.shape}, {values.dtype}"
        advice = "cone beams are not read: write the central row with recon.write_sinograms"
        raise data_error(path, "sinogram", found, "numbers, (views, detectors)", advice)
    if values.shape != shape:
        raise data_error(path, "sinogram", f"shape {values.shape}", f"{shape}, as of the first frame", _ADVICE)
    if (most := float(values[np.isfinite(values)].max(initial=0.0))) > _MOST:
        found, advice = f"values up to {most:g}", "take -log of counts over those of the open beam"
        raise data_error(path, "sinogram", found, "line integrals", advice)


def _pitch(path: Path, known: dict[str, Any], magnification: float) -> float:
    """Distance between elements of the sinogram, which binning may have made larger than that of the detector."""
    key = next((key for key in _PITCHES if key in known), _PITCHES[0])
    pitch = _number(path, known, key)
    for other in _PITCHES_AT_AXIS:
        if other in known and abs((expected := _number(path, known, other) * magnification) / pitch - 1) > 1e-3:
            found = f"{pitch:g} mm, but {other} is that of {expected:g} mm"
            raise data_error(path, key, found, "one size of the elements", "set element_mm in [data]")
    return pitch


def _number(path: Path, known: dict[str, Any], key: str) -> float:
    try:
        value = float(np.asarray(known[key], dtype=np.float64).item())
    except (KeyError, TypeError, ValueError):
        found = f"{known[key]!r:.60}" if key in known else "nothing"
        raise data_error(path, key, found, "a number", _ADVICE) from None
    if not 0 < value < float("inf"):
        raise data_error(path, key, f"{value:g}", "more than 0", _ADVICE)
    return value
