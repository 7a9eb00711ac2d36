"""Readers of CT files of other layouts: LoDoPaB-CT, Helsinki Tomography Challenge, Data Exchange."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import h5py
import numpy as np
import scipy.io
import torch
from annotated_types import Ge, Gt
from torch import Tensor

from physics import LODOPAB_MU_MAX, FanBeam, ImageGrid, ParallelBeam, lodopab

from ..errors import data_error
from .ct_file import SinogramVolume, checked, open_sinogram_file
from .ct_layouts.fips import is_fips, open_fips
from .ct_layouts.open_beam import open_beam
from .ct_layouts.two_detect import is_two_detect, open_two_detect
from .ct_layouts.walnut import is_walnut, open_walnut
from .hdf5_file import dataset_of, not_found, numbers_of, opened, text_of
from .layouts.hdf5_content import hdf5_content
from .other_formats import unreadable
from .slices import Readers

#: Angles without a unit that would be more half turns in radians are degrees.
_MOST_HALF_TURNS = 40


@dataclass(frozen=True, eq=False)
class LoDoPaBVolume(SinogramVolume):
    """One ``observation_*.hdf5`` of LoDoPaB-CT; ``truth`` is its ``ground_truth_*.hdf5``, None: not found."""

    truth: Path | None = None

    def _measured(self, index: int) -> np.ndarray[Any, Any]:
        # The file holds integrals over lengths in m, divided by the largest attenuation in 1/m.
        return self._read("data", index) * (1000 * LODOPAB_MU_MAX)

    def _reference(self, index: int) -> np.ndarray[Any, Any]:
        assert self.truth is not None
        with opened(self.truth) as file:
            # ODL counts x along the first axis and y upwards along the second.
            values: np.ndarray[Any, Any] = dataset_of(file, self.truth, "data")[index].T[::-1] * LODOPAB_MU_MAX
        return values

    def warnings(self) -> list[str]:
        if self.truth is not None:
            return []
        expected = f"{_truth_name(self.path)} beside it or in {_truth_name(self.path.parent)} beside its folder"
        advice = "copy it there, set ground_truth in [data], or list the file for test only"
        return [str(data_error(self.path, "reference", "no ground truth", expected, advice))]


class HelsinkiVolume(SinogramVolume):
    """One MATLAB file of the Helsinki Tomography Challenge 2022."""

    def _measured(self, index: int) -> np.ndarray[Any, Any]:
        return _helsinki(self.path)[0]


class ExchangeVolume(SinogramVolume):
    """Data Exchange HDF5 of synchrotrons: raw counts ``exchange/data`` with flat and dark fields, parallel beam."""

    def _measured(self, index: int) -> np.ndarray[Any, Any]:
        with opened(self.path) as file:
            dark = self._field(file, "data_dark", index)
            values: np.ndarray[Any, Any] = file["exchange/data"][:, index] - dark
        return values

    def read_flat(self, index: int) -> Tensor:
        with opened(self.path) as file:
            white, dark = (self._field(file, name, index) for name in ("data_white", "data_dark"))
        return open_beam(white - dark, self.path, "exchange/data_white", index)

    def _field(self, file: h5py.File, name: str, index: int) -> np.ndarray[Any, Any]:
        """Flat or dark field of one slice, ``(detectors,)``: the file may hold it, or several images.

        Of three or more images it is the median, which a hot pixel of one image (zinger) does not change; of two, the
        mean.
        """
        images = file[f"exchange/{name}"]
        if images.ndim == 2:
            field: np.ndarray[Any, Any] = images[index]
            return field
        several = images[:, index].astype(np.float64)
        return np.asarray(np.median(several, axis=0) if len(several) > 2 else several.mean(0))


def open_lodopab(path: Path, *, ground_truth: str | None = None) -> SinogramVolume:
    """Check an ``observation_*.hdf5`` of LoDoPaB-CT.

    Parameters
    ----------
    ground_truth
        Folder of its ``ground_truth_*.hdf5``, absolute or from the folder of the observations; None: that folder, or
        the folder ``ground_truth_*`` beside a folder ``observation_*``, as the archives unpack.
    """
    grid, geometry, photons = lodopab()
    with opened(path) as file:
        if "data" not in file or file["data"].ndim != 3:
            expected, advice = "data of shape (slices, 1000, 513)", "use an observation_*.hdf5 of LoDoPaB-CT"
            raise not_found(file, path, "data", expected, advice)
        shape = numbers_of(file, path, "data").shape
    beside = path.absolute().parent
    folders = [beside, *([beside.with_name(_truth_name(beside))] if beside.name else [])]
    if ground_truth is not None:
        folders = [beside / Path(ground_truth).expanduser()]
    files = [folder / _truth_name(path) for folder in folders]
    truth = next((file for file in files if file != path.absolute() and file.is_file()), None)
    if truth is None and ground_truth is not None:
        raise data_error(path, "ground_truth", f"no {files[0]}", "its ground truth", "correct ground_truth in [data]")
    if truth is not None:
        with opened(truth) as file:
            found, wanted = numbers_of(file, truth, "data").shape, (shape[0], *grid.shape)
        if found != wanted:
            advice = "use the ground truth of this file"
            raise data_error(truth, "data", f"shape {found}", f"{wanted}, for {path.name}", advice)
    return LoDoPaBVolume(
        path, shape, grid, geometry, "line_integrals", torch.tensor(photons),
        has_reference=truth is not None,
        simulated="LoDoPaB-CT: 1000x1000 pixels, Poisson noise",
        truth=truth,
    )  # fmt: skip


def open_htc2022(path: Path, *, size: Annotated[int, Ge(1)] | None = None) -> SinogramVolume:
    """Check a MATLAB file of the Helsinki challenge.

    Parameters
    ----------
    size
        Pixels per side of the image, which always covers the field of view; None: 512.
    """
    sinogram, geometry = _helsinki(path)
    size = size or 512
    # 512 pixels, as of the organizers: each as wide as a detector element scaled to the rotation axis.
    pixel = geometry.pitch_mm * geometry.source_to_axis_mm / geometry.source_to_detector_mm * 512 / size
    return HelsinkiVolume(path, (1, *sinogram.shape), ImageGrid((size, size), pixel), geometry, "line_integrals")


def open_exchange(
    path: Path,
    *,
    pitch_mm: Annotated[float, Gt(0)] = 1.0,
    axis_column: Annotated[float, Ge(0)] | None = None,
    size: Annotated[int, Ge(1)] | None = None,
    angle_unit: Literal["degrees", "radians"] | None = None,
) -> SinogramVolume:
    """Check a Data Exchange file.

    Parameters
    ----------
    pitch_mm
        Distance between the centers of two detector elements.
    axis_column
        Column of the rotation axis, from 0; None: the middle of the detector.
    size
        Pixels per side of the image, which always covers the field of view; None: pixels as wide as elements.
    angle_unit
        Unit of ``exchange/theta``; None: its attribute ``units``, without one the unit in which the angles are a scan.
    """
    with opened(path) as file:
        names = ("data", "data_white", "data_dark", "theta")
        missing = [f"exchange/{name}" for name in names if f"exchange/{name}" not in file]
        if missing:
            advice = "check the format of the file"
            expected = "raw counts with flat and dark fields and angles"
            if missing[0] == "exchange/data":
                raise not_found(file, path, missing[0], expected, advice)
            raise data_error(path, missing[0], "nothing", expected, advice)
        data, white, dark, theta = (numbers_of(file, path, f"exchange/{name}") for name in names)
        if len(data.shape) != 3 or 0 in data.shape:
            advice = "write the file again"
            raise data_error(path, "exchange/data", f"shape {data.shape}", "(views, slices, detectors)", advice)
        views, slices, detectors = data.shape
        for name, images in (("data_white", white), ("data_dark", dark)):
            if images.shape != (slices, detectors) and (0 in images.shape or images.shape[1:] != (slices, detectors)):
                expected = f"(images, {slices}, {detectors}) as of the data, or their mean ({slices}, {detectors})"
                raise data_error(path, f"exchange/{name}", f"shape {images.shape}", expected, "correct the file")
        stated = text_of(theta.attrs.get("units", theta.attrs.get("unit")))
        angles = np.asarray(theta[()], dtype=np.float64).ravel()
    if len(angles) != views:
        raise data_error(path, "exchange/theta", f"{len(angles)} angles", f"one per view, {views}", "correct the file")
    middle = (detectors - 1) / 2
    axis = middle if axis_column is None else axis_column
    if not 0 <= axis <= detectors - 1:
        raise data_error(path, "axis_column", f"{axis:g}", f"a column from 0 to {detectors - 1}", "correct the setup")
    offset = (middle - axis) * pitch_mm
    in_degrees = (angle_unit or _angle_unit(angles, stated, path)) == "degrees"
    angles_rad = tuple((np.deg2rad(angles) if in_degrees else angles).tolist())
    geometry = checked(lambda: ParallelBeam(angles_rad, detectors, pitch_mm, offset), path)
    # The image covers the wider side of the detector, also the ring that the other side does not see.
    width = 2 * max(axis + 0.5, detectors - 0.5 - axis) * pitch_mm
    size = size or round(width / pitch_mm)
    grid = ImageGrid((size, size), width / size)
    return ExchangeVolume(path, (slices, views, detectors), grid, geometry, "raw")


def _angle_unit(angles: np.ndarray[Any, Any], stated: str | None, path: Path) -> Literal["degrees", "radians"]:
    """Unit of the angles of a scan, as stated, or in which they span a scan and the other would not.

    Raises
    ------
    DataError
        If another unit is stated, or none and both are possible.
    """
    key, advice = "exchange/theta", "write its attribute units, or set angle_unit in [data]"
    if stated is not None:
        word = stated.lower()
        if word.startswith("deg") or word == "\N{DEGREE SIGN}":
            return "degrees"
        if word in ("r", "rd") or word.startswith("rad"):
            return "radians"
        raise data_error(path, key, f"angles in {stated!r}", "degrees or radians", advice)
    span = float(np.ptp(angles))
    covered = span * len(angles) / max(len(angles) - 1, 1)
    if not math.isfinite(span) or (span > 6 * math.pi and not _may_be_radians(angles, covered)):
        return "degrees"
    # Both ends may be measured.
    if any(abs(arc / turn - 1) < 0.02 for arc in (span, covered) for turn in (math.pi, 2 * math.pi)):
        return "radians"
    found = f"{len(angles)} angles that span {span:.4g} in a unit that is not stated"
    raise data_error(path, key, found, "degrees or radians", advice)


def _may_be_radians(angles: np.ndarray[Any, Any], covered: float) -> bool:
    """Whether angles beyond three turns go on and on in radians: by golden angles, or over whole half turns."""
    golden = math.pi * (math.sqrt(5) - 1) / 2  # 111.2 degrees
    step = float(np.ptp(angles)) / max(len(angles) - 1, 1)
    # As narrow as single precision allows: 1.2 and 2.4 degrees are common steps, 1.19998 and 2.39996 are golden ones.
    if any(abs(step / turn - 1) < 3e-6 for turn in (golden, math.pi - golden, 2 * (math.pi - golden))):
        return True
    turns = covered / math.pi
    return turns < _MOST_HALF_TURNS and abs(turns - round(turns)) < 0.002


def _is_sinogram(path: Path) -> bool:
    """Whether a file is HDF5 of fedrecon's layout."""
    content = hdf5_content(path)
    if content is None or "geometry" not in content.groups:
        return False
    return bool(content.datasets.keys() & {"counts", "line_integrals"})


