"""CT geometries as values: repr, subsets, presets, and one clear line for each thing that can be wrong."""

import math
from dataclasses import FrozenInstanceError
from typing import Any, get_args

import numpy as np
import pytest

from physics import (
    FanBeam,
    FanVectors,
    Geometry,
    ImageGrid,
    ParallelBeam,
    ParallelVectors,
    evenly_spaced,
    htc2022,
    hyperfed,
    lodopab,
    moved_fan,
)
from physics.ct.geometry import field_of_view_radius_mm, rays_of

PARALLEL = ParallelBeam(evenly_spaced(7, 0.3, 0.1), 19, 1.5, 0.25)
FAN = FanBeam(evenly_spaced(12, 0.5), 21, 1.5, 50.0, 80.0, "curved", -0.5)
MOVED = moved_fan(FAN, source_mm=(0.3, -0.2), tilt_rad=0.01)


@pytest.mark.parametrize(
    "value",
    [
        ImageGrid((5, 8), 0.7),
        ImageGrid((5, 8), (0.7, 0.9), (1.0, -2.5)),
        PARALLEL,
        FAN,
        MOVED,
        MOVED.subset([1, 3]),
        ParallelVectors((0.1, 0.2), 5, 1.0, (0.15, 0.2), ((1.0, 2.0), (3.0, 4.5)), 0.5),
        FAN.subset([3, 1, 4]),
        lodopab().geometry,
        hyperfed(3).geometry,
        htc2022(),
    ],
)
def test_repr_is_a_constructor_call(value: Any) -> None:
    from physics.ct.scans import ScanPreset

    names = {t.__name__: t for t in (ImageGrid, *get_args(Geometry), ScanPreset)}
    text = repr(value)
    assert eval(text, {**names, "evenly_spaced": evenly_spaced}) == value
    assert len(text) < 600 or isinstance(value, (ScanPreset, FanVectors))


def test_values_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        PARALLEL.pitch_mm = 2.0  # type: ignore[misc]
    assert len({PARALLEL, ParallelBeam(PARALLEL.angles_rad, 19, 1.5, 0.25)}) == 1


def test_subset_takes_slices_indices_and_masks_in_the_order_given() -> None:
    assert FAN.subset(slice(None, None, 3)).angles_rad == FAN.angles_rad[::3]
    assert FAN.subset([5, 2]).angles_rad == (FAN.angles_rad[5], FAN.angles_rad[2])
    mask = np.zeros(12, dtype=bool)
    mask[[1, 7]] = True
    kept = FAN.subset(mask)
    assert kept.angles_rad == (FAN.angles_rad[1], FAN.angles_rad[7])
    assert (kept.detector, kept.offset_mm, kept.detectors) == ("curved", -0.5, 21)
    with pytest.raises(ValueError, match="subset of 12 views"):
        FAN.subset([12])
    with pytest.raises(ValueError, match="at least one view"):
        FAN.subset(np.zeros(12, dtype=bool))


def test_rays_follow_the_convention() -> None:
    x, y, dx, dy = rays_of(ParallelBeam((0.0, math.pi / 2), 3, 2.0))
    # At angle 0 the detector axis is x and rays run upwards; at 90 degrees it is y and they run to the left.
    assert np.allclose(x[0], [-2, 0, 2]) and np.allclose(dx[0], 0) and np.allclose(dy[0], 1)
    assert np.allclose(y[1], [-2, 0, 2]) and np.allclose(dx[1], -1)
    fan = FanBeam((0.0, 0.4), 3, 10.0, 100.0, 150.0)
    x, y, dx, dy = rays_of(fan)
    assert np.allclose((x[0], y[0]), [[0] * 3, [-100] * 3])
    u = np.array([-10.0, 0.0, 10.0])
    reached = x[1] + dx[1] * np.hypot(u, 150), y[1] + dy[1] * np.hypot(u, 150)
    t = 0.4
    assert np.allclose(reached[0], -50 * math.sin(t) + u * math.cos(t))
    assert np.allclose(reached[1], 50 * math.cos(t) + u * math.sin(t))


def test_presets_are_those_published() -> None:
    grid, geometry, photons = lodopab()
    assert (grid.shape, geometry.shape, photons) == ((362, 362), (1000, 513), 4096.0)
    assert geometry.angles_rad[0] == pytest.approx(math.pi / 2000) and geometry.angles_rad[-1] < math.pi
    assert geometry.u_mm[-1] + geometry.pitch_mm / 2 == pytest.approx(130 * math.sqrt(2))
    shapes = [hyperfed(number).geometry.shape for number in range(1, 6)]
    assert shapes == [(512, 368), (512, 315), (384, 330), (400, 350), (384, 350)]
    assert [hyperfed(number).photons for number in range(1, 6)] == [5.0e4, 6.875e4, 8.75e4, 1.0625e5, 1.25e5]
    for number in range(1, 6):
        preset = hyperfed(number)
        assert field_of_view_radius_mm(preset.geometry) > preset.grid.inscribed_radius_mm * 0.99
    assert hyperfed(3).geometry.angles_rad[-1] < 2 * math.pi < 384 * 0.0164
    assert htc2022().geometry.shape == (721, 560)
    with pytest.raises(ValueError, match="expected 1 to 5"):
        hyperfed(6)


def test_refined_keeps_the_field_of_view() -> None:
    grid = ImageGrid((6, 9), 1.2)
    fine = grid.refined(3)
    assert fine.shape == (18, 27)
    assert fine.x_mm.reshape(9, 3).mean(1) == pytest.approx(grid.x_mm)
    assert fine.y_mm.reshape(6, 3).mean(1) == pytest.approx(grid.y_mm)


