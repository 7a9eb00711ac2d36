"""Speed, memory and accuracy of RadonOperator against ASTRA's CPU projectors (pip install astra-toolbox).

    OMP_NUM_THREADS=2 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 python benchmarks/radon.py

Ratios are medians of five pairs of runs, ASTRA's time per image divided by ours; ASTRA has no batches. Memory and the
time of the first call are measured in separate processes.
"""

import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import astra
import numpy as np
import torch
from torch import Tensor

from physics import (
    FanBeam,
    Geometry,
    ImageGrid,
    ParallelBeam,
    RadonOperator,
    evenly_spaced,
    filtered_backprojection,
    lodopab,
    shepp_logan,
)
from physics.ct.geometry import rays_of

PAIRS = 5
LODOPAB = lodopab()
ANY_ANGLES = ParallelBeam(
    tuple(np.random.default_rng(0).uniform(0, math.pi, 1000)), 513, LODOPAB.geometry.pitch_mm, 0.1
)
FAN = FanBeam(evenly_spaced(720, 2 * math.pi / 720), 736, 1.6, 600.0, 1000.0)


def main() -> None:
    torch.set_num_threads(2)
    with torch.no_grad():
        print(f"{'':52s} {'found':>9s} {'bar':>9s}")
        speed("LoDoPaB, batch 8", LODOPAB.grid, LODOPAB.geometry, 8, "linear", 25, 16)
        speed("LoDoPaB size, any angles, batch 1", LODOPAB.grid, ANY_ANGLES, 1, "linear", 20, 12)
        speed("LoDoPaB, symmetric, batch 1", LODOPAB.grid, LODOPAB.geometry, 1, "linear", 12, 8)
        speed("fan 512x512, 720x736, batch 8", ImageGrid((512, 512), 1.0), FAN, 8, "line_fanflat", 20, 12)
        memory()
        first_calls()
        accuracy()
        reconstruction()


def row(name: str, found: float, bar: float, *, at_least: bool = False, form: str = ".1f") -> None:
    verdict = "ok" if (found >= bar if at_least else found <= bar) else "MISSED"
    print(f"{name:52s} {found:9{form}} {'>=' if at_least else '<='} {bar:6g} {verdict}", flush=True)


