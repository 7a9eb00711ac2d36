"""Degradations of scanners in [simulate], corrections in [data]: weights are true, corrected images are closer."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from physics import (
    FanBeam,
    ImageGrid,
    RadonOperator,
    attenuation_to_hu,
    body_volume,
    evenly_spaced,
    hu_to_attenuation,
    transmitted,
)
from recon import CT_SCALE, DataError, FilteredBackprojection, Sample, ScanSimulation, SinogramSlices, write_sinograms

GRID = ImageGrid((128, 128), 3.0)
SCAN = FanBeam(evenly_spaced(180, 2 * math.pi / 180), 200, 4.0, 550.0, 1000.0)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor]:
    """Line integrals of an abdomen without noise, and its reference in HU."""
    image = hu_to_attenuation(body_volume(1, (256, 256), 3, "abdomen"))
    path = tmp_path_factory.mktemp("scanner") / "a.h5"
    write_sinograms(path, GRID, SCAN, line_integrals=-transmitted(image, GRID.refined(2), SCAN).log())
    return path, attenuation_to_hu(torch.nn.functional.avg_pool2d(image[None], 2)[0, 0])


def sample(path: Path, simulate: dict[str, Any], **data: Any) -> Sample:
    return SinogramSlices([path], "s", simulate=ScanSimulation(**simulate), **data)[0]


def lines_and_weights(found: Sample) -> tuple[Tensor, Tensor]:
    assert isinstance(found.operator, RadonOperator) and found.operator.ray_weights is not None
    return found.operator.line_integrals(found.measurement), found.operator.ray_weights


@pytest.mark.parametrize(
    ("simulate", "data"),
    [
        ({"current_modulation": 0.5}, {}),
        ({"bowtie_mm": 220.0}, {}),
        ({"scatter_fraction": 0.3}, {"scatter_correction": 0.3}),
        ({"current_modulation": 1.0, "bowtie_mm": 150.0, "scatter_fraction": 0.2}, {"scatter_correction": 0.2}),
    ],
)
def test_weights_are_the_inverse_of_the_true_noise(
    scan: tuple[Path, Tensor], simulate: dict[str, Any], data: dict[str, Any]
) -> None:
    dose = {"photons": 2e5, "electronic_noise": 5.0, **simulate}
    draws = [sample(scan[0], {**dose, "seed": seed}, **data) for seed in range(24)]
    lines, weights = (torch.stack(part) for part in zip(*map(lines_and_weights, draws), strict=True))
    white = (lines - lines.mean(0)) * weights * math.sqrt(24 / 23)
    spread = float(weights.amax() / weights.amin())
    assert spread > 5
    order = weights.mean(0).flatten().argsort()
    expected = float(torch.stack([s.noise_std for s in draws]).mean())
    for rays in order.chunk(5):  # from the darkest to the brightest
        assert float(white.flatten(1)[:, rays].square().mean().sqrt()) == pytest.approx(expected, rel=0.03)


def hu_error(found: Sample, hu: Tensor) -> tuple[float, float]:
    image = attenuation_to_hu(FilteredBackprojection(cutoff=0.7)(found.measurement, found.operator) * CT_SCALE)
    off = (image - hu)[hu > -200]
    return float(off.square().mean().sqrt()), float(off.mean())


def test_scatter_makes_water_darker_and_is_corrected(scan: tuple[Path, Tensor]) -> None:
    simulate = {"photons": 1e6, "scatter_fraction": 0.3}
    clean = hu_error(sample(scan[0], {"photons": 1e6}), scan[1])
    wrong, right = (hu_error(sample(scan[0], simulate, scatter_correction=f), scan[1]) for f in (None, 0.3))
    assert wrong[1] < -20 and wrong[0] > 1.3 * clean[0]
    assert abs(right[1] - clean[1]) < 1 and right[0] < 1.1 * clean[0]
    # A fraction that is wrong by a quarter is still better than none, and does no harm that grows without bound.
    for factor in (0.75, 1.25):
        assert abs(hu_error(sample(scan[0], simulate, scatter_correction=0.3 * factor), scan[1])[1]) < 0.5 * -wrong[1]


def test_rings_are_corrected_and_a_clean_scan_is_hardly_changed(scan: tuple[Path, Tensor]) -> None:
    images = {}
    for gain in (0.0, 0.02):
        for on in (False, True):
            found = sample(scan[0], {"photons": 1e6, "gain_error": gain}, ring_correction=on)
            images[gain, on] = FilteredBackprojection(cutoff=0.7)(found.measurement, found.operator) * 1000
    inside = scan[1] > -200

    def apart(first: Any, second: Any) -> float:
        return float((images[first] - images[second])[inside].square().mean().sqrt())

    assert apart((0.02, True), (0.0, False)) < 0.75 * apart((0.02, False), (0.0, False))
    assert apart((0.0, True), (0.0, False)) < 0.2 * apart((0.02, False), (0.0, False))


def test_gains_are_those_of_the_detector(scan: tuple[Path, Tensor]) -> None:
    plain, hit = (SinogramSlices([scan[0]], "s", simulate=ScanSimulation(gain_error=g))[0] for g in (0.0, 0.02))
    added = (hit.measurement - plain.measurement) * CT_SCALE
    assert torch.allclose(added, added[:1].expand_as(added), atol=1e-5)
    assert float(added[0].std()) == pytest.approx(0.02, rel=0.2)
    other = SinogramSlices([scan[0]], "t", simulate=ScanSimulation(gain_error=0.02))[0]
    assert not torch.allclose(other.measurement, hit.measurement)


def test_counts_are_thinned_to_the_photons_of_every_ray(tmp_path: Path, scan: tuple[Path, Tensor]) -> None:
    lines = SinogramSlices([scan[0]], "s").volumes[0].read_slice(0)
    counts = torch.poisson(1e6 * (-lines).exp(), generator=torch.Generator().manual_seed(0))
    path = tmp_path / "counts.h5"
    write_sinograms(path, GRID, SCAN, counts=counts[None], photons=1e6)
    simulate = {"photons": 1e5, "current_modulation": 0.5, "bowtie_mm": 250.0, "scatter_fraction": 0.2}
    for data in ({}, {"scatter_correction": 0.2}):
        first, second = (lines_and_weights(sample(p, simulate, **data)) for p in (scan[0], path))
        bright = lines < 3
        assert abs(float((first[0] - second[0])[bright].mean()) * CT_SCALE) < 2e-3
        assert torch.allclose(first[1].mean(0), second[1].mean(0), rtol=0.1)
    dose = SinogramSlices([path], "s", simulate=ScanSimulation(photons=1e5, current_modulation=0.5)).dose(0)
    assert dose is not None and torch.as_tensor(dose.photons).shape == (180, 1)
    assert SinogramSlices([path], "s", simulate=ScanSimulation(**simulate)).dose(0) is None
    with pytest.raises(DataError, match=r"counts\.h5: \[simulate\]: photons are .* times those of the file"):
        sample(path, {"photons": 9e5, "current_modulation": 1.0})


def test_what_needs_photons_says_so(scan: tuple[Path, Tensor], tmp_path: Path) -> None:
    for key, value in (("current_modulation", 0.5), ("bowtie_mm", 200.0), ("scatter_fraction", 0.1)):
        with pytest.raises(ValueError, match=f"{key} is {value} without photons"):
            ScanSimulation(**{key: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"gain_error is 0.5, expected 0 to 0.2"):
        ScanSimulation(gain_error=0.5)
    with pytest.raises(DataError, match=r"\[data\] scatter_correction: found line integrals, whose photons"):
        SinogramSlices([scan[0]], "s", scatter_correction=0.1)
    narrow = replace(SCAN, detectors=10, pitch_mm=80.0)
    write_sinograms(tmp_path / "n.h5", GRID, narrow, line_integrals=torch.rand(1, 180, 10))
    with pytest.raises(DataError, match=r"\[data\] ring_correction: found 10 detector elements, expected at least 11"):
        SinogramSlices([tmp_path / "n.h5"], "s", ring_correction=True)
