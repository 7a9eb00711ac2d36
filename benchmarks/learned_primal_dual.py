"""Share of projections in a learned primal-dual training step: 10 iterations, LoDoPaB size, batch 1, two threads.

    OMP_NUM_THREADS=2 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 \
        python benchmarks/learned_primal_dual.py

Published widths: 3 layers of 32 channels in image and sinogram. Every call of the projector and its transpose is timed,
in the forward and the backward pass; the rest of the step is almost only convolutions.
"""

import time

import torch
from torch import Tensor

from physics import RadonOperator, lodopab
from physics.ct.projector import Projector
from recon import ConvRegularizer, DualStep, UnrolledNetwork


def main() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    preset = lodopab()
    A = RadonOperator(preset.grid, preset.geometry)
    network = UnrolledNetwork(10, lambda: DualStep(32, 3), lambda: ConvRegularizer(32, 3))
    y, target = torch.rand(1, *A.range_shape), torch.rand(1, *A.domain_shape)
    spent = _watch_projections()
    for step in range(3):
        spent.clear()
        begin = time.perf_counter()
        loss = (network(y, A) - target).abs().mean()
        loss.backward()
        seconds = time.perf_counter() - begin
        projections, rest = sum(spent), seconds - sum(spent)
        if step:
            verdict = "ok" if projections < rest else "MISSED"
            print(
                f"step {seconds:.2f} s: {len(spent)} projections {projections:.2f} s, the rest {rest:.2f} s, "
                f"ratio {projections / rest:.2f} (bar 1) {verdict}"
            )


def _watch_projections() -> list[float]:
    spent: list[float] = []
    for name in ("project", "backproject"):
        original = getattr(Projector, name)

        def timed(self: Projector, tensor: Tensor, original: object = original) -> Tensor:
            begin = time.perf_counter()
            result: Tensor = original(self, tensor)  # type: ignore[operator]
            spent.append(time.perf_counter() - begin)
            return result

        setattr(Projector, name, timed)
    return spent


if __name__ == "__main__":
    main()
