"""Slices of CT files as samples: line integrals with their statistical weights, operator and reference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from physics import MU_WATER, OPERATORS, Geometry, ParallelBeam, Transmission

from ..errors import DataError, data_error
from .ct_file import SinogramVolume
from .ct_formats import CT_READERS, open_sinograms
from .sample import Sample, SampleMeta
from .scan_features import condition_vector, ct_features
from .slices import Seed, VolumeSlices, generator_for

#: Attenuation in 1/mm of an image value of 1: that of water.
CT_SCALE = MU_WATER


@dataclass(frozen=True)
class ScanSimulation:
    """Retrospective degradation of a CT scan.

    Parameters
    ----------
    views
        How many views are kept, evenly chosen; None keeps all.
    arc_deg
        Only views within this angle of the first; None keeps all.
    photons
        Photons per ray: noise is added to line integrals, counts are thinned. None leaves the dose as it is.
    electronic_noise
        Standard deviation in counts, added with the photons.
    seed
        Another seed gives other noise.
    axis_error_mm
        What the operator believes too much of the rotation axis, as seen at the detector; the data stay right.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    views: Annotated[int, Ge(1)] | None = None
    arc_deg: Annotated[float, Gt(0), Le(360)] | None = None
    photons: Annotated[float, Gt(0)] | None = None
    electronic_noise: Annotated[float, Ge(0)] = 0.0
    seed: Seed = 0
    axis_error_mm: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.axis_error_mm):
            raise ValueError(f"ScanSimulation: axis_error_mm is {self.axis_error_mm}, expected a finite number")
        if self.views is not None and self.views < 1:
            raise ValueError(f"ScanSimulation: views is {self.views}, expected at least 1")
        if self.arc_deg is not None and not 0 < self.arc_deg <= 360:
            raise ValueError(f"ScanSimulation: arc_deg is {self.arc_deg}, expected more than 0 and at most 360")
        if self.photons is not None and not 0 < self.photons < math.inf:
            raise ValueError(f"ScanSimulation: photons is {self.photons}, expected more than 0")
        if self.electronic_noise and (self.photons is None or not self.electronic_noise > 0):
            raise ValueError(
                f"ScanSimulation: electronic_noise is {self.electronic_noise} with photons {self.photons}, expected 0 "
                "or more, and photons to go with it"
            )


