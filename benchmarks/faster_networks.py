"""Networks with a short training step: time of a step, and PSNR after equal training time.

    OMP_NUM_THREADS=1 python benchmarks/faster_networks.py                              # the ratios of the steps
    FEDRECON_DATA=... OMP_NUM_THREADS=1 python benchmarks/faster_networks.py --steps 400 [--seed 0]
    ... --steps 400 --seed 1 --only "5 cascades, 6 CG iterations" "5 cascades, 3 CG iterations=0.77" --data anatomy

The first network trains for this number of steps, every other one for so many more as its step is shorter. ``--only``
chooses networks by a part of their names, and may state the ratio of the step, so that runs on a busy machine have the
same numbers of steps; with ``--loss``, losses compare on one network. Data are all training slices of the demo sites
together, scored on their test slices (mean of the sites); and 130 simulated scans of people, scored on 20 scans of
other people and on the measured T2 head at 128x128 (inside the head). Without FEDRECON_DATA the demo sites alone. About
an hour of one core.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from equal_steps import train_steps
from noise_ablation import mean_score
from starter_scans import data_folder, heads, measured_heads
from timing import paired_medians
from torch import Tensor, nn
from torch.nn import functional as F
from training_step import BEFORE, RECIPE, problem_of_size

from federation import build_network, load_federation, make_demo_sites
from recon import (
    LOSSES,
    ConvRegularizer,
    GradientStep,
    NoStep,
    ProximalStep,
    RandomScans,
    Sample,
    SiteDataConsistency,
    UnrolledNetwork,
    evaluate,
)

Scores = Callable[[nn.Module], str]


class HalfResolution(ConvRegularizer):
    """The plain CNN on squares of 2x2 pixels, each one position with eight channels."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__(channels, depth)
        self.hidden[0] = nn.Conv2d(8, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, 8, 3, padding=1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def residual(self, channels: Tensor, condition: Tensor | None) -> Tensor:
        return F.pixel_shuffle(super().residual(F.pixel_unshuffle(channels, 2), condition), 2)


def _network(
    cascades: int,
    consistency: Callable[[], SiteDataConsistency],
    cnn: Callable[..., ConvRegularizer] = ConvRegularizer,
    start: Literal["operator", "adjoint"] = "operator",
) -> UnrolledNetwork:
    return UnrolledNetwork(cascades, consistency, lambda: cnn(16, 4), start=start)


def _remembering(cascades: int, depth: int, consistency: Callable[[], SiteDataConsistency]) -> UnrolledNetwork:
    """Regularizers that pass 14 channels on, beside real and imaginary part of the image."""
    return UnrolledNetwork(cascades, consistency, partial(ConvRegularizer, 16, depth), memory=14)


def _but_first(iterations: int) -> Callable[[], SiteDataConsistency]:
    """Data consistency of all cascades but the first, which gets the start image: a solution already."""
    cascade = itertools.count()
    return lambda: ProximalStep(iterations=iterations) if next(cascade) else NoStep()


def _unrolled(iterations: int) -> Callable[[], ProximalStep]:
    return partial(ProximalStep, iterations=iterations, gradient="unrolled")


def _gradient(iterations: int) -> Callable[[], GradientStep]:
    return partial(GradientStep, iterations=iterations)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "5 cascades, 6 CG iterations": lambda: _network(5, ProximalStep),
    "5 cascades, 4 CG iterations": lambda: _network(5, partial(ProximalStep, iterations=4)),
    "default before November 29": lambda: build_network(BEFORE),
    "5 cascades, 3 CG iterations": lambda: _network(5, partial(ProximalStep, iterations=3)),
    "5 cascades, 3 CG iterations, none in the first": lambda: _network(5, _but_first(3)),
    "5 cascades, 2 CG iterations, none in the first": lambda: _network(5, _but_first(2)),
    "5 cascades, 3 CG iterations from the adjoint": lambda: _network(
        5, partial(ProximalStep, iterations=3), start="adjoint"
    ),
    "5 cascades, 2 CG iterations, unrolled": lambda: _network(5, _unrolled(2)),
    "4 cascades, 2 CG iterations, unrolled": lambda: _network(4, _unrolled(2)),
    "3 cascades, 3 CG iterations, unrolled": lambda: _network(3, _unrolled(3)),
    "4 cascades, 2 learned gradient steps": lambda: _network(4, _gradient(2)),
    "5 cascades, half resolution, 6 CG iterations": lambda: _network(5, ProximalStep, HalfResolution),
    "5 cascades, half resolution, 2 CG iterations": lambda: _network(5, _unrolled(2), HalfResolution),
    "memory, 6 x 2 layers, 2 gradient steps": lambda: _remembering(6, 2, _gradient(2)),
    "memory, 6 x 2 layers, 1 gradient step": lambda: _remembering(6, 2, _gradient(1)),
    "memory, 5 x 2 layers, 2 gradient steps": lambda: _remembering(5, 2, _gradient(2)),
    "memory, 5 x 3 layers, 2 gradient steps": lambda: _remembering(5, 3, _gradient(2)),
    "memory, 4 x 3 layers, 2 gradient steps": lambda: _remembering(4, 3, _gradient(2)),
    "memory, 6 x 2 layers, 4 CG iterations": lambda: _remembering(6, 2, partial(ProximalStep, iterations=4)),
    "memory, 5 x 3 layers, 4 CG iterations": lambda: _remembering(5, 3, partial(ProximalStep, iterations=4)),
    "memory, 3 x 4 layers, 4 CG iterations": lambda: _remembering(3, 4, partial(ProximalStep, iterations=4)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=0, help="training steps of the first network; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loss", default=RECIPE.training.loss, choices=LOSSES, help="default: %(default)s")
    parser.add_argument("--only", nargs="+", default=list(NETWORKS), metavar="NAME[=RATIO]")
    parser.add_argument("--then", type=int, nargs="+", default=[], help="score with these CG iterations, too")
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=DATA)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chosen, stated = _chosen(parser, arguments.only)
    ratios = stated if len(stated) == len(chosen) else _step_ratios(chosen) | stated
    for name in arguments.data if arguments.steps else []:
        if (data := DATA[name]()) is None:
            continue
        samples, scores = data
        for network in chosen:
            steps = round(arguments.steps / ratios[network])
            trained = _trained(NETWORKS[network], samples, steps, arguments.seed, arguments.loss)
            print(f"{name:12s} {network:48s} {steps:6d} steps   {scores(trained)}", flush=True)
            for iterations in arguments.then:
                for layer in trained.modules():
                    if isinstance(layer, ProximalStep):
                        layer.iterations = iterations
                print(f"{'':12s} the same with {iterations} CG iterations   {scores(trained)}", flush=True)


