"""Beams of many energies: tables, hardening, and the correction for water against truth."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from physics import (
    FanBeam,
    ImageGrid,
    Spectrum,
    attenuation_of,
    corrected,
    evenly_spaced,
    filtered_backprojection,
    require_correction,
    tube_spectrum,
    water_correction,
)

LENGTHS = torch.tensor([0.5, 10.0, 50.0, 120.0, 250.0, 400.0, 550.0], dtype=torch.float64)


def test_tables_are_those_of_nist() -> None:
    # 60 keV: 0.2059, 0.3148 x 1.92 and 0.2778 x 2.699 per cm; 70 keV lies between 60 and 80.
    found = [float(attenuation_of(name, 60.0)) for name in ("water", "bone", "aluminium")]
    assert found == pytest.approx([0.02059, 0.060442, 0.074978], rel=1e-3)
    assert float(attenuation_of("water", 70.0)) == pytest.approx(0.01934, rel=5e-3)  # XCOM: 0.1934 cm^2/g
    assert (np.diff(attenuation_of("bone", np.linspace(10, 150, 200))) < 0).all()


def test_one_energy_does_not_harden() -> None:
    line = Spectrum((60.0,), (3.0,))
    assert torch.allclose(line.line_integrals(LENGTHS), 0.02059 * LENGTHS, rtol=1e-4)
    both = line.line_integrals(LENGTHS, 0.1 * LENGTHS) - line.line_integrals(LENGTHS)
    assert torch.allclose(both, 0.1 * LENGTHS * float(attenuation_of("bone", 60.0)), rtol=1e-9)


def test_two_energies_by_hand() -> None:
    beam = Spectrum((40.0, 80.0), (1.0, 3.0))
    low, high = (float(attenuation_of("water", energy)) for energy in (40.0, 80.0))
    expected = -(0.25 * (-low * LENGTHS).exp() + 0.75 * (-high * LENGTHS).exp()).log()
    assert torch.allclose(beam.line_integrals(LENGTHS), expected, rtol=1e-12)
    assert beam.mu_water == pytest.approx(0.25 * low + 0.75 * high)
    # Noise below zero, and rays that nothing passes, stay finite.
    assert bool(beam.line_integrals(torch.tensor([-50.0, 1e5])).isfinite().all())


@pytest.mark.parametrize("kvp", [80.0, 120.0, 140.0])
def test_the_correction_gives_back_lengths_of_water(kvp: float) -> None:
    beam, mu_water = tube_spectrum(kvp), 0.0206
    measured = beam.line_integrals(LENGTHS)
    per_mm = measured / LENGTHS
    assert float(per_mm[0] / per_mm[-1]) > 1.1, "hardens"
    lines, slope = corrected(measured, water_correction(beam, mu_water))
    assert float((lines / LENGTHS / mu_water - 1).abs().max()) < 0.0015
    step = 1e-6
    ahead, _ = corrected(measured + step, water_correction(beam, mu_water))
    assert torch.allclose((ahead - lines) / step, slope, rtol=1e-5)


def test_a_corrected_line_integral_continues_straight_where_nothing_was_fitted() -> None:
    coefficients = water_correction(tube_spectrum(120.0), 0.0206)
    lines = torch.tensor([-2.0, -1.0, 0.0, 13.0, 14.0, 15.0], dtype=torch.float64)
    value, slope = corrected(lines, coefficients)
    assert float(value[2]) == 0 and torch.allclose(value[:3].diff(), slope[0].expand(2))
    assert torch.allclose(value[3:].diff(), slope[3].expand(2)) and bool((slope > 0).all())


def _disc_lines(scan: FanBeam, radius: float, center: tuple[float, float]) -> torch.Tensor:
    x, y, dx, dy = scan.rays
    distance = (x - center[0]) * dy - (y - center[1]) * dx
    return torch.from_numpy(2 * np.sqrt(np.clip(radius**2 - distance**2, 0, None)))


def test_water_is_within_5_hu_of_zero_and_bone_is_not() -> None:
    """A disc of 300 mm: without correction it has a cup of 27 HU; bone in it keeps its error."""
    beam, mu_water, views = tube_spectrum(120.0), 0.0206, 240
    scan = FanBeam(evenly_spaced(views, 2 * math.pi / views), 300, 2.4, 600.0, 1000.0)
    grid = ImageGrid((80, 80), 5.0)
    radius = np.hypot(*np.meshgrid(grid.x_mm - 10, grid.y_mm + 5))
    measured = beam.line_integrals(_disc_lines(scan, 150.0, (10.0, -5.0)))

    def hu(lines: torch.Tensor) -> Any:
        return (filtered_backprojection(lines, scan, grid).numpy() / mu_water - 1) * 1000

    cup, flat = hu(measured), hu(corrected(measured, water_correction(beam, mu_water))[0])
    middle, rim = radius < 20, (radius > 115) & (radius < 135)
    assert cup[rim].mean() - cup[middle].mean() > 20
    assert np.abs([flat[middle].mean(), flat[rim].mean(), flat[radius < 135].mean()]).max() < 2
    assert np.abs(flat[radius < 135]).max() < 5
    bone = _disc_lines(scan, 20.0, (60.0, 20.0)), _disc_lines(scan, 20.0, (-40.0, 20.0))
    water = _disc_lines(scan, 150.0, (10.0, -5.0)) - bone[0] - bone[1]
    streaks = hu(corrected(beam.line_integrals(water, bone[0] + bone[1]), water_correction(beam, mu_water))[0])
    x, y = np.meshgrid(grid.x_mm, grid.y_mm)
    between = (np.abs(x - 10) < 15) & (np.abs(y - 20) < 4)
    assert streaks[between].mean() < -20, "a dark band between the bones"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: tube_spectrum(20.0), "kvp is 20.0, expected a voltage from 40 to 150 kV"),
        (lambda: tube_spectrum(120.0, -1.0), "aluminium_mm is -1.0"),
        (lambda: attenuation_of("lead", 60.0), "material is 'lead', expected one of water, bone, aluminium"),
        (lambda: attenuation_of("water", 500.0), "expected 10 to 150 keV"),
        (lambda: Spectrum((60.0, 70.0), (1.0,)), r"signal has shape \(1,\)"),
        (lambda: Spectrum((60.0,), (0.0,)), "not all 0"),
        (lambda: water_correction(tube_spectrum(120.0), 0.2), "divide 1/cm by 10"),
        (lambda: water_correction(tube_spectrum(120.0), 0.02, 0), "degree is 0"),
        (lambda: require_correction("site", [1.0, -0.2]), "falls at a line integral of 2.5"),
        (lambda: require_correction("site", []), r"water_correction is \[\], expected coefficients"),
        (lambda: require_correction("site", [math.nan]), "expected coefficients"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
