"""Total variation of an MRI slice, 640x368 with 15 coils and as a sample is by default: time and image against sigpy's.

    OMP_NUM_THREADS=1 python benchmarks/total_variation.py [weight ...]

sigpy's ADMM, 15 iterations of 10 conjugate gradients, was the method until November 2026. Seconds are processor time of
this process, old and new in turn. The limit is the new method after 110 iterations.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sigpy.mri.app
import torch
from knee import write_knee
from torch import Tensor

from physics import CartesianMRI
from recon import KSpaceSlices, Sample, Simulation, TotalVariation, image_scale

#: Largest ratio of the times, and largest difference of PSNR to the limit in dB.
TIME_RATIO, DIFFERENCE_DB = 1 / 3, 0.05
REPEATS = 3


def main() -> None:
    torch.set_num_threads(1)
    weights = [float(word) for word in sys.argv[1:]] or [2e-3, 5e-3, 1e-2, 2e-2, 4e-2]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "knee.h5"
        write_knee(path, 0)
        simulate = Simulation("random", 4, 0.08)
        whole = KSpaceSlices([path], "knee", simulate=simulate, remove_oversampling=False, compress_coils=False)
        for samples in (whole, KSpaceSlices([path], "knee", simulate=simulate)):
            compare(samples[len(samples) // 2], weights)


def compare(sample: Sample, weights: list[float]) -> None:
    """Print times and PSNR of both methods on one slice."""
    y, A = sample.measurement, sample.operator
    assert isinstance(A, CartesianMRI)
    print(f"{tuple(y.shape)}\n{'weight':>8s} {'old':>8s} {'new':>8s} {'ratio':>6s}   PSNR in dB: old, new, limit")
    for weight in weights:
        runs: list[Callable[[], Tensor]] = [lambda: old(y, A, weight), lambda: TotalVariation(weight)(y, A)]  # noqa: B023
        seconds = [[cpu_seconds(run) for run in runs] for _ in range(REPEATS)]
        before, now = np.median(seconds, axis=0)
        images = [run() for run in runs] + [TotalVariation(weight, iterations=110, tolerance=0.0)(y, A)]
        scores = [psnr(sample, image) for image in images]
        ok = now / before <= TIME_RATIO and abs(scores[1] - scores[2]) <= DIFFERENCE_DB
        row = f"{weight:8g} {before:6.1f} s {now:6.1f} s {now / before:6.2f}   " + ", ".join(f"{s:.2f}" for s in scores)
        print(row, "ok" if ok else "MISSED", flush=True)


def old(y: Tensor, A: CartesianMRI, weight: float) -> Tensor:
    """The image of ``sigpy.mri.app.TotalVariationRecon`` as it was called before."""
    scale = image_scale(A.start(y))
    mask = A.sampled.expand(A.maps.shape).numpy().astype(np.float32)
    options = {"solver": "ADMM", "rho": 0.2, "max_iter": 15, "show_pbar": False}
    app = sigpy.mri.app.TotalVariationRecon((y / scale).numpy(), A.maps.numpy(), weight, weights=mask, **options)
    return torch.from_numpy(app.run()) * scale


def psnr(sample: Sample, image: Tensor) -> float:
    target = sample.target()
    error = (sample.magnitude(image) - target).square().mean()
    return float(10 * torch.log10(target.max() ** 2 / error))


def cpu_seconds(run: Callable[[], Tensor]) -> float:
    begin = time.process_time()
    run()
    return time.process_time() - begin


if __name__ == "__main__":
    main()
