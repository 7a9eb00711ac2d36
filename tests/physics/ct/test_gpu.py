"""The GPU's projector: against the CPU's kernels, a dense matrix, plain torch; compiled for GPUs that are not here.

Without a GPU, the kernels run in Triton's interpreter, on tensors of the CPU; see `conftest.py`.
"""

import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from physics import (
    FanBeam,
    FanVectors,
    Geometry,
    ImageGrid,
    ParallelBeam,
    ParallelVectors,
    RadonOperator,
    evenly_spaced,
    moved_fan,
)
from physics.ct import gpu
from physics.ct.gpu import GpuRays
from physics.ct.projector import Projector

# Older interpreters need a numpy that turns arrays of one element into numbers; older compilers are fine.
NEEDED = None if torch.cuda.is_available() else "3.8"
triton = pytest.importorskip("triton", NEEDED, reason=f"needs triton {NEEDED or ''}: PyTorch for GPUs has it")

# The interpreter is numpy, which warns of the places of pixels behind the source; the kernels do not use these.
pytestmark = pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")

DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
WAVE = [[2 * math.sin(n), 2 * math.cos(2 * n)] for n in range(8)]
BEAM = FanBeam(evenly_spaced(8, math.pi / 4, 0.1), 19, 1.5, 50, 80)
ARC = FanBeam(evenly_spaced(8, 0.7, 0.1), 19, 4.0, 14, 80, "curved", 0.3)
HALF_ARC = FanBeam(evenly_spaced(8, 0.7, 0.1), 12, 1.5, 60, 80, "curved", 6.0)
WOBBLE = ParallelVectors((0.3, 2.9, 1.1, 0.31), 19, 1.0, (0.2, 2.95, 1.0, 0.3), ((0.5, 1.0),) * 4, 0.25)
SCANS: dict[str, tuple[ImageGrid, Geometry]] = {
    "parallel": (ImageGrid((12, 12), 1.3), ParallelBeam(evenly_spaced(8, math.pi / 8, math.pi / 16), 19, 1.0)),
    "along the axes": (ImageGrid((12, 9), 1.3), ParallelBeam(evenly_spaced(4, math.pi / 2), 18, 1.0)),
    "at 45 degrees": (ImageGrid((11, 12), 1.0), ParallelBeam(evenly_spaced(4, math.pi / 2, math.pi / 4), 19, 1.0)),
    "offset": (ImageGrid((11, 12), 1.3), ParallelBeam((0.3, 2.9, 1.1, 0.31), 19, 1.0, 0.25)),
    "coarse pitch": (ImageGrid((12, 12), 1.0), ParallelBeam(evenly_spaced(5, 0.6), 7, 3.0)),
    "fine pitch": (ImageGrid((6, 7), 2.0), ParallelBeam(evenly_spaced(5, 0.6), 70, 0.3)),
    "rays that miss": (ImageGrid((7, 6), 1.0), ParallelBeam(evenly_spaced(5, 0.6), 200, 1.0)),
    "displaced": (ImageGrid((12, 11), 1.3), ParallelBeam(evenly_spaced(9, math.tau / 9), 12, 1.0, -5.0)),
    "flat pixels": (ImageGrid((12, 9), (0.9, 2.1)), ParallelBeam(evenly_spaced(8, math.pi / 8), 19, 1.0)),
    "off the axis": (ImageGrid((12, 12), 0.8, (2.0, -1.5)), ParallelBeam(evenly_spaced(8, math.pi / 8), 19, 1.0)),
    "parallel vectors": (ImageGrid((12, 11), 1.3), WOBBLE),
    "flat": (ImageGrid((12, 12), 1.3), BEAM),
    "half fan": (ImageGrid((12, 12), 1.3), FanBeam(evenly_spaced(12, 0.5), 14, 1.5, 50, 80, offset_mm=9.0)),
    "tall pixels off the axis": (ImageGrid((12, 12), (1.7, 1.1), (1.0, -2.0)), BEAM),
    "flat vectors": (ImageGrid((12, 12), (1.3, 1.0)), moved_fan(BEAM, source_mm=WAVE, detector_mm=WAVE, tilt_rad=0.1)),
    "curved": (ImageGrid((13, 14), 1.3), HALF_ARC),
    "near source": (
        ImageGrid((12, 12), 1.3),
        FanBeam(evenly_spaced(8, 0.7, math.pi / 4), 19, 4.0, 11.1, 80, "curved", 0.3),
    ),
    "near flat source": (ImageGrid((12, 12), 1.3), FanBeam(evenly_spaced(8, 0.7, math.pi / 4), 19, 4.0, 11.1, 80)),
    "curved vectors": (ImageGrid((12, 12), 1.3), moved_fan(ARC, source_mm=[[x / 2, y / 2] for x, y in WAVE])),
    "far off the focus": (ImageGrid((12, 12), 1.3), moved_fan(ARC, source_mm=(0.0, 6.0), detector_mm=(0.0, 90.0))),
    # Some rays of wide fans run at the side of the image nearest to the source, others meet their arc twice.
    "beside a wide image": (ImageGrid((3, 20), 1.0), FanBeam((math.pi / 2, 0.4), 29, 3.0, 10.2, 11.0)),
    "beside it, curved": (ImageGrid((3, 20), 1.0), FanBeam((math.pi / 2, 0.4), 29, 1.1, 10.2, 11.0, "curved")),
    "beside the focus": (
        ImageGrid((3, 4), 1.0),
        FanVectors((0.0,), 30, 1.0, ((-9.0, -7.0),), ((21.0, 13.0),), 20.0, -16.0),
    ),
}


