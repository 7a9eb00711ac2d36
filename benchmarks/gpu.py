"""One GPU against all CPU cores of its machine: a training step of the MRI network, projections and a CT step.

First a complete round of a site at 320x320 with files and validation, against one CPU thread as in `fedrecon train`.

    python benchmarks/gpu.py

Projections are compiled kernels on both. A ratio above 1 means that the GPU is slower. The images of both are compared
in the same run. Then the GPU's projections run against those of other packages, see `gpu_projectors.py`.
"""

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from gpu_projectors import compare_projectors
from timing import paired_medians, print_ratios
from torch import Tensor, nn

from federation import load_federation, load_recipe, make_demo_sites
from federation.experiment.train import train_run
from federation.recipes.recipe_library import LIBRARY
from federation.rounds.round_log import read_rows
from federation.sites import DEMO_SITES
from physics import CartesianMRI, LinearOperator, RadonOperator, birdcage_maps, lodopab, random_mask
from recon import ConvRegularizer, GradientStep, NormalizedStep, UnrolledNetwork


def main() -> None:
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py: this machine has no GPU that torch can use")
        return
    name, threads = torch.cuda.get_device_name(), torch.get_num_threads()
    print(f"{name} against {threads} threads of the CPU, torch {torch.__version__}\n")
    compare_rounds()
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
    compare_projectors()


def compare_step(title: str, consistency: type, cascades: int, A: LinearOperator, x: Tensor) -> None:
    """Training step on CPU and GPU with the default settings of PyTorch: convolutions in TF32 on the GPU."""
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


def compare_rounds() -> None:
    """Second and third round of one demo site; the first round also estimates the coil maps."""
    recipe = load_recipe(LIBRARY / "fedavg.toml", ["federation.rounds=3", "evaluation.arms=[]"])
    seconds, scores = {}, {}
    for device in ("cpu", "cuda"):
        with tempfile.TemporaryDirectory() as folder:
            sites = Path(folder) / "sites"
            make_demo_sites(sites, size=320, train=2, validation=1, test=1, slices=3, sites=DEMO_SITES[:1])
            (manifest,) = load_federation(sites)
            manifest.path.write_text(f'device = "{device}"\n' + manifest.path.read_text())
            run = train_run(recipe, load_federation(sites), Path(folder) / "run", jobs=1, resume=False, say=str)
            rows = read_rows(run.path)
            rounds = [row for row in rows if row["n_samples"] is not None]
            seconds[device.upper()] = sum(row["seconds"] for row in rounds[1:]) / len(rounds[1:])
            scores[device] = rows[-1]["score_before"]  # of the round that only scores
    print_ratios("MRI 320x320, a site's round of 24 steps, mean of two", seconds, "CPU", {})
    print(f"validation PSNR after three rounds: {scores['cpu']:.2f} dB, on the GPU {scores['cuda']:.2f} dB\n")


def _moved(module: nn.Module, device: str) -> nn.Module:
    return copy.deepcopy(module).to(device)


if __name__ == "__main__":
    main()
