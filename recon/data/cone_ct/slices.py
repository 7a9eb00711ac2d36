"""Fan-beam slices of DICOM-CT-PD projections, written in fedrecon's layout of CT files."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from physics import FanBeam, ImageGrid, SliceRebinning, TiltedPlanes, filtered_backprojection

from ...errors import DataError, data_error
from ...files import written_hdf5
from ..ct_file import scan_arrays
from ..progress import doing, made
from .series import ProjectionSeries

#: Half the cone angle in degrees up to which rebinned slices were measured to have streaks of at most 5 HU, with axial
#: and with tilted planes.
MEASURED_CONE_DEG, TILTED_CONE_DEG = 1.5, 6.2
#: Part of the rays within the field of view without a row of the detector that is said.
_EXTRAPOLATED = 0.01


@dataclass(frozen=True)
class SlicePlan:
    """What :func:`write_slices` will write: positions along z, geometry, grid, and its cost."""

    rebinning: SliceRebinning
    centers_mm: tuple[float, ...]
    thickness_mm: float
    grid: ImageGrid

    @property
    def geometry(self) -> FanBeam:
        """Scan of every slice."""
        return self.rebinning.geometry

    @property
    def n_bytes(self) -> int:
        """Size of the file, about."""
        return 4 * len(self.centers_mm) * (math.prod(self.geometry.shape) + math.prod(self.grid.shape))

    @property
    def spacing_mm(self) -> float:
        """Distance between the slices along the axis."""
        return _spacing(self.rebinning, self.thickness_mm)

    def warnings(self, series: ProjectionSeries) -> list[str]:
        """What makes the slices less accurate, one line each."""
        cone, tilt = math.degrees(series.scan.cone_angle_rad), math.degrees(self.rebinning.tilt_rad)
        usable, radius = self.rebinning.usable_radius_mm, self.rebinning.radius_mm
        tilted, found = self.rebinning.tilted, []
        if cone > (limit := TILTED_CONE_DEG if tilted else MEASURED_CONE_DEG) + 0.005:
            rays = "" if tilted else f" (rays are tilted by up to {tilt:.2f} degrees against a slice)"
            advice = "; --planes tilted has fewer" if series.helical and not tilted else ""
            found.append(
                f"{series.folder}: half the cone angle is {cone:.2f} degrees; slices were measured to "
                f"{limit:g}{rays}: expect streaks and blurred edges where anatomy changes along z{advice}"
            )
        if usable < 0.98 * radius:
            found.append(
                f"{series.folder}: at pitch {series.scan.pitch:.2f} the rows measure all rays within {usable:.0f} mm "
                f"of the axis, of {radius:.0f} mm: rays farther out are taken from the outermost rows"
            )
        return found


def plan_slices(
    series: ProjectionSeries,
    *,
    thickness_mm: float = 5.0,
    size: int = 512,
    views: int | None = None,
    tilted: bool = False,
) -> SlicePlan:
    """Plan the slices of a series: all that are complete.

    Parameters
    ----------
    thickness_mm
        Thickness of a slice, and distance between two axial slices. Tilted ones are half of it apart: axial images are
        interpolated between them.
    size
        Pixels per side of the image, which covers the field of view.
    views
        Views per slice; None: as many as one focal spot has in a turn.
    tilted
        Whether the planes of the slices follow the helix, see :class:`physics.SliceRebinning`; for helical scans.

    Raises
    ------
    DataError
        If the scan is too short for a slice, or for an axial image of tilted ones, its pitch is too high, or planes of
        an axial scan are to be tilted.
    """
    grid = ImageGrid((size, size), series.field_mm / size)
    if tilted and not series.helical:
        raise data_error(
            series.folder, "--planes", "tilted planes of an axial scan", "a helix", "choose --planes axial"
        )
    try:
        rebinning = SliceRebinning(series.scan, series.field_mm / 2, views, tilted=tilted)
        centers = rebinning.slices_mm(thickness_mm, _spacing(rebinning, thickness_mm))
        if tilted:
            _planes(rebinning, centers).axial_mm(grid, thickness_mm)
    except ValueError as error:
        raise DataError(" ".join(f"{series.folder}: {error}".split())) from None
    return SlicePlan(rebinning, tuple(centers.tolist()), thickness_mm, grid)


def _spacing(rebinning: SliceRebinning, thickness_mm: float) -> float:
    return thickness_mm / 2 if rebinning.tilted else thickness_mm


def _planes(rebinning: SliceRebinning, centers: npt.ArrayLike) -> TiltedPlanes:
    heights = np.asarray(centers, dtype=np.float64)
    return TiltedPlanes(heights, np.array([rebinning.slope_at(z) for z in heights]))


def write_slices(
    series: ProjectionSeries, path: Path, plan: SlicePlan, *, reference: bool = True, patient_id: str | None = None
) -> list[str]:
    """Rebin a series and write its slices; the file appears complete or not at all.

    Line integrals are scaled so that water has the attenuation :data:`physics.MU_WATER`. The photons per ray are those
    with the noise of the averaged samples, the mean over all slices; that averages of neighboring rays share samples is
    not in them. Values of dead elements are interpolated; the dataset ``live`` then has the part of every ray that live
    elements measured, by which its weight falls.

    Parameters
    ----------
    reference
        Also write filtered back-projections of the slices as their ground truth, for training with a simulated lower
        dose or fewer views.
    patient_id
        In place of that of the series.

    Returns
    -------
        Warnings, one line each.

    Raises
    ------
    DataError
        If a file cannot be read, or the result not be written.
    """
    geometry, grid, count = plan.geometry, plan.grid, len(plan.centers_mm)
    views, inverse, extrapolated = series.views(), np.zeros(geometry.shape), 0.0
    scale = series.water_scale
    with written_hdf5(path, plan.n_bytes) as file, doing(f"rebinning {series.folder.name}", count):
        lines = file.create_dataset("line_integrals", (count, *geometry.shape), "f4", chunks=(1, *geometry.shape))
        truth = file.create_dataset("reference", (count, *grid.shape), "f4") if reference else None
        live = None
        if series.dead is not None and series.dead.any():
            live = file.create_dataset("live", lines.shape, "f4", chunks=lines.chunks, compression="gzip")
        for number, z in enumerate(plan.centers_mm):
            slab = plan.rebinning.rebin(views, z, plan.thickness_mm)
            if not np.isfinite(slab.lines).all():
                raise data_error(
                    series.folder,
                    f"slice at {z:g} mm",
                    "values that are not finite",
                    "line integrals",
                    "repair the files",
                )
            lines[number] = slab.lines
            if live is not None:
                live[number] = slab.live
            extrapolated = max(extrapolated, slab.extrapolated)
            # The noise of scaled lines, as that of counts of the scaled lines: the attenuation itself is not scaled.
            inverse += scale**2 / slab.photons * np.exp(slab.lines * (1 / scale - 1)) / count
            if truth is not None:
                truth[number] = filtered_backprojection(torch.from_numpy(slab.lines)[None], geometry, grid)[0].numpy()
            made(number + 1)
        datasets: dict[str, Any] = scan_arrays(grid, geometry)
        datasets["z_mm"] = np.array(plan.centers_mm)
        if plan.rebinning.tilted:
            datasets["slopes"] = _planes(plan.rebinning, plan.centers_mm).slopes
        if series.photons:
            datasets["photons"] = 1 / inverse
        for key, values in datasets.items():
            file.create_dataset(key, data=values)
        file.attrs.update(
            {
                "patient_id": patient_id or series.patient_id or "",
                "acquisition": series.description or "",
                "electronic_noise": 0.0,
                "simulated": "",
                "thickness_mm": plan.thickness_mm,
            }
        )
    if extrapolated > _EXTRAPOLATED:
        found = f"{extrapolated:.0%} of the rays of a slice"
        return [f"{series.folder}: {found} were taken from the outermost rows of the detector: expect streaks"]
    return []
