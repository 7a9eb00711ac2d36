"""What a trajectory samples, against the simulated families, whose acceleration and center are known."""

import math

import pytest
import torch

from physics import golden_angle_trajectory, make_trajectory, measured_trajectory, radial_trajectory


@pytest.mark.parametrize("shape", [(64, 64), (96, 64)])
@pytest.mark.parametrize("acceleration", [1, 2, 4, 8])
@pytest.mark.parametrize("family", ["radial", "golden_angle", "spiral"])
def test_acceleration_and_center_are_those_of_the_family(
    family: str, acceleration: float, shape: tuple[int, int]
) -> None:
    made = make_trajectory(family, shape, acceleration)
    found = measured_trajectory(made.positions, shape)
    assert found.family == ("other" if family == "spiral" else "radial")
    if family == "spiral":  # counts samples, which are denser than needed along the curve
        bound = {"rel": 0.1} if shape[0] == shape[1] else {"rel": 0.25}
        assert found.effective_acceleration == pytest.approx(made.effective_acceleration, **bound)
    else:
        assert found.effective_acceleration == pytest.approx(made.effective_acceleration, rel=1e-6)
    # Never far more than the center that the family is known to sample.
    assert 0.8 * made.center_width <= found.center_width <= 1.5 * made.center_width + 3 or acceleration == 1


def test_a_cartesian_grid_is_full_up_to_its_edge_and_half_of_it_is_not() -> None:
    axis = (torch.arange(32, dtype=torch.float64) - 16) / 32
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1)
    full, half = measured_trajectory(grid, (32, 32)), measured_trajectory(grid[::2], (32, 32))
    assert full.center_width >= 30 and half.center_width <= 2
    assert half.effective_acceleration > 1.3 * full.effective_acceleration


def test_repeated_spokes_count_once_and_half_spokes_as_halves() -> None:
    spokes = radial_trajectory(50, 64)
    once = measured_trajectory(spokes, (32, 32)).effective_acceleration
    assert once == pytest.approx(math.pi * 16 / 50)
    twice = measured_trajectory(torch.cat((spokes, spokes, -spokes)), (32, 32))
    assert twice.effective_acceleration == pytest.approx(once)
    halves = measured_trajectory(spokes[:, 32:], (32, 32)).effective_acceleration
    assert halves == pytest.approx(2 * once, rel=0.05)
    both = torch.cat((spokes[:, 32:], -spokes[:, 32:]))
    assert measured_trajectory(both, (32, 32)).effective_acceleration == pytest.approx(once, rel=0.05)


def test_lines_beside_the_center_are_not_radial() -> None:
    spokes = golden_angle_trajectory(50, 64) * 0.9
    assert measured_trajectory(spokes, (32, 32)).family == "radial"
    assert measured_trajectory(spokes + torch.tensor([0.04, 0.0]), (32, 32)).family == "other"
    with pytest.raises(ValueError, match=r"measured_trajectory: trajectory reaches 0\.9"):
        measured_trajectory(2 * spokes, (32, 32))
