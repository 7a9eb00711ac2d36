"""Does PSNR move if only the regularizers compute in bfloat16? MRI and CT networks, trained with and without.

    FEDRECON_DATA=... OMP_NUM_THREADS=1 python benchmarks/bfloat16_regularizers.py [--steps 150] [--seeds 3] [--only ct]

Data consistency, FFTs, projections, losses, weights and the optimizer stay in single precision, and the regularizer's
residual is added to its image in single precision. Every seed trains three networks with equal steps on equal batches:
in single precision; in single precision with initial weights that differ in the sixth digit, which says how far PSNR
moves by rounding alone; and with regularizers in bfloat16, scored so and in single precision. Data: the demo sites, and
simulated scans of people (`FEDRECON_DATA`), scored on other people. Networks are those of the recipes ``fedavg`` and
``fedavg_ct``. It runs on the CPU. About an hour of one core.
"""

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from equal_steps import train_steps
from starter_scans import CachedScans, bodies, data_folder, heads, measured_heads
from torch import Tensor, nn

from federation import Recipe, build_network, load_federation, load_recipe, make_ct_demo_sites, make_demo_sites
from federation.recipes.recipe_library import LIBRARY
from recon import (
    RandomCTScans,
    RandomScans,
    Regularizer,
    Sample,
    Samples,
    apply,
    collate,
    evaluate,
)

#: PSNR may move by this much, in dB, as the mean over the seeds.
BAR = 0.02
#: Recipes of the networks, in the library.
RECIPES = {"mri": LIBRARY / "fedavg.toml", "ct": LIBRARY / "demos" / "fedavg_ct.toml"}
Tests = dict[str, list[list[Sample]]]


@contextmanager
def bfloat16_regularizers(network: nn.Module) -> Iterator[None]:
    """Context in which the regularizers of a network compute in bfloat16, except where autocast keeps float32."""
    with ExitStack() as stack:
        for module in network.modules():
            if isinstance(module, Regularizer):
                stack.enter_context(patch.object(module, "refine", partial(_in_bfloat16, module.refine)))
        yield


def _in_bfloat16(refine: Callable[..., Tensor], channels: Tensor, condition: Tensor | None) -> Tensor:
    with torch.autocast(channels.device.type, dtype=torch.bfloat16):
        return refine(channels, condition)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=RECIPES)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = data_folder()
    makers: dict[tuple[str, str], Callable[[], tuple[Samples, Tests]]] = {
        ("mri", "demo"): _demo_mri,
        ("ct", "demo"): _demo_ct,
    }
    if data is not None:
        makers |= {("mri", "people"): partial(_heads, data), ("ct", "people"): partial(_bodies, data)}
    for (modality, name), make in makers.items():
        if arguments.only in (None, modality):
            samples, tests = make()
            compare(
                f"{modality} {name}", load_recipe(RECIPES[modality]), samples, tests, arguments.steps, arguments.seeds
            )


def compare(title: str, recipe: Recipe, samples: Samples, tests: Tests, steps: int, seeds: int) -> None:
    """Print PSNR in single precision, and the changes of the three others, per seed and in the mean."""
    moved: dict[tuple[str, str], list[float]] = {}
    for seed in range(seeds):
        single = trained(recipe, samples, steps, seed)
        other = trained(recipe, samples, steps, seed, perturbed=True)
        half = trained(recipe, samples, steps, seed, half=True)
        for test, sites in tests.items():
            base = psnr(single, sites)
            found = {"other rounding": psnr(other, sites), "trained in bfloat16": psnr(half, sites)}
            with bfloat16_regularizers(half):
                found["trained and applied in bfloat16"] = psnr(half, sites)
            with bfloat16_regularizers(single):
                found["applied in bfloat16"] = psnr(single, sites)
            for name, value in found.items():
                moved.setdefault((test, name), []).append(value - base)
            changes = "  ".join(f"{name} {value - base:+.4f}" for name, value in found.items())
            print(f"{title}, {test}, seed {seed}: {base:.3f} dB  {changes}", flush=True)
        print(f"{title}, seed {seed}: largest difference of images {largest_difference(single, tests):.1e}", flush=True)
    for (test, name), values in moved.items():
        mean = statistics.fmean(values)
        verdict = "ok" if abs(mean) <= BAR else "MOVED"
        print(f"{title}, {test}: {name:32s} mean {mean:+.4f} dB (bar {BAR}) {verdict}", flush=True)


def trained(
    recipe: Recipe, samples: Samples, steps: int, seed: int, *, half: bool = False, perturbed: bool = False
) -> nn.Module:
    """The network of a recipe after so many steps of Adam on batches of one slice."""
    torch.manual_seed(seed)
    network, generator = build_network(recipe.network), torch.Generator().manual_seed(seed)
    if perturbed:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1 + 1e-6 * torch.randn_like(parameter))
    with bfloat16_regularizers(network) if half else nullcontext():
        return train_steps(network, samples, steps, generator, recipe)


def psnr(network: nn.Module, sites: Sequence[list[Sample]]) -> float:
    """Mean over the sites of the mean PSNR of their volumes."""
    return statistics.fmean(evaluate(network, site).mean("psnr") for site in sites)


def largest_difference(network: nn.Module, tests: Tests) -> float:
    """Largest difference of a pixel of images with and without bfloat16, in parts of the largest reference value."""
    found = 0.0
    for sample in itertools.chain.from_iterable(itertools.chain.from_iterable(tests.values())):
        batch = collate([sample])
        with torch.no_grad():
            single = apply(network, batch)
            with bfloat16_regularizers(network):
                half = apply(network, batch)
        found = max(found, float((half - single).abs().max() / batch.target().abs().max()))
    return found


def _demo_mri() -> tuple[Samples, Tests]:
    with tempfile.TemporaryDirectory() as folder:
        make_demo_sites(folder, train=2)
        return _of_sites(Path(folder))


def _demo_ct() -> tuple[Samples, Tests]:
    with tempfile.TemporaryDirectory() as folder:
        make_ct_demo_sites(folder)
        return _of_sites(Path(folder))


def _of_sites(folder: Path) -> tuple[Samples, Tests]:
    sites = load_federation(folder)
    training = [sample for site in sites if not site.unseen for sample in site.dataset("train")]
    return training, {"test slices": [[*site.dataset("test")] for site in sites]}


def _heads(data: Path) -> tuple[Samples, Tests]:
    images, others = ([image for image in heads(data, held) if max(image.shape) <= 128] for held in (False, True))
    training, other = RandomScans(images, 600, phase="realistic"), RandomScans(others, 24, seed=1)
    measured = [[sample] for name, sample in measured_heads(data) if "128" in name]
    return [training[i] for i in range(130)], {"other people": [[other[i]] for i in range(20)], "measured": measured}


def _bodies(data: Path) -> tuple[Samples, Tests]:
    training, other = (RandomCTScans(bodies(data, held), 80, size=128, seed=int(held)) for held in (False, True))
    return CachedScans(training), {"other people": [[other[i]] for i in range(20)]}


if __name__ == "__main__":
    main()
