"""Filtered back-projection from analytic sinograms, never from our own projector."""

import logging
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from physics import FanBeam, Geometry, ImageGrid, ParallelBeam, evenly_spaced, filtered_backprojection, shepp_logan
from physics.ct.fbp import WINDOWS, _plan
from physics.ct.fbp_weights import redundancy_weights, view_angles
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


def test_less_than_half_a_turn_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    geometry, grid = ParallelBeam(evenly_spaced(61, math.pi / 180), 63, 1.0), ImageGrid((33, 33), 1.0)
    with caplog.at_level(logging.WARNING, "physics.ct.fbp"):
        for _ in range(2):
            filtered_backprojection(torch.ones(geometry.shape), geometry, grid)
    assert [record.getMessage()[:57] for record in caplog.records] == [
        "filtered_backprojection: the views cover 61 degrees, less"
    ]


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
