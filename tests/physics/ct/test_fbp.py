"""Filtered back-projection from analytic sinograms, never from our own projector."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from physics import FanBeam, Geometry, ImageGrid, ParallelBeam, evenly_spaced, filtered_backprojection, shepp_logan
from physics.ct.fbp import WINDOWS, _plan
from physics.ct.fbp_weights import goes_all_round, redundancy_weights, scan_coverage, view_angles
from physics.phantoms.ellipses import Ellipse, EllipsePhantom

TURN = 2 * math.pi
PARALLEL = ParallelBeam(evenly_spaced(180, math.pi / 180), 363, 1.0)


def psnr(found: Tensor, truth: Tensor) -> float:
    spread = float(truth.max() - truth.min())
    return 10 * math.log10(spread**2 / float((found - truth).square().mean()))


def fan(
    views: int, step: float, detectors: int = 182, pitch: float = 3.0, R: float = 1000.0, **kind: object
) -> FanBeam:
    return FanBeam(evenly_spaced(views, step), detectors, pitch, R, 1.5 * R, **kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "geometry", "bar"),
    [
        (256, PARALLEL, 32.0),
        (256, ParallelBeam(evenly_spaced(360, math.pi / 180), 363, 1.0, 0.25), 35.5),  # quarter-element offset
        (256, ParallelBeam(evenly_spaced(720, math.pi / 360), 240, 1.0, 90.0), 34.0),  # displaced detector
        (128, fan(180, TURN / 180), 30.5),
        (128, fan(180, TURN / 180, detector="curved"), 30.3),
        (128, fan(230, math.pi / 180), 30.5),  # short scan
        (128, fan(360, math.pi / 180, 112, 3.0, offset_mm=100.0), 30.5),  # displaced detector
    ],
)
def test_shepp_logan_from_its_analytic_sinogram(size: int, geometry: Geometry, bar: float) -> None:
    grid = ImageGrid((size, size), 256 / size)
    found = filtered_backprojection(shepp_logan().line_integrals(geometry, 256.0), geometry, grid)
    assert psnr(found, shepp_logan().attenuation(grid, 256.0)) >= bar


@pytest.mark.parametrize(
    "geometry",
    [
        PARALLEL,
        ParallelBeam(evenly_spaced(384, 0.0164), 363, 1.0),  # beyond a turn: the weights are those of the angles
        ParallelBeam(tuple(np.random.default_rng(0).permutation(PARALLEL.angles)), 363, 1.0),
        fan(180, TURN / 180),
        fan(384, 0.0164),
        fan(230, math.pi / 180, detector="curved"),
    ],
)
def test_scale_and_cupping_of_a_disc(geometry: Geometry) -> None:
    grid = ImageGrid((128, 128), 2.0)
    disc = EllipsePhantom((Ellipse(0.02, 0.0, 0.0, 0.35, 0.35, 0.0),))
    found = filtered_backprojection(disc.line_integrals(geometry, 256.0), geometry, grid).numpy()
    radius = np.hypot(*np.meshgrid(grid.x_mm, grid.y_mm))
    center, middle, rim = (found[(radius >= a) & (radius < b)].mean() for a, b in ((0, 20), (20, 60), (60, 80)))
    assert middle == pytest.approx(0.02, rel=0.002)
    assert abs(center - rim) < 0.005 * 0.02


def test_angles_of_views_are_half_of_the_gaps() -> None:
    assert view_angles(PARALLEL).sum() == pytest.approx(math.pi)
    assert view_angles(ParallelBeam(evenly_spaced(384, 0.0164), 9, 1.0)).sum() == pytest.approx(math.pi)
    assert view_angles(fan(384, 0.0164)).sum() == pytest.approx(TURN)
    repeated = FanBeam(tuple(np.deg2rad(np.arange(721) * 0.5)), 9, 1.0, 50, 80)  # the last view is the first again
    angles = view_angles(repeated)
    assert angles.sum() == pytest.approx(TURN)
    assert angles[0] == pytest.approx(angles[1] / 2) and angles[-1] == pytest.approx(angles[0])
    limited = view_angles(ParallelBeam(evenly_spaced(60, math.pi / 180), 9, 1.0))
    assert limited == pytest.approx(math.pi / 180)


def test_weights_of_a_short_scan_add_up_to_one_over_each_line() -> None:
    geometry = fan(250, math.pi / 180, detectors=91, pitch=6.0, R=400.0, detector="curved")
    weights, angles, fan_angles = redundancy_weights(geometry), geometry.angles, geometry.fan_angles
    checked = 0
    for view in range(0, 250, 7):
        for ray in range(0, 91, 10):
            back = (angles[view] + math.pi - 2 * fan_angles[ray]) % TURN
            total = weights[view, ray]
            if back <= angles[-1]:
                total += np.interp(back, angles, weights[:, 90 - ray])
                checked += 1
            assert total == pytest.approx(1.0, abs=0.02)
    assert checked > 20
    full = redundancy_weights(fan(360, math.pi / 180))
    assert full[:, 91] == pytest.approx(0.5)


def test_windows_and_cutoff_smooth_and_keep_the_mean() -> None:
    grid = ImageGrid((64, 64), 4.0)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(PARALLEL.shape, generator=generator)
    strengths = {w: float(filtered_backprojection(noise, PARALLEL, grid, window=w).std()) for w in WINDOWS}
    assert strengths["ramp"] > strengths["shepp_logan"] > strengths["cosine"] > strengths["hamming"] > strengths["hann"]
    assert float(filtered_backprojection(noise, PARALLEL, grid, cutoff=0.5).std()) < strengths["cosine"]
    disc = EllipsePhantom((Ellipse(1.0, 0.0, 0.0, 0.35, 0.35, 0.0),)).line_integrals(PARALLEL, 256.0)
    for window in WINDOWS:
        found = filtered_backprojection(disc, PARALLEL, grid, window=window)
        assert float(found[28:36, 28:36].mean()) == pytest.approx(1.0, abs=0.005)


@pytest.mark.parametrize(
    "geometry",
    [
        ParallelBeam(evenly_spaced(9, 0.3), 19, 1.0),
        FanBeam(evenly_spaced(9, 0.6), 19, 1.5, 50, 80),
        FanBeam(evenly_spaced(9, 0.6), 19, 1.5, 50, 80, "curved", 4.0),
    ],
)
def test_kernels_agree_with_plain_torch_and_derivatives_are_exact(geometry: Geometry) -> None:
    grid = ImageGrid((20, 19), 1.0)
    plan = _plan(geometry, grid)
    for batch in (1, 3, 8):
        views = torch.randn(batch, 9, plan.elements, dtype=torch.float64)
        images = torch.randn(batch, *grid.shape, dtype=torch.float64)
        image, sinogram = plan.backproject(views), plan.transpose(images)
        assert torch.allclose(image, plan.backproject_reference(views), rtol=1e-11, atol=1e-12)
        assert torch.allclose(sinogram, plan.transpose_reference(images), rtol=1e-11, atol=1e-12)
        assert torch.allclose((image * images).sum(), (views * sinogram).sum())
    y = torch.randn(geometry.shape, dtype=torch.float64, requires_grad=True)

    def reconstruct(sinogram: Tensor) -> Tensor:
        return filtered_backprojection(sinogram, geometry, grid)

    assert torch.autograd.gradcheck(reconstruct, y, fast_mode=True)
    assert torch.autograd.gradgradcheck(reconstruct, y, fast_mode=True)


WATER = EllipsePhantom((Ellipse(0.02, 0.02, -0.03, 0.35, 0.35, 0.0),))
SMALL = ImageGrid((64, 64), 4.0)


def bias_hu(geometry: Geometry) -> float:
    """Mean error in HU inside a disc of water."""
    found = filtered_backprojection(WATER.line_integrals(geometry, 256.0), geometry, SMALL).numpy()
    inside = np.hypot(SMALL.x_mm - 0.02 * 256, SMALL.y_mm[:, None] + 0.03 * 256) < 0.28 * 256
    return float(found[inside].mean() / 0.02 - 1) * 1000


def some_angles(rotation: float, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Angles in degrees that go all round, in every way that scans do."""
    views = int(rng.integers(300, 600))
    equal, lost = np.arange(views) * rotation / views, int(rng.integers(20, views - 20))
    yield "equal", equal
    yield "random", rng.uniform(0, rotation, views)
    yield "steps of 1, then of 6", np.r_[: rotation * 2 / 3, rotation * 2 / 3 : rotation - 3 : 6]
    yield "jitter", equal + rng.normal(0, 0.2, views)
    yield "half of the views", equal[rng.random(views) < 0.5]
    yield "lost views", np.delete(equal, np.arange(lost, lost + int(5 * views / rotation)))
    yield "repeated views", np.r_[equal, rng.choice(equal, 50), equal[:3]]
    yield "both ends", np.linspace(0, rotation, views)
    yield "more than a turn", np.arange(2 * views) * rotation / views * 1.07
    yield "golden angle", np.arange(views) * 111.246117975 % rotation


