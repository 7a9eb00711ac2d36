"""Checks of CT files: impossible line integrals, and references that do not belong to the measurement.

A reference is projected along some views and compared with the measurement in a few broad bins per view, where noise
averages out. A good fit is within a few percent at usual doses; a reference that is upside down, of another slice or
of another person misses ten percent and more.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from physics import LODOPAB_MU_MAX, MU_WATER, RadonOperator, corrected, hu_to_attenuation

from ..errors import data_error
from .ct_file import SinogramVolume

#: Largest numbers of slices of a file, views of a slice and bins of a view that are compared.
_SLICES, _VIEWS, _BINS = 3, 32, 48
#: Misfit, relative to the measurement, below which nothing else is tried.
_FITS = 0.05
#: Misfits of lines and of their edges from which a reference does not belong to the measurement, beside noise. Scatter,
#: beam hardening and a table outside the image reach the first one, but keep the edges.
_MISSES, _MISSED_EDGES = 0.08, 0.3
#: Scales of a reference in 1/mm: photon starvation raises them, scatter and beam hardening lower them.
_SCALES = (0.8, 1.25)
#: Mean line integral beside the object, above which photons or units are wrong.
_OFFSET = 0.4
#: Line integral that no detector measures: one photon in 10^11.
_OPAQUE = 25.0
#: Line integrals below minus this value, beyond noise, in a fiftieth of the rays: the open beam is wrong.
_AIR = 0.15
#: Attenuation in 1/mm that no matter has.
_LARGEST = 5.0
#: Units of a reference by the factor that converts them to 1/mm.
_UNITS = {
    0.1: "1/cm",
    0.001: "1/m",
    MU_WATER: "multiples of the attenuation of water",
    LODOPAB_MU_MAX: "LoDoPaB-CT's unit",
    MU_WATER / 1000: "Hounsfield units + 1000 or 1024",
}


class _Bins(NamedTuple):
    """Line integrals averaged in bins of neighboring elements, with their variance, ``(views, bins)``."""

    lines: Tensor
    variance: Tensor


class _Finding(NamedTuple):
    """Parts of a warning, see :func:`data_error`."""

    key: str
    found: str
    expected: str
    advice: str


@dataclass(frozen=True)
class _Fit:
    """``lines = scale * projections + offset``: misfit and noise, root mean squares relative to the lines' spread.

    ``edges`` is the misfit of the differences between neighboring bins. Noise is subtracted from both misfits.
    """

    scale: float
    offset: float
    misfit: float
    noise: float
    edges: float

    @property
    def misses(self) -> bool:
        return self.misfit > _MISSES + self.noise and self.edges > _MISSED_EDGES

    def much_better_than(self, other: "_Fit") -> bool:
        ours, theirs = self.misfit**2, other.misfit**2
        return self.scale > 0 and theirs - ours > _FITS**2 and ours < 0.7 * theirs


class Comparison:
    """Comparison of some slices of a file with their references. Add every slice, then ask for the warnings.

    Measured line integrals are corrected for beam hardening before, if there is a correction.
    """

    def __init__(self, volume: SinogramVolume, correction: tuple[float, ...] | None = None) -> None:
        self.volume, self.correction = volume, correction
        self._views = evenly_chosen(volume.shape[1], _VIEWS)
        self._compared = evenly_chosen(volume.shape[0], _SLICES)
        self._bins: dict[int, _Bins] = {}
        self._references: dict[int, Tensor] = {}

    def add(self, index: int, stored: Tensor, flat: Tensor | None, reference: Tensor | None) -> None:
        """A slice as stored, its open beam and its reference, if any."""
        if index in self._compared:
            bins = _bins(self.volume, stored[self._views].double(), flat, self._views)
            if self.correction is not None:
                lines, slope = corrected(bins.lines, self.correction)
                bins = _Bins(lines, bins.variance * slope.square())
            self._bins[index] = bins
            if reference is not None:
                self._references[index] = reference

    def warnings(self) -> list[str]:
        """What makes measurement or reference doubtful, one line each, with the file's path."""
        findings = (self._of_references(), _impossible(self.volume, list(self._bins.values())))
        return [str(data_error(self.volume.path, *finding)) for finding in findings if finding is not None]

    def _of_references(self) -> _Finding | None:
        """First thing that does not fit in a slice."""
        if not self._references:
            return None
        scan = self.volume.geometry.subset(self._views)
        images = torch.stack(list(self._references.values()))
        try:
            lines = _means(RadonOperator(self.volume.grid, scan)(images))
        except ValueError:  # a scan for another operator
            return None
        projected = dict(zip(self._references, lines, strict=True))
        return next(filter(None, (self._of_slice(index, projected) for index in projected)), None)

    def _of_slice(self, index: int, projected: dict[int, Tensor]) -> _Finding | None:
        bins, own = self._bins[index], projected[index]
        fit, spread = _fit(bins, own), float(bins.lines.var())
        if spread < 1e-6 or fit.noise > 0.5:  # nothing to compare with
            if float(own.var()) < 100 * max(spread, 1e-6):
                return None
            found = f"an object in slice {index} of which the measurement shows nothing"
            return _Finding("reference", found, "the object of the measurement", "correct the file")
        if float(own.var()) <= 1e-6 * spread:
            found = f"nothing in slice {index}, of which the measurement shows an object"
            return _Finding("reference", found, "an image in 1/mm", "correct the reference, or leave it out")
        if fit.misfit > _FITS:
            others = {i: lines for i, lines in projected.items() if i != index}
            if finding := self._other_fit(index, fit, others):
                return finding
        if finding := self._of_units(index, fit):
            return finding
        if fit.misses:
            advice = "compare slices, angles and lengths in mm; the image may also be smaller than the object"
            return _Finding("reference", _misfit(index, fit), "a few percent", advice)
        return None

    def _of_units(self, index: int, fit: _Fit) -> _Finding | None:
        """A factor or an offset between measurement and reference."""
        if not _SCALES[0] < fit.scale < _SCALES[1]:
            found = f"a measurement {fit.scale:.3g} times the projections of slice {index}"
            near = [unit for factor, unit in _UNITS.items() if abs(fit.scale / factor - 1) < 0.1]
            hint = f"convert the reference from {near[0]} to 1/mm" if near else "convert the reference to 1/mm"
            return _Finding("reference", found, "equal units", f"{hint}, or the line integrals to lengths in mm")
        if abs(fit.offset) > _OFFSET and not fit.misses:
            found = f"a measurement {fit.offset:+.2f} from the projections of slice {index}, also beside the object"
            photons = f"correct photons, which seem {math.exp(fit.offset):.2g} times the right ones"
            return _Finding(
                "reference", found, "no offset", photons if self.volume.holds == "counts" else "subtract it"
            )
        return None

    def _other_fit(self, index: int, fit: _Fit, others: dict[int, Tensor]) -> _Finding | None:
        """Changes of the reference or the scan with which they fit much better, the simplest of several."""
        bins = self._bins[index]
        changes = [(parts, _fit(bins, lines)) for parts, lines in self._changed(self._references[index])]
        changes += [((f"the reference of slice {i}",), _fit(bins, lines)) for i, lines in others.items()]
        best = min(changed.misfit for _, changed in changes)
        good = [(p, f) for p, f in changes if f.misfit <= 1.1 * best + 0.01 and f.much_better_than(fit)]
        if not good:
            return None
        fewest = min(len(parts) for parts, _ in good)
        texts = list(dict.fromkeys(" and ".join(parts) for parts, _ in good if len(parts) == fewest))
        changed = next(f for parts, f in good if len(parts) == fewest)
        advice = "correct the orientation or order of the images, or the angles and the detector of the scan"
        if all(text.startswith("Hounsfield") for text in texts):
            advice = "convert the reference"
        if not _SCALES[0] < changed.scale < _SCALES[1]:
            advice += f"; the measurement is {changed.scale:.3g} times its projections: correct the units, too"
        expected = f"{_percent(changed)}, as with {', or '.join(texts[:3])}"
        return _Finding("reference", _misfit(index, fit), expected, advice)

    def _changed(self, reference: Tensor) -> Iterator[tuple[tuple[str, ...], Tensor]]:
        """Changes and projections of a reference in other orientations and units, seen by the scan and its mirrors."""
        scan = self.volume.geometry.nominal  # mirrored as a whole
        moves = {
            "": reference,
            "the reference upside down": reference.flip(-2),
            "the reference mirrored left to right": reference.flip(-1),
            "the reference rotated by 180 degrees": reference.flip(-2, -1),
        }
        if reference.shape[0] == reference.shape[1]:
            moves |= {
                "the reference transposed": reference.mT,
                "the reference rotated by 90 degrees counterclockwise": reference.rot90(1),
                "the reference rotated by 90 degrees clockwise": reference.rot90(-1),
                "the reference transposed along the other diagonal": reference.mT.flip(-2, -1),
            }
        images, unit = torch.stack(list(moves.values())), ""
        if float(reference.abs().max()) > _LARGEST:
            images, unit = hu_to_attenuation(images, self.volume.mu_water), "Hounsfield units converted to 1/mm"
        mirrors = {
            "": scan.angles_rad,
            "the other sense of rotation": tuple((-scan.angles).tolist()),
            "the views in the opposite order": scan.angles_rad[::-1],
        }
        for turn, angles in mirrors.items():
            views = replace(scan, angles_rad=angles).subset(self._views)
            rays = RadonOperator(self.volume.grid, views)(images)
            for elements in ("", "the detector elements in the opposite order"):
                lines = _means(rays.flip(-1) if elements else rays)
                for move, own in zip(moves, lines, strict=True):
                    if parts := tuple(filter(None, (unit, move, turn, elements))):
                        yield parts, own


