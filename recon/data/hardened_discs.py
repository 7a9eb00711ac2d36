"""CT scans of discs with holes by a beam of many energies: training data for weights that suit measured discs."""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from physics import (
    FanBeam,
    ImageGrid,
    RadonOperator,
    Transmission,
    estimate_ray_noise,
    evenly_spaced,
    filtered_backprojection,
    transmitted,
    tube_spectrum,
)

from .ct_slices import CT_SCALE
from .disc_shapes import cells_of_disc, holes_of_disc, inside_circle
from .random_scans import uniform
from .sample import Sample, SampleMeta
from .slices import generator_for

#: Views of a full scan, and how many of them a scan may have; those with few views are drawn more often.
_FULL = 720
_VIEWS = (24, 30, 30, 30, 36, 40, 48, 60, 60, 72, 90, 120, 120, 144)
#: Discs in a row that have the same scanner: its tables are computed once.
_PER_SCANNER = 10


@dataclass(frozen=True, eq=False)
class HardenedDiscs:
    """Fan-beam scans of discs whose beam hardens; the reference is what all views give, as in measured data sets.

    A disc of water-like material, 50 to 150 mm wide, is projected on a grid twice as fine with three rays per element.
    A tube of 40 to 120 kV turns its line integrals into those of a beam of many energies, with a cup and streaks. The
    detector blurs, and its noise is correlated. The reference is the filtered back-projection of 720 views without
    noise, air beyond the inscribed circle. A scan has 24 to 144 of these views, twenty thousand to 630 thousand photons
    per ray, and turns or mirrors the disc at random; a third of the scans have weights of the rays, the others an
    estimated noise, as files without counts.

    Full scans are kept in memory, 2 MB for each of ``discs``.

    Parameters
    ----------
    count
        Number of scans; scan i shows disc ``i % discs``.
    discs
        Number of discs.
    size
        Height and width of the reconstructed images.
    seed
        Equal seeds give equal scans.
    site
        Name of the site, for :class:`SampleMeta`.
    """

    count: int
    discs: int
    size: int = 256
    seed: int = 0
    site: str = "random"
    _made: dict[int, "FullScan"] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.count < 1 or self.discs < 1:
            raise ValueError(f"HardenedDiscs: got {self.count} scans of {self.discs} discs, expected some")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(f"HardenedDiscs: index {index}, expected less than {self.count}")
        return self._scan(self.full_scan(index % self.discs), index)

    def full_scan(self, disc: int) -> "FullScan":
        """All views of a disc; ten discs in a row have the same scanner."""
        if disc not in self._made:
            self._made[disc] = _full_scan(self.size, self.seed, disc)
        return self._made[disc]

    def _scan(self, full: "FullScan", index: int) -> Sample:
        """Some views of a full scan, with noise."""
        generator = generator_for("scan of a hardened disc", self.seed, index)
        step = _FULL // _VIEWS[int(uniform(generator, 0, len(_VIEWS)))]
        first, turns = int(uniform(generator, 0, step)), int(uniform(generator, 0, 4))
        lines, reference = full.lines[first::step], full.reference.rot90(turns)
        angles = full.geometry.angles[first::step] + turns * math.pi / 2
        if uniform(generator, 0, 1) < 0.5:
            lines, reference, angles = lines.flip(-1), reference.flip(-1), -angles
        geometry = replace(full.geometry, angles_rad=tuple(angles.tolist()))
        photons = 10 ** uniform(generator, 4.3, 5.8)
        model = Transmission(photons, electronic_noise=10.0)
        counts = full.counts(lines, model, generator)
        measurement, weights = model.line_integrals(counts) / CT_SCALE, None
        if uniform(generator, 0, 1) < 0.35:
            weights = model.ray_weights(counts)
            measurement = weights * measurement
            noise_std = (weights * model.noise_std(counts) / CT_SCALE).square().mean().sqrt()
        else:
            noise_std = estimate_ray_noise(measurement)
        return Sample(
            measurement=measurement,
            operator=RadonOperator(full.grid, geometry, weights),
            noise_std=noise_std,
            reference=reference.contiguous(),
            scale=torch.tensor(CT_SCALE),
            condition=None,
            meta=(SampleMeta(self.site, "random", index, float(step), "attenuation"),),
        )


