"""The CT projector: against analytic transforms, a dense matrix, plain torch, symmetry, ASTRA; the traps of CT."""

import itertools
import logging
import math
import multiprocessing

import numpy as np
import pytest
import torch
from torch import Tensor

from physics import (
    FanBeam,
    Geometry,
    ImageGrid,
    ParallelBeam,
    ParallelVectors,
    RadonOperator,
    check_operator,
    evenly_spaced,
    lodopab,
    moved_fan,
)
from physics.ct.geometry import rays_of
from physics.ct.projector import CLEAR_PIXELS, Projector, Symmetry
from physics.ct.rays import LANES, backproject_reference, project_reference

HALF_TURN, TURN = math.pi, 2 * math.pi
WAVE = 2 * np.stack((np.sin(np.arange(8)), np.cos(2 * np.arange(8))), 1)
WOBBLING = moved_fan(
    FanBeam(evenly_spaced(8, math.pi / 4, 0.1), 19, 1.5, 50, 80), source_mm=WAVE, detector_mm=-WAVE, tilt_rad=0.1
)
NEAR = moved_fan(FanBeam(evenly_spaced(8, 0.7, 0.1), 19, 4.0, 14, 80, "curved", 0.3), source_mm=0.5 * WAVE)
JITTERED = ParallelVectors((0.3, 2.9, 1.1, 0.31), 19, 1.0, (0.2, 2.95, 1.0, 0.3), ((0.5, 1.0),) * 4, 0.25)
SCANS: dict[str, tuple[ImageGrid, Geometry]] = {
    "midpoint": (ImageGrid((12, 12), 1.3), ParallelBeam(evenly_spaced(8, math.pi / 8, math.pi / 16), 19, 1.0)),
    "even detectors": (ImageGrid((12, 12), 1.3), ParallelBeam(evenly_spaced(8, math.pi / 8), 18, 1.0)),
    "full turn": (ImageGrid((12, 12), 1.3), ParallelBeam(evenly_spaced(16, math.pi / 8), 18, 1.0)),
    "not square": (ImageGrid((12, 9), 1.3), ParallelBeam(evenly_spaced(8, math.pi / 8), 19, 1.0)),
    "no symmetry": (ImageGrid((11, 12), 1.3), ParallelBeam((0.3, 2.9, 1.1, 0.31), 19, 1.0, 0.25)),
    "coarse pitch": (ImageGrid((12, 12), 1.0), ParallelBeam(evenly_spaced(5, 0.6), 7, 3.0)),
    "flat": (ImageGrid((12, 12), 1.3), FanBeam(evenly_spaced(8, math.pi / 4), 19, 1.5, 50, 80)),
    "near source": (ImageGrid((12, 12), 1.3), FanBeam(evenly_spaced(8, 0.7, 0.1), 19, 4.0, 12, 80, "curved", 0.3)),
    "half fan": (ImageGrid((12, 12), 1.3), FanBeam(evenly_spaced(12, TURN / 12), 14, 1.5, 50, 80, offset_mm=9.0)),
    "half acquisition": (ImageGrid((12, 11), 1.3), ParallelBeam(evenly_spaced(9, TURN / 9), 12, 1.0, -5.0)),
    "flat pixels": (ImageGrid((12, 9), (0.9, 2.1)), ParallelBeam(evenly_spaced(8, math.pi / 8), 19, 1.0)),
    "tall pixels": (ImageGrid((12, 12), (1.7, 1.1)), FanBeam(evenly_spaced(8, math.pi / 4), 19, 1.5, 50, 80)),
    "off the axis": (ImageGrid((12, 12), 0.8, (2.0, -1.5)), ParallelBeam(evenly_spaced(8, math.pi / 8), 19, 1.0)),
    "fan vectors": (ImageGrid((12, 12), (1.3, 1.0), (1.0, 0.0)), WOBBLING),
    "near vectors": (ImageGrid((12, 12), 1.3), NEAR),
    "parallel vectors": (ImageGrid((12, 11), 1.3), JITTERED),
    "curved": (ImageGrid((33, 40), 1.3), FanBeam(evenly_spaced(9, 0.7, 0.1), 49, 1.5, 60, 80, "curved")),
}


def gaussian(grid: ImageGrid, center: tuple[float, float], sigma: float) -> Tensor:
    x, y = np.meshgrid(grid.x_mm - center[0], grid.y_mm - center[1])
    return torch.from_numpy(np.exp(-(x**2 + y**2) / (2 * sigma**2)))


