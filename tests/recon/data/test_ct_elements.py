"""Elements that stand out in nearly every view are named; objects, noise and sparse scans are not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from physics import FanBeam, Geometry, ImageGrid, ParallelBeam, RadonOperator, body_phantom, hu_to_attenuation
from recon import SinogramSlices, write_sinograms
from recon.data.ct_elements import standing_out

GRID = ImageGrid((64, 64), 5.0)


def turn(views: int, degrees: float) -> tuple[float, ...]:
    return tuple(np.deg2rad(np.arange(views) * degrees / views).tolist())


SCANS: dict[str, Geometry] = {
    "parallel": ParallelBeam(turn(60, 180), 128, 2.8),
    "fan": FanBeam(turn(120, 360), 144, 5.0, 600.0, 1100.0),
    "sparse": ParallelBeam(turn(9, 180), 128, 2.8),
}
FAMILIES = ("abdomen", "chest", "pelvis", "head")


def lines_of(geometry: Geometry, image: Tensor, photons: float, seed: int) -> Tensor:
    lines: Tensor = RadonOperator(GRID, geometry)(image[None])[0]
    counts = torch.poisson(photons * (-lines).exp(), generator=torch.Generator().manual_seed(seed))
    return (photons / counts.clamp_min(1)).log()


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("photons", [300.0, 1e4, 1e6])
def test_no_object_and_no_noise_stands_out(scan: str, photons: float) -> None:
    rows, columns = torch.meshgrid(torch.arange(64.0) - 31.5, torch.arange(64.0) - 31.5, indexing="ij")
    radius = ((rows - 1) ** 2 + (columns - 1) ** 2).sqrt()  # nothing is centered to half an element
    objects = [hu_to_attenuation(body_phantom((64, 64), seed, FAMILIES[seed % 4])) for seed in range(8)]
    disc, pipe, pin = radius < 20, (radius > 15) & (radius < 20), (rows - 9) ** 2 + columns**2 < 9
    objects += [0.02 * disc, 0.02 * pipe, 0.2 * pin]
    for seed, image in enumerate(objects):
        assert standing_out(lines_of(SCANS[scan], image, photons, seed)) == {}, seed


@pytest.mark.parametrize("scan", ["parallel", "fan"])
@pytest.mark.parametrize("elements", [[60], [60, 61], [52, 53, 70, 88]])
@pytest.mark.parametrize("fault", ["flat", "dead"])
def test_hit_elements_are_named(scan: str, elements: list[int], fault: str) -> None:
    lines = lines_of(SCANS[scan], hu_to_attenuation(body_phantom((64, 64), 1, "abdomen")), 1e5, 1)
    lines[:, elements] = lines[:, elements] + 0.4 if fault == "flat" else 9.0
    found = standing_out(lines)
    assert list(found) == elements
    assert all(off == pytest.approx(0.4, abs=0.2) for off in found.values()) == (fault == "flat")


def test_too_few_views_or_elements_say_nothing() -> None:
    lines = torch.zeros(7, 64)
    lines[:, 30] = 9
    assert standing_out(lines) == {} and standing_out(torch.eye(7).repeat(3, 1)) == {}


@pytest.mark.parametrize("images", [1, 2])
def test_sites_check_names_a_hot_pixel_of_one_or_two_flat_images(tmp_path: Path, images: int) -> None:
    lines = lines_of(SCANS["parallel"], hu_to_attenuation(body_phantom((64, 64), 1, "abdomen")), 1e5, 1)
    open_beam = torch.ones(128)
    open_beam[77] = 1.5 / images + (images - 1) / images
    path = tmp_path / "hit.h5"
    write_sinograms(path, GRID, SCANS["parallel"], line_integrals=(lines + open_beam.log())[None])
    (line,) = SinogramSlices([path], "s").check(0)
    assert line.startswith(f"{path}: detector: found elements 77, 1 in all, up to 0.") and "rings" in line
