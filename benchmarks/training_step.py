"""The default network of recipes against others: time of a step, PSNR after equal time.

A step is one slice with 8 coils: at 320x320 against fastMRI's VarNet (4 cascades of 8 channels), at 128x128 against the
default before November 29, 2026 (12 cascades of 12 channels and 3 layers, gradient steps). For equal time, all three
train on the first demo site with one thread and the loss and batch size of the recipe: ours once, VarNet once per
learning rate, of which the best result counts.

    OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 \
        python benchmarks/training_step.py [seconds]
"""

import itertools
import sys
import tempfile
import time

import torch
from fastmri.models import VarNet
from timing import paired_medians, print_ratios
from torch import Tensor, nn

from federation import build_network, load_federation, load_recipe, make_demo_sites
from federation.recipes.recipe_library import LIBRARY
from federation.sites import DEMO_SITES
from physics import CartesianMRI, birdcage_maps, fft2c, random_mask
from recon import LOSSES, Sample, batches, cosine_learning_rate, evaluate

RECIPE = load_recipe(LIBRARY / "fedavg.toml")
VARNET_LEARNING_RATES = (3e-4, 1e-3, 3e-3)
#: The default before November 29, 2026, and its learning rate.
BEFORE = RECIPE.network.model_copy(
    update={"cascades": 12, "channels": 12, "depth": 3, "memory": 0, "consistency_options": {}}
)
LEARNING_RATE_BEFORE = 6e-3


class VarNetMethod(nn.Module):
    """VarNet called as ``method(y, A)``; its own sensitivity network estimates the coil maps.

    ``low_frequencies`` is the number of columns of the fully sampled center, the same in every mask of a site.
    """

    def __init__(self, low_frequencies: int) -> None:
        super().__init__()
        self.low_frequencies = low_frequencies
        self.network = VarNet(num_cascades=4, sens_chans=8, sens_pools=4, chans=8, pools=4)

    def forward(self, y: Tensor, A: CartesianMRI) -> Tensor:
        """Root-sum-of-squares image, real, ``(batch, height, width)``."""
        mask = A.mask[..., :1, :].unsqueeze(-3).unsqueeze(-1)
        out: Tensor = self.network(torch.view_as_real(y.contiguous()), mask, self.low_frequencies)
        return out


def main() -> None:
    torch.set_num_threads(1)
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 90.0
    center_lines = random_mask(320, 4, 0.08, 0).center_lines
    time_a_step(320, "VarNet 4 x 8", VarNetMethod(center_lines))
    time_a_step(128, "default before", build_network(BEFORE))
    compare_after(seconds)


def time_a_step(size: int, name: str, peer: nn.Module) -> None:
    """Print the ratio of a step of the default network to one of the other network."""
    A, y, target = problem_of_size(size)
    ours = build_network(RECIPE.network)

    def step(network: nn.Module) -> None:
        network.zero_grad(set_to_none=True)
        (network(y, A).abs() - target).abs().mean().backward()

    sizes = [sum(p.numel() for p in network.parameters()) for network in (ours, peer)]
    medians = paired_medians({name: lambda: step(peer), "default network": lambda: step(ours)}, repeats=7)
    print(f"{size}x{size}; parameters: default network {sizes[0]}, {name} {sizes[1]}")
    print_ratios("forward and backward, one slice", medians, name, {"default network": 0.6})


def problem_of_size(size: int) -> tuple[CartesianMRI, Tensor, Tensor]:
    """Operator, measurement and target of a batch of one slice: 8 coils, 4 times undersampled."""
    generator = torch.Generator().manual_seed(0)
    maps, mask = birdcage_maps(8, (size, size)), random_mask(size, 4, 0.08, 0).mask
    image = torch.randn(size, size, dtype=torch.complex64, generator=generator)
    A = CartesianMRI.collate([CartesianMRI(maps, mask)])
    return A, (fft2c(maps * image) * mask)[None].contiguous(), image.abs()[None]


def compare_after(seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        make_demo_sites(folder, sites=DEMO_SITES[:1])
        (site,) = load_federation(folder)
        training, test = ([*site.dataset(split)] for split in ("train", "test"))
    torch.manual_seed(0)
    ours = train(build_network(RECIPE.network), training, RECIPE.training.learning_rate, seconds)
    found = evaluate(ours, test).mean("psnr")
    print(f"PSNR on the test slices of site {site.name} after {seconds:.0f} s of training, dB")
    print(f"default network  {found:.2f}")
    torch.manual_seed(0)
    before = evaluate(train(build_network(BEFORE), training, LEARNING_RATE_BEFORE, seconds), test).mean("psnr")
    print(f"default before   {before:.2f}   difference to it {found - before:+.2f}")
    scores = []
    for rate in VARNET_LEARNING_RATES:
        torch.manual_seed(0)
        peer = VarNetMethod(low_frequencies=round(0.08 * 128))
        scores.append(evaluate(train(peer, training, rate, seconds), test).mean("psnr"))
        print(f"VarNet 4 x 8     {scores[-1]:.2f}   learning rate {rate:g}")
    print(f"difference to its best {found - max(scores):+.2f} (bar 0)  {'ok' if found >= max(scores) else 'MISSED'}")


def train(network: nn.Module, samples: list[Sample], learning_rate: float, seconds: float) -> nn.Module:
    """Train with Adam for ``seconds``, with a cosine schedule over this time."""
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    generator = torch.Generator().manual_seed(0)
    endless = itertools.chain.from_iterable(batches(samples, 1, generator) for _ in itertools.count())
    begin = time.perf_counter()
    while (passed := (time.perf_counter() - begin) / seconds) < 1:
        batch = next(endless)
        optimizer.param_groups[0]["lr"] = cosine_learning_rate(learning_rate, passed)
        optimizer.zero_grad(set_to_none=True)
        image = network(batch.measurement, batch.operator)
        LOSSES[RECIPE.training.loss](batch.magnitude(image), batch.target()).backward()
        optimizer.step()
    return network


if __name__ == "__main__":
    main()
