"""PSNR against epsilon with 16, 50 and 200 patients: untrained, without noise, clipped only, with noise; one site.

    OMP_NUM_THREADS=1 python benchmarks/private_training.py                         # phantoms of 32x32
    OMP_NUM_THREADS=1 python benchmarks/private_training.py --patients 16 --steps 60 --epsilons 10
    python benchmarks/private_training.py --site sites/north.toml --patients 50     # the first patients of a site
    FEDRECON_DATA=... OMP_NUM_THREADS=1 python benchmarks/private_training.py --anatomy --size 64

``--anatomy``: k-space simulated from real anatomy, T1 of 27 people and images drawn from label maps of 20; six
other people test. Beyond 47 patients, further slices of the same people count as patients.

A step draws a quarter of the patients on average, at most 32, two slices each. The noise multiplier is the smallest
that keeps epsilon at delta 1 / (10 patients). ``clip`` is the median norm of the patients' gradients at the start,
times ``--clip``. PSNR in dB: mean over the test volumes of the site, all slices.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from federation import SiteManifest, build_network, load_manifest, load_recipe, make_demo_sites
from federation.comparison.anatomy_persons import LABEL_SLICES, mri_rows, write_table
from federation.methods import load_parameters
from federation.privacy import PrivateSteps, epsilon_of
from federation.rounds import initial_network
from federation.sites import MRIScanner, SimulatedSite, make_image_sites, patients_of
from recon import (
    PatientLearner,
    PatientNoise,
    Simulation,
    Supervised,
    VolumeSlices,
    evaluate,
    train_locally,
    train_privately,
)

#: A small network: the noise grows with the number of parameters.
NETWORK = ("network.cascades=5", "network.channels=8", "network.depth=3", "network.share_cascades=true")
BATCH, SLICES, MOST_PATIENTS = 2, 2, 32
#: Parts of every person's slices, the middle ones first, and the people who validate and test.
PART_ORDER, TEST_SPLITS = (2, 1, 3, 0, 4), ("validation", *["test"] * 6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, nargs="+", default=[16, 50, 200])
    parser.add_argument("--epsilons", type=float, nargs="+", default=[3.0, 10.0, 30.0])
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=3e-3, help="learning rate of Adam")
    parser.add_argument("--size", type=int, default=32, help="rows and columns")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--site", type=Path, help="manifest of a site in place of phantoms")
    source.add_argument("--anatomy", action="store_true", help="people of FEDRECON_DATA in place of phantoms")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'patients':>8s} {'training':24s} {'noise':>6s} {'epsilon':>8s} {'PSNR':>6s}")
    with tempfile.TemporaryDirectory() as folder:
        made, most = Path(folder), max(arguments.patients)
        simulated = anatomy if arguments.anatomy else one_of_phantoms
        manifest = load_manifest(arguments.site or simulated(made, most, arguments.size))
        for count in arguments.patients:
            measure(manifest, Path(folder) / "maps", count, arguments)


def phantoms(folder: Path, patients: int, size: int, count: int = 1) -> list[Path]:
    """The manifests of some sites, each with so many patients of two slices."""
    names = ["north", *(f"site{number}" for number in range(1, count))]
    sites = [SimulatedSite(name, 4, "t1", Simulation("random", 3, 0.2, noise_std=0.01)) for name in names]
    make_demo_sites(folder / "sites", size=size, train=patients, validation=1, test=12, slices=SLICES, sites=sites)
    return [folder / "sites" / f"{name}.toml" for name in names]


def one_of_phantoms(folder: Path, patients: int, size: int) -> Path:
    """The manifest of one site of phantoms."""
    return phantoms(folder, patients, size)[0]


def anatomy(folder: Path, patients: int, size: int) -> Path:
    """The manifest of a site with so many parts of 47 people, at most five of each; the middle parts come first."""
    rows = mri_rows(folder / "sites", 80, 0)
    t1 = [row for row in rows if row[2] == "T1"]
    drawn = [row for row in rows if row[2] == "drawn"]
    people = [*t1[: -len(TEST_SPLITS)], *drawn]
    spans = [tuple(map(int, row[3].split("-"))) if row[3] else (0, LABEL_SLICES - 1) for row in people]
    parts = []
    for part in PART_ORDER:
        for row, (first, last) in zip(people, spans, strict=True):
            length = (last - first + 1) // len(PART_ORDER)
            begin = first + part * length
            person = f"p{len(parts):03d}"
            parts.append((row[0], person, row[2], f"{begin}-{begin + length - 1}", row[4], "north", "train"))
    if len(parts) < patients:
        raise SystemExit(f"--patients: found {patients}, expected at most {len(parts)} parts of people; lower it")
    others = [(*row[:5], "north", split) for row, split in zip(t1[-len(TEST_SPLITS) :], TEST_SPLITS, strict=True)]
    table = write_table(folder / "sites", [*parts[:patients], *others])
    scanner = MRIScanner(
        name="north", coils=4, sampling="random", acceleration=4, center_fraction=0.125, noise_std=0.01, matrix=size,
        slices=SLICES,
    )  # fmt: skip
    make_image_sites(table, folder / "sites", sites=[scanner], source=folder)
    return folder / "sites" / "north.toml"


def measure(manifest: SiteManifest, maps: Path, count: int, arguments: argparse.Namespace) -> None:
    """Print a row per training with the first ``count`` patients."""
    samples, test = (manifest.dataset(split, maps) for split in ("train", "test"))
    patients = dict(list(patients_of(manifest, samples).slices.items())[:count])
    if len(patients) < count:
        raise SystemExit(f"{manifest.path}: found {len(patients)} patients, expected {count}; lower --patients")
    recipe = load_recipe("fedavg", NETWORK)
    network = initial_network(lambda: build_network(recipe.network, manifest), 0)
    start = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    kept = [samples[index] for indices in patients.values() for index in indices]
    numbers = iter(range(len(kept)))
    patients = {name: [next(numbers) for _ in indices] for name, indices in patients.items()}
    drawn = min(max(count // 4, 1), MOST_PATIENTS)
    how = {
        "steps": arguments.steps,
        "batch_size": BATCH,
        "learning_rate": arguments.rate,
        "objective": Supervised("l1"),
    }

    def row(name: str, noise: float | None = None, epsilon: float | None = None) -> None:
        texts = ["" if noise is None else f"{noise:.2f}", "" if epsilon is None else f"{epsilon:.2f}"]
        print(f"{count:8d} {name:24s} {texts[0]:>6s} {texts[1]:>8s} {psnr_of(network, test):6.2f}", flush=True)

    row("untrained")
    train_locally(network, kept, **how)
    row("without noise")
    load_parameters(network, start)
    clip = arguments.clip * median_norm(network, kept, patients)
    for epsilon in (None, *sorted(arguments.epsilons, reverse=True)):
        noise = 0.0 if epsilon is None else noise_for(epsilon, drawn / count, arguments.steps, 1 / (10 * count))
        load_parameters(network, start)
        train_privately(network, kept, patients, PatientNoise(clip, noise, drawn, SLICES), **how)
        row("clipped only" if epsilon is None else "private", noise or None, epsilon)


def psnr_of(network: torch.nn.Module, test: VolumeSlices) -> float:
    return evaluate(network, test).mean("psnr")


def median_norm(network: torch.nn.Module, samples: Sequence, patients: dict[str, list[int]]) -> float:
    """Median norm of the gradients of the patients; in earnest such a number must come from other data."""
    norms, whole = [], PatientNoise(1e9, 0.0, 1)
    for name, indices in patients.items():
        one = {name: indices}
        learner = PatientLearner(network, samples, one, whole, batch_size=BATCH, seed=0, objective=Supervised("l1"))
        network.zero_grad()
        learner.add_gradient(1, 0)
        norms.append(sum(float(p.grad.square().sum()) for p in network.parameters()) ** 0.5)
    network.zero_grad()
    return float(torch.tensor(norms).median())


def noise_for(epsilon: float, probability: float, steps: int, delta: float) -> float:
    """Smallest noise multiplier, to a hundredth, that keeps ``epsilon``."""
    low, high = 0.3, 64.0
    while high - low > 0.01:
        middle = (low + high) / 2
        spent = epsilon_of([PrivateSteps(steps, probability, middle)], delta)
        low, high = (middle, high) if spent > epsilon else (low, middle)
    return high


if __name__ == "__main__":
    main()
