"""PSNR with noise that each site adds in full, and with noise that the sites of a secure sum share.

    OMP_NUM_THREADS=1 python benchmarks/shared_noise.py                  # 4 sites of 16 patients, phantoms of 32x32
    OMP_NUM_THREADS=1 python benchmarks/shared_noise.py --sites 8 --threshold 5 --patients 50

Network, clipping, noise for an epsilon and test data are those of ``private_training.py``. A round is one step at each
site, with a rate of 1 and equal weights, and the server rule ``fedadam`` on their sum. PSNR in dB: mean over the test
volumes of all sites. All parameters are shared. The integers and masks of a sum are left out.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from private_training import BATCH, NETWORK, SLICES, median_norm, noise_for, phantoms, psnr_of

from federation import SERVER_RULES, SiteManifest, build_network, load_manifest, load_recipe
from federation.methods import Contribution, load_parameters, parameters_of
from federation.rounds import initial_network
from federation.sites import patients_of
from recon import PatientLearner, PatientNoise, Supervised


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--threshold", type=int, help="least number of sites in a sum (default: just above half)")
    parser.add_argument("--patients", type=int, default=16, help="patients of each site")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[10.0, 30.0])
    parser.add_argument("--rounds", type=int, default=120)
    parser.add_argument("--rate", type=float, default=3e-3, help="learning rate of the server rule")
    parser.add_argument("--size", type=int, default=32, help="pixels of the phantoms")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = phantoms(Path(folder), arguments.patients, arguments.size, arguments.sites)
        measure([load_manifest(path) for path in paths], Path(folder) / "maps", arguments)


def measure(manifests: Sequence[SiteManifest], maps: Path, arguments: argparse.Namespace) -> None:
    """Print a row per training."""
    recipe = load_recipe("fedavg", NETWORK)
    network = initial_network(lambda: build_network(recipe.network, manifests[0]), 0)
    names = [name for name, _ in network.named_parameters()]
    start = parameters_of(network, names)
    sites, test = ([manifest.dataset(split, maps) for manifest in manifests] for split in ("train", "test"))
    patients = [patients_of(manifest, site).slices for manifest, site in zip(manifests, sites, strict=True)]
    drawn = max(arguments.patients // 4, 1)
    clip = median_norm(network, sites[0], patients[0])
    least = arguments.threshold or arguments.sites // 2 + 1
    rule = SERVER_RULES.make("fedadam", {"learning_rate": arguments.rate, "tau": 1e-6}, "server_options")

    def train(noise: PatientNoise) -> None:
        learners = [
            PatientLearner(network, site, own, noise, batch_size=BATCH, seed=0, objective=Supervised("l1"))
            for site, own in zip(sites, patients, strict=True)
        ]
        shared, memory = start, rule.start(start)
        for number in range(arguments.rounds):
            load_parameters(network, shared)
            network.zero_grad()
            for learner in learners:
                learner.add_gradient(len(learners), number)
            moved = {name: p.detach() - p.grad for name, p in network.named_parameters() if p.grad is not None}
            mean = Contribution("sum", moved, 1, 1, None, None, n_sites=len(learners))
            shared, memory = rule.combine(shared, memory, [mean], {"sum": 1.0}, n_sites=len(learners))
        load_parameters(network, shared)

    def row(text: str, noise: float | None = None, epsilon: float | None = None) -> None:
        cells = ["" if value is None else f"{value:.2f}" for value in (noise, epsilon)]
        psnr = sum(psnr_of(network, samples) for samples in test) / len(test)
        print(f"{text:32s} {cells[0]:>6s} {cells[1]:>8s} {psnr:6.2f}", flush=True)

    print(f"{arguments.sites} sites of {arguments.patients} patients, {arguments.rounds} rounds, clip {clip:.3f}")
    print(f"{'training':32s} {'noise':>6s} {'epsilon':>8s} {'PSNR':>6s}")
    row("untrained")
    train(PatientNoise(clip, 0.0, drawn, SLICES))
    row("clipped only")
    for epsilon in sorted(arguments.epsilons, reverse=True):
        probability, delta = drawn / arguments.patients, 1 / (10 * arguments.patients)
        noise = noise_for(epsilon, probability, arguments.rounds, delta)
        for text, sharing in (("each site adds all", 1), (f"{least} sites have all", least)):
            train(PatientNoise(clip, noise, drawn, SLICES).part_of(sharing))
            row(text, noise, epsilon)


if __name__ == "__main__":
    main()
