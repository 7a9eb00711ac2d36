r"""Speed and accuracy of NonCartesianMRI, 256x256, 8 coils, 256 spokes of 512 samples, on one thread.

    OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 \
        python benchmarks/non_cartesian.py

Forward and adjoint against bare finufft plans of the same tolerance and of single precision; the Gram against plain
FFTs of the coil images and a pair of finufft plans; mrpro, where it is installed; gradients; errors against double
precision. Processor time.
"""

import math
from collections.abc import Callable
from time import process_time

import finufft
import numpy as np
import torch
from timing import paired_medians, print_ratios
from torch import Tensor

from physics import NonCartesianMRI, golden_angle_trajectory

SHAPE, COILS, SPOKES, SAMPLES = (256, 256), 8, 256, 512
REPEATS = 15


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(COILS, *SHAPE, dtype=torch.complex64, generator=generator)
    x = torch.randn(SHAPE, dtype=torch.complex64, generator=generator)
    y = torch.randn(COILS, SPOKES, SAMPLES, dtype=torch.complex64, generator=generator)
    trajectory = golden_angle_trajectory(SPOKES, SAMPLES)
    with torch.no_grad():
        time_operator(NonCartesianMRI(maps, trajectory), x, y)
        time_mrpro(NonCartesianMRI(maps, trajectory), x, y)
    time_gradients(maps, trajectory, x)
    time_learned_maps_against_mrpro(maps, trajectory, x)
    print_errors(maps, trajectory, x, y)


def plan(kind: int, trajectory: Tensor, dtype: str, tolerance: float, oversampling: float) -> finufft.Plan:
    """A plan for all coils: type 1 is the adjoint, 2 the forward transform."""
    settings = {"n_trans": COILS, "eps": tolerance, "isign": 1 if kind == 1 else -1, "nthreads": 1}
    made = finufft.Plan(kind, SHAPE, dtype=dtype, upsampfac=oversampling, **settings)
    real = np.float32 if dtype == "complex64" else np.float64
    radians = (2 * math.pi * trajectory.reshape(-1, 2)).numpy().astype(real)
    made.setpts(*(np.ascontiguousarray(radians[:, axis]) for axis in (0, 1)))
    return made


def time_operator(A: NonCartesianMRI, x: Tensor, y: Tensor) -> None:
    gram, images = A.gram, (A.maps * x).numpy()
    samples = y.reshape(COILS, -1).numpy()
    single = [plan(kind, A.trajectory, "complex64", 1e-6, 2.0) for kind in (2, 1)]
    double = [plan(kind, A.trajectory, "complex128", 1e-7, 1.25) for kind in (2, 1)]
    images_d, samples_d = images.astype(np.complex128), samples.astype(np.complex128)
    A(x), A.adjoint(y), gram(x)  # plans and spectrum
    candidates = {
        "raw fft2": lambda: torch.fft.fft2(y[:, :, :256]),
        "finufft forward, same tolerance": lambda: double[0].execute(images_d),
        "finufft adjoint, same tolerance": lambda: double[1].execute(samples_d),
        "finufft forward, float32 1e-6": lambda: single[0].execute(images),
        "finufft adjoint, float32 1e-6": lambda: single[1].execute(samples),
        "forward": lambda: A(x),
        "adjoint": lambda: A.adjoint(y),
    }
    medians = paired_medians(candidates, repeats=REPEATS, clock=process_time)
    print_ratios("NonCartesianMRI in raw FFTs of the coil images", medians, "raw fft2", {})
    for which in ("forward", "adjoint"):
        for peer in ("same tolerance", "float32 1e-6"):
            pair = {name: medians[name] for name in (f"finufft {which}, {peer}", which)}
            print_ratios(f"{which} against a bare plan, {peer}", pair, f"finufft {which}, {peer}", {which: 1.05})
    # Apart: a transform of many samples empties the cache.
    plain = torch.randn(COILS, *SHAPE, dtype=torch.complex64)
    medians |= paired_medians(
        {"raw fft2": lambda: torch.fft.fft2(plain), "gram": lambda: gram(x)}, repeats=4 * REPEATS, clock=process_time
    )
    print_ratios("Gram", {name: medians[name] for name in ("raw fft2", "gram")}, "raw fft2", {"gram": 9.5})
    pair = medians["finufft forward, float32 1e-6"] + medians["finufft adjoint, float32 1e-6"]
    print_ratios("Gram against a pair of plans", {"pair": pair, "gram": medians["gram"]}, "pair", {"gram": 0.12})


