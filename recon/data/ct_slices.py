"""Slices of CT files as samples: line integrals with their statistical weights, operator and reference."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from physics import (
    MU_WATER,
    OPERATORS,
    RING_WINDOW,
    Geometry,
    ParallelBeam,
    Transmission,
    across_gaps,
    corrected,
    estimate_ray_noise,
    estimated_scatter,
    require_correction,
    require_mu_water,
    tube_spectrum,
    without_rings,
)

from ..errors import DataError, data_error
from .ct_axis import axis_warnings
from .ct_checks import Comparison, evenly_chosen
from .ct_coverage import geometry_warnings, object_warnings
from .ct_dead import dead_rays, dead_warnings, require_alive, require_elements
from .ct_elements import element_warnings
from .ct_file import SinogramVolume, chosen_views
from .ct_formats import CT_READERS
from .ct_simulation import ScanSimulation
from .image_header import ImageHeader
from .label_files import ScanLabels
from .sample import Sample, SampleMeta
from .scan_features import condition_vector, ct_features
from .slices import VolumeSlices, generator_for, make_operator

#: Attenuation of water in 1/mm where neither file nor manifest state it: image value 1.
CT_SCALE = MU_WATER
#: Largest number of slices of a file whose rays beside the object are looked at.
_SLICES_LOOKED_AT = 3


class SinogramSlices(VolumeSlices):
    """All slices of some CT files as samples.

    **Scale.** Image values are attenuation over that of water at the energy of the scan, ``mu_water``: water is 1 and
    0 HU at every site. ``Sample.scale`` is ``mu_water``.

    **Weights.** Where photons are known, operator and measurement are multiplied by one weight per ray, the inverse of
    its standard deviation, root mean square 1; ``noise_std`` is then equal for all rays. Raw counts give the weights
    up to the unknown gain. Where the noise of line integrals is unknown, ``noise_std`` is estimated from second
    differences along the detector. Rays of dead elements have weight zero, also where no other ray has a weight.

    Parameters
    ----------
    files, names, site, format, reader_options, labels
        As for :class:`VolumeSlices`; ``format`` is a name in :data:`CT_READERS`.
    simulate
        Degradation; None: the scan of the file.
    operator
        Name of the operator in :data:`physics.OPERATORS`, called as ``operator(grid, geometry, ray_weights)``; None:
        :class:`physics.RadonOperator`.
    weighted
        Whether rays have weights.
    unbiased_log
        Whether counts are averaged along the detector where few photons arrive, so that line integrals are right on
        average, see :meth:`physics.Transmission.without_log_bias`. Noise of averaged rays is then less than
        ``noise_std`` says. Needs counts, of the file or of ``simulate``.
    water_correction
        Coefficients of p, p^2, ... of the line integrals p of a beam that hardens, :func:`physics.water_correction`;
        None: as measured.
    dead_elements
        Numbers of detector elements, from 0, that are dead or defective; those that :func:`dead_rays` finds are added.
    scatter_correction
        Part of scatter in the counts of the darkest twentieth of the rays, which is estimated and subtracted,
        :func:`physics.estimated_scatter`; None: as measured. Needs counts.
    ring_correction
        Whether errors of the gain of single detector elements are estimated and subtracted,
        :func:`physics.without_rings`.
    mu_water
        Attenuation of water in 1/mm at the energy of the scans; None: as the files say, else :data:`CT_SCALE`.

    Raises
    ------
    DataError
        If a file cannot be used, or the arguments ask for data that a file does not hold.
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
        mu_water: Annotated[float, Ge(0.005), Le(0.1)] | None = None,
        unbiased_log: bool = False,
        water_correction: list[float] | None = None,
        dead_elements: list[int] | None = None,
        scatter_correction: Annotated[float, Gt(0), Lt(1)] | None = None,
        ring_correction: bool = False,
        names: Sequence[str] | None = None,
        labels: ScanLabels | None = None,
        **reader_options: Any,
    ) -> None:
        super().__init__(files, site, CT_READERS, format, reader_options, names, labels)
        self.simulate, self.weighted = simulate, weighted
        self.operator = operator or "RadonOperator"
        self.mu_water = [volume.mu_water if mu_water is None else mu_water for volume in self.volumes]
        try:
            require_mu_water("[data]", self.mu_water[0])
            self.correction = None if water_correction is None else require_correction("[data]", water_correction)
        except ValueError as error:
            raise DataError(f"{self.volumes[0].path}: {error}") from None
        self.scatter_correction, self.ring_correction = scatter_correction, ring_correction
        self.unbiased_log, self.dead_elements = unbiased_log, tuple(dead_elements or ())
        scans = [self._scan(volume) for volume in self.volumes]
        self._views, self.geometries = [views for views, _ in scans], [scan for _, scan in scans]
        self.reference_kinds = tuple("attenuation" if v.has_reference else "none" for v in self.volumes)
        self._held: dict[tuple[int, int], _Stored] = {}  # slices that are read once while a file is checked
        for volume in self.volumes:
            self._require_dose(volume)
            require_elements(volume.path, self.dead_elements, volume.shape[2])

    def acceleration(self, number: int) -> float:
        """Views of the file over views that are used."""
        return self.volumes[number].shape[1] / self.geometries[number].shape[0]

    def sample(self, number: int, i: int) -> Sample:
        volume, geometry = self.volumes[number], self.geometries[number]
        lines, weights, noise_std = self._measured(number, i)
        scale = self.mu_water[number]
        measurement = lines / scale
        return Sample(
            measurement=measurement if weights is None else weights * measurement,
            operator=make_operator(volume.path, self.operator, volume.grid, geometry, weights),
            noise_std=torch.tensor(noise_std / scale),
            reference=volume.read_reference(i) / scale if volume.has_reference else None,
            scale=torch.tensor(scale),
            condition=condition_vector(ct_features(geometry, self._photons(number))),
            meta=(
                SampleMeta(self.site, self.names[number], i, self.acceleration(number), self.reference_kinds[number]),
            ),
            label=self.label(number, i),
        )

    def displayed_shape(self, number: int) -> tuple[int, int]:
        height, width = self.volumes[number].grid.shape
        return height, width

    def check(self, number: int) -> list[str]:
        """Also reads references and open beams, makes a sample, and compares some references with the measurement."""
        volume = self.volumes[number]
        comparison, kept = Comparison(volume, self.correction), {0, *self._looked_at(number)}
        dead = {}
        try:
            for index, measured in enumerate(self.measured_slices(number)):
                stored = self._stored(number, index, measured)
                if index in kept:
                    self._held[number, index] = stored
                reference = volume.read_reference(index) if volume.has_reference else None
                comparison.add(index, stored.rays, stored.flat, reference)
                if stored.dead_elements is not None:
                    dead[index] = stored.dead_elements
            self[self.first(number)]
            return [
                *volume.warnings(),
                *dead_warnings(volume, dead, self.dead_elements),
                *comparison.warnings(),
                *self.coverage_warnings(number),
            ]
        finally:
            self._held.clear()

    def image_header(self, number: int) -> ImageHeader:
        return replace(super().image_header(number), mu_water=self.mu_water[number])

    def facts(self) -> dict[str, Any]:
        volume, geometry = self.volumes[0], self.geometries[0]
        beam = geometry.nominal
        kind = "parallel beam" if isinstance(beam, ParallelBeam) else f"fan beam, {beam.detector} detector"
        kind = kind if volume.planes is None else f"{kind}, tilted planes"
        arc = np.rad2deg(geometry.travel_rad.max()) * (1 + 1 / max(geometry.shape[0] - 1, 1))
        return {
            "sampling": f"{kind}, {geometry.shape[0]} views over {arc:.0f} degrees",
            "degrees": float(arc),
            "elements": geometry.detectors,
            "photons": self._photons(0),
            "simulated": volume.simulated,
            "pixel_mm": volume.grid.pixel_mm,
        }

    def coverage_warnings(self, number: int) -> list[str]:
        volume, geometry = self.volumes[number], self.geometries[number]
        slices = [(i, self._measured(number, i)[0]) for i in self._looked_at(number)]
        stated = replace(geometry, offset_mm=volume.geometry.offset_mm)
        return [
            *geometry_warnings(volume.path, volume.geometry, volume.grid),
            *object_warnings(volume.path, geometry, volume.grid, slices),
            *element_warnings(volume.path, slices),
            *axis_warnings(volume.path, stated, [lines.numpy() for _, lines in slices]),
        ]

    def _looked_at(self, number: int) -> list[int]:
        """Slices whose rays beside the object are looked at."""
        count = self.volumes[number].shape[0]
        return evenly_chosen(count, min(_SLICES_LOOKED_AT, -(-count // 4)))

    def arrays(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """``sinogram``, and ``ray_weights`` where rays are weighted."""
        arrays = {"sinogram": torch.stack([sample.measurement for sample in samples])}
        weights = [w for sample in samples if (w := getattr(sample.operator, "ray_weights", None)) is not None]
        return arrays | ({"ray_weights": torch.stack(weights)} if weights else {})

    def dose(self, i: int = 0) -> Transmission | None:
        """Counts model of a slice of the first volume; None where photons or scatter are unknown."""
        scattered = self.simulate is not None and self.simulate.scatter_fraction > 0
        if self.volumes[0].holds == "raw" or scattered or self.scatter_correction is not None:
            return None
        return self._beam(0, self._hardened(0, self._stored(0, i).rays[self._views[0]]))

    def _photons(self, number: int) -> float | None:
        """Mean photons per ray, of the simulation, before modulation and filter, or of the file."""
        if self.simulate is not None and self.simulate.photons is not None:
            return self.simulate.photons
        photons = self.volumes[number].photons
        return None if photons is None else float(photons.mean())

    def _measured(self, number: int, i: int) -> tuple[Tensor, Tensor | None, float]:
        """Line integrals of one slice, weights of the rays, and the standard deviation of the weighted noise."""
        found = self._held[number, i] if (number, i) in self._held else self._stored(number, i)
        lines, weights, noise_std = self._line_integrals(number, i, found.rays[self._views[number]], found.flat)
        if found.dead is not None:
            alive = (~found.dead[self._views[number]]).to(lines)
            if found.live is not None:
                alive *= found.live[self._views[number]].sqrt()
            weights = alive if weights is None else weights * alive
        return lines, weights, noise_std

    def _stored(self, number: int, i: int, measured: Tensor | None = None) -> "_Stored":
        """A slice as stored, which may have been read before, without what dead elements measured."""
        volume = self.volumes[number]
        measured = volume.read_slice(i) if measured is None else measured
        flat = volume.read_flat(i) if volume.holds == "raw" else None
        dead = dead_rays(measured, volume.holds, flat)
        dead[:, list(self.dead_elements)] = True
        elements, live = dead.any(0), volume.read_live(i)
        if live is not None:
            dead |= live == 0
        elif not dead.any():
            return _Stored(measured, flat, None)
        require_alive(volume.path, i, dead)
        rays, known = across_gaps(measured, ~dead), None if flat is None else across_gaps(flat, flat > 0)
        return _Stored(rays, known, dead, elements if elements.any() else None, live)

    def _line_integrals(
        self, number: int, i: int, stored: Tensor, flat: Tensor | None
    ) -> tuple[Tensor, Tensor | None, float]:
        """:meth:`_measured` of a slice as stored, of the views that are used and without its dead elements."""
        stored, gains = self._hardened(number, stored), None
        if self.simulate is not None:
            gains = self.simulate.gains(self.site, stored.shape[-1])
        if flat is not None:
            return self._from_raw(stored if gains is None else gains * stored, flat)
        found = self._counts(number, stored, i)
        if found is None:
            lines = self._corrected(stored if gains is None else stored - gains.log())[0]
            return lines, None, _ray_noise(lines)
        counts, model = found
        counts = counts if gains is None else gains * counts
        if self.scatter_correction is not None:
            photons = torch.as_tensor(model.photons).to(counts)
            model = replace(model, scatter=estimated_scatter(counts, photons, self.scatter_correction))
        if self.unbiased_log:
            counts = model.without_log_bias(counts)
        lines, slope = self._corrected(model.line_integrals(counts))
        spread = model.noise_std(counts) * (1 if slope is None else slope)
        if not self.weighted:
            return lines, None, float(spread.square().mean().sqrt())
        weights = model.ray_weights(counts) if slope is None else _normalized(1 / spread)
        return lines, weights, float((weights * spread).square().mean().sqrt())

    def _from_raw(self, stored: Tensor, flat: Tensor) -> tuple[Tensor, Tensor | None, float]:
        """:meth:`_line_integrals` of raw counts: their gain is unknown, the weights are right up to a factor."""
        scatter: float | Tensor = 0.0
        if self.scatter_correction is not None:
            scatter = estimated_scatter(stored, flat, self.scatter_correction) / flat
        model = Transmission(1.0, floor=1e-4, scatter=scatter)
        part = (stored / flat).clamp_min(model.floor)
        lines, slope = self._corrected(model.line_integrals(part))
        if not self.weighted:
            return lines, None, _ray_noise(lines)
        weights = (part - scatter).clamp_min(model.floor) / part.sqrt()
        weights = _normalized(weights if slope is None else weights / slope)
        return lines, weights, _ray_noise(weights * lines)

    def _hardened(self, number: int, stored: Tensor) -> Tensor:
        """Line integrals of a slice after the hardening that is simulated."""
        if self.simulate is None or self.simulate.kvp is None:
            return stored
        return tube_spectrum(self.simulate.kvp).line_integrals(stored / self.mu_water[number])

    def _corrected(self, lines: Tensor) -> tuple[Tensor, Tensor | None]:
        """Line integrals after the corrections for rings and water, and the derivative of the latter; None: 1."""
        lines = without_rings(lines) if self.ring_correction else lines
        return (lines, None) if self.correction is None else corrected(lines, self.correction)

    def _counts(self, number: int, stored: Tensor, i: int) -> tuple[Tensor, Transmission] | None:
        """Counts and their model; None for line integrals of unknown noise."""
        volume, simulated, model = self.volumes[number], self.simulate, self._beam(number, stored)
        if model is None:
            return None
        if simulated is None or simulated.photons is None:
            return stored if volume.holds == "counts" else model.expected_counts(stored), model
        generator = generator_for("dose", simulated.seed, self.names[number], i)
        if volume.holds != "counts":
            return simulated.counts_of(stored, model, generator), model
        try:
            return simulated.thinned(stored, self._file_photons(number), model, generator), model
        except ValueError as error:
            raise DataError(f"{volume.path}: [simulate]: {error}; lower photons") from None

    def _beam(self, number: int, stored: Tensor) -> Transmission | None:
        """Counts model of a slice as stored, without scatter; None where the photons are unknown."""
        volume, simulated = self.volumes[number], self.simulate
        if simulated is not None and simulated.photons is not None:
            lines = stored
            if volume.holds == "counts":
                lines = Transmission(self._file_photons(number)).line_integrals(stored)
            return simulated.beam(lines, volume.geometry, self.mu_water[number])
        if volume.photons is None:
            return None
        return Transmission(self._file_photons(number), volume.electronic_noise)

    def _file_photons(self, number: int) -> Tensor:
        """Photons per ray of a file that states them, of the views that are used."""
        photons = self.volumes[number].photons
        assert photons is not None
        return photons[self._views[number]] if photons.ndim == 2 and photons.shape[0] > 1 else photons

    def _scan(self, volume: SinogramVolume) -> tuple[Tensor, Geometry]:
        """Numbers of the views that are used, and the geometry that the operator gets."""
        simulated, scan = self.simulate, volume.geometry
        if simulated is None:
            return torch.arange(scan.shape[0]), scan
        try:
            views = chosen_views(scan, simulated.views, simulated.arc_deg)
            limited = scan.subset(views)
            return torch.from_numpy(views), replace(limited, offset_mm=limited.offset_mm + simulated.axis_error_mm)
        except ValueError as error:
            raise DataError(f"{volume.path}: [simulate]: {error}") from None

    def _require_dose(self, volume: SinogramVolume) -> None:
        if self.simulate is not None and self.simulate.kvp is not None and volume.holds != "line_integrals":
            found, advice = f"{volume.holds} of a measured beam", "remove kvp, or store line integrals"
            raise data_error(volume.path, "[simulate] kvp", found, "line integrals", advice)
        wanted = None if self.simulate is None else self.simulate.photons
        if self.unbiased_log and volume.holds != "counts" and wanted is None:
            found, advice = f"{volume.holds}, whose photons are not counted", "remove unbiased_log"
            raise data_error(volume.path, "[data] unbiased_log", found, "counts of photons", advice)
        known = volume.holds == "raw" or volume.photons is not None or wanted is not None
        if self.scatter_correction is not None and not known:
            found, advice = "line integrals, whose photons are not known", "remove scatter_correction"
            raise data_error(volume.path, "[data] scatter_correction", found, "counts", advice)
        if self.ring_correction and volume.shape[2] < RING_WINDOW:
            found = f"{volume.shape[2]} detector elements"
            raise data_error(volume.path, "[data] ring_correction", found, f"at least {RING_WINDOW}", "remove it")
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


class _Stored(NamedTuple):
    """A slice as stored, ``(views, detectors)``, its open beam, and which rays are dead; None: there is none.

    Rays of dead elements are interpolated from their neighbors. ``dead_elements`` ``(detectors,)`` are those of the
    detector of the slice; ``live`` is the part of every ray that live elements measured, where the slice was made of
    the samples of another detector.
    """

    rays: Tensor
    flat: Tensor | None
    dead: Tensor | None
    dead_elements: Tensor | None = None
    live: Tensor | None = None


def _normalized(weights: Tensor) -> Tensor:
    """Weights with root mean square 1."""
    return weights / weights.square().mean((-2, -1), keepdim=True).sqrt()


def _ray_noise(lines: Tensor) -> float:
    return float(estimate_ray_noise(lines))