def _chosen(parser: argparse.ArgumentParser, parts: list[str]) -> tuple[list[str], dict[str, float]]:
    """Names of networks, and the ratios of their steps where they are stated."""
    chosen, stated = [], {}
    for part in parts:
        begin, _, ratio = part.partition("=")
        found = [begin] if begin in NETWORKS else [name for name in NETWORKS if begin in name]
        if len(found) != 1:
            parser.error(f"--only: found {part!r}, a part of {len(found)} names, expected one of {', '.join(NETWORKS)}")
        chosen += found
        if ratio:
            stated[found[0]] = float(ratio)
    return chosen, stated


def _step_ratios(chosen: list[str]) -> dict[str, float]:
    """Processor time of forward and backward of a slice of 128x128 with 8 coils, against the first network."""
    networks = {name: NETWORKS[name]() for name in chosen}
    A, y, target = problem_of_size(128)

    def step(network: nn.Module) -> None:
        network.zero_grad(set_to_none=True)
        (network(y, A).abs() - target).abs().mean().backward()

    runs = {name: partial(step, network) for name, network in networks.items()}
    medians = paired_medians(runs, repeats=9, clock=time.process_time)
    first = medians[chosen[0]]
    for name, seconds in medians.items():
        size = sum(p.numel() for p in networks[name].parameters())
        print(f"{name:48s} {size:7d} parameters   step {seconds / first:.2f}, {1e3 * seconds:.1f} ms", flush=True)
    return {name: seconds / first for name, seconds in medians.items()}


def _demo_sites() -> tuple[list[Sample], Scores]:
    with tempfile.TemporaryDirectory() as folder:
        make_demo_sites(folder, train=2)
        sites = load_federation(folder)
        samples = [sample for site in sites if not site.unseen for sample in site.dataset("train")]
        tests = [[*site.dataset("test")] for site in sites]
    return samples, lambda net: f"{sum(evaluate(net, test).mean('psnr') for test in tests) / len(tests):.2f} dB"


def _anatomy() -> tuple[list[Sample], Scores] | None:
    if (data := data_folder()) is None:
        return None
    images, others = ([image for image in heads(data, held) if max(image.shape) <= 128] for held in (False, True))
    training, other = RandomScans(images, 600, phase="realistic"), RandomScans(others, 24, seed=1)
    tests = [other[index] for index in range(20)]
    measured = [sample for name, sample in measured_heads(data) if "128" in name]
    return [
        training[index] for index in range(130)
    ], lambda net: f"simulated {mean_score(net, tests):.2f} dB, measured {mean_score(net, measured):.2f} dB"


def _trained(make: Callable[[], nn.Module], samples: list[Sample], steps: int, seed: int, loss: str) -> nn.Module:
    torch.manual_seed(seed)
    recipe = RECIPE.model_copy(update={"training": RECIPE.training.model_copy(update={"loss": loss})})
    return train_steps(make(), samples, steps, torch.Generator().manual_seed(seed), recipe)


DATA = {"demo": _demo_sites, "anatomy": _anatomy}


if __name__ == "__main__":
    main()