def _is_lodopab(path: Path) -> bool:
    """Whether a file is HDF5 with observations of LoDoPaB-CT alone."""
    content = hdf5_content(path)
    return content is not None and [shape[1:] for _, shape in content.datasets.values()] == [lodopab().geometry.shape]


def _is_exchange(path: Path) -> bool:
    """Whether a file is HDF5 of Data Exchange."""
    content = hdf5_content(path)
    return content is not None and "exchange" in content.groups


#: Files of the Helsinki challenge are detected as ``fips``, whose layout they have.
#: Readers of CT files: fedrecon's layout, LoDoPaB-CT, the Helsinki challenge, Data Exchange HDF5, 2DeteCT.
CT_READERS: Readers[SinogramVolume] = Readers(
    "CT reader",
    {
        "sinogram": open_sinogram_file,
        "lodopab": open_lodopab,
        "htc2022": open_htc2022,
        "exchange": open_exchange,
        "2detect": open_two_detect,
        "fips": open_fips,
        "walnut": open_walnut,
    },
    {
        "sinogram": _is_sinogram,
        "lodopab": _is_lodopab,
        "exchange": _is_exchange,
        "2detect": is_two_detect,
        "fips": is_fips,
        "walnut": is_walnut,
    },
)


def open_sinograms(path: Path | str, format: str = "sinogram", **options: Any) -> SinogramVolume:
    """Check a CT file by the reader of its format, see :data:`CT_READERS`; no slice is read.

    Raises
    ------
    DataError
        If the file cannot be used.
    """
    return CT_READERS.open(path, format, **options)


def _truth_name(path: Path) -> str:
    return path.name.replace("observation", "ground_truth")


def _helsinki(path: Path) -> tuple[np.ndarray[Any, Any], FanBeam]:
    """Sinogram and geometry of a Helsinki file."""
    advice = "use a *.mat of the Helsinki Tomography Challenge 2022"
    try:
        content: dict[str, Any] = scipy.io.loadmat(path)
    except Exception as error:  # scipy raises many kinds
        found = f"no readable MATLAB 5 file ({error})"
        raise unreadable(path, found, "a MATLAB 5 file", advice, own="a MATLAB file") from None
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
