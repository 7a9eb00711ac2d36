"""Trajectories: angles, radii, spacing, and full sampling."""

import math

import pytest
import torch

from physics import (
    GOLDEN_ANGLE_RAD,
    TRAJECTORIES,
    golden_angle_trajectory,
    make_trajectory,
    radial_trajectory,
    spiral_trajectory,
)


def test_radial_spokes_by_hand() -> None:
    found = radial_trajectory(2, 4)
    steps = torch.tensor([-0.5, -0.25, 0.0, 0.25], dtype=torch.float64)
    zero = torch.zeros(4, dtype=torch.float64)
    torch.testing.assert_close(found[0], torch.stack((zero, steps), -1))  # along the width
    torch.testing.assert_close(found[1], torch.stack((steps, zero), -1))
    assert found.dtype == torch.float64
    odd = radial_trajectory(1, 5, first_angle_rad=math.pi / 6)
    torch.testing.assert_close(odd[0, 4], 0.4 * torch.tensor([0.5, math.sqrt(0.75)], dtype=torch.float64))


def test_golden_angle_spokes_fill_the_largest_gap() -> None:
    assert math.degrees(GOLDEN_ANGLE_RAD) == pytest.approx(111.246, abs=1e-3)
    spokes = golden_angle_trajectory(21, 8)
    angles = torch.atan2(spokes[:, -1, 0], spokes[:, -1, 1])
    torch.testing.assert_close(
        (angles[1:] - angles[:-1]).remainder(math.pi), torch.full((20,), GOLDEN_ANGLE_RAD).double()
    )
    gaps = angles.remainder(math.pi).sort().values.diff()
    assert float(gaps.max() / gaps.min()) < 2.7  # two or three lengths, by the golden ratio
    torch.testing.assert_close(golden_angle_trajectory(5, 8, first=16), spokes[16:])


def test_spirals_are_equally_spaced_along_and_across() -> None:
    spiral = spiral_trajectory(3, 500, 4.0)
    radius = spiral.norm(dim=-1)
    assert float(radius[0, 0]) == 0 and float(radius[0, -1]) == pytest.approx(0.5)
    assert (radius.diff(dim=-1) > 0).all()
    steps = spiral.diff(dim=1).norm(dim=-1)
    assert float(steps[:, 5:].max() / steps[:, 5:].min()) < 1.02
    turned = (
        spiral[0] @ torch.tensor([[math.cos(u := 2 * math.pi / 3), -math.sin(u)], [math.sin(u), math.cos(u)]]).double()
    )
    assert min(float((turned - spiral[i]).abs().max()) for i in (1, 2)) < 1e-6


@pytest.mark.parametrize("family", TRAJECTORIES)
def test_full_sampling_leaves_no_gap_and_acceleration_counts_spokes(family: str) -> None:
    full = make_trajectory(family, (32, 24), 1.0)
    assert full.effective_acceleration == pytest.approx(1, rel=0.02)
    fast = make_trajectory(family, (32, 24), 4.0)
    assert fast.positions.shape[0] == pytest.approx(full.positions.shape[0] / 4, abs=1)
    assert 2.8 < fast.effective_acceleration < 4.2 and fast.family == family  # the center of spirals is dense
    # So is every position of the center that maps are estimated from, at any acceleration.
    width = fast.center_width
    assert 3 <= width <= 24
    middle = grid_of(32)[grid_of(32).abs().amax(-1) <= (width - 2) / 64]
    assert float(torch.cdist(middle, fast.positions.reshape(-1, 2)).amin(-1).max()) < 0.8 / 32
    # Every position within the circle has a sample within a step of the Cartesian grid.
    grid = grid_of(32)
    grid = grid[grid.norm(dim=-1) < 0.47]
    nearest = torch.cdist(grid, full.positions.reshape(-1, 2)).amin(-1)
    assert float(nearest.max()) < 1 / 32
    assert float(torch.cdist(grid, fast.positions.reshape(-1, 2)).amin(-1).max()) > 1 / 32


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"family is 'rosette', expected one of radial, golden_angle, spiral"):
        make_trajectory("rosette", (32, 32), 2)
    with pytest.raises(ValueError, match=r"acceleration is 0\.5, expected at least 1"):
        make_trajectory("radial", (32, 32), 0.5)
    with pytest.raises(ValueError, match="spokes is 0, expected at least 1"):
        radial_trajectory(0, 32)
    with pytest.raises(ValueError, match=r"turns is -1, center \(0\.0, 0\.0\), expected more turns than those"):
        spiral_trajectory(2, 32, -1)
    with pytest.raises(ValueError, match=r"center \(2, 0\.6\), expected more turns .*, whose radius is below 0\.5"):
        spiral_trajectory(2, 32, 4, center=(2, 0.6))


def grid_of(size: int) -> torch.Tensor:
    """Positions of a Cartesian scan, ``(size ** 2, 2)``."""
    axis = (torch.arange(size, dtype=torch.float64) - size // 2) / size
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