def stored(degrees: np.ndarray, rng: np.random.Generator) -> tuple[float, ...]:
    """The angles in one of the ways to store them."""
    degrees = degrees + rng.uniform(-200, 200)
    ways = [degrees, -degrees, degrees % 360, (degrees + 180) % 360 - 180, rng.permutation(degrees)]
    return tuple(np.deg2rad(ways[int(rng.integers(5))]).tolist())


@pytest.mark.parametrize("seed", range(3))
def test_every_scan_that_goes_all_round_keeps_water_at_0_hu(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(seed)
    scans = [
        (180, lambda angles: ParallelBeam(angles, 150, 2.0, 0.5)),
        (360, lambda angles: ParallelBeam(angles, 100, 2.0, -60.0)),
        (360, lambda angles: FanBeam(angles, 200, 4.0, 500.0, 1000.0)),
        (360, lambda angles: FanBeam(angles, 120, 4.0, 500.0, 1000.0, "curved", 120.0)),
        (235, lambda angles: FanBeam(angles, 200, 4.0, 500.0, 1000.0)),
    ]
    for rotation, scan in scans:
        for name, degrees in some_angles(rotation, rng):
            geometry = scan(stored(degrees, rng))
            assert abs(bias_hu(geometry)) < 3, (name, rotation, geometry.shape)
            # In a full turn of a fan beam, the opposite views measure the lines of lost ones.
            said = [record.getMessage() for record in caplog.records]
            words = ("4 degrees are missing", "5 degrees are missing")
            assert all(name == "lost views" and any(word in line for word in words) for line in said), (name, said)
            caplog.clear()


def test_a_scan_that_misses_lines_says_how_many_degrees(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)

    def said(geometry: Geometry) -> str:
        caplog.clear()
        for _ in range(2):
            filtered_backprojection(torch.zeros(geometry.shape), geometry, SMALL)
        assert len(caplog.records) == 1
        return caplog.records[0].getMessage()

    for start, stop, missing in ((0, 120, 60), (20, 160, 40), (0, 61, 119)):
        for degrees in (np.arange(start, stop, 0.5), np.sort(rng.uniform(start, stop, 4000))):
            angles = stored(degrees, rng)
            assert f" {missing} degrees are missing" in said(ParallelBeam(angles, 150, 2.0))
            assert f" {180 + missing} degrees are missing" in said(ParallelBeam(angles, 100, 2.0, 60.0))
    two = stored(np.r_[0:100:0.5, 130:230:0.5], rng)  # the second turn measures 30 to 50 degrees, not 100 to 130
    assert "30 degrees are missing" in said(ParallelBeam(two, 150, 2.0))
    # A fan of 43 degrees that covers the image; one twice as wide needs no more for this image.
    for detectors, needed in ((200, 222), (400, 222)):
        geometry = FanBeam(stored(np.arange(0, 190, 0.5), rng), detectors, 4.0, 500.0, 1000.0)
        assert f"cover 190 of the {needed} degrees that this scan needs" in said(geometry)
    far = ParallelBeam(evenly_spaced(360, TURN / 360), 60, 2.0, 80.0)
    assert "no ray passes within 20 mm of the axis" in said(far)


def test_a_missing_range_is_told_from_chance(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        views = int(rng.integers(60, 800))
        for degrees in (rng.uniform(0, 180, views), np.arange(views) * 180 / views + rng.normal(0, 30 / views, views)):
            assert scan_coverage(ParallelBeam(tuple(np.deg2rad(degrees)), 100, 3.0), SMALL).missing < 2
        wedge = float(rng.uniform(40, 90))
        found = scan_coverage(ParallelBeam(tuple(np.deg2rad(rng.uniform(0, 180 - wedge, views))), 100, 3.0), SMALL)
        assert found.missing == pytest.approx(wedge, abs=12)


def some_arcs(rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray, float, float]]:
    """Angles in degrees of half a turn, sparse and dense, the missing degrees, and the tolerance."""
    views, arc = int(rng.integers(10, 500)), float(rng.uniform(40, 170))
    equal, step = np.arange(views) / views, 180 / views
    yield "complete", equal * 180, 0, 1
    yield "complete, jitter", equal * 180 + rng.normal(0, 0.3 * step, views), 0, 1
    yield "complete, golden angle", np.arange(views) * 111.246117975, 0, 1
    yield "complete, ten turns that nearly agree", np.tile(equal * 180, 10) + rng.normal(0, 1e-3, 10 * views), 0, 1
    yield "complete, a view lost", np.delete(equal * 180, rng.integers(views)), 0, 1
    step = arc / views
    yield "arc", equal * arc, 180 - arc, step
    yield "arc, both ends", np.linspace(0, arc, views), 180 - arc, 2 * step
    yield "arc, jitter", equal * arc + rng.normal(0, 0.15 * step, views), 180 - arc, 2 * step
    yield "arc, golden angle", np.arange(views) * 0.6180339887 % 1 * arc, 180 - arc, 3 * step
    count, each = int(rng.integers(2, 9)), int(rng.integers(9, 40))
    step = float(rng.uniform(0.2, 0.8)) * 180 / (count * each)
    gap = 180 / count - each * step
    if gap > 1.5 * step + 1:
        starts = np.arange(count) * 180 / count
        yield "equal gaps", (starts[:, None] + np.arange(each) * step).ravel(), count * gap, step
        starts += np.sort(rng.uniform(0, 0.5, count)) * (gap - 1.5 * step - 1)
        yield "several gaps", (starts[:, None] + np.arange(each) * step).ravel(), count * gap, step


@pytest.mark.parametrize("seed", range(100))
def test_missing_degrees_are_said_within_a_step(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for name, degrees, missing, tolerance in some_arcs(rng):
        coverage = scan_coverage(ParallelBeam(stored(degrees % 180, rng), 100, 3.0), SMALL)
        said = 0 if coverage.is_complete else coverage.missing
        assert said == pytest.approx(missing, abs=tolerance + 1), (name, len(degrees))


@pytest.mark.parametrize(
    ("degrees", "missing"),
    [
        (np.arange(15) * 10.0, 30),
        (np.arange(5) * 10.0, 130),
        (np.r_[0:180:1.0][np.arange(180) % 30 < 15], 90),  # 6 arcs of 15 views
        (np.delete(np.arange(360) * 0.5, np.r_[20:30, 70:80, 200:210, 250:260, 300:310, 340:350]), 30),
        (np.r_[0:60:1.0, 100], 119),  # one view by itself
        (np.r_[0:120:1.0, 120:180:6.0], 0),
        (np.delete(np.arange(18) * 10.0, 7), 0),
    ],
)
def test_missing_degrees_of_sparse_scans_and_of_many_gaps(degrees: np.ndarray, missing: float) -> None:
    parallel = scan_coverage(ParallelBeam(tuple(np.deg2rad(degrees)), 100, 3.0), SMALL)
    assert parallel.missing == pytest.approx(missing, abs=0.1)
    # A displaced detector needs the other half of the turn, too.
    displaced = scan_coverage(ParallelBeam(tuple(np.deg2rad(degrees)), 60, 2.0, 50.0), SMALL)
    assert displaced.missing == pytest.approx(180 + missing, abs=10.1)


@pytest.mark.parametrize("step", [0.5, 5.0, 10.0])
@pytest.mark.parametrize("rotation", [120, 180, 200, 230, 300])
def test_missing_degrees_of_sparse_fan_beams(step: float, rotation: float) -> None:
    geometry = FanBeam(tuple(np.deg2rad(np.arange(0, rotation, step))), 200, 4.0, 500.0, 1000.0)
    found = scan_coverage(geometry, SMALL)
    assert found.missing == pytest.approx(max(found.needed - rotation, 0), abs=1 if step < 5 else step)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sinogram": torch.zeros(363, 180)}, "exchange its last two axes"),
        ({"sinogram": torch.zeros(180, 360)}, r"expected \(180, 363\)"),
        ({"sinogram": torch.zeros(180, 363, dtype=torch.int32)}, "expected float32 or float64"),
        ({"window": "hanning"}, "expected one of ramp, shepp_logan, cosine, hann, hamming"),
        ({"cutoff": 0.0}, "cutoff is 0.0"),
    ],
)
def test_what_is_wrong_is_said(arguments: dict[str, object], words: str) -> None:
    given: dict[str, object] = {"sinogram": torch.zeros(180, 363), **arguments}
    with pytest.raises((ValueError, TypeError), match=words):
        filtered_backprojection(geometry=PARALLEL, grid=ImageGrid((64, 64), 4.0), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("angles", [(0.3,), (0.3, 0.3), (0.3, 0.3 + 2 * math.pi)])
def test_one_view_is_no_complete_scan(angles: tuple[float, ...]) -> None:
    geometry = ParallelBeam(angles, 64, 1.0)
    assert scan_coverage(geometry, ImageGrid((32, 32), 1.0)).missing == 180
    assert not goes_all_round(geometry)


def test_pixels_that_are_not_square_or_off_the_axis_are_those_of_a_finer_grid() -> None:
    """A pixel depends only on its center: rows of a fine grid in another sampling, bit for bit."""
    y = torch.rand(PARALLEL.shape, dtype=torch.float64)
    fine = filtered_backprojection(y, PARALLEL, ImageGrid((63, 64), 1.0))
    assert torch.equal(filtered_backprojection(y, PARALLEL, ImageGrid((32, 64), (2.0, 1.0))), fine[::2])
    part = filtered_backprojection(y, PARALLEL, ImageGrid((31, 20), 1.0, (16.0, -22.0)))
    assert torch.equal(part, fine[:31, :20])