def time_mrpro(A: NonCartesianMRI, x: Tensor, y: Tensor) -> None:
    """Forward, adjoint and Gram against mrpro, if it is installed."""
    try:
        from mrpro.data import KTrajectory, SpatialDimension
        from mrpro.operators import FourierOp, SensitivityOp
    except ImportError:
        print("mrpro: not installed\n")
        return
    along_height, along_width = (SHAPE[0] * A.trajectory.float()[None, None, None]).unbind(-1)
    size = SpatialDimension(1, *SHAPE)
    fourier = FourierOp(size, size, KTrajectory(torch.zeros(1, 1, 1, 1, 1), along_height, along_width))
    coils = SensitivityOp(A.maps[None, :, None])
    both, image, samples = fourier @ coils, x[None, None, None], y[None, :, None]
    toeplitz, gram = fourier.gram, A.gram
    ours: dict[str, Callable[[], object]] = {
        "forward": lambda: A(x),
        "adjoint": lambda: A.adjoint(y),
        "gram": lambda: gram(x),
    }
    theirs: dict[str, Callable[[], object]] = {
        "forward": lambda: both(image),
        "adjoint": lambda: both.H(samples),
        "gram": lambda: coils.H(toeplitz(coils(image)[0])[0]),
    }
    for name, run in ours.items():
        medians = paired_medians({"mrpro": theirs[name], name: run}, repeats=REPEATS, clock=process_time)
        print_ratios(f"{name} against mrpro", medians, "mrpro", {"gram": 0.8})


def time_gradients(maps: Tensor, trajectory: Tensor, x: Tensor) -> None:
    fixed, learned = NonCartesianMRI(maps, trajectory), maps.clone().requires_grad_()
    image = x.clone().requires_grad_()

    def of_image() -> None:
        torch.autograd.grad(fixed.gram(image).abs().sum(), image)

    def of_maps() -> None:
        A = NonCartesianMRI(learned, trajectory)
        torch.autograd.grad(A.gram(image).abs().sum(), (image, learned))

    plain = maps * x
    of_maps()
    candidates = {
        "raw fft2": lambda: torch.fft.fft2(plain),
        "gradient of the image": of_image,
        "and of the maps": of_maps,
    }
    print_ratios(
        "Gram, forward and backward", paired_medians(candidates, repeats=REPEATS, clock=process_time), "raw fft2", {}
    )


def time_learned_maps_against_mrpro(maps: Tensor, trajectory: Tensor, x: Tensor) -> None:
    """Gram, forward and backward of image and maps, against mrpro, if it is installed."""
    try:
        from mrpro.data import KTrajectory, SpatialDimension
        from mrpro.operators import FourierOp, SensitivityOp
    except ImportError:
        return
    along_height, along_width = (SHAPE[0] * trajectory.float()[None, None, None]).unbind(-1)
    size = SpatialDimension(1, *SHAPE)
    toeplitz = FourierOp(size, size, KTrajectory(torch.zeros(1, 1, 1, 1, 1), along_height, along_width)).gram
    A, ours = NonCartesianMRI(maps, trajectory), (x.clone().requires_grad_(), maps.clone().requires_grad_())
    theirs = x[None, None, None].clone().requires_grad_(), maps[None, :, None].clone().requires_grad_()

    def our_step() -> tuple[Tensor, ...]:
        return torch.autograd.grad(A.with_maps(ours[1]).gram(ours[0]), ours, x)

    def their_step() -> tuple[Tensor, ...]:
        coils = SensitivityOp(theirs[1])
        return torch.autograd.grad(coils.H(toeplitz(coils(theirs[0])[0])[0])[0], theirs, x[None, None, None])

    for found, expected in zip(our_step(), their_step(), strict=True):
        assert float((found - expected.reshape(found.shape)).norm() / expected.norm()) < 1e-4
    medians = paired_medians({"mrpro": their_step, "ours": our_step}, repeats=REPEATS, clock=process_time)
    print_ratios("Gram with gradients of image and maps, against mrpro", medians, "mrpro", {"ours": 0.75})


def print_errors(maps: Tensor, trajectory: Tensor, x: Tensor, y: Tensor) -> None:
    A, exact = (NonCartesianMRI(maps.to(dtype), trajectory) for dtype in (torch.complex64, torch.complex128))
    x_d, y_d = x.to(torch.complex128), y.to(torch.complex128)
    pairs = {
        "forward": (A(x), exact(x_d)),
        "adjoint": (A.adjoint(y), exact.adjoint(y_d)),
        "gram": (A.gram(x), exact.adjoint(exact(x_d))),
    }
    for name, (found, expected) in pairs.items():
        error = float((found - expected).norm() / expected.norm())
        print(f"error of {name:8s} {error:.1e}   bar 1e-6 {'ok' if error <= 1e-6 else 'MISSED'}")


if __name__ == "__main__":
    main()