def _impossible(volume: SinogramVolume, measured: list[_Bins]) -> _Finding | None:
    """Line integrals that no scan has."""
    lines = torch.stack([bins.lines for bins in measured])
    high, middle = float(lines.quantile(0.9)), float(lines.quantile(0.5))
    advice = "correct the units: line integrals are -log(counts / photons), lengths in mm"
    if not lines.any():
        return _Finding(volume.holds, "line integrals of 0 in all rays", "an object", "leave out the file")
    if high > _OPAQUE:
        found = f"line integrals above {high:.3g} in a tenth of the rays"
        return _Finding(volume.holds, found, "rays that pass the object", advice)
    if middle < -_OFFSET:
        found = f"line integrals below {middle:.3g} in half of the rays"
        photons = f"correct photons, which seem {math.exp(-middle):.2g} times too small"
        return _Finding(volume.holds, found, "0 or more", photons if volume.holds == "counts" else advice)
    noise = float(torch.stack([bins.variance for bins in measured]).median().sqrt())
    if (air := float(lines.quantile(0.02))) < -_AIR - 4 * noise:
        found = f"line integrals below {air:.3g} in the rays beside the object"
        beam = "the photons" if volume.holds == "counts" else "the open beam (flat field)"
        return _Finding(volume.holds, found, "0", f"correct {beam}, which seem {math.exp(-air):.2g} times too small")
    return None


