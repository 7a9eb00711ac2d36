"""Readers of CT files of other layouts: LoDoPaB-CT, Helsinki Tomography Challenge, Data Exchange."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import scipy.io
import torch
from annotated_types import Ge, Gt
from torch import Tensor

from physics import LODOPAB_MU_MAX, FanBeam, ImageGrid, ParallelBeam, lodopab

from ..errors import data_error
from .ct_file import SinogramVolume, checked, open_sinogram_file
from .hdf5_file import not_found, opened, text_of
from .other_formats import unreadable
from .slices import Readers


class LoDoPaBVolume(SinogramVolume):
    """One ``observation_*.hdf5`` of LoDoPaB-CT, with ``ground_truth_*.hdf5`` in the same folder."""

    def _measured(self, index: int) -> np.ndarray[Any, Any]:
        # The file holds integrals over lengths in m, divided by the largest attenuation in 1/m.
        return self._read("data", index) * (1000 * LODOPAB_MU_MAX)

    def _reference(self, index: int) -> np.ndarray[Any, Any]:
        with opened(_lodopab_truth(self.path)) as file:
            # ODL counts x along the first axis and y upwards along the second.
            values: np.ndarray[Any, Any] = file["data"][index].T[::-1] * LODOPAB_MU_MAX
        return values


class HelsinkiVolume(SinogramVolume):
    """One MATLAB file of the Helsinki Tomography Challenge 2022."""

    def _measured(self, index: int) -> np.ndarray[Any, Any]:
        return _helsinki(self.path)[0]


class ExchangeVolume(SinogramVolume):
    """Data Exchange HDF5 of synchrotrons: raw counts ``exchange/data`` with flat and dark fields, parallel beam."""

    def _measured(self, index: int) -> np.ndarray[Any, Any]:
        with opened(self.path) as file:
            dark = file["exchange/data_dark"][:, index].mean(0)
            values: np.ndarray[Any, Any] = file["exchange/data"][:, index] - dark
        return values

    def read_flat(self, index: int) -> Tensor:
        with opened(self.path) as file:
            white, dark = (file[f"exchange/{name}"][:, index].mean(0) for name in ("data_white", "data_dark"))
        flat = torch.from_numpy(np.asarray(white - dark, dtype=np.float32))
        if not bool((flat > 0).all()):
            found = f"{int((flat <= 0).sum())} elements without counts above the dark field"
            expected, advice = "an open beam on every element", "repair the flat field, or cut these columns off"
            raise data_error(self.path, "exchange/data_white", found, expected, advice)
        return flat


def open_lodopab(path: Path) -> SinogramVolume:
    """Check an ``observation_*.hdf5`` of LoDoPaB-CT."""
    with opened(path) as file:
        if "data" not in file or file["data"].ndim != 3:
            expected, advice = "data of shape (slices, 1000, 513)", "use an observation_*.hdf5 of LoDoPaB-CT"
            raise not_found(file, path, "data", expected, advice)
        shape = file["data"].shape
    grid, geometry, photons = lodopab()
    return LoDoPaBVolume(
        path, shape, grid, geometry, "line_integrals", torch.tensor(photons),
        has_reference=_lodopab_truth(path) != path and _lodopab_truth(path).is_file(),
        simulated="LoDoPaB-CT: 1000x1000 pixels, Poisson noise",
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
        views, slices, detectors = file["exchange/data"].shape
        theta = file["exchange/theta"]
        in_degrees = "deg" in (text_of(theta.attrs.get("units")) or "deg")
        angles = np.asarray(theta[()], dtype=np.float64)
    if len(angles) != views:
        raise data_error(path, "exchange/theta", f"{len(angles)} angles", f"one per view, {views}", "correct the file")
    middle = (detectors - 1) / 2
    axis = middle if axis_column is None else axis_column
    if not 0 <= axis <= detectors - 1:
        raise data_error(path, "axis_column", f"{axis:g}", f"a column from 0 to {detectors - 1}", "correct the setup")
    offset = (middle - axis) * pitch_mm
    angles_rad = tuple((np.deg2rad(angles) if in_degrees else angles).tolist())
    geometry = checked(lambda: ParallelBeam(angles_rad, detectors, pitch_mm, offset), path)
    # The image covers the wider side of the detector, also the ring that the other side does not see.
    width = 2 * max(axis + 0.5, detectors - 0.5 - axis) * pitch_mm
    size = size or round(width / pitch_mm)
    grid = ImageGrid((size, size), width / size)
    return ExchangeVolume(path, (slices, views, detectors), grid, geometry, "raw")


#: Readers of CT files: fedrecon's layout, LoDoPaB-CT, MATLAB files of the Helsinki challenge, Data Exchange HDF5.
CT_READERS: Readers[SinogramVolume] = Readers(
    "CT reader",
    {
        "sinogram": open_sinogram_file,
        "lodopab": open_lodopab,
        "htc2022": open_htc2022,
        "exchange": open_exchange,
    },
)


def _lodopab_truth(path: Path) -> Path:
    return path.with_name(path.name.replace("observation", "ground_truth"))


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
