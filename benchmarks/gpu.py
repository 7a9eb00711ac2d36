"""One GPU against all cores of its machine: a training step of the MRI network, projections and a CT step.

    python benchmarks/gpu.py

On the CPU the projections are compiled kernels, on a GPU the same formula in plain torch. Ratios above 1 say that the
GPU is slower; the images are compared in the same run.
"""

import copy
from collections.abc import Callable

import torch
from timing import paired_medians, print_ratios
from torch import Tensor, nn

from physics import CartesianMRI, LinearOperator, RadonOperator, birdcage_maps, lodopab, random_mask
from recon import ConvRegularizer, GradientStep, NormalizedStep, UnrolledNetwork


def main() -> None:
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py: this machine has no GPU that torch can use")
        return
    name, threads = torch.cuda.get_device_name(), torch.get_num_threads()
    print(f"{name} against {threads} threads of the CPU, torch {torch.__version__}\n")
    for batch in (1, 8):
        maps = birdcage_maps(8, (320, 320))
        A = CartesianMRI.collate([CartesianMRI(maps, random_mask(320, 4, 0.08, 0).mask)] * batch)
        x = torch.randn(batch, 320, 320, dtype=torch.complex64)
        compare_step(f"MRI 320x320, 8 coils, batch {batch}: forward and backward", GradientStep, 12, A, x)
    preset = lodopab()
    R = RadonOperator(preset.grid, preset.geometry)
    image = torch.rand(4, *R.domain_shape)
    there, moved = image.cuda(), RadonOperator(preset.grid, preset.geometry).cuda()
    sinogram = R(image)
    compare("CT 362x362, 1000 views, batch 4: A x", lambda: R(image), lambda: moved(there))
    y = sinogram.cuda()
    compare("CT 362x362, 1000 views, batch 4: A^H y", lambda: R.adjoint(sinogram), lambda: moved.adjoint(y))
    compare(
        "CT 362x362, 1000 views, batch 4: filtered back-projection", lambda: R.start(sinogram), lambda: moved.start(y)
    )
    compare_step("CT 362x362, 1000 views, batch 1: forward and backward", NormalizedStep, 4, R, image[:1])


def compare_step(title: str, consistency: type, cascades: int, A: LinearOperator, x: Tensor) -> None:
    """A step on both; images that differ by more than convolutions in TF32 do are said."""
    torch.manual_seed(0)
    network = UnrolledNetwork(cascades, consistency, lambda: ConvRegularizer(12, 3))
    y = A(x).contiguous()
    sides: list[Callable[[], Tensor]] = []
    for device in ("cpu", "cuda"):
        net, data, target = _moved(network, device), y.to(device), x.to(device)
        operator = _moved(A, device)

        def step(
            net: nn.Module = net, data: Tensor = data, operator: nn.Module = operator, target: Tensor = target
        ) -> Tensor:
            net.zero_grad(set_to_none=True)
            image: Tensor = net(data, operator)
            (image - target).abs().mean().backward()
            return image.detach()

        sides.append(step)
    compare(title, *sides)


def compare(title: str, here: Callable[[], Tensor], there: Callable[[], Tensor]) -> None:
    expected, found = here(), there().cpu()
    difference = float((found - expected).norm() / expected.norm())

    def waited() -> None:
        there()
        torch.cuda.synchronize()

    print_ratios(title, paired_medians({"CPU": here, "GPU": waited}, repeats=7), "CPU", {})
    print(f"relative difference of the results {difference:.1e}\n")


def _moved(module: nn.Module, device: str) -> nn.Module:
    return copy.deepcopy(module).to(device)


if __name__ == "__main__":
    main()