class SinogramSlices(VolumeSlices):
    """Every slice of some CT files, in order, as a :class:`Sample`.

    Files are checked when the dataset is made and read slice by slice; no file stays open. Samples depend on the files
    and the arguments alone.

    **Scale.** Image values are attenuation over that of water, :data:`CT_SCALE`, at every site.

    **Weights.** Where photons are known, every ray is weighted by the inverse of its standard deviation, root mean
    square 1, in operator and measurement alike; ``noise_std`` is then the same for all rays. Raw counts give the
    weights up to the unknown gain. Where the noise of line integrals is not stated, ``noise_std`` is estimated from
    their second differences along the detector.

    Parameters
    ----------
    files
        Paths; their names must differ.
    site
        Name of the site, for `SampleMeta`.
    simulate
        How to degrade; None takes what the files hold.
    format, reader_options
        As for :func:`open_sinograms`.
    operator
        Name of the operator in :data:`physics.OPERATORS`, called as ``operator(grid, geometry, ray_weights)``; None is
        :class:`physics.RadonOperator`.
    weighted
        Whether rays are weighted by their statistics.

    Raises
    ------
    DataError
        If a file cannot be used, or the arguments ask for what a file does not hold.
    """

    volumes: tuple[SinogramVolume, ...]

    def __init__(
        self,
        files: Sequence[Path | str],
        site: str,
        *,
        simulate: ScanSimulation | None = None,
        format: Annotated[str, CT_READERS] = "sinogram",
        operator: Annotated[str, OPERATORS] | None = None,
        weighted: bool = True,
        **reader_options: Any,
    ) -> None:
        if not files:
            raise DataError(f"{site}: no CT file; name at least one")
        self.site, self.simulate, self.weighted = site, simulate, weighted
        self.make_operator = OPERATORS[operator or "RadonOperator"]
        self.volumes = tuple(open_sinograms(file, format, **reader_options) for file in files)
        self.geometries = tuple(self._geometry(volume) for volume in self.volumes)
        self.reference_kinds = tuple("attenuation" if v.has_reference else "none" for v in self.volumes)
        super().__init__([(volume.path, volume.shape[0]) for volume in self.volumes])
        for volume in self.volumes:
            self._require_dose(volume)

    def acceleration(self, number: int) -> float:
        """Views of the file over views used."""
        return self.volumes[number].shape[1] / self.geometries[number].shape[0]

    def __getitem__(self, index: int) -> Sample:
        number, i = self.locate(index)
        volume, geometry = self.volumes[number], self.geometries[number]
        lines, weights, noise_std = self._measured(number, i)
        measurement = lines / CT_SCALE
        return Sample(
            measurement=measurement if weights is None else weights * measurement,
            operator=self.make_operator(volume.grid, geometry, weights),
            noise_std=torch.tensor(noise_std / CT_SCALE),
            reference=volume.read_reference(i) / CT_SCALE if volume.has_reference else None,
            scale=torch.tensor(CT_SCALE),
            condition=condition_vector(ct_features(geometry, self._photons(number))),
            meta=(SampleMeta(self.site, volume.path.name, i, self.acceleration(number), self.reference_kinds[number]),),
        )

    def facts(self) -> dict[str, Any]:
        volume, geometry = self.volumes[0], self.geometries[0]
        beam = "parallel beam" if isinstance(geometry, ParallelBeam) else f"fan beam, {geometry.detector} detector"
        arc = np.rad2deg(np.ptp(geometry.angles)) * (1 + 1 / max(geometry.shape[0] - 1, 1))
        return {
            "sampling": f"{beam}, {geometry.shape[0]} views over {arc:.0f} degrees",
            "elements": geometry.detectors,
            "photons": self._photons(0),
            "simulated": volume.simulated,
            "pixel_mm": volume.grid.pixel_mm,
        }

    def arrays(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """``sinogram``, and ``ray_weights`` where rays are weighted."""
        arrays = {"sinogram": torch.stack([sample.measurement for sample in samples])}
        weights = [w for sample in samples if (w := getattr(sample.operator, "ray_weights", None)) is not None]
        return arrays | ({"ray_weights": torch.stack(weights)} if weights else {})

    def dose(self) -> Transmission | None:
        """Counts model of the first volume; None where the photons are not known or differ between rays."""
        volume, simulated = self.volumes[0], self.simulate
        degraded = simulated is not None and simulated.photons is not None
        photons = simulated.photons if simulated is not None and degraded else volume.photons
        electronic = simulated.electronic_noise if simulated is not None and degraded else volume.electronic_noise
        if photons is None or torch.as_tensor(photons).numel() != 1:
            return None
        return Transmission(photons, electronic)

    def _photons(self, number: int) -> float | None:
        """Mean photons per ray, None where they are not known."""
        degraded = None if self.simulate is None else self.simulate.photons
        photons = self.volumes[number].photons if degraded is None else degraded
        return None if photons is None else float(torch.as_tensor(photons).mean())

    def _measured(self, number: int, i: int) -> tuple[Tensor, Tensor | None, float]:
        """Line integrals of one slice, the weights of the rays, and the standard deviation after weighting."""
        volume = self.volumes[number]
        chosen = _positions(volume.geometry, self.geometries[number])
        stored = volume.read_slice(i)[chosen]
        if volume.holds == "raw":
            flat = volume.read_flat(i)
            # The open beam is 1: the gain of the detector is not known, only how the noise goes with the signal.
            model = Transmission(1.0, floor=1e-4)
            part = (stored / flat).clamp_min(model.floor)
            lines = model.line_integrals(part)
            weights = (part / part.mean()).sqrt() if self.weighted else None
            return lines, weights, _estimated_noise(lines if weights is None else weights * lines)
        counts, transmission = self._counts(volume, stored, chosen, i)
        if counts is None or transmission is None:
            return stored, None, _estimated_noise(stored)
        lines = transmission.line_integrals(counts)
        spread = transmission.noise_std(counts)
        if not self.weighted:
            return lines, None, float(spread.square().mean().sqrt())
        weights = transmission.ray_weights(counts)
        return lines, weights, float((weights * spread).square().mean().sqrt())

    def _counts(
        self, volume: SinogramVolume, stored: Tensor, chosen: Tensor, i: int
    ) -> tuple[Tensor | None, Transmission | None]:
        """Counts and their model, None where the noise of line integrals is not known."""
        photons = volume.photons
        if photons is not None and photons.ndim == 2 and photons.shape[0] > 1:
            photons = photons[chosen]
        known = None if photons is None else Transmission(photons, volume.electronic_noise)
        if self.simulate is None or self.simulate.photons is None:
            if known is None:
                return None, None
            if volume.holds == "counts":
                return stored, known
            return known.expected_counts(stored), known
        generator = generator_for("dose", self.simulate.seed, volume.path.name, i)
        wanted = Transmission(self.simulate.photons, self.simulate.electronic_noise)
        if volume.holds != "counts" or photons is None:
            return wanted.counts(stored, generator), wanted
        part = (self.simulate.photons / photons).to(stored).expand(stored.shape)
        thinned = torch.binomial(stored.clamp_min(0).round(), part, generator=generator)
        noise = torch.randn(stored.shape, generator=generator)
        return thinned + self.simulate.electronic_noise * noise, wanted

    def _geometry(self, volume: SinogramVolume) -> Geometry:
        if self.simulate is None:
            return volume.geometry
        try:
            kept = _limited(volume.geometry, self.simulate.views, self.simulate.arc_deg)
            return replace(kept, offset_mm=kept.offset_mm + self.simulate.axis_error_mm)
        except ValueError as error:
            raise DataError(f"{volume.path}: [simulate]: {error}") from None

    def _require_dose(self, volume: SinogramVolume) -> None:
        wanted = None if self.simulate is None else self.simulate.photons
        if wanted is None:
            return
        if volume.holds == "raw":
            advice = "remove photons"
            raise data_error(volume.path, "[simulate] photons", "raw counts of unknown gain", "photons", advice)
        if volume.holds == "counts" and volume.photons is not None:
            least = float(volume.photons.min())
            if wanted > least:
                advice = "lower it or leave it out"
                raise data_error(volume.path, "[simulate] photons", f"{wanted:g}", f"at most {least:g}", advice)
            if volume.electronic_noise > 0:
                found = "counts with electronic noise"
                raise data_error(volume.path, "[simulate] photons", found, "counts of photons", "remove photons")


def _positions(full: Geometry, part: Geometry) -> Tensor:
    """Which views of the full scan the part holds, in its order."""
    if part is full or part.angles_rad == full.angles_rad:
        return torch.arange(full.shape[0])
    where: dict[float, int] = {}
    for number, angle in enumerate(full.angles_rad):
        where.setdefault(angle, number)
    return torch.tensor([where[angle] for angle in part.angles_rad])


def _estimated_noise(lines: Tensor) -> float:
    """Standard deviation of white noise from the median second difference along the detector."""
    second = (lines[..., 2:] - 2 * lines[..., 1:-1] + lines[..., :-2]).abs()
    return float(second.median()) / (0.6745 * math.sqrt(6))


def _limited(geometry: Geometry, views: int | None, arc_deg: float | None) -> Geometry:
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