def gaussian_integrals(geometry: Geometry, center: tuple[float, float], sigma: float) -> Tensor:
    x, y, dx, dy = rays_of(geometry)
    distance = (x - center[0]) * dy - (y - center[1]) * dx
    return torch.from_numpy(np.exp(-(distance**2) / (2 * sigma**2)) * sigma * math.sqrt(2 * math.pi))


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", SCANS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernels_and_symmetry_agree_with_plain_torch(name: str, dtype: torch.dtype) -> None:
    grid, geometry = SCANS[name]
    projector, generator = Projector(grid, geometry), torch.Generator().manual_seed(1)
    bound = 1e-13 if dtype == torch.float64 else 3e-6
    for batch in (1, 2, 3, 8, 11):
        x = torch.randn(batch, *grid.shape, dtype=dtype, generator=generator)
        y = torch.randn(batch, *geometry.shape, dtype=dtype, generator=generator)
        assert relative(projector.project(x), project_reference(projector.table, x)) < bound
        assert relative(projector.backproject(y), backproject_reference(projector.table, y)) < bound


def test_rays_from_near_sources_are_found_in_blocks_of_any_height() -> None:
    from physics.ct.kernels.ray_lanes import ROWS, strips_of

    assert max(math.sqrt(2) * strips_of(count) * ROWS for count in LANES) <= CLEAR_PIXELS
    grid = ImageGrid((150, 160), 1.0)
    for distance in (grid.corner_radius_mm + 1, grid.corner_radius_mm + 1.01 * CLEAR_PIXELS):
        scan = FanBeam(evenly_spaced(9, 0.7, 0.1), 90, 4.0, distance, 2 * distance, offset_mm=3.0)
        projector = Projector(grid, scan)
        assert projector.table.ordered == (distance > 130)
        for batch in (1, 2):
            x, y = (torch.rand(batch, *shape, dtype=torch.float64) for shape in (grid.shape, scan.shape))
            assert relative(projector.project(x), project_reference(projector.table, x)) < 1e-13
            assert relative(projector.backproject(y), backproject_reference(projector.table, y)) < 1e-13


def test_symmetric_scans_use_their_symmetry() -> None:
    saved = {name: Projector(*SCANS[name]).symmetry for name in SCANS}
    moves = {name: 1 if symmetry is None else len(symmetry.moves) for name, symmetry in saved.items()}
    assert moves["midpoint"] == moves["flat"] == 8 and moves["not square"] == 4 and moves["no symmetry"] == 1
    lodo = Projector(lodopab().grid, lodopab().geometry).symmetry
    assert lodo is not None and lodo.table.base.size * 8 < 1.1 * 1000 * 513