class Peer:
    """ASTRA's CPU projector of a scan."""

    def __init__(self, grid: ImageGrid, geometry: Geometry, kind: str) -> None:
        (h, w), mm = grid.shape, grid.pixel_mm
        volume = astra.create_vol_geom(h, w, -w * mm / 2, w * mm / 2, -h * mm / 2, h * mm / 2)
        if isinstance(geometry, ParallelBeam):
            # Without offset: ASTRA's simple geometries have none, and it does not matter for speed.
            scan = astra.create_proj_geom("parallel", geometry.pitch_mm, geometry.detectors, geometry.angles)
        else:
            R, D = geometry.source_to_axis_mm, geometry.source_to_detector_mm
            scan = astra.create_proj_geom("fanflat", geometry.pitch_mm, geometry.detectors, geometry.angles, R, D - R)
        projector = astra.create_projector(kind, scan, volume)
        self.volume, self.sinogram = astra.data2d.create("-vol", volume), astra.data2d.create("-sino", scan)
        self.runs = {}
        for name, image in (("FP", "VolumeDataId"), ("BP", "ReconstructionDataId")):
            settings = astra.astra_dict(name)
            settings |= {"ProjectorId": projector, image: self.volume, "ProjectionDataId": self.sinogram}
            self.runs[name] = astra.algorithm.create(settings)

    def forward(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        astra.data2d.store(self.volume, image)
        astra.algorithm.run(self.runs["FP"])
        sinogram: np.ndarray[Any, Any] = astra.data2d.get(self.sinogram)
        return sinogram

    def adjoint(self, sinogram: np.ndarray[Any, Any]) -> None:
        astra.data2d.store(self.sinogram, sinogram)
        astra.algorithm.run(self.runs["BP"])
        astra.data2d.get(self.volume)


def speed(
    name: str, grid: ImageGrid, geometry: Geometry, batch: int, kind: str, forward: float, adjoint: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    A, peer = RadonOperator(grid, geometry), Peer(grid, geometry, kind)
    x = torch.randn(batch, *grid.shape, generator=generator)
    y = torch.randn(batch, *geometry.shape, generator=generator)
    pairs: tuple[tuple[str, Callable[[], object], Callable[[], object], float], ...] = (
        ("forward", lambda: A(x), lambda: peer.forward(x[0].numpy()), forward),
        ("adjoint", lambda: A.adjoint(y), lambda: peer.adjoint(y[0].numpy()), adjoint),
    )
    for direction, mine, theirs, bar in pairs:
        mine()
        ratios, seconds = [], []
        for _ in range(PAIRS):
            seconds.append(_time(mine) / batch)
            ratios.append(_time(theirs) / seconds[-1])
        found = statistics.median(ratios)
        row(f"{name}: {direction} ({1e3 * statistics.median(seconds):.0f} ms)", found, bar, at_least=True)


def _time(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


_MEMORY = """
import torch
from physics import RadonOperator, lodopab
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
torch.set_num_threads(2)
p = lodopab()
A = RadonOperator(p.grid, p.geometry)
small = RadonOperator(p.grid, p.geometry.subset([0, 1]))
small.adjoint(small(torch.ones(8, *p.grid.shape)))
x, y = torch.ones(8, *p.grid.shape), torch.ones(8, *p.geometry.shape)
before = peak()
with torch.no_grad():
    y2 = A(x)
    x2 = A.adjoint(y)
print(peak() - before - (y2.numel() + x2.numel()) * 4 / 2**20)
"""


def memory() -> None:
    if not os.path.exists("/proc/self/status"):
        print("peak memory: only measured on Linux")
        return
    found = subprocess.run([sys.executable, "-c", _MEMORY], capture_output=True, text=True, check=True).stdout
    row("peak memory over the data, LoDoPaB batch 8, MiB", float(found), 250, form=".0f")


_FIRST = """
import time, torch
from physics import ImageGrid, ParallelBeam, RadonOperator, filtered_backprojection
A = RadonOperator(ImageGrid((64, 64), 1.0), ParallelBeam((0.0, 0.5), 96, 1.0))
begin = time.perf_counter()
y = A(torch.ones(1, 64, 64)); A.adjoint(y)
print(time.perf_counter() - begin)
"""


def first_calls() -> None:
    """Time of the first forward and adjoint together, batch 1, including the import of numba."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "XDG_CACHE_HOME": folder}
        for name, bar in (("first call, cold cache, s", 20.0), ("first call of a later process, s", 1.0)):
            command = [sys.executable, "-c", _FIRST]
            out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
            row(name, float(out), bar, form=".2f")


def accuracy() -> None:
    grid = ImageGrid((256, 256), 1.0)
    geometry = ParallelBeam(evenly_spaced(180, math.pi / 180), 363, 1.0)
    blobs = (((40.0, -25.0), 16.0), ((-31.5, 40.25), 16.0), ((5.0, 9.0), 20.0))
    image = _sum([_gaussian(grid, *blob) for blob in blobs])
    mine = RadonOperator(grid, geometry)(image)
    theirs = torch.from_numpy(Peer(grid, geometry, "linear").forward(image.float().numpy())).double()
    row("parallel: relative difference from ASTRA `linear`", _relative(mine, theirs), 1e-4, form=".1e")
    exact = _sum([_gaussian_integrals(geometry, *blob) for blob in blobs])
    row("parallel: error against analytic Gaussians", _relative(mine, exact), 5e-4, form=".1e")
    fan = FanBeam(evenly_spaced(180, 2 * math.pi / 180), 363, 1.5, 500.0, 750.0)
    exact = _sum([_gaussian_integrals(fan, *blob) for blob in blobs])
    theirs = torch.from_numpy(Peer(grid, fan, "line_fanflat").forward(image.float().numpy())).double()
    error = _relative(RadonOperator(grid, fan)(image), exact)
    row("fan: error against analytic Gaussians, bar ASTRA's", error, _relative(theirs, exact), form=".1e")
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for scan in (geometry, fan, ANY_ANGLES):
        A = RadonOperator(grid, scan)
        x, y = (torch.randn(shape, generator=generator) for shape in (A.domain_shape, A.range_shape))
        Ax, ATy = A(x), A.adjoint(y)
        difference = (Ax.double() * y).sum() - (x.double() * ATy).sum()
        worst = max(worst, float(difference.abs() / (Ax.norm() * y.norm())))
    row("adjoint on white noise, float32", worst, 1e-6, form=".1e")


def reconstruction() -> None:
    """FBP of the analytic Shepp-Logan sinogram: full range of values, no crop, reference averaged 8x8 per pixel."""
    scans: tuple[tuple[str, int, Geometry, float], ...] = (
        ("parallel 256x256, 180 views", 256, ParallelBeam(evenly_spaced(180, math.pi / 180), 363, 1.0), 32.0),
        ("fan 128x128, 180 views", 128, FanBeam(evenly_spaced(180, math.pi / 90), 182, 3.0, 1000.0, 1500.0), 30.5),
    )
    for name, size, geometry, bar in scans:
        grid = ImageGrid((size, size), 256 / size)
        found = filtered_backprojection(shepp_logan().line_integrals(geometry, 256.0), geometry, grid)
        truth = shepp_logan().attenuation(grid, 256.0)
        spread = float(truth.max() - truth.min())
        psnr = 10 * math.log10(spread**2 / float((found - truth).square().mean()))
        row(f"FBP of Shepp-Logan, {name}, dB", psnr, bar, at_least=True, form=".2f")
        flat = (truth - 0.2).abs() < 1e-9
        row(
            "    its scale in the uniform part, distance from 1",
            abs(float(found[flat].mean()) / 0.2 - 1),
            0.01,
            form=".4f",
        )


def _sum(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).sum(0)


def _gaussian(grid: ImageGrid, center: tuple[float, float], sigma: float) -> Tensor:
    x, y = np.meshgrid(grid.x_mm - center[0], grid.y_mm - center[1])
    return torch.from_numpy(np.exp(-(x**2 + y**2) / (2 * sigma**2)))


def _gaussian_integrals(geometry: Geometry, center: tuple[float, float], sigma: float) -> Tensor:
    x, y, dx, dy = rays_of(geometry)
    distance = (x - center[0]) * dy - (y - center[1]) * dx
    return torch.from_numpy(np.exp(-(distance**2) / (2 * sigma**2)) * sigma * math.sqrt(2 * math.pi))


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


if __name__ == "__main__":
    main()
