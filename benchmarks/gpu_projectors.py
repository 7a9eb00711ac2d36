"""Projections on one GPU against ASTRA, diffct and torch-radon where they are installed; part of `benchmarks/gpu.py`.

Every image is a Gaussian at the axis, so that the packages' conventions of axes and angles give the same sinogram.
"""

import math
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import torch
from timing import paired_medians, print_ratios
from torch import Tensor

from physics import FanBeam, ImageGrid, ParallelBeam, RadonOperator, evenly_spaced
from physics.ct.projector import projector_of
from physics.ct.rays import backproject_reference, project_reference

Pair = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
GRID = ImageGrid((512, 512), 1.0)
SCANS: dict[str, ParallelBeam | FanBeam] = {
    "parallel 512x512, 360 x 736": ParallelBeam(evenly_spaced(360, math.pi / 360), 736, 1.0),
    "fan 512x512, 720 x 736": FanBeam(evenly_spaced(720, math.tau / 720), 736, 1.6, 600.0, 1000.0),
}


def compare_projectors() -> None:
    """Forward and adjoint of both scans, one image and eight; a ratio above 1 is slower than fedrecon."""
    x, y = torch.meshgrid(*(torch.from_numpy(axis) for axis in (GRID.x_mm, GRID.y_mm)), indexing="xy")
    blob = torch.exp(-(x**2 + y**2) / (2 * 40.0**2)).float().cuda()
    for name, scan in SCANS.items():
        A, table = RadonOperator(GRID, scan), projector_of(GRID, scan).table
        pairs: dict[str, Pair] = {
            "fedrecon": (A, A.adjoint),
            "fedrecon, plain torch": (
                lambda image, table=table: project_reference(table, image),
                lambda lines, table=table: backproject_reference(table, lines),
            ),
        }
        pairs |= dict(_peers(scan, blob, A(blob)))
        for batch in (1, 8):
            images = blob.expand(batch, -1, -1).contiguous()
            for direction, data in (("forward", images), ("adjoint", A(images))):
                runs = {peer: _waited(pair[direction == "adjoint"], data) for peer, pair in pairs.items()}
                expected = runs["fedrecon"]()
                print_ratios(f"{name}, batch {batch}, {direction}", paired_medians(runs, repeats=15), "fedrecon", {})
                differences = {peer: float((run() - expected).norm() / expected.norm()) for peer, run in runs.items()}
                print("difference:", ", ".join(f"{peer} {found:.1e}" for peer, found in differences.items()), "\n")


def _peers(scan: ParallelBeam | FanBeam, image: Tensor, sinogram: Tensor) -> Iterator[tuple[str, Pair]]:
    """Packages that are installed and project once without an error; a line says what is missing."""
    for name, module, make in (
        ("ASTRA", "astra", _astra), ("diffct", "diffct", _diffct), ("torch-radon", "torch_radon", _torch_radon),
    ):  # fmt: skip
        try:
            pair = make(import_module(module), scan)
            pair[0](image[None])
            pair[1](sinogram[None])
        except Exception as error:  # none of them is tested here
            print(f"{name} is not compared: {type(error).__name__}: {error}".partition("\n")[0])
        else:
            yield name, pair


def _astra(astra: Any, scan: ParallelBeam | FanBeam) -> Pair:
    """Slice by slice: it has no batches. Its adjoint is not the transpose of its forward projection."""
    height, width = GRID.shape
    if isinstance(scan, ParallelBeam):
        geometry = astra.create_proj_geom("parallel", scan.pitch_mm, scan.detectors, scan.angles)
    else:
        distances = scan.source_to_axis_mm, scan.source_to_detector_mm - scan.source_to_axis_mm
        geometry = astra.create_proj_geom("fanflat", scan.pitch_mm, scan.detectors, scan.angles, *distances)
    projector = astra.create_projector("cuda", geometry, astra.create_vol_geom(height, width))

    def project(images: Tensor) -> Tensor:
        sinograms = images.new_empty(len(images), *scan.shape)
        for image, lines in zip(images, sinograms, strict=True):
            astra.experimental.direct_FP2D(projector, image, lines)
        return sinograms

    def backproject(sinograms: Tensor) -> Tensor:
        images = sinograms.new_empty(len(sinograms), *GRID.shape)
        for image, lines in zip(images, sinograms, strict=True):
            astra.experimental.direct_BP2D(projector, image, lines)
        return images

    import_module("astra.experimental")
    return project, backproject


def _diffct(diffct: Any, scan: ParallelBeam | FanBeam) -> Pair:
    """Slice by slice; rays through pixels of constant value (Siddon)."""
    angles = torch.from_numpy(scan.angles).float().cuda()
    if isinstance(scan, ParallelBeam):
        forward, backward = diffct.ParallelProjectorFunction, diffct.ParallelBackprojectorFunction
        places = diffct.circular_trajectory_2d_parallel(angles)
    else:
        forward, backward = diffct.FanProjectorFunction, diffct.FanBackprojectorFunction
        places = diffct.circular_trajectory_2d_fan(angles, scan.source_to_axis_mm, scan.source_to_detector_mm)
    return (
        lambda images: torch.stack([forward.apply(x, *places, scan.detectors, scan.pitch_mm, 1.0) for x in images]),
        lambda sinograms: torch.stack([backward.apply(y, *places, scan.pitch_mm, *GRID.shape, 1.0) for y in sinograms]),
    )


def _torch_radon(torch_radon: Any, scan: ParallelBeam | FanBeam) -> Pair:
    """Batches; sampled at steps along the ray, its adjoint is not the transpose of its forward projection."""
    angles = torch.from_numpy(scan.angles).float()
    if isinstance(scan, ParallelBeam):
        radon = torch_radon.ParallelBeam(scan.detectors, angles, scan.pitch_mm, volume=GRID.shape)
    else:
        distances = scan.source_to_axis_mm, scan.source_to_detector_mm - scan.source_to_axis_mm
        radon = torch_radon.FanBeam(scan.detectors, angles, *distances, scan.pitch_mm, volume=GRID.shape)
    return radon.forward, radon.backprojection


def _waited(run: Callable[[Tensor], Tensor], data: Tensor) -> Callable[[], Tensor]:
    def waited() -> Tensor:
        result = run(data)
        torch.cuda.synchronize()
        return result

    return waited
