"""CT files of fedrecon's HDF5 layout, one file per volume.

Datasets: ``counts`` or ``line_integrals`` ``(slices, views, detectors)``; optional ``reference``
``(slices, height, width)``, the ground truth in 1/mm; ``photons`` per ray, a number or an array that broadcasts to
``(views, detectors)``; the group ``geometry`` with ``kind``, the class of the scan, and its fields: ``angles_rad`` and
the others, those of every view as ``(views,)`` or ``(views, 2)``; the group ``grid`` with ``shape``, ``pixel_mm``, one
number or ``(dy, dx)``, and, for images whose middle is not on the axis, ``center_mm`` ``(y, x)``. Attributes of the
file: ``patient_id``, ``acquisition``, ``electronic_noise``, ``simulated``, and ``mu_water``, the attenuation of water
in 1/mm at the energy of the scan (0.02 if it is not there).

Slices of cone-beam scans (:func:`recon.write_slices`) also have ``z_mm`` ``(slices,)``, their places along the axis of
the scanner, and the attribute ``thickness_mm``; tilted ones ``slopes`` ``(slices, 2)``, the rise of their planes per mm
along x and y. ``live`` ``(slices, views, detectors)`` is the part of every ray that live elements of the detector
measured, 0 to 1, where some elements are dead: the weights of the rays are multiplied by its square root.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import h5py
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from physics import MU_WATER, Geometry, ImageGrid, ParallelBeam, TiltedPlanes, require_mu_water

from ..errors import DataError, data_error
from ..files import write_hdf5
from .hdf5_file import dataset_of, not_found, numbers_of, opened, text_of
from .image_header import ImageHeader, read_image_header


@dataclass(frozen=True, eq=False)
class SinogramVolume:
    """One CT file: checked facts; slices are read on demand. No file stays open; pickling is allowed.

    Volumes of other layouts derive from it and override :meth:`_measured` and :meth:`_reference`.

    Parameters
    ----------
    shape
        ``(slices, views, detectors)``.
    holds
        Stored measurement; ``raw``: counts of unknown gain, with an open beam, see :meth:`read_flat`.
    photons
        Photons per ray, broadcastable to ``(views, detectors)``; None: unknown.
    electronic_noise
        Standard deviation in counts.
    simulated
        How the file was simulated; None: measured.
    mu_water
        Attenuation of water in 1/mm at the energy of the scan.
    z_mm, thickness_mm
        Places of the slices along the axis of the scanner, and their thickness; None: not stated.
    planes
        Planes of the slices, if they are tilted; None: the slices are axial.
    has_live
        Whether the file states which part of a ray live elements measured, see :meth:`read_live`.

    Raises
    ------
    DataError
        If shape and geometry disagree, photons or their noise are impossible, or photons do not fit the rays.
    """

    path: Path
    shape: tuple[int, int, int]
    grid: ImageGrid
    geometry: Geometry
    holds: Literal["counts", "line_integrals", "raw"]
    photons: Tensor | None = None
    electronic_noise: float = 0.0
    has_reference: bool = False
    patient_id: str | None = None
    simulated: str | None = None
    mu_water: float = MU_WATER
    z_mm: npt.NDArray[np.float64] | None = None
    thickness_mm: float | None = None
    planes: TiltedPlanes | None = None
    has_live: bool = False
    #: Whether the line of the slice crosses several elements per column, so that single rays may be without a value.
    dead_by_ray: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checked(lambda: require_mu_water("mu_water of the file", self.mu_water), self.path)
        found, expected = self.shape[1:], self.geometry.shape
        if found != expected:
            advice = "exchange its last two axes" if found == expected[::-1] else "correct geometry or data"
            expected_text = f"{expected}, (views, detectors)"
            raise data_error(self.path, self.holds, f"trailing shape {found}", expected_text, advice)
        if fault := dose_fault(self.photons, self.electronic_noise, self.geometry):
            raise data_error(self.path, *fault, "correct the file")

    @property
    def description(self) -> str:
        height, width = self.grid.shape
        beam = "parallel" if isinstance(self.geometry.nominal, ParallelBeam) else "fan"
        tilt = "" if self.planes is None else f", planes tilted by {math.degrees(self.planes.tilt_rad):.2f} degrees"
        return f"{beam} beam {self.shape[1]} views x {self.shape[2]} elements, {height}x{width}{tilt}"

    def image_header(self) -> ImageHeader:
        """What the file states of its images."""
        return read_image_header(
            self.path, self.shape[0], modality="CT", shape=self.grid.shape, pixel_mm=self.grid.spacing_mm,
            patient_id=self.patient_id, is_attenuation=True, mu_water=self.mu_water, center_mm=self.grid.center_mm,
            z_mm=self.z_mm, thickness_mm=self.thickness_mm, planes=self.planes,
        )  # fmt: skip

    def warnings(self) -> list[str]:
        """What the file lacks, such as its ground truth, one line each, with its path."""
        if not self.has_live:
            return []
        lives = [live.double() for live in map(self.read_live, range(self.shape[0])) if live is not None]
        some = np.mean([float(((live > 0) & (live < 1)).double().mean()) for live in lives])
        alone = np.mean([float((live == 0).double().mean()) for live in lives])
        found = f"{some:.2%} of the rays measured by dead elements in part, {alone:.2%} by nothing else"
        advice = "the former have less weight, the latter none"
        return [str(data_error(self.path, "live", found, "rays of live elements", advice))]

    def read_live(self, index: int) -> Tensor | None:
        """Part of every ray of a slice that live elements measured, float32 ``(views, detectors)``; None: all of it.

        Raises
        ------
        DataError
            If a value is not between 0 and 1.
        """
        if not self.has_live:
            return None
        live = torch.from_numpy(np.ascontiguousarray(self._read("live", index), dtype=np.float32))
        if not bool(((live >= 0) & (live <= 1)).all()):
            found = f"{float(live.min()):g} to {float(live.max()):g}"
            raise data_error(self.path, "live", found, "parts from 0 to 1", "write the file again")
        return live

    def read_slice(self, index: int) -> Tensor:
        """Stored measurement of one slice, float32 ``(views, detectors)``; raw counts are less the dark field.

        Elements without a finite value in any view are dead and stay as they are.

        Raises
        ------
        DataError
            If the slice cannot be read or holds impossible values.
        """
        array = torch.from_numpy(np.ascontiguousarray(self._measured(index), dtype=np.float32))
        lost = ~array.isfinite()
        self._require_possible(array[~lost] if self.dead_by_ray else array[:, ~lost.all(0)], self.holds)
        return array

    def read_flat(self, index: int) -> Tensor:
        """Raw counts of the open beam for one slice, less the dark field, float32 ``(detectors,)``; NaN: none.

        Raises
        ------
        DataError
            If there is no open beam, or many detector elements receive none of it.
        """
        raise data_error(self.path, "flat field", "nothing", "raw counts with an open beam", "use another format")

    def read_reference(self, index: int) -> Tensor:
        """Ground truth of one slice in 1/mm, float32 ``(height, width)``."""
        if not self.has_reference:
            raise data_error(self.path, "reference", "nothing", "a ground truth", "score held-out views instead")
        array = torch.from_numpy(np.ascontiguousarray(self._reference(index), dtype=np.float32))
        self._require_possible(array, "reference")
        return array

    def plain_image(self, index: int, shape: tuple[int, int]) -> Tensor | None:
        """Ground truth of one slice, if the file has it."""
        return self.read_reference(index) if self.has_reference else None

    def _measured(self, index: int) -> np.ndarray[Any, Any]:
        """Stored measurement of one slice."""
        return self._read(self.holds, index)

    def _reference(self, index: int) -> np.ndarray[Any, Any]:
        """Ground truth of one slice in 1/mm."""
        return self._read("reference", index)

    def _read(self, key: str, index: int) -> np.ndarray[Any, Any]:
        with opened(self.path) as file:
            values: np.ndarray[Any, Any] = dataset_of(file, self.path, key)[index]
        return values

    def _require_possible(self, array: Tensor, key: str) -> None:
        if array.numel() == 0:
            raise data_error(self.path, key, "no finite value", "finite values", "repair the file")
        if not bool(array.isfinite().all()):
            raise data_error(self.path, key, "NaN or infinite values", "finite values", "repair the file")
        if key == "counts" and float(array.min()) < 0 and self.electronic_noise == 0:
            found = f"counts down to {float(array.min()):g}"
            raise data_error(self.path, key, found, "counts of 0 or more", "state electronic_noise if they are right")


def chosen_views(scan: Geometry, views: int | None, arc_deg: float | None) -> npt.NDArray[np.intp]:
    """Numbers of the views in the first ``arc_deg`` degrees of the rotation, evenly thinned to ``views``; None: all.

    Raises
    ------
    ValueError
        If the arc holds fewer views.
    """
    travel = scan.travel_rad
    chosen = np.argsort(travel, kind="stable")
    if arc_deg is not None:
        chosen = chosen[travel[chosen] < np.deg2rad(arc_deg) - 1e-9]
    if views is not None:
        if views > len(chosen):
            raise ValueError(f"views: found {views}, expected at most the {len(chosen)} of the scan")
        chosen = chosen[np.arange(views) * len(chosen) // views]
    return np.sort(chosen)


def limited(scan: Geometry, views: int | None, arc_deg: float | None) -> Geometry:
    """The scan with the views that :func:`chosen_views` chooses."""
    return scan.subset(chosen_views(scan, views, arc_deg))


def write_sinograms(
    path: Path | str,
    grid: ImageGrid,
    geometry: Geometry,
    *,
    counts: Tensor | npt.ArrayLike | None = None,
    line_integrals: Tensor | npt.ArrayLike | None = None,
    photons: Tensor | npt.ArrayLike | None = None,
    electronic_noise: float = 0.0,
    reference: Tensor | npt.ArrayLike | None = None,
    patient_id: str = "",
    acquisition: str = "",
    simulated: str = "",
    mu_water: float = MU_WATER,
) -> None:
    """Write one volume in fedrecon's layout; the file appears complete or not at all.

    Parameters
    ----------
    counts, line_integrals
        One of them, ``(slices, views, detectors)``; tensors or arrays, as the others.
    photons
        Per ray before the object; needed with counts.
    reference
        Ground truth in 1/mm, ``(slices, height, width)``.
    simulated
        How the measurement was simulated; empty: measured.
    mu_water
        Attenuation of water in 1/mm at the energy of the scan.

    Raises
    ------
    ValueError
        If shapes disagree, both or none of counts and line integrals are given, counts lack photons, or photons or
        their noise are impossible, or ``mu_water`` is in another unit.
    DataError
        If the file cannot be written.
    """
    name, given = ("counts", counts) if counts is not None else ("line_integrals", line_integrals)
    if given is None or (counts is not None and line_integrals is not None):
        raise ValueError("write_sinograms: expected either counts or line_integrals")
    if counts is not None and photons is None:
        raise ValueError("write_sinograms: counts need the photons per ray before the object")
    data = _values(name, given)
    truth = None if reference is None else _values("reference", reference)
    if data.ndim != 3 or tuple(data.shape[1:]) != geometry.shape:
        raise ValueError(f"write_sinograms: {name} has shape {tuple(data.shape)}, expected (slices, *{geometry.shape})")
    per_ray = None if photons is None else _values("photons", photons).double()
    if fault := dose_fault(per_ray, electronic_noise, geometry):
        raise ValueError("write_sinograms: {} is {}, expected {}".format(*fault))
    if truth is not None and tuple(truth.shape) != (len(data), *grid.shape):
        found = tuple(truth.shape)
        raise ValueError(f"write_sinograms: reference has shape {found}, expected {(len(data), *grid.shape)}")
    arrays: dict[str, Any] = {name: data.float().numpy(), **scan_arrays(grid, geometry)}
    if per_ray is not None:
        arrays["photons"] = per_ray.numpy()
    if truth is not None:
        arrays["reference"] = truth.float().numpy()
    attributes: dict[str, Any] = {
        "patient_id": patient_id,
        "acquisition": acquisition,
        "electronic_noise": electronic_noise,
        "simulated": simulated,
        "mu_water": require_mu_water("write_sinograms", mu_water),
    }
    write_hdf5(Path(path), arrays, attributes)


def scan_arrays(grid: ImageGrid, geometry: Geometry) -> dict[str, Any]:
    """Datasets of fedrecon's layout that describe grid and geometry, by name."""
    arrays: dict[str, Any] = {
        "geometry/angles_rad": geometry.angles,
        "grid/shape": np.array(grid.shape),
        "grid/pixel_mm": np.array(grid.pixel_mm),
        "grid/center_mm": np.array(grid.center_mm),
        "geometry/kind": type(geometry).__name__,
    }
    for field in fields(geometry):
        if field.name != "angles_rad" and getattr(geometry, field.name) is not None:
            arrays[f"geometry/{field.name}"] = getattr(geometry, field.name)
    return arrays