def test_two_equal_edges_are_one_and_the_middle_is_where_it_is_said() -> None:
    assert ImageGrid((4, 6), (1.5, 1.5)) == ImageGrid((4, 6), 1.5)
    grid = ImageGrid((4, 6), (2.0, 0.5), (10.0, -3.0))
    assert (grid.y_mm[0], grid.y_mm.mean(), grid.x_mm.mean(), grid.x_mm[-1]) == (13.0, 10.0, -3.0, -1.75)
    assert grid.inscribed_radius_mm == 1.5 and grid.corner_radius_mm == math.hypot(14.0, 4.5)
    fine = grid.refined(2)
    assert fine.y_mm.reshape(4, 2).mean(1) == pytest.approx(grid.y_mm) and fine.spacing_mm == (1.0, 0.25)


ANGLES = (0.0, 1.0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ImageGrid((0, 4), 1.0), "expected .height, width., positive"),
        (lambda: ImageGrid((4, 4), 0.0), "pixel_mm is 0.0"),
        (lambda: ImageGrid((4, 4), (1.0, -1.0)), r"pixel_mm is \(1.0, -1.0\), expected the edge .* \(dy, dx\)"),
        (lambda: ImageGrid((4, 4), 1.0, (0.0, math.nan)), r"center_mm is .* expected \(y, x\)"),
        (lambda: ImageGrid((4, 4), 1.0, 3.0), r"center_mm is 3.0, expected \(y, x\)"),  # type: ignore[arg-type]
        (lambda: ParallelBeam((), 4, 1.0), "at least one view"),
        (lambda: ParallelBeam(np.linspace(0, 179, 180), 4, 1.0), "convert degrees"),  # type: ignore[arg-type]
        (lambda: ParallelBeam((0.0, math.nan), 4, 1.0), "NaN or infinity"),
        (lambda: ParallelBeam(("a",), 4, 1.0), "expected numbers in rad"),  # type: ignore[arg-type]
        (lambda: ParallelBeam(ANGLES, 0, 1.0), "detectors is 0"),
        (lambda: ParallelBeam(ANGLES, 4, -1.0), "pitch_mm is -1.0"),
        (lambda: ParallelBeam(ANGLES, 4, 1.0, math.inf), "offset_mm is inf"),
        (lambda: FanBeam(ANGLES, 4, 1.0, 0.0, 80.0), "source_to_axis_mm is 0.0"),
        (lambda: FanBeam(ANGLES, 4, 1.0, 80.0, -5.0), "source_to_detector_mm is -5.0"),
        (lambda: FanBeam(ANGLES, 4, 1.0, 80.0, 50.0), "is it the distance from axis to detector"),
        (lambda: FanBeam(ANGLES, 4, 1.0, 50.0, 80.0, "round"), "expected 'flat' or 'curved'"),  # type: ignore[arg-type]
        (lambda: FanBeam(ANGLES, 400, 1.0, 50.0, 80.0, "curved"), "expected less than 90"),
        (lambda: evenly_spaced(0, 0.1), "views is 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_field_of_view_is_what_all_views_cover_on_both_sides() -> None:
    assert field_of_view_radius_mm(ParallelBeam(ANGLES, 10, 2.0)) == pytest.approx(10)
    assert field_of_view_radius_mm(ParallelBeam(ANGLES, 10, 2.0, 3.0)) == pytest.approx(7)
    fan: Geometry = FanBeam(ANGLES, 10, 2.0, 50.0, 100.0)
    assert field_of_view_radius_mm(fan) == pytest.approx(50 * math.sin(math.atan(0.1)))


@pytest.mark.parametrize("seed", range(4))
def test_travel_does_not_depend_on_how_angles_are_stored(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(50):
        views, rotation = int(rng.integers(12, 400)), float(rng.uniform(20, 1080))
        travel = np.arange(views) * rotation / views
        if rng.random() < 0.5:
            travel = np.sort(rng.uniform(0, rotation, views))
        if views > 100 and rng.random() < 0.3:
            travel[views // 2 :] += 150  # views of a large part are lost
        travel = travel - travel[0]
        if np.median(np.diff(travel)) > 50:
            continue
        degrees = rng.choice([-1, 1]) * travel + rng.uniform(-400, 400)
        for stored in (degrees, degrees % 360, (degrees + 180) % 360 - 180, degrees % 360 + 360 * (travel > 360)):
            if np.ptp(stored) < 1080:
                found = ParallelBeam(tuple(np.deg2rad(stored)), 5, 1.0).travel_rad
                assert np.rad2deg(found) == pytest.approx(travel, abs=1e-9)
    shuffled = ParallelBeam(tuple(np.deg2rad(rng.permutation(np.arange(300, 420, 1.0)) % 360)), 5, 1.0)
    assert np.rad2deg(shuffled.travel_rad) == pytest.approx((np.rad2deg(shuffled.angles) - 300) % 360, abs=1e-9)
    jitter = np.deg2rad(np.arange(200) + rng.normal(0, 0.8, 200))
    assert FanBeam(tuple(-jitter % (2 * math.pi)), 5, 1.0, 50, 80).travel_rad == pytest.approx(
        jitter - jitter.min(), abs=1e-9
    )
    assert ParallelBeam((0.3,), 5, 1.0).travel_rad == pytest.approx([0.0])
