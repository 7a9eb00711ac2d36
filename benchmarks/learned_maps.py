r"""Speed of CartesianMRI with coil maps that carry a gradient, against deepinv and mrpro where they are installed.

    OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 \
        python benchmarks/learned_maps.py

8 coils, 320x320, a quarter of the columns. Every step gives the operator its maps, as a network that learns them does,
and computes the gradients of image and maps. *operator*: forward and backward of a given k-space. *misfit*: the same of
the sum of squares of A x - y, which mrpro computes on the sampled columns alone and the others on all. *step*: forward
and backward of A^H (A x - y), the data step of a cascade. Processor time.
"""

from collections.abc import Callable
from time import process_time

import torch
from timing import paired_medians, print_ratios
from torch import Tensor

from physics import CartesianMRI

SIZE, COILS, REPEATS = 320, 8, 15
Steps = dict[str, Callable[[], tuple[Tensor, ...]]]


def main() -> None:
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    maps, y = (torch.randn(COILS, SIZE, SIZE, dtype=torch.complex64, generator=draw) for _ in range(2))
    x = torch.randn(SIZE, SIZE, dtype=torch.complex64, generator=draw)
    mask = torch.rand(SIZE, generator=draw) < 0.25
    y = y * mask
    candidates = {"ours": ours(maps, mask, x, y)}
    for name, peer in (("deepinv", of_deepinv), ("mrpro", of_mrpro)):
        try:
            candidates[name] = peer(maps, mask, x, y)
        except ImportError:
            print(f"{name}: not installed")
    for kind in ("operator", "misfit", "step"):
        first = candidates["ours"][kind]()
        runs = {name: steps[kind] for name, steps in candidates.items()}
        for name, run in runs.items():
            error = max(float((found - right).norm() / right.norm()) for found, right in zip(run(), first, strict=True))
            assert error < 1e-4, (name, kind, error)
        medians = paired_medians({"raw fft2": lambda: torch.fft.fft2(y), **runs}, repeats=REPEATS, clock=process_time)
        for peer in ("raw fft2", *(name for name in runs if name != "ours")):
            bars = {} if peer == "raw fft2" else {"ours": 0.65}
            print_ratios(f"{kind}, against {peer}", {name: medians[name] for name in (peer, "ours")}, peer, bars)


def gradients(output: Tensor, leaves: tuple[Tensor, Tensor], given: Tensor | None = None) -> tuple[Tensor, Tensor]:
    of_maps, of_image = torch.autograd.grad(output, leaves, given)
    return of_maps, of_image


def energy(residual: Tensor) -> Tensor:
    """Sum of squares; by the magnitude its gradient would take longer than all transforms."""
    return torch.view_as_real(residual).square().sum()


def ours(maps: Tensor, mask: Tensor, x: Tensor, y: Tensor) -> Steps:
    scan, leaves = CartesianMRI(maps, mask), (maps.clone().requires_grad_(), x.clone().requires_grad_())

    def step() -> tuple[Tensor, Tensor]:
        A = scan.with_maps(leaves[0])
        return gradients(A.adjoint(A(leaves[1]) - y), leaves, x)

    return {
        "operator": lambda: gradients(scan.with_maps(leaves[0])(leaves[1]), leaves, y),
        "misfit": lambda: gradients(energy(scan.with_maps(leaves[0])(leaves[1]) - y), leaves),
        "step": step,
    }


def of_deepinv(maps: Tensor, mask: Tensor, x: Tensor, y: Tensor) -> Steps:
    from deepinv.physics import MultiCoilMRI

    leaves = maps[None].clone().requires_grad_(), torch.view_as_real(x).movedim(-1, 0)[None].clone().requires_grad_()
    columns = mask.float().expand(SIZE, SIZE)
    samples, like = (torch.view_as_real(tensor).movedim(-1, 0)[None].clone() for tensor in (y, x))
    physics = MultiCoilMRI(mask=columns, coil_maps=maps[None])

    def in_our_layout(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return pair[0][0], torch.complex(pair[1][0, 0], pair[1][0, 1])

    def forward() -> Tensor:
        result: Tensor = physics.A(leaves[1], coil_maps=leaves[0])
        return result

    return {
        "operator": lambda: in_our_layout(gradients(forward(), leaves, samples)),
        "misfit": lambda: in_our_layout(gradients((forward() - samples).square().sum(), leaves)),
        "step": lambda: in_our_layout(gradients(physics.A_adjoint(forward() - samples), leaves, like)),
    }


def of_mrpro(maps: Tensor, mask: Tensor, x: Tensor, y: Tensor) -> Steps:
    from mrpro.data import KTrajectory, SpatialDimension
    from mrpro.operators import FourierOp, SensitivityOp

    # The sampled direction comes before the readout.
    leaves = (
        maps.transpose(-1, -2).contiguous()[None, :, None].requires_grad_(),
        x.T.contiguous()[None, None, None].requires_grad_(),
    )
    samples = y[..., mask].transpose(-1, -2).contiguous()[None, :, None]
    size = SpatialDimension(1, SIZE, SIZE)
    lines = (torch.nonzero(mask).flatten() - SIZE // 2).float()[None, None, None, :, None]
    readout = (torch.arange(SIZE) - SIZE // 2).float()[None, None, None, None, :]
    fourier = FourierOp(size, size, KTrajectory(torch.zeros(1, 1, 1, 1, 1), lines, readout))
    like = x.T.contiguous()[None, None, None]

    def in_our_layout(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return pair[0][0, :, 0].transpose(-1, -2), pair[1][0, 0, 0].T

    def forward() -> Tensor:
        result: Tensor = (fourier @ SensitivityOp(leaves[0]))(leaves[1])[0]
        return result

    def step() -> Tensor:
        result: Tensor = (fourier @ SensitivityOp(leaves[0])).H(forward() - samples)[0]
        return result

    return {
        "operator": lambda: in_our_layout(gradients(forward(), leaves, samples)),
        "misfit": lambda: in_our_layout(gradients(energy(forward() - samples), leaves)),
        "step": lambda: in_our_layout(gradients(step(), leaves, like)),
    }


if __name__ == "__main__":
    main()