def test_symmetries_serve_single_images_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are faster without them."""
    projector, used = Projector(*SCANS["midpoint"]), []
    for name in ("project", "backproject"):
        original = getattr(Symmetry, name)
        monkeypatch.setattr(Symmetry, name, lambda self, x, original=original: used.append(len(x)) or original(self, x))
    for batch in (1, 2, 4, 9):
        projector.backproject(projector.project(torch.rand(batch, 12, 12)))
    assert used == [1, 1]


@pytest.mark.parametrize("name", SCANS)
def test_adjoint_is_the_exact_transpose(name: str) -> None:
    grid, geometry = SCANS[name]
    A = RadonOperator(grid, geometry)
    pixels, rays = math.prod(grid.shape), math.prod(geometry.shape)
    # One image at a time: all take the same path through the kernels.
    columns = [A(e.reshape(1, *grid.shape)).flatten() for e in torch.eye(pixels, dtype=torch.float64)]
    rows = [A.adjoint(e.reshape(1, *geometry.shape)).flatten() for e in torch.eye(rays, dtype=torch.float64)]
    assert torch.equal(torch.stack(columns, 1), torch.stack(rows))


@pytest.mark.parametrize(("views", "rays"), [(400, 60), (2, 9000), (100, 60)])
def test_many_rays_of_one_shear_are_listed(views: int, rays: int) -> None:
    """More rays than the adjoint lists at a time, more elements than that, and long lists that fit."""
    from physics.ct.kernels.ray_kernels import LONG, RECORDS
    from physics.ct.kernels.ray_lanes import MARGIN

    grid = ImageGrid((20, 18), 1.0)
    projector = Projector(grid, ParallelBeam(tuple(np.linspace(0.001, 0.025, views)), rays, 24 / rays, 0.01))
    assert not projector.table.segments[0][:, 0].any() and projector.symmetry is None
    assert views == 100 or views * rays > 2 * RECORDS
    assert views * rays > 1.5 * LONG * (18 + 2 * MARGIN)
    generator = torch.Generator().manual_seed(0)
    for batch, dtype, bound in ((1, torch.float64, 1e-13), (8, torch.float32, 3e-6)):
        y = torch.randn(batch, views, rays, dtype=dtype, generator=generator)
        assert relative(projector.backproject(y), backproject_reference(projector.table, y)) < bound
    columns = torch.stack([projector.project(e.reshape(1, 20, 18))[0] for e in torch.eye(360, dtype=torch.float64)])
    for view, ray in ((0, rays // 2), (views // 2, rays // 2 + 1), (views - 1, rays // 3), (1, 7)):
        y = torch.zeros(1, views, rays, dtype=torch.float64)
        y[0, view, ray] = 1.0
        assert columns[:, view, ray].any() or ray == 7
        assert torch.equal(projector.backproject(y).flatten(), columns[:, view, ray])


@pytest.mark.parametrize("shape", [(64, 64), (65, 60)])
@pytest.mark.parametrize("pitch", [0.5, 1.0, 3.0])
def test_adjoint_on_white_noise_in_single_precision(shape: tuple[int, int], pitch: float) -> None:
    generator = torch.Generator().manual_seed(0)
    A = RadonOperator(ImageGrid(shape, 1.0), ParallelBeam(evenly_spaced(60, HALF_TURN / 60), round(96 / pitch), pitch))
    x = torch.randn(shape, generator=generator)
    y = torch.randn(A.range_shape, generator=generator)
    Ax, ATy = A(x), A.adjoint(y)
    error = abs(float((Ax.double() * y).sum() - (x.double() * ATy).sum()))
    assert error <= 1e-6 * float(Ax.norm() * y.norm())


@pytest.mark.parametrize("size", [256, 255])
@pytest.mark.parametrize("beam", ["parallel", "flat", "curved"])
def test_off_center_gaussians_against_their_analytic_transform(size: int, beam: str) -> None:
    grid = ImageGrid((size, size), 1.0)
    geometry: Geometry = ParallelBeam(evenly_spaced(180, HALF_TURN / 180), 363, 1.0)
    if beam != "parallel":
        geometry = FanBeam(evenly_spaced(180, TURN / 180), 363, 1.5, 500, 750, beam)  # type: ignore[arg-type]
    A = RadonOperator(grid, geometry)
    for center in ((40.0, -25.0), (-31.5, 40.25)):
        found = A(gaussian(grid, center, 16.0))
        assert relative(found, gaussian_integrals(geometry, center, 16.0)) <= 5e-4


def test_orientation_by_hand() -> None:
    image = torch.zeros(5, 5, dtype=torch.float64)
    image[0, 4] = 1.0  # top right: x = 2, y = 2
    A = RadonOperator(ImageGrid((5, 5), 1.0), ParallelBeam((0.0, math.pi / 4, math.pi / 2), 7, 1.0))
    sinogram = A(image)
    assert torch.equal(sinogram[0], torch.tensor([0, 0, 0, 0, 0, 1.0, 0], dtype=torch.float64))
    assert torch.allclose(sinogram[2], torch.tensor([0, 0, 0, 0, 0, 1.0, 0], dtype=torch.float64))
    assert sinogram[1].argmax() == 6  # 2 sqrt 2 = 2.83


def test_scaling_is_that_of_lengths() -> None:
    grid, geometry = ImageGrid((64, 64), 0.5), ParallelBeam(evenly_spaced(8, math.pi / 8), 99, 0.5)
    x, y = np.meshgrid(grid.refined(8).x_mm, grid.refined(8).y_mm)
    disc = torch.nn.functional.avg_pool2d(torch.from_numpy((np.hypot(x, y) <= 10.0).astype(float))[None], 8)[0]
    assert RadonOperator(grid, geometry)(disc)[:, 49].numpy() == pytest.approx(20.0, rel=0.01)
    blob = gaussian(grid, (2.0, -3.0), 2.0)
    mass = RadonOperator(grid, geometry)(blob).sum(-1) * 0.5
    assert mass.numpy() == pytest.approx(float(blob.sum()) * 0.25, rel=1e-4)
    twice = RadonOperator(ImageGrid((64, 64), 1.0), ParallelBeam(geometry.angles_rad, 99, 1.0))
    assert torch.allclose(twice(blob), 2 * RadonOperator(grid, geometry)(blob), rtol=1e-12)


def test_no_pixel_is_masked_and_no_ray_is_clipped() -> None:
    grid = ImageGrid((9, 9), 1.0)
    A = RadonOperator(grid, ParallelBeam(evenly_spaced(6, HALF_TURN / 6, 0.1), 15, 1.0))
    seen = A.adjoint(torch.ones(A.range_shape, dtype=torch.float64))
    assert float(seen.min()) > 3.0


def test_gradients_may_be_expanded_or_strided_and_the_operator_used_twice() -> None:
    grid, geometry = SCANS["flat"]
    A = RadonOperator(grid, geometry)
    x = torch.randn(2, *grid.shape, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(A(x).sum(), x)  # an expanded gradient, stride 0
    assert torch.allclose(gradient[0], A.adjoint(torch.ones(A.range_shape, dtype=torch.float64)))
    y = torch.randn(2, *geometry.shape[::-1], dtype=torch.float64).transpose(-2, -1)
    assert torch.equal(A.adjoint(y), A.adjoint(y.contiguous()))
    loss = (A(A.adjoint(A(x))) ** 2).sum()
    (gradient,) = torch.autograd.grad(loss, x)
    expected = 2 * A.adjoint(A(A.adjoint(A(A.adjoint(A(x.detach()))))))
    assert torch.allclose(gradient, expected)
    z = x.detach()[:1].clone().requires_grad_()
    assert torch.autograd.gradcheck(A, z, fast_mode=True) and torch.autograd.gradgradcheck(A, z, fast_mode=True)


def test_weights_enter_both_directions_and_carry_gradients() -> None:
    grid, geometry = SCANS["midpoint"]
    weights = torch.rand(3, *geometry.shape, dtype=torch.float64, requires_grad=True)
    A, plain = RadonOperator(grid, geometry, weights), RadonOperator(grid, geometry)
    x = torch.randn(3, *grid.shape, dtype=torch.float64)
    assert torch.allclose(A(x), weights * plain(x))
    check_operator(RadonOperator(grid, geometry, weights.detach()))
    (gradient,) = torch.autograd.grad(A(x).sum(), weights)
    assert torch.allclose(gradient, plain(x))


@pytest.mark.parametrize("name", SCANS)
def test_norm_is_a_tight_bound(name: str) -> None:
    grid, geometry = SCANS[name]
    A = RadonOperator(grid, geometry)
    dense = torch.stack([A(e.reshape(grid.shape)).flatten() for e in torch.eye(math.prod(grid.shape)).double()], 1)
    largest = float(torch.linalg.matrix_norm(dense, 2))
    assert largest <= float(A.norm) <= 1.05 * largest
    weights = torch.rand(geometry.shape, dtype=torch.float64)
    weighted = float(torch.linalg.matrix_norm(weights.flatten()[:, None] * dense, 2))
    assert weighted <= float(RadonOperator(grid, geometry, weights).norm) <= 1.2 * weighted


def test_normalized_adjoint_contracts() -> None:
    grid, geometry = SCANS["curved"]
    A = RadonOperator(grid, geometry)
    x = torch.randn(grid.shape, dtype=torch.float64)
    for _ in range(60):
        x = A.normalized_adjoint(A(x))
        size = float(x.norm())
        x = x / size
    assert 0.9 < size <= 1 + 1e-9


def test_restrict_drops_rays_and_keeps_the_shape() -> None:
    grid, geometry = SCANS["flat"]
    keep = torch.zeros(geometry.shape[0], 1, dtype=torch.bool)
    keep[::2] = True
    A = RadonOperator(grid, geometry)
    kept = A.restrict(keep)
    x = torch.randn(grid.shape)
    assert torch.equal(kept(x), A(x) * keep)
    assert kept.restrict(~keep)(x).abs().max() == 0
    # The start leaves views without weight out, as a scan with fewer views does.
    fewer = RadonOperator(grid, geometry.subset(slice(None, None, 2)))
    assert torch.allclose(kept.start(kept(x)), fewer.start(fewer(x)), atol=1e-6)


def test_collate_shares_one_scan_and_stacks_weights() -> None:
    grid, geometry = SCANS["flat"]
    plain = RadonOperator(grid, geometry)
    assert RadonOperator.collate([plain, RadonOperator(grid, geometry)]) is plain
    weights = [torch.rand(geometry.shape) for _ in range(2)]
    joined = RadonOperator.collate([RadonOperator(grid, geometry, w) for w in weights])
    x = torch.randn(2, *grid.shape)
    assert torch.allclose(joined(x), torch.stack(weights) * plain(x))
    with pytest.raises(ValueError, match="batch by scan"):
        RadonOperator.collate([plain, RadonOperator(grid, geometry.subset([0, 1]))])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda A: A(torch.zeros(9, 12)), "exchange its last two axes"),
        (lambda A: A(torch.zeros(4, 4)), r"expected \(12, 9\)"),
        (lambda A: A.adjoint(torch.zeros(19, 8)), r"\(views, detectors\); exchange"),
        (lambda A: A(torch.zeros(12, 9, dtype=torch.complex64)), "expected float32 or float64"),
        (lambda A: RadonOperator(A.grid, A.geometry, -torch.ones(8, 19)), "NaN or negative"),
        (lambda A: RadonOperator(A.grid, A.geometry, torch.full((8, 19), math.nan)), "NaN or negative"),
        (lambda A: RadonOperator(ImageGrid((99, 99), 1.0), A.geometry), "less than half"),
        (
            lambda A: RadonOperator(ImageGrid((9, 9), 10.0), FanBeam((0.0,), 99, 9.0, 40.0, 80.0)),
            "expected outside the image",
        ),
    ],
)
def test_what_does_not_fit_is_said(call: object, words: str) -> None:
    grid, geometry = SCANS["not square"]
    with pytest.raises((ValueError, TypeError), match=words):
        call(RadonOperator(grid, geometry))  # type: ignore[operator]


def test_uncovered_corners_are_logged_not_refused(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "physics.ct.radon"):
        RadonOperator(ImageGrid((20, 20), 1.0), ParallelBeam((0.0,), 16, 1.0))
    assert "do not cover the corners" in caplog.text


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("kind", ["parallel", "flat", "curved"])
def test_displaced_detectors_are_served_over_a_full_turn(kind: str, side: int) -> None:
    def scan(degrees: float, offset: float) -> Geometry:
        angles = evenly_spaced(360, math.radians(degrees) / 360)
        if kind == "parallel":
            return ParallelBeam(angles, 180, 0.5, side * offset)
        return FanBeam(angles, 180, 0.75, 200, 300, kind, side * 1.5 * offset)  # type: ignore[arg-type]

    grid, center, sigma = ImageGrid((128, 128), 1.0), (21.0, -8.0), 10.0
    geometry = scan(360, 35.0)  # the short side reaches 10 of 64 mm
    A, x, exact = (
        RadonOperator(grid, geometry),
        gaussian(grid, center, sigma),
        gaussian_integrals(geometry, center, sigma),
    )
    assert relative(A(x), exact) < 1e-3
    y = torch.randn(geometry.shape, dtype=torch.float64)
    assert float((A(x) * y).sum()) == pytest.approx(float((x * A.adjoint(y)).sum()), rel=1e-12)
    seen = A.restrict(torch.rand(360, 1) > 0.2)
    assert relative(seen.start(seen.weighted(exact)), x) < 0.1
    with pytest.raises(ValueError, match="of a displaced detector over a part of a turn has a radius of"):
        RadonOperator(grid, scan(200, 35.0))
    with pytest.raises(ValueError, match=r"no ray passes within 1[45]"):
        RadonOperator(grid, scan(360, 60.0))


def test_threads_follow_torch_and_do_not_change_the_result() -> None:
    A = RadonOperator(ImageGrid((64, 64), 1.0), ParallelBeam(evenly_spaced(50, 0.05), 91, 1.0))
    x, y = torch.randn(8, 64, 64), torch.randn(8, 50, 91)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append((A(x), A.adjoint(y)))
    finally:
        torch.set_num_threads(before)
    for one, many in itertools.pairwise(results):
        assert torch.equal(one[0], many[0]) and torch.equal(one[1], many[1])


def _project_in_child(queue: object, image: Tensor) -> None:
    A = RadonOperator(*SCANS["midpoint"])
    queue.put(float(A(image).sum()))  # type: ignore[attr-defined]


def test_works_in_a_forked_process() -> None:
    """As in a worker of a DataLoader: the parent's threads do not exist there."""
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this platform cannot fork")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        A = RadonOperator(*SCANS["midpoint"])
        image = torch.randn(8, 12, 12)
        expected = float(A(image).sum())
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking a process with threads is what is tested
            child = context.Process(target=_project_in_child, args=(queue, image))
            child.start()
        assert queue.get(timeout=60) == pytest.approx(expected)
        child.join()
    finally:
        torch.set_num_threads(before)