#: Scans of the quick tests, with their batches: every kind of detector, with and without vectors, and sources in every
#: place. Five images are two launches in depth.
QUICK = {
    "parallel": 3,
    "flat pixels": 2,
    "displaced": 1,
    "parallel vectors": 1,
    "flat": 5,
    "near flat source": 1,
    "flat vectors": 1,
    "curved": 2,
    "curved vectors": 1,
    "beside it, curved": 3,
    "beside the focus": 1,
}


def few_views(geometry: Geometry) -> Geometry:
    """Two views: the interpreter takes a fifth of a millisecond per operation."""
    return geometry.subset(sorted({0, geometry.shape[0] // 3}))


@pytest.fixture
def one_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image is one tile, where the interpreter runs one tile after the other."""
    if DEVICE.type == "cpu":
        monkeypatch.setattr(gpu, "_ROWS", 16)


def both(grid: ImageGrid, geometry: Geometry) -> tuple[Projector, GpuRays]:
    projector = Projector(grid, geometry)
    return projector, GpuRays.of(grid, geometry, projector.table, DEVICE)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.cpu() - expected).norm() / expected.norm())


def assert_like_the_cpu(grid: ImageGrid, geometry: Geometry, batch: int) -> None:
    """Both directions equal the CPU's, and they are transposes."""
    projector, rays = both(grid, geometry)
    generator = torch.Generator().manual_seed(batch)
    x = torch.randn(batch, *grid.shape, generator=generator)
    y = torch.randn(batch, *geometry.shape, generator=generator)
    Ax, ATy = rays.project(x.to(DEVICE)), rays.backproject(y.to(DEVICE))
    assert Ax.shape == y.shape and ATy.shape == x.shape and Ax.is_contiguous() and ATy.is_contiguous()
    assert relative(Ax, projector.project(x)) < 1e-5 and relative(ATy, projector.backproject(y)) < 1e-5
    products = float((Ax.cpu().double() * y).sum()), float((x.double() * ATy.cpu()).sum())
    assert abs(products[0] - products[1]) < 1e-6 * float(Ax.norm() * y.norm())


@pytest.mark.usefixtures("one_tile")
@pytest.mark.parametrize("name", QUICK)
def test_forward_and_adjoint_are_those_of_the_cpu(name: str) -> None:
    grid, geometry = SCANS[name]
    assert_like_the_cpu(grid, few_views(geometry), batch=QUICK[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SCANS)
def test_forward_and_adjoint_are_those_of_the_cpu_for_all_views(name: str) -> None:
    assert_like_the_cpu(*SCANS[name], batch=(3, 8, 1)[list(SCANS).index(name) % 3])


def test_programs_of_several_blocks_of_rays_and_tiles_of_pixels() -> None:
    scan = FanBeam((0.4, 3.0), 150, 0.6, 60.0, 80.0)
    assert scan.detectors > gpu._RAYS
    assert_like_the_cpu(ImageGrid((gpu._ROWS + 3, 2 * gpu._COLUMNS + 1), 1.3), scan, 1)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("at 45 degrees", torch.float32),
        ("flat vectors", torch.float64),
        ("near source", torch.float32),
        ("curved vectors", torch.float64),
        pytest.param("at 45 degrees", torch.float64, marks=pytest.mark.slow),
        pytest.param("flat vectors", torch.float32, marks=pytest.mark.slow),
        pytest.param("near source", torch.float64, marks=pytest.mark.slow),
        pytest.param("curved vectors", torch.float32, marks=pytest.mark.slow),
    ],
)
def test_adjoint_is_the_exact_transpose(name: str, dtype: torch.dtype) -> None:
    """Every element of both matrices, bit for bit."""
    _, geometry = SCANS[name]
    grid = ImageGrid((4, 5), 2.0)
    scan = geometry.subset([0])
    projector, rays = both(grid, scan)
    columns = rays.project(torch.eye(20, dtype=dtype, device=DEVICE).reshape(20, *grid.shape)).flatten(1)
    elements = math.prod(scan.shape)
    rows = rays.backproject(torch.eye(elements, dtype=dtype, device=DEVICE).reshape(elements, *scan.shape)).flatten(1)
    assert torch.equal(columns.T, rows)
    expected = projector.project(torch.eye(20, dtype=torch.float64).reshape(20, *grid.shape)).flatten(1)
    assert relative(columns.double(), expected) < (1e-9 if dtype == torch.float64 else 1e-6)


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Calls of the kernels, which project on `DEVICE`, also if it is the CPU."""
    calls: list[str] = []
    for name in ("project", "backproject"):
        inner = getattr(GpuRays, name)
        monkeypatch.setattr(GpuRays, name, lambda rays, x, inner=inner, name=name: calls.append(name) or inner(rays, x))
    monkeypatch.setattr("physics.ct.projector.runs_kernels", lambda device: device == DEVICE)
    return calls


def test_derivatives_of_the_operator_run_in_the_kernels(kernel_calls: list[str]) -> None:
    """Autograd and `torch.func`, as on the CPU."""
    A = RadonOperator(ImageGrid((5, 4), 1.2), ParallelBeam((0.6,), 9, 1.0))
    x = torch.randn(1, 5, 4, dtype=torch.float64, device=DEVICE, requires_grad=True)
    y = torch.randn(1, 1, 9, dtype=torch.float64, device=DEVICE)
    loss = (A(x) ** 2 * y).sum()
    (gradient,) = torch.autograd.grad(loss, x)
    assert kernel_calls == ["project", "backproject"]
    torch.testing.assert_close(gradient, A.adjoint(2 * A(x.detach()) * y))
    torch.testing.assert_close(torch.func.grad(lambda image: (A(image) ** 2 * y).sum())(x.detach()), gradient)


@pytest.mark.slow
def test_graphs_of_torch_compile_run_in_the_kernels(kernel_calls: list[str]) -> None:
    A = RadonOperator(ImageGrid((5, 4), 1.2), ParallelBeam((0.6,), 9, 1.0))
    x = torch.randn(1, 5, 4, dtype=torch.float64, device=DEVICE, requires_grad=True)
    graph = torch.compile(lambda image: (A(image) ** 3).sum(), backend="aot_eager", fullgraph=True)
    (compiled,) = torch.autograd.grad(graph(x), x)
    assert kernel_calls == ["project", "backproject"]
    torch.testing.assert_close(compiled, A.adjoint(3 * A(x.detach()) ** 2))


def test_kernels_agree_with_plain_torch_where_they_run(caplog: pytest.LogCaptureFixture) -> None:
    gpu.trouble_on.cache_clear()
    with caplog.at_level(logging.WARNING, "physics.ct.gpu"):
        assert gpu.trouble_on(DEVICE) == "" and caplog.text == ""


@pytest.mark.parametrize("fault", ["absent", "broken", "wrong"])
def test_without_kernels_plain_torch_is_used_and_the_log_says_why(
    fault: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(rays: GpuRays, images: Tensor) -> Tensor:
        raise RuntimeError("Failed to find C compiler\nset CC")

    wrong = torch.full((2, 5, 19), math.nan, device=DEVICE)
    if fault == "absent":
        monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    else:
        monkeypatch.setattr(GpuRays, "project", broken if fault == "broken" else lambda rays, images: wrong)
    words = {"absent": "triton is not installed", "broken": "Failed to find C compiler", "wrong": "off by nan"}[fault]
    gpu.trouble_on.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, "physics.ct.gpu"):
            assert words in gpu.trouble_on(DEVICE)
            assert words in gpu.trouble_on(DEVICE)
    finally:
        gpu.trouble_on.cache_clear()
    assert len(caplog.records) == 1 and "run in plain torch" in caplog.text and words in caplog.text


def test_the_cpu_keeps_its_own_kernels() -> None:
    assert not gpu.runs_kernels(torch.device("cpu"))


def test_scans_beyond_the_indices_of_the_kernels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_MOST_VALUES", 1000)
    with pytest.raises(ValueError, match=r"image of \(12, 12\) and a sinogram of \(8, 19\) have 1152 values"):
        both(*SCANS["parallel"])


class _Peak(TorchDispatchMode):
    """Most bytes of the tensors that are made in the context and alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.made: WeakValueDictionary[int, torch.UntypedStorage] = WeakValueDictionary()
        self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        given = {tensor.untyped_storage().data_ptr() for tensor in args if isinstance(tensor, Tensor)}
        for tensor in [out] if isinstance(out, Tensor) else []:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in given:
                self.made[storage.data_ptr()] = storage
        self.most = max(self.most, sum(storage.nbytes() for storage in self.made.values()))
        return out


class _Nothing:
    """A kernel that does nothing."""

    def __getitem__(self, programs: object) -> Any:
        return lambda *arguments, **constants: None


@pytest.mark.parametrize("batch", [1, 3])
def test_memory_is_known_before(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from physics.ct.kernels import gpu_kernels

    for name in ("project", "backproject"):
        monkeypatch.setattr(gpu_kernels, name, _Nothing())
    grid, scan = ImageGrid((32, 32), 1.0), ParallelBeam(evenly_spaced(90, 0.03), 61, 1.0)
    _, rays = both(grid, scan)
    tables = sum(tensor.nbytes for tensor in vars(rays).values() if isinstance(tensor, Tensor))
    x, y = (torch.rand(batch, *shape, device=DEVICE) for shape in (grid.shape, scan.shape))
    needed = gpu.gpu_memory(grid, scan, batch)
    for run, argument in ((rays.project, x), (rays.backproject, y)):
        with _Peak() as peak:
            run(argument)
        assert 0.7 * needed < tables + peak.most <= needed


_COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from physics.ct import gpu
from physics.ct.kernels import gpu_kernels

target = GPUTarget(TARGET)
rays = {"bases": "*i64", "slopes": "*i64", "by_rows": "*i8", "rays": "i32", "height": "i32", "width": "i32"}
for kind, number in KINDS:
    project = {"images": number, "lengths": number, "spans": "*i32", "sinogram": number}
    backproject = {"sinogram": number, "beams": "*fp32", "image": number, "views": "i32", "margin": "fp32"}
    tile = {"KIND": kind, "ROWS": gpu._ROWS, "COLUMNS": gpu._COLUMNS, "LANES": 4}
    for kernel, types, constants in (
        (gpu_kernels.project, rays | project, {"RAYS": gpu._RAYS, "LANES": 4}),
        (gpu_kernels.backproject, rays | backproject, tile),
    ):
        given = types | dict.fromkeys(constants, "constexpr")
        signature = {name: given[name] for name in kernel.arg_names}
        binary = triton.compile(ASTSource(kernel, signature, constants), target=target)
        print(*{"cubin", "hsaco"} & binary.asm.keys())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "kinds", "code"),
    [
        ('"cuda", 90, 32', [(2, "*fp64")], "cubin"),
        ('"cuda", 75, 32', [(0, "*fp32"), (1, "*fp64"), (2, "*fp32")], "cubin"),
        ('"hip", "gfx90a", 64', [(0, "*fp32"), (1, "*fp64"), (2, "*fp32")], "hsaco"),
    ],
)
def test_kernels_compile_for_gpus_that_are_not_here(
    target: str, kinds: list[tuple[int, str]], code: str, tmp_path: Path
) -> None:
    """In a process of its own, without the interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3])}
    script = _COMPILE.replace("TARGET", target).replace("KINDS", repr(kinds))
    command = (sys.executable, "-c", script)
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == [code] * 2 * len(kinds)


@pytest.mark.cuda
def test_a_gpu_runs_the_kernels_and_repeats_itself_bit_for_bit() -> None:
    assert gpu.runs_kernels(DEVICE)
    grid = ImageGrid((362, 362), 0.72)
    scan = FanBeam(evenly_spaced(500, math.tau / 500), 513, 1.0, 500.0, 800.0)
    A = RadonOperator(grid, scan)
    x, y = torch.rand(3, *grid.shape), torch.rand(3, *scan.shape)
    there = A.to(DEVICE)
    Ax, ATy = there(x.to(DEVICE)), there.adjoint(y.to(DEVICE))
    assert torch.equal(Ax, there(x.to(DEVICE))) and torch.equal(ATy, there.adjoint(y.to(DEVICE)))
    assert relative(Ax, A(x)) < 1e-5 and relative(ATy, A.adjoint(y)) < 1e-5
    assert float((Ax.cpu().double() * y).sum()) == pytest.approx(float((x.double() * ATy.cpu()).sum()), rel=1e-6)
