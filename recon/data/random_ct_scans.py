"""CT scans of given bodies, and of discs with holes, by random scanners: training data for weights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from physics import (
    FanBeam,
    Geometry,
    ImageGrid,
    ParallelBeam,
    RadonOperator,
    Transmission,
    evenly_spaced,
    hu_to_attenuation,
    simulate_counts,
)

from .ct_slices import CT_SCALE
from .disc_shapes import cells_of_disc, holes_of_disc, inside_circle
from .random_scans import uniform
from .sample import Sample, SampleMeta
from .scan_features import condition_vector, ct_features
from .slices import generator_for

#: Objects are projected on a grid this many times finer than the image.
_REFINED = 2


@dataclass(frozen=True, eq=False)
class RandomCTScans:
    """CT scans of bodies and discs, each by another random scanner: geometry, views and dose are drawn.

    Three of four scans are a fan beam over a turn, the others a parallel beam over half a turn. Number of views and
    photons per ray (ten thousand to a million) are log-uniform. Bodies are 250 to 450 mm wide, discs 50 to 150
    mm; seven of ten discs have the cup of an uncorrected beam hardening. Objects are projected on a grid twice as fine
    with three rays per element; counts have Poisson and electronic noise.

    Parameters
    ----------
    bodies
        Images in Hounsfield units, each ``(height, width)``, of any size.
    count
        Number of scans.
    size
        Height and width of the reconstructed images.
    discs
        Part of the scans that show a disc with holes instead of a body.
    views
        Smallest and largest number of views.
    seed
        Equal seeds give equal scans.
    site
        Name of the site, for :class:`SampleMeta`.
    """

    bodies: Sequence[Tensor]
    count: int
    size: int = 128
    discs: float = 0.3
    views: tuple[int, int] = (24, 240)
    seed: int = 0
    site: str = "random"

    def __post_init__(self) -> None:
        if self.count < 1 or (not self.bodies and self.discs < 1):
            raise ValueError(f"RandomCTScans: got {len(self.bodies)} bodies, {self.count} scans, expected some")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(f"RandomCTScans: index {index}, expected less than {self.count}")
        generator = generator_for("random CT scan", self.seed, index)
        fine = self.size * _REFINED
        if uniform(generator, 0, 1) < self.discs:
            width = uniform(generator, 50, 150)
            # Dense discs are small: a line integral of 4 leaves one photon in fifty.
            image = _disc(fine, generator) * uniform(generator, 0.4, min(2.5, 4 / (CT_SCALE * width)))
        else:
            image, width = self._body(fine, generator), uniform(generator, 250, 450)
        grid = ImageGrid((self.size, self.size), width / self.size)
        geometry = _random_geometry(grid, self.views, generator)
        photons = 10 ** uniform(generator, 4, 6)
        model = Transmission(photons, electronic_noise=10.0)
        attenuation = CT_SCALE * image
        counts = simulate_counts(attenuation, grid.refined(_REFINED), geometry, model, generator)
        weights, lines = model.ray_weights(counts), model.line_integrals(counts) / CT_SCALE
        spread = model.noise_std(counts) / CT_SCALE
        reference = image.view(1, 1, fine, fine)
        return Sample(
            measurement=weights * lines,
            operator=RadonOperator(grid, geometry, weights),
            noise_std=(weights * spread).square().mean().sqrt(),
            reference=interpolate(reference, size=(self.size, self.size), mode="area")[0, 0],
            scale=torch.tensor(CT_SCALE),
            condition=condition_vector(ct_features(geometry, photons)),
            meta=(SampleMeta(self.site, "random", index, 1.0, "attenuation"),),
        )

    def _body(self, size: int, generator: torch.Generator) -> Tensor:
        """A body, mirrored at random, on air; attenuation relative to water."""
        hu = self.bodies[int(uniform(generator, 0, len(self.bodies)))]
        if uniform(generator, 0, 1) < 0.5:
            hu = hu.flip(-1)
        if uniform(generator, 0, 1) < 0.5:
            hu = hu.mT
        image = hu_to_attenuation(hu.clamp(-1000, 3000)) / CT_SCALE
        resized = interpolate(image[None, None], size=(size, size), mode="bilinear", antialias=True)[0, 0]
        return resized.clamp_min(0) * inside_circle(size, 0.98)


def _disc(size: int, generator: torch.Generator) -> Tensor:
    """A disc of attenuation 1 at its rim with a few holes, or with a network of bars between many."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    radius = uniform(generator, 0.65, 0.95)
    shift = [uniform(generator, -0.9, 0.9) * (0.97 - radius) for _ in range(2)]
    x, y = x - shift[0], y - shift[1]
    distance = torch.hypot(x, y) / radius
    image = (distance < 1).float()
    cells = uniform(generator, 0, 1) < 0.4
    for hole in [cells_of_disc(x, y, radius, generator)] if cells else holes_of_disc(x, y, radius, generator):
        # Most holes hold air, some another material.
        image[hole] = 0.0 if uniform(generator, 0, 1) < 0.8 else uniform(generator, 0.2, 1.5)
    if uniform(generator, 0, 1) < 0.7:
        # Beams that harden leave a cup in images of dense materials.
        image = image * (1 - uniform(generator, 0, 0.35) * (1 - distance.square()).clamp_min(0))
    return image * inside_circle(size, 0.98)


def _random_geometry(grid: ImageGrid, least_most: tuple[int, int], generator: torch.Generator) -> Geometry:
    """A scan whose detector covers the inscribed circle of the grid."""
    views = round(least_most[0] * (least_most[1] / least_most[0]) ** uniform(generator, 0, 1))
    elements = round(grid.shape[0] * uniform(generator, 1.1, 1.8))
    radius, first = grid.inscribed_radius_mm, uniform(generator, 0, math.pi)
    if uniform(generator, 0, 1) < 0.25:
        angles = evenly_spaced(views, math.pi / views, first)
        return ParallelBeam(angles, elements, 2.1 * radius / elements)
    source = radius * uniform(generator, 2.0, 12.0)
    detector = source * uniform(generator, 1.3, 2.0)
    half = detector * math.tan(math.asin(1.03 * radius / source))
    angles = evenly_spaced(views, 2 * math.pi / views, first)
    return FanBeam(angles, elements, 2 * half / elements, source, detector)