def _values(name: str, given: Any) -> Tensor:
    """Numbers of a tensor, with or without a gradient and on any device, or of an array."""
    try:
        values = given.detach().cpu() if isinstance(given, Tensor) else torch.from_numpy(np.array(given))
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"write_sinograms: {name} is {type(given).__name__}, expected a tensor of numbers") from None
    if values.is_complex():
        raise TypeError(f"write_sinograms: {name} has dtype {values.dtype}, expected real numbers")
    return values


def open_sinogram_file(path: Path) -> SinogramVolume:
    """Check a file of fedrecon's layout; no slice is read."""
    with opened(path) as file:
        stored = [name for name in ("counts", "line_integrals") if name in file]
        one_of, advice = "one of counts and line_integrals", "see recon.write_sinograms"
        if not stored:
            raise not_found(file, path, "file", one_of, advice)
        if len(stored) > 1:
            raise data_error(path, "file", " and ".join(stored), one_of, advice)
        holds: Any = stored[0]
        shape = numbers_of(file, path, holds).shape
        if len(shape) != 3 or 0 in shape:
            raise data_error(path, holds, f"shape {shape}", "(slices, views, detectors)", "write the file again")
        geometry, grid = _read_geometry(file, path), _read_grid(file, path)
        photons: Tensor | None = None
        if "photons" in file:
            photons = torch.from_numpy(np.asarray(numbers_of(file, path, "photons")[()], dtype=np.float64))
        elif holds == "counts":
            raise data_error(path, "photons", "nothing", "the photons per ray", "write them, or line_integrals")
        has_reference, expected = "reference" in file, (shape[0], *grid.shape)
        if has_reference and (found := numbers_of(file, path, "reference").shape) != expected:
            raise data_error(path, "reference", f"shape {found}", f"{expected}", "correct grid or reference")
        has_live = "live" in file
        if has_live and (found := numbers_of(file, path, "live").shape) != shape:
            raise data_error(path, "live", f"shape {found}", f"{shape}", "write the file again")
        z_mm, planes = _read_planes(file, path, shape[0])
        thickness = None
        if "thickness_mm" in file.attrs:
            thickness = _number(file.attrs["thickness_mm"], "thickness_mm", path)
        return SinogramVolume(
            path, shape, grid, geometry, holds, photons,
            electronic_noise=_number(file.attrs.get("electronic_noise", 0.0), "electronic_noise", path),
            has_reference=has_reference,
            patient_id=text_of(file.attrs.get("patient_id")),
            simulated=text_of(file.attrs.get("simulated")),
            mu_water=_number(file.attrs.get("mu_water", MU_WATER), "mu_water", path),
            z_mm=z_mm,
            thickness_mm=thickness,
            planes=planes,
            has_live=has_live,
        )  # fmt: skip