def test_agrees_with_astra_element_by_element() -> None:
    """Its CPU projector `linear` is the same model; smooth objects inside, because the two end images differently."""
    astra = pytest.importorskip("astra")
    grid, geometry = ImageGrid((96, 90), 1.1), ParallelBeam(evenly_spaced(40, HALF_TURN / 40, 0.01), 141, 1.0)
    image = sum(gaussian(grid, c, s) for c, s in (((10, -20), 5.0), ((-22, 14), 4.0), ((5, 9), 9.0)))
    assert isinstance(image, Tensor)
    h, w = grid.shape
    half = [size * grid.spacing_mm[0] / 2 for size in (w, h)]
    volume = astra.create_vol_geom(h, w, -half[0], half[0], -half[1], half[1])
    scan = astra.create_proj_geom("parallel", geometry.pitch_mm, geometry.detectors, geometry.angles)
    projector = astra.create_projector("linear", scan, volume)
    number, theirs = astra.create_sino(image.float().numpy(), projector)
    astra.data2d.delete(number)
    astra.projector.delete(projector)
    found = RadonOperator(grid, geometry)(image)
    assert relative(found, torch.from_numpy(theirs).double()) <= 1e-4


@pytest.mark.cuda
def test_a_gpu_gives_what_the_cpu_gives() -> None:
    for grid, geometry in SCANS.values():
        A = RadonOperator(grid, geometry)
        x, y = torch.randn(2, *grid.shape), torch.randn(2, *geometry.shape)
        assert relative(A(x.cuda()).cpu(), A(x)) < 1e-5
        assert relative(A.adjoint(y.cuda()).cpu(), A.adjoint(y)) < 1e-5
        assert relative(A.start(y.cuda()).cpu(), A.start(y)) < 1e-4


