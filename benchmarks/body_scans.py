"""Scans of people and of body phantoms for `body-ct`: images by person, random scanners, and scans that share one.

Persons for testing are in no training scan and in none for validation.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from federation.comparison.anatomy_persons import CT_TRAINING, MSD, SBU
from physics import (
    BODY_FAMILIES,
    FanBeam,
    ImageGrid,
    RadonOperator,
    Transmission,
    body_phantom,
    evenly_spaced,
    hu_to_attenuation,
    simulate_counts,
)
from recon import CT_SCALE, read_images
from recon.data.disc_shapes import inside_circle
from recon.data.random_scans import uniform

SIZE = 256
#: Part of the training images that are phantoms.
PHANTOMS = 0.2
#: Persons for testing with several slices, and their first slice; chaos, from the middle of the liver. Public sources
#: disagree whether images of chaos may be used commercially, so that no weights learn from them.
TEST_FROM = {"ge": 0, "chaos": 7}
#: Persons with two slices and with one, by part: the last ones are for testing.
TWO_SLICES = {"train": range(3), "validation": range(3, 4), "test": range(4, 7)}
ONE_SLICE = {"train": range(3), "validation": range(3, 4), "test": range(4, 5)}


def persons(data: Path, part: str) -> list[Tensor]:
    """CT images in Hounsfield units, ``(slices, height, width)`` of each person of a part."""
    of_sbu, of_msd = read_images(data / SBU).unflatten(0, (-1, 2)), read_images(data / MSD)
    found = [of_sbu[n] for n in TWO_SLICES[part]] + [of_msd[n : n + 1] for n in ONE_SLICE[part]]
    for name, person in CT_TRAINING:
        if part == ("test" if person in TEST_FROM else "train"):
            volume = read_images(data / name)[TEST_FROM.get(person, 0) :]
            # The slices at the ends of the trunk, a hundred of them 3 mm apart, show little.
            found.append(volume[5:-5:2] if len(volume) > 100 else volume)
    return found


def attenuation(hu: Tensor, size: int) -> Tensor:
    """Attenuation relative to water, ``(size, size)``, air beyond the inscribed circle."""
    image = hu_to_attenuation(hu.clamp(-1000, 3000))[None, None] / CT_SCALE
    resized = interpolate(image, size=(size, size), mode="bilinear", antialias=True)[0, 0]
    return resized.clamp_min(0) * inside_circle(size, 0.98)


def random_body(people: list[Tensor], size: int, generator: torch.Generator) -> Tensor:
    """A slice of a person, or of a phantom, mirrored at random and in half of the cases with lesions."""
    if uniform(generator, 0, 1) < PHANTOMS:
        family = list(BODY_FAMILIES)[int(uniform(generator, 0, len(BODY_FAMILIES)))]
        hu = body_phantom((size // 2, size // 2), int(uniform(generator, 0, 1e6)), family)
    else:
        slices = people[int(uniform(generator, 0, len(people)))]
        hu = slices[int(uniform(generator, 0, len(slices)))]
    hu = hu.flip(-1) if uniform(generator, 0, 1) < 0.5 else hu
    image = attenuation(hu.mT if uniform(generator, 0, 1) < 0.5 else hu, size)
    return with_lesions(image, generator) if uniform(generator, 0, 1) < 0.5 else image


def with_lesions(image: Tensor, generator: torch.Generator) -> Tensor:
    """One to six discs, 1 to 6 percent of the width wide, that differ by 15 to 80 HU from their surroundings."""
    place = torch.linspace(-1, 1, image.shape[-1])
    tissue = (image > 0.8) & (torch.hypot(place[:, None], place) < 0.9)
    pixels = tissue.nonzero()
    if not len(pixels):
        return image
    for _ in range(int(uniform(generator, 1, 7))):
        row, column = place[pixels[int(uniform(generator, 0, len(pixels)))]].tolist()
        radius, contrast = 10 ** uniform(generator, -2, -1.2), uniform(generator, 0.015, 0.08)
        distance = torch.hypot(place[:, None] - row, place - column)
        cover = ((radius - distance) * image.shape[-1] / 4 + 0.5).clamp(0, 1) * tissue
        image = image + (contrast if uniform(generator, 0, 1) < 0.5 else -contrast) * cover
    return image


def random_scanner(views: int, generator: torch.Generator) -> tuple[ImageGrid, FanBeam]:
    """A fan beam over a turn, its isocenter 500 to 650 mm from the source, that covers the inscribed circle."""
    return scanner(
        views,
        width_mm=uniform(generator, 250, 450),
        elements=round(SIZE * uniform(generator, 1.2, 1.9)),
        source_mm=uniform(generator, 500, 650),
        first=uniform(generator, 0, math.pi),
    )


def scanner(
    views: int, width_mm: float = 380, elements: int = 400, source_mm: float = 570, first: float = 0.1
) -> tuple[ImageGrid, FanBeam]:
    """Grid and fan beam; the detector is 1.8 times as far from the source as the isocenter."""
    grid, detector = ImageGrid((SIZE, SIZE), width_mm / SIZE), 1.8 * source_mm
    half = detector * math.tan(math.asin(1.03 * grid.inscribed_radius_mm / source_mm))
    angles = evenly_spaced(views, 2 * math.pi / views, first)
    return grid, FanBeam(angles, elements, 2 * half / elements, source_mm, detector)


@dataclass
class JointScans:
    """Scans of several objects with one scanner: measurement, operator, noise and references, ``(scans, ...)``."""

    y: Tensor
    A: RadonOperator
    noise_std: Tensor
    references: Tensor


def scan_jointly(
    bodies: list[Tensor],
    photons: list[float],
    grid: ImageGrid,
    geometry: FanBeam,
    generator: torch.Generator,
) -> JointScans:
    """Scans of bodies ``(512, 512)``, each with its photons per ray, whose rays have weights."""
    measured, weights, noise = [], [], []
    for body, count in zip(bodies, photons, strict=True):
        model = Transmission(count, electronic_noise=10.0)
        counts = simulate_counts(CT_SCALE * body, grid.refined(2), geometry, model, generator)
        lines = model.line_integrals(counts) / CT_SCALE
        weights.append(model.ray_weights(counts))
        measured.append(weights[-1] * lines)
        noise.append((weights[-1] * model.noise_std(counts) / CT_SCALE).square().mean().sqrt())
    A = RadonOperator(grid, geometry, torch.stack(weights))
    references = interpolate(torch.stack(bodies)[:, None], size=grid.shape, mode="area")[:, 0]
    return JointScans(torch.stack(measured), A, torch.stack(noise), references)