@dataclass(frozen=True, eq=False)
class FullScan:
    """All views of a disc without noise.

    Attributes
    ----------
    lines
        Line integrals that the detector has blurred, ``(views, detectors)``.
    reference
        Their filtered back-projection, in units of water.
    blur
        Part of the signal of an element in each of its two neighbors.
    """

    lines: Tensor
    reference: Tensor
    blur: float
    grid: ImageGrid
    geometry: FanBeam

    def counts(self, lines: Tensor, model: Transmission, generator: torch.Generator) -> Tensor:
        """Counts of some views; their noise is blurred as the lines are."""
        mean = model.expected_counts(lines)
        return mean + _blurred(model.counts(lines, generator) - mean, self.blur)


def _full_scan(size: int, seed: int, disc: int) -> FullScan:
    grid, geometry = _scanner(size, generator_for("geom", seed, disc // _PER_SCANNER))
    generator = generator_for("disc", seed, disc)
    # Most small objects are scanned at low voltages, where beams harden most.
    low = uniform(generator, 0, 1) >= 0.6
    voltage = uniform(generator, 40, 60 if low else 120)
    tube = tube_spectrum(voltage, uniform(generator, 0.3, 1.5) if voltage < 60 else uniform(generator, 0.5, 6))
    image = _disc(2 * size, generator)
    attenuation = CT_SCALE * uniform(generator, 0.7, 3.2)
    material_mm = -transmitted(CT_SCALE * image, grid.refined(2), geometry).log() / CT_SCALE
    # Density relative to water. Dense discs are small: a line integral of 5 leaves one photon in 150.
    density = min(attenuation / tube.mu_water, 5 / (tube.mu_water * 2 * grid.inscribed_radius_mm))
    blur = uniform(generator, 0, 0.15)
    lines = -_blurred((-tube.line_integrals(density * material_mm)).exp(), blur).log()
    reference = filtered_backprojection(lines / CT_SCALE, geometry, grid) * inside_circle(size, 1.0)
    return FullScan(lines, reference, blur, grid, geometry)


def _scanner(size: int, generator: torch.Generator) -> tuple[ImageGrid, FanBeam]:
    """A fan beam whose detector covers the inscribed circle of the grid."""
    width = uniform(generator, 50, 150)
    source = width / 2 * uniform(generator, 4, 12)
    detector, elements = source * uniform(generator, 1.2, 1.9), round(size * uniform(generator, 1.4, 2.3))
    half = detector * math.tan(math.asin(uniform(generator, 1.03, 1.2) * width / 2 / source))
    angles = evenly_spaced(_FULL, 2 * math.pi / _FULL, 0.0)
    return ImageGrid((size, size), width / size), FanBeam(angles, elements, 2 * half / elements, source, detector)


def _disc(size: int, generator: torch.Generator) -> Tensor:
    """A disc of 1 with a few holes, or with a network of bars between many."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    radius = uniform(generator, 0.7, 0.95)
    shift = [uniform(generator, -0.9, 0.9) * (0.97 - radius) for _ in range(2)]
    x, y = x - shift[0], y - shift[1]
    image = (torch.hypot(x, y) < radius).float()
    cells = uniform(generator, 0, 1) < 0.45
    for hole in [cells_of_disc(x, y, radius, generator)] if cells else holes_of_disc(x, y, radius, generator):
        # Most holes hold air, some another material.
        image[hole] = 0.0 if uniform(generator, 0, 1) < 0.85 else uniform(generator, 0.2, 1.5)
    return image * inside_circle(size, 0.98)


def _blurred(rays: Tensor, part: float) -> Tensor:
    """Every element gives ``part`` of its signal to each of its two neighbors."""
    padded = pad(rays, (1, 1), mode="replicate")
    return part * (padded[..., 2:] + padded[..., :-2]) + (1 - 2 * part) * padded[..., 1:-1]