def angle_set(rng: np.random.Generator) -> list[float]:
    """Angles in radians as scanners and users give them: repeats, both ends, several turns, any order and sense."""
    count = int(rng.integers(1, 13))
    kind = rng.integers(5)
    if kind == 0:
        angles = np.linspace(0, np.pi * rng.integers(1, 5), count)
    elif kind == 1:
        angles = np.arange(count) * 2 * np.pi / rng.choice([4, 6, 8])
    elif kind == 2:
        angles = np.repeat(rng.uniform(0, 7, (count + 1) // 2), 2)[:count]
    elif kind == 3:
        angles = rng.choice(np.arange(8) * np.pi / 4, count) + 2 * np.pi * rng.integers(-1, 2, count)
    else:
        angles = rng.uniform(-4, 9, count)
    angles = angles * rng.choice([-1, 1]) + rng.choice([0, rng.uniform(0, 1)])
    return rng.permutation(angles).tolist() if rng.integers(2) else angles.tolist()


@pytest.mark.parametrize("seed", range(40))
def test_every_row_is_that_of_its_view_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    angles, offset = tuple(angle_set(rng)), float(rng.choice([0, 0, 0.5, -1.25]))
    elements = int(rng.integers(15, 24))

    def scan(some: tuple[float, ...]) -> ParallelBeam | FanBeam:
        if seed % 2:
            return FanBeam(some, elements, 1.5, 40.0, 70.0, offset_mm=offset)
        return ParallelBeam(some, elements, 1.0, offset_mm=offset)

    grid = ImageGrid((12, 12 if seed % 3 else 9), 1.0)
    images = torch.rand(int(rng.choice([1, 2, 3, 17])), *grid.shape, dtype=torch.float64)
    A = RadonOperator(grid, scan(angles))
    rows = A(images)
    for number, angle in enumerate(angles):
        alone = RadonOperator(grid, scan((angle,)))(images)[:, 0]
        torch.testing.assert_close(rows[:, number], alone, rtol=1e-9, atol=1e-9)
    y = torch.rand(rows.shape, dtype=torch.float64)
    torch.testing.assert_close((rows * y).sum(), (images * A.adjoint(y)).sum())