def dose_fault(photons: Tensor | None, electronic_noise: float, geometry: Geometry) -> tuple[str, str, str] | None:
    """Key, found and expected value of photons or electronic noise that no scan has; None: there is no fault."""
    if not 0 <= electronic_noise < math.inf:
        return "electronic_noise", f"{electronic_noise:g}", "0 or more counts"
    if photons is None:
        return None
    if not bool(((photons > 0) & photons.isfinite()).all()):
        return "photons", f"{float(photons.min()):g} to {float(photons.max()):g}", "finite numbers above zero"
    shape, (views, detectors) = tuple(photons.shape), geometry.shape
    if len(shape) > 2 or any(n not in (1, full) for n, full in zip(shape[::-1], (detectors, views), strict=False)):
        expected = f"a number, ({detectors},) per element, ({views}, 1) per view, or ({views}, {detectors})"
        return "photons", f"shape {shape}", expected
    return None


def _number(value: Any, key: str, path: Path) -> float:
    try:
        return float(np.asarray(value, dtype=np.float64).item())
    except (TypeError, ValueError):
        raise data_error(path, key, f"{value!r:.60}", "a number", "correct the file") from None


def _read_geometry(file: h5py.File, path: Path) -> Geometry:
    kinds: dict[str | None, type[Geometry]] = {kind.__name__: kind for kind in get_args(Geometry)}
    group = file.get("geometry")
    kind = text_of(group["kind"][()]) if isinstance(group, h5py.Group) and "kind" in group else None
    if kind not in kinds:
        raise data_error(path, "geometry/kind", f"{kind}", " or ".join(map(str, kinds)), "see recon.write_sinograms")
    values: dict[str, Any] = {}
    for field in fields(kinds[kind]):
        if field.name in group:
            value = group[field.name][()]
            values[field.name] = text_of(value) if field.name == "detector" else value.tolist()
    if "angles_rad" in values:
        values["angles_rad"] = checked(lambda: tuple(map(float, np.atleast_1d(values["angles_rad"]))), path)
    geometry: Geometry = checked(lambda: kinds[kind](**values), path)
    return geometry


