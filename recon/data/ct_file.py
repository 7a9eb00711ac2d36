"""CT files: our own HDF5 layout, LoDoPaB-CT, Helsinki Tomography Challenge, raw counts with flat and dark fields.

The layout of our own, one file per volume: ``counts`` or ``line_integrals`` ``(slices, views, detectors)``; where there
is a ground truth ``reference`` ``(slices, height, width)`` in 1/mm; ``photons``, a number or what broadcasts to
``(views, detectors)``; the group ``geometry`` with ``angles_rad`` and the attributes of the geometry; the group
``grid`` with the attributes ``shape`` and ``pixel_mm``. Attributes of the file: ``patient_id``, ``acquisition``,
``electronic_noise``, ``simulated``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import scipy.io
import torch
from torch import Tensor

from physics import LODOPAB_MU_MAX, FanBeam, Geometry, ImageGrid, ParallelBeam, lodopab

from ..errors import DataError, data_error
from ..files import write_hdf5

SinogramFormat = Literal["sinogram", "lodopab", "htc2022", "exchange"]


@dataclass(frozen=True)
class ScanSetup:
    """What a file of raw counts does not say, and the size of the image where it is free.

    Parameters
    ----------
    pitch_mm
        Of the detector, for raw counts.
    axis_column
        Column of the rotation axis, counted from 0, for raw counts; None: the middle of the detector.
    size
        Pixels per side; None: as many as detector elements. The field of view of the scan is always covered.
    """

    pitch_mm: float = 1.0
    axis_column: float | None = None
    size: int | None = None


@dataclass(frozen=True, eq=False)
class SinogramVolume:
    """One CT file: checked facts, slices read on demand. It holds no open file and may be pickled.

    ``shape`` is ``(slices, views, detectors)``; ``holds`` says what is stored; ``photons`` is None where they are not
    known; ``simulated`` says how a simulation was made, None for measured data.
    """

    path: Path
    format: SinogramFormat
    shape: tuple[int, int, int]
    grid: ImageGrid
    geometry: Geometry
    holds: Literal["counts", "line_integrals", "raw"]
    photons: Tensor | None = None
    electronic_noise: float = 0.0
    has_reference: bool = False
    patient_id: str | None = None
    acquisition: str | None = None
    simulated: str | None = None

    def read_slice(self, index: int) -> Tensor:
        """What the file holds of one slice, float32 ``(views, detectors)``; raw counts without the dark field.

        Raises
        ------
        DataError
            If the slice cannot be read or holds values that cannot be.
        """
        values: np.ndarray[Any, Any]
        if self.format == "htc2022":
            values = _htc(self.path)[0]
        elif self.format == "lodopab":
            # Line integrals of images in units of the largest attenuation (1/m), over lengths in m.
            values = self._read("data", index) * (1000 * LODOPAB_MU_MAX)
        elif self.format == "exchange":
            with _opened(self.path) as file:
                values = file["exchange/data"][:, index] - file["exchange/data_dark"][:, index].mean(0)
        else:
            values = self._read(self.holds, index)
        array = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        self._require_finite(array, self.holds)
        return array

    def read_flat(self, index: int) -> Tensor:
        """Raw counts of the open beam for one slice without the dark field, float32 ``(detectors,)``.

        Raises
        ------
        DataError
            If a detector element sees no beam.
        """
        with _opened(self.path) as file:
            white, dark = (file[f"exchange/{name}"][:, index].mean(0) for name in ("data_white", "data_dark"))
        flat = torch.from_numpy(np.asarray(white - dark, dtype=np.float32))
        if not bool((flat > 0).all()):
            raise data_error(
                self.path,
                "exchange/data_white",
                f"{int((flat <= 0).sum())} elements without counts above the dark field",
                "an open beam on every element",
                "repair the flat field, or cut these columns off",
            )
        return flat

    def read_reference(self, index: int) -> Tensor:
        """Ground truth of one slice in 1/mm, float32 ``(height, width)``."""
        if not self.has_reference:
            raise data_error(self.path, "reference", "nothing", "a ground truth", "score held-out views instead")
        if self.format == "lodopab":
            with _opened(_lodopab_truth(self.path)) as file:
                # ODL counts x along the first axis and y upwards along the second.
                values = file["data"][index].T[::-1] * LODOPAB_MU_MAX
        else:
            values = self._read("reference", index)
        array = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        self._require_finite(array, "reference")
        return array

    def _read(self, key: str, index: int) -> np.ndarray[Any, Any]:
        with _opened(self.path) as file:
            values: np.ndarray[Any, Any] = file[key][index]
        return values

    def _require_finite(self, array: Tensor, key: str) -> None:
        if not bool(array.isfinite().all()):
            raise data_error(self.path, key, "NaN or infinite values", "finite values", "repair the file")
        if key == "counts" and float(array.min()) < 0 and self.electronic_noise == 0:
            found = f"counts down to {float(array.min()):g}"
            raise data_error(self.path, key, found, "counts of 0 or more", "state electronic_noise if they are right")


def open_sinograms(
    path: Path | str, format: SinogramFormat = "sinogram", setup: ScanSetup | None = None
) -> SinogramVolume:
    """Check a CT file and say what it holds; no slice is read.

    Parameters
    ----------
    path
        The file; of LoDoPaB-CT the ``observation_*.hdf5``, the ground truth is found beside it.
    format
        ``sinogram``: our own layout. ``lodopab``. ``htc2022``: MATLAB files of the Helsinki challenge. ``exchange``:
        Data Exchange HDF5 of synchrotrons, raw counts ``exchange/data`` with flat and dark fields, parallel beam.
    setup
        Values that the file does not hold.

    Raises
    ------
    DataError
        If the file is missing, broken, of another format, or a value cannot be used.
    """
    path = Path(path)
    if not path.is_file():
        raise data_error(path, "file", "nothing", f"a file of format {format}", "correct the path")
    volume = _OPENERS[format](path, setup or ScanSetup())
    if volume.shape[1:] != volume.geometry.shape:
        found, expected = volume.shape[1:], volume.geometry.shape
        advice = "exchange its last two axes" if found == expected[::-1] else "correct geometry or data"
        raise data_error(path, volume.holds, f"trailing shape {found}", f"{expected}, (views, detectors)", advice)
    return volume


def write_sinograms(
    path: Path | str,
    grid: ImageGrid,
    geometry: Geometry,
    *,
    counts: Tensor | None = None,
    line_integrals: Tensor | None = None,
    photons: float | Tensor | None = None,
    electronic_noise: float = 0.0,
    reference: Tensor | None = None,
    patient_id: str = "",
    acquisition: str = "",
    simulated: str = "",
) -> None:
    """Write one volume in our own layout; the file appears complete or not at all.

    Parameters
    ----------
    counts, line_integrals
        One of them, ``(slices, views, detectors)``.
    photons
        Per ray before the object; needed with counts.
    reference
        Ground truth in 1/mm, ``(slices, height, width)``.
    simulated
        How a simulation was made; empty for measured data.

    Raises
    ------
    ValueError
        If shapes disagree, or it is not clear what is stored.
    DataError
        If the file cannot be written.
    """
    name, data = ("counts", counts) if counts is not None else ("line_integrals", line_integrals)
    if data is None or (counts is not None and line_integrals is not None):
        raise ValueError("write_sinograms: expected either counts or line_integrals")
    if counts is not None and photons is None:
        raise ValueError("write_sinograms: counts need the photons per ray before the object")
    if data.ndim != 3 or tuple(data.shape[1:]) != geometry.shape:
        raise ValueError(f"write_sinograms: {name} has shape {tuple(data.shape)}, expected (slices, *{geometry.shape})")
    if reference is not None and tuple(reference.shape) != (len(data), *grid.shape):
        found = tuple(reference.shape)
        raise ValueError(f"write_sinograms: reference has shape {found}, expected {(len(data), *grid.shape)}")
    arrays: dict[str, Any] = {
        name: data.to(torch.float32).numpy(),
        "geometry/angles_rad": geometry.angles,
        "grid/shape": np.array(grid.shape),
        "grid/pixel_mm": grid.pixel_mm,
        "geometry/kind": type(geometry).__name__,
    }
    for field in fields(geometry):
        if field.name != "angles_rad":
            arrays[f"geometry/{field.name}"] = getattr(geometry, field.name)
    if photons is not None:
        arrays["photons"] = np.asarray(photons, dtype=np.float64)
    if reference is not None:
        arrays["reference"] = reference.to(torch.float32).numpy()
    attributes: dict[str, Any] = {
        "patient_id": patient_id,
        "acquisition": acquisition,
        "electronic_noise": electronic_noise,
        "simulated": simulated,
    }
    write_hdf5(Path(path), arrays, attributes)


def _open_own(path: Path, setup: ScanSetup) -> SinogramVolume:
    with _opened(path) as file:
        stored = [name for name in ("counts", "line_integrals") if name in file]
        if len(stored) != 1:
            found = " and ".join(stored) or f"datasets {', '.join(sorted(file)) or 'none'}"
            raise data_error(path, "file", found, "one of counts and line_integrals", "see recon.write_sinograms")
        holds: Any = stored[0]
        shape = file[holds].shape
        if len(shape) != 3 or 0 in shape:
            raise data_error(path, holds, f"shape {shape}", "(slices, views, detectors)", "write the file again")
        geometry, grid = _read_geometry(file, path), _read_grid(file, path)
        photons = torch.from_numpy(np.asarray(file["photons"][()], dtype=np.float64)) if "photons" in file else None
        if holds == "counts" and photons is None:
            raise data_error(path, "photons", "nothing", "the photons per ray", "write them, or line_integrals")
        if photons is not None and not bool((photons > 0).all()):
            raise data_error(path, "photons", f"{float(photons.min()):g}", "numbers above zero", "correct them")
        has_reference = "reference" in file
        if has_reference and file["reference"].shape != (shape[0], *grid.shape):
            found = f"shape {file['reference'].shape}"
            raise data_error(path, "reference", found, f"{(shape[0], *grid.shape)}", "correct grid or reference")
        return SinogramVolume(
            path, "sinogram", shape, grid, geometry, holds, photons,
            electronic_noise=float(file.attrs.get("electronic_noise", 0.0)),
            has_reference=has_reference,
            patient_id=_text(file.attrs.get("patient_id")),
            acquisition=_text(file.attrs.get("acquisition")),
            simulated=_text(file.attrs.get("simulated")),
        )  # fmt: skip


def _open_lodopab(path: Path, setup: ScanSetup) -> SinogramVolume:
    with _opened(path) as file:
        if "data" not in file or file["data"].ndim != 3:
            raise data_error(path, "data", "nothing", "(slices, 1000, 513)", "use an observation_*.hdf5 of LoDoPaB-CT")
        shape = file["data"].shape
    grid, geometry, photons = lodopab()
    return SinogramVolume(
        path, "lodopab", shape, grid, geometry, "line_integrals", torch.tensor(photons),
        has_reference=_lodopab_truth(path) != path and _lodopab_truth(path).is_file(),
        simulated="LoDoPaB-CT: 1000x1000 pixels, Poisson noise",
    )  # fmt: skip


def _open_htc(path: Path, setup: ScanSetup) -> SinogramVolume:
    sinogram, geometry = _htc(path)
    size = setup.size or 512
    # The organisers' 512 pixels are one element each, seen at the axis.
    pixel = geometry.pitch_mm * geometry.source_to_axis_mm / geometry.source_to_detector_mm * 512 / size
    shape = (1, *sinogram.shape)
    return SinogramVolume(path, "htc2022", shape, ImageGrid((size, size), pixel), geometry, "line_integrals")


def _open_exchange(path: Path, setup: ScanSetup) -> SinogramVolume:
    with _opened(path) as file:
        names = ("data", "data_white", "data_dark", "theta")
        missing = [f"exchange/{name}" for name in names if f"exchange/{name}" not in file]
        if missing:
            advice = "check the format of the file"
            raise data_error(path, missing[0], "nothing", "raw counts with flat and dark fields and angles", advice)
        views, slices, detectors = file["exchange/data"].shape
        theta = file["exchange/theta"]
        in_degrees = "deg" in (_text(theta.attrs.get("units")) or "deg")
        angles = np.asarray(theta[()], dtype=np.float64)
    if len(angles) != views:
        raise data_error(path, "exchange/theta", f"{len(angles)} angles", f"one per view, {views}", "correct the file")
    middle = (detectors - 1) / 2
    axis = middle if setup.axis_column is None else setup.axis_column
    if not 0 <= axis <= detectors - 1:
        raise data_error(path, "axis_column", f"{axis:g}", f"a column from 0 to {detectors - 1}", "correct the setup")
    offset = (middle - axis) * setup.pitch_mm
    geometry = _checked(
        lambda: ParallelBeam(
            tuple((np.deg2rad(angles) if in_degrees else angles).tolist()), detectors, setup.pitch_mm, offset
        ),
        path,
    )
    # As wide as the side of the detector that reaches farther: what only one side sees is reconstructed as well.
    width = 2 * max(axis + 0.5, detectors - 0.5 - axis) * setup.pitch_mm
    size = setup.size or round(width / setup.pitch_mm)
    grid = ImageGrid((size, size), width / size)
    return SinogramVolume(path, "exchange", (slices, views, detectors), grid, geometry, "raw")


_OPENERS: dict[str, Callable[[Path, ScanSetup], SinogramVolume]] = {
    "sinogram": _open_own,
    "lodopab": _open_lodopab,
    "htc2022": _open_htc,
    "exchange": _open_exchange,
}


def _lodopab_truth(path: Path) -> Path:
    return path.with_name(path.name.replace("observation", "ground_truth"))


def _htc(path: Path) -> tuple[np.ndarray[Any, Any], FanBeam]:
    """Sinogram and geometry of a Helsinki file, angles as given."""
    advice = "use a *.mat of the Helsinki Tomography Challenge 2022"
    try:
        content: dict[str, Any] = scipy.io.loadmat(path)
    except Exception as error:  # scipy raises whatever a broken file makes of it
        raise data_error(path, "file", f"no readable MATLAB 5 file ({error})", "one", advice) from None
    names = [name for name in ("CtDataFull", "CtDataLimited") if name in content]
    if not names:
        keys = ", ".join(key for key in content if not key.startswith("__")) or "nothing"
        raise data_error(path, "file", keys, "CtDataFull or CtDataLimited", advice)
    try:
        record = content[names[0]][0, 0]
        known = record["parameters"][0, 0]

        def number(name: str) -> float:
            return float(known[name].item())

        sinogram = np.asarray(record["sinogram"], dtype=np.float64)
        angles = tuple(np.deg2rad(known["angles"].ravel().astype(float)).tolist())
        R, D = number("distanceSourceOrigin"), number("distanceSourceDetector")
        geometry = FanBeam(angles, int(number("numDetectorsPost")), number("pixelSizePost"), R, D)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise data_error(path, names[0], f"{error}", "sinogram and parameters of a scan", advice) from None
    return sinogram, geometry


def _read_geometry(file: h5py.File, path: Path) -> Geometry:
    kinds: dict[str, type[ParallelBeam] | type[FanBeam]] = {"ParallelBeam": ParallelBeam, "FanBeam": FanBeam}
    group = file.get("geometry")
    kind = _text(group["kind"][()]) if isinstance(group, h5py.Group) and "kind" in group else None
    if kind not in kinds:
        raise data_error(path, "geometry/kind", f"{kind}", " or ".join(kinds), "see recon.write_sinograms")
    values: dict[str, Any] = {}
    for field in fields(kinds[kind]):
        if field.name in group:
            value = group[field.name][()]
            values[field.name] = (
                tuple(np.asarray(value, dtype=float).tolist())
                if field.name == "angles_rad"
                else _text(value)
                if field.name == "detector"
                else value.item()
            )
    geometry: Geometry = _checked(lambda: kinds[kind](**values), path)
    return geometry


def _read_grid(file: h5py.File, path: Path) -> ImageGrid:
    if "grid/shape" not in file or "grid/pixel_mm" not in file:
        raise data_error(path, "grid", "nothing", "shape and pixel_mm", "see recon.write_sinograms")
    shape = tuple(int(n) for n in np.atleast_1d(file["grid/shape"][()]))
    pixel = float(file["grid/pixel_mm"][()])
    grid: ImageGrid = _checked(lambda: ImageGrid(shape, pixel), path)  # type: ignore[arg-type]
    return grid


def _checked(make: Callable[[], Any], path: Path) -> Any:
    try:
        return make()
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {error}") from None


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise data_error(path, "file", f"no readable HDF5 ({error})", "a complete HDF5 file", "copy it again") from None


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return str(value) if value not in (None, "") else None


def limited(geometry: Geometry, views: int | None, arc_deg: float | None) -> Geometry:
    """The scan with fewer views: those within an arc from the first one, of which every n-th is kept.

    Raises
    ------
    ValueError
        If fewer views are there than wanted.
    """
    chosen = np.arange(geometry.shape[0])
    if arc_deg is not None:
        chosen = np.flatnonzero(np.abs(geometry.angles - geometry.angles[0]) < np.deg2rad(arc_deg) - 1e-9)
    if views is not None:
        if views > len(chosen):
            raise ValueError(f"views: found {views}, expected at most the {len(chosen)} of the scan")
        chosen = chosen[np.floor(np.arange(views) * len(chosen) / views).astype(int)]
    return replace(geometry, angles_rad=tuple(geometry.angles[chosen].tolist()))
