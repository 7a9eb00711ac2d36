"""What scanners do to photons and gains: modulated current, bow-tie filter, scatter, rings."""

import math

import pytest
import torch
from torch import Tensor

from physics import (
    FanBeam,
    Transmission,
    bowtie_profile,
    estimated_scatter,
    evenly_spaced,
    expected_scatter,
    ray_distances_mm,
    tube_current,
    without_rings,
)

SCAN = FanBeam(evenly_spaced(60, 2 * math.pi / 60), 120, 6.0, 550.0, 1000.0)
MU = 0.02


def ellipse(wide: float, high: float) -> Tensor:
    """Line integrals of an ellipse of water on the axis, half axes in mm."""
    angle = torch.from_numpy(SCAN.angles)[:, None] + torch.from_numpy(SCAN.fan_angles)
    s = torch.from_numpy(ray_distances_mm(SCAN))
    reach = (wide * angle.cos()) ** 2 + (high * angle.sin()) ** 2
    return 2 * MU * wide * high * (reach - s**2).clamp_min(0).sqrt() / reach


def test_a_bowtie_filter_makes_the_beam_even_behind_its_cylinder() -> None:
    profile = bowtie_profile(SCAN, 240.0, MU)
    s = torch.from_numpy(ray_distances_mm(SCAN))
    behind = profile * (-2 * MU * (120.0**2 - s**2).clamp_min(0).sqrt()).exp()
    assert torch.allclose(behind, torch.full_like(behind, math.exp(-240 * MU)), rtol=1e-9)
    assert float(profile.max()) == pytest.approx(1, abs=1e-3)
    assert float(profile.min()) == pytest.approx(math.exp(-240 * MU))


def test_a_modulated_current_has_equal_dose_and_least_noise_at_a_half() -> None:
    lines = ellipse(180.0, 100.0)
    middle = lines[:, 59:61].mean(-1)
    noise = {}
    for strength in (0.0, 0.25, 0.5, 0.75, 1.0):
        current = tube_current(lines, strength)
        assert current.shape == (60, 1) and float(current.mean()) == pytest.approx(1)
        noise[strength] = float((middle.exp() / current[:, 0]).mean())  # variance in the middle of the image
    assert min(noise, key=lambda strength: noise[strength]) == 0.5 and noise[0.5] < 0.85 * noise[0.0]
    behind = tube_current(lines, 1.0)[:, 0] * (-lines.quantile(0.95, -1)).exp()
    assert torch.allclose(behind, behind[:1].expand_as(behind))
    with pytest.raises(ValueError, match="strength is 2, expected 0 to 1"):
        tube_current(lines, 2)


@pytest.mark.parametrize("fraction", [0.1, 0.4])
def test_scatter_has_its_part_in_dark_rays_and_is_found_again(fraction: float) -> None:
    lines, photons = ellipse(180.0, 100.0), 1e5
    primary = photons * (-lines).exp()
    scatter = expected_scatter(primary, photons, fraction)
    dark = lines > lines.flatten().quantile(0.96)
    assert float(scatter[dark].sum() / (scatter + primary)[dark].sum()) == pytest.approx(fraction, abs=0.05)
    assert float(scatter.diff(dim=-1).abs().max()) < 0.05 * float(scatter.max())
    found = estimated_scatter(primary + scatter, photons, fraction)
    assert float((found - scatter).norm() / scatter.norm()) < 0.01
    counts = torch.poisson(primary + scatter, generator=torch.Generator().manual_seed(0))
    found = estimated_scatter(counts, photons, fraction)
    assert float((found - scatter).norm() / scatter.norm()) < 0.03
    assert torch.allclose(expected_scatter(3 * primary, 3 * photons, fraction), 3 * scatter)
    assert not expected_scatter(torch.full((4, 9), 7.0), 7.0, fraction).any()  # air
    with pytest.raises(ValueError, match="fraction is 1, expected from 0 to less than 1"):
        expected_scatter(primary, photons, 1)


@pytest.mark.parametrize(("photons", "scatter"), [(2e3, 0.0), (2e3, 400.0), (50.0, 8.0)])
def test_mean_and_variance_with_scatter(photons: float, scatter: float) -> None:
    lines = torch.full((100, 2000), 1.2, dtype=torch.float64)
    model = Transmission(photons, electronic_noise=1.0, scatter=scatter)
    counts = model.counts(lines, torch.Generator().manual_seed(0))
    assert float(counts.mean()) == pytest.approx(float(model.expected_counts(lines[0, 0])), rel=2e-3)
    found = model.line_integrals(counts)
    spread = float(model.noise_std(torch.full((1, 1), float(model.expected_counts(lines[0, 0])))))
    assert float(found.std()) == pytest.approx(spread, rel=0.03 if photons > 100 else 0.25)
    unbiased = model.line_integrals(model.without_log_bias(counts))
    assert abs(float(unbiased.mean()) - 1.2) < 0.004
    assert abs(float(unbiased.mean()) - 1.2) < max(0.3 * abs(float(found.mean()) - 1.2), 1e-3)


def test_scatter_must_be_possible() -> None:
    with pytest.raises(ValueError, match=r"scatter reaches -1\.0, expected finite numbers from 0"):
        Transmission(10.0, scatter=torch.tensor([1.0, -1.0]))
    # An estimate above the counts leaves a twentieth of them.
    model = Transmission(100.0, scatter=50.0)
    assert float(model.line_integrals(torch.tensor([[40.0]]))) == pytest.approx(math.log(100 / 2))


def test_errors_of_gains_are_found_and_smooth_sinograms_stay() -> None:
    draw = torch.Generator().manual_seed(0)
    lines, gains = ellipse(180.0, 100.0), 0.02 * torch.randn(120, generator=draw, dtype=torch.float64)
    assert float((without_rings(lines) - lines).abs().max()) < 0.005 * float(lines.max())
    noise = 0.05 * torch.randn(lines.shape, generator=draw, dtype=torch.float64)
    left = without_rings(torch.stack((lines, lines + gains + noise))) - lines
    rough = left[1].mean(0).diff(n=2)
    assert float(rough.square().mean()) < 0.1 * float((gains + noise.mean(0)).diff(n=2).square().mean())
    parabola = torch.arange(40.0, dtype=torch.float64) ** 2
    assert torch.allclose(without_rings(parabola.expand(3, -1)), parabola.expand(3, -1))
    with pytest.raises(ValueError, match="found 9 detector elements, expected at least 11"):
        without_rings(torch.zeros(4, 9))