def _read_planes(
    file: h5py.File, path: Path, slices: int
) -> tuple[npt.NDArray[np.float64] | None, TiltedPlanes | None]:
    """Places of the slices along the axis, and their planes if they are tilted; None: not stated."""
    if "z_mm" not in file:
        if "slopes" in file:
            raise data_error(path, "z_mm", "nothing", "the places of the tilted planes", "write the file again")
        return None, None
    z_mm = np.asarray(numbers_of(file, path, "z_mm")[()], dtype=np.float64)
    if z_mm.shape != (slices,) or not np.isfinite(z_mm).all():
        raise data_error(path, "z_mm", f"shape {z_mm.shape}", f"({slices},) finite numbers", "write the file again")
    if "slopes" not in file:
        return z_mm, None
    slopes = np.asarray(numbers_of(file, path, "slopes")[()], dtype=np.float64)
    return z_mm, checked(lambda: TiltedPlanes(z_mm, slopes), path)


def _read_grid(file: h5py.File, path: Path) -> ImageGrid:
    if "grid/shape" not in file or "grid/pixel_mm" not in file:
        raise data_error(path, "grid", "nothing", "shape and pixel_mm", "see recon.write_sinograms")
    numbers = np.ravel(numbers_of(file, path, "grid/shape")[()]).tolist()
    shape: Any = tuple(int(n) if float(n).is_integer() else n for n in numbers)
    pixel: Any = np.asarray(numbers_of(file, path, "grid/pixel_mm")[()], dtype=np.float64).tolist()
    center: Any = (0.0, 0.0)
    if "grid/center_mm" in file:
        center = np.asarray(numbers_of(file, path, "grid/center_mm")[()], dtype=np.float64).tolist()
    grid: ImageGrid = checked(lambda: ImageGrid(shape, pixel, center), path)
    return grid


def checked(make: Callable[[], Any], path: Path) -> Any:
    """Make a geometry, a grid or another value from those of a file; an error names the file."""
    try:
        return make()
    except DataError:
        raise
    except (TypeError, ValueError) as error:
        raise DataError(" ".join(f"{path}: {error}".split())) from None