def _fit(bins: _Bins, own: Tensor) -> _Fit:
    """Weighted least squares; noisy bins count less, but none counts for nothing."""
    scale, offset, misfit, noise = _least_squares(*bins, own)
    steps = bins.lines.diff(dim=-1), bins.variance[..., 1:] + bins.variance[..., :-1], own.diff(dim=-1)
    return _Fit(scale, offset, misfit, noise, edges=_least_squares(*steps)[2])


def _least_squares(lines: Tensor, variance: Tensor, own: Tensor) -> tuple[float, float, float, float]:
    """Scale, offset, misfit and noise of ``lines = scale * own + offset``, see :class:`_Fit`."""
    weights = 1 / (variance + 0.01 * lines.square().mean() + 1e-12)
    weights = weights / weights.sum()
    mean, own_mean = (weights * lines).sum(), (weights * own).sum()
    lines, own = lines - mean, own - own_mean
    scale = float((weights * lines * own).sum() / (weights * own * own).sum().clamp_min(1e-30))
    spread, noise = max(float((weights * lines * lines).sum()), 1e-30), float((weights * variance).sum())
    missed = max(float((weights * (lines - scale * own).square()).sum()) - noise, 0)
    return scale, float(mean - scale * own_mean), math.sqrt(missed / spread), math.sqrt(noise / spread)


def _bins(volume: SinogramVolume, stored: Tensor, flat: Tensor | None, views: list[int]) -> _Bins:
    photons = None if volume.photons is None else volume.photons.expand(volume.geometry.shape)[views]
    if volume.holds == "counts" and photons is not None:
        # Summed before the logarithm, which is biased for few counts.
        counts, photons = (_binned(part).sum(-1) for part in (stored, photons))
        noise = stored.shape[-1] // counts.shape[-1] * volume.electronic_noise**2
        return _Bins((photons / counts.clamp_min(0.5)).log(), (counts.clamp_min(0) + noise) / counts.clamp_min(1) ** 2)
    if flat is not None:
        stored = -(stored / flat).clamp_min(1e-4).log()
    if photons is None:
        variance = _element_noise(stored).square().expand(stored.shape)
    else:
        variance = 1 / (photons * (-stored).exp()).clamp_min(1)
    lines, variance = _binned(stored), _binned(variance)
    return _Bins(lines.mean(-1), variance.mean(-1) / variance.shape[-1])


def _element_noise(lines: Tensor) -> Tensor:
    """Standard deviation of the rays of every element: median second difference along the detector over the views."""
    if lines.shape[-1] < 3:
        return lines.new_zeros(lines.shape[-1])
    second = (lines[:, 2:] - 2 * lines[:, 1:-1] + lines[:, :-2]).abs().median(0).values / (0.6745 * math.sqrt(6))
    return torch.nn.functional.pad(second[None], (1, 1), mode="replicate")[0]


def _means(rays: Tensor) -> Tensor:
    return _binned(rays.double()).mean(-1)


def _binned(rays: Tensor) -> Tensor:
    """Elements in bins, ``(..., bins, elements of a bin)``; a bin that is not full is left out."""
    width = max(1, rays.shape[-1] // _BINS)
    bins: Tensor = rays[..., : rays.shape[-1] // width * width].unflatten(-1, (-1, width))
    return bins


def evenly_chosen(count: int, most: int) -> list[int]:
    """Middles of equal parts of ``range(count)``."""
    parts = min(count, most)
    return [(2 * part + 1) * count // (2 * parts) for part in range(parts)]


def _misfit(index: int, fit: _Fit) -> str:
    return f"a misfit of {_percent(fit)} between slice {index} and the measurement"


def _percent(fit: _Fit) -> str:
    return f"{100 * fit.misfit:.0f} %"
