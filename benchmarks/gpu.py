"""One GPU against all CPU cores of its machine: a training step of the MRI network, projections and a CT step.

First a complete round of a site at 320x320 with files and validation, against one CPU thread as in `fedrecon train`.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --dry-run     # small sizes on the CPU alone, to see that the script runs; minutes

Projections are compiled kernels on both. A ratio above 1 means that the GPU is slower. The images of both are compared
in the same run. Then steps of the default networks run with `torch.compile`, as a CUDA graph and with regularizers in
bfloat16, see `gpu_steps.py`, and the GPU's projections against those of other packages, see `gpu_projectors.py`.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from gpu_projectors import compare_projectors
from gpu_steps import compare_ways
from timing import paired_medians, print_ratios
from torch import Tensor, nn

from federation import load_federation, load_recipe, make_demo_sites
from federation.experiment.train import train_run
from federation.recipes.recipe_library import LIBRARY
from federation.rounds.round_log import read_rows
from federation.sites import DEMO_SITES
from physics import CartesianMRI, LinearOperator, RadonOperator, birdcage_maps, lodopab, random_mask
from recon import ConvRegularizer, GradientStep, NormalizedStep, UnrolledNetwork


@dataclass(frozen=True)
class Run:
    """Where the second of each pair runs, the size of images, and repeats of each time."""

    device: str = "cuda"
    size: int = 320
    repeats: int = 7

    def wait(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="small sizes on the CPU alone")
    run = Run("cpu", 64, 1) if parser.parse_args().dry_run else Run()
    if run.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks/gpu.py: this machine has no GPU that torch can use; --dry-run runs the script on the CPU")
        return
    name = torch.cuda.get_device_name() if run.device == "cuda" else "Dry run on the CPU, whose times mean nothing,"
    print(f"{name} against {torch.get_num_threads()} threads of the CPU, torch {torch.__version__}\n")
    compare_rounds(run)
    size = run.size
    for batch in (1, 8):
        maps = birdcage_maps(8, (size, size))
        A = CartesianMRI.collate([CartesianMRI(maps, random_mask(size, 4, 0.08, 0).mask)] * batch)
        x = torch.randn(batch, size, size, dtype=torch.complex64)
        compare_step(run, f"MRI {size}x{size}, 8 coils, batch {batch}: forward and backward", GradientStep, 12, A, x)
    preset = lodopab()
    R = RadonOperator(preset.grid, preset.geometry)
    image = torch.rand(4, *R.domain_shape)
    there, moved = image.to(run.device), RadonOperator(preset.grid, preset.geometry).to(run.device)
    sinogram, title = R(image), "CT 362x362, 1000 views, batch"
    compare(run, f"{title} 4: A x", lambda: R(image), lambda: moved(there))
    y = sinogram.to(run.device)
    compare(run, f"{title} 4: A^H y", lambda: R.adjoint(sinogram), lambda: moved.adjoint(y))
    compare(run, f"{title} 4: filtered back-projection", lambda: R.start(sinogram), lambda: moved.start(y))
    compare_step(run, f"{title} 1: forward and backward", NormalizedStep, 4, R, image[:1])
    compare_ways(run.device, run.size, run.repeats)
    if run.device == "cuda":
        compare_projectors()


def compare_step(run: Run, title: str, consistency: type, cascades: int, A: LinearOperator, x: Tensor) -> None:
    """Training step on CPU and GPU with the default settings of PyTorch: convolutions in TF32 on the GPU."""
    torch.manual_seed(0)
    network = UnrolledNetwork(cascades, consistency, lambda: ConvRegularizer(12, 3))
    y = A(x).contiguous()
    sides: list[Callable[[], Tensor]] = []
    for device in ("cpu", run.device):
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
    compare(run, title, *sides)


def compare(run: Run, title: str, here: Callable[[], Tensor], there: Callable[[], Tensor]) -> None:
    expected, found = here(), there().cpu()
    difference = float((found - expected).norm() / expected.norm())

    def waited() -> None:
        there()
        run.wait()

    print_ratios(title, paired_medians({"CPU": here, "GPU": waited}, repeats=run.repeats), "CPU", {})
    print(f"relative difference of the results {difference:.1e}\n")


def compare_rounds(run: Run) -> None:
    """Second and third round of one demo site; the first round also estimates the coil maps."""
    recipe = load_recipe(LIBRARY / "fedavg.toml", ["federation.rounds=3", "evaluation.arms=[]"])
    seconds, scores = {}, {}
    for name, device in (("CPU", "cpu"), ("GPU", run.device)):
        with tempfile.TemporaryDirectory() as folder:
            sites = Path(folder) / "sites"
            make_demo_sites(sites, size=run.size, train=2, validation=1, test=1, slices=3, sites=DEMO_SITES[:1])
            (manifest,) = load_federation(sites)
            manifest.path.write_text(f'device = "{device}"\n' + manifest.path.read_text())
            trained = train_run(recipe, load_federation(sites), Path(folder) / "run", jobs=1, resume=False, say=str)
            rows = read_rows(trained.path)
            rounds = [row for row in rows if row["n_samples"] is not None]
            seconds[name] = sum(row["seconds"] for row in rounds[1:]) / len(rounds[1:])
            scores[name] = rows[-1]["score_before"]  # of the round that only scores
    print_ratios(f"MRI {run.size}x{run.size}, a site's round of 24 steps, mean of two", seconds, "CPU", {})
    print(f"validation PSNR after three rounds: {scores['CPU']:.2f} dB, on the GPU {scores['GPU']:.2f} dB\n")


def _moved(module: nn.Module, device: str) -> nn.Module:
    return copy.deepcopy(module).to(device)


if __name__ == "__main__":
    main()
