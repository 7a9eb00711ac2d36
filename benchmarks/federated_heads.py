"""Whether a federated head is better than the head of a site alone, where every site has four labeled people.

    FEDRECON_DATA=... OMP_NUM_THREADS=1 python benchmarks/federated_heads.py OUT [--seeds 3]

The four sites of `downstream.py`: T1 images of IXI by four scanners that differ in mask, noise, coils and gray scale,
with the ventricles and the deep gray nuclei as classes. Four people of a site train, two validate and
the others of the 34 test; every seed deals them anew. The heads read images of the starter weights `brain-mri`, each
computed once. Three arms start from the same head and make the same steps per round:

- local: every site trains its own head;
- federated: after every round the heads of all sites are replaced by their mean;
- first block kept: the same but for the first block of the head, which every site keeps, as in LG-FedAvg. One site
  (south) has an inverted gray scale.

Every arm is validated after every fifth round and ends when its score has not risen for `--patience` rounds, none
before round 60 counted, as heads mark nothing at first; its best state counts: of a local head by the score of its
site, of the others by the mean over the sites. Printed are rounds, Dice by seed and site, and the differences in Dice
on test people. The values of a person who tests in several seeds are averaged before the interval, Student's t over
people.
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from downstream import CLASSES, make_downstream_sites
from scipy.stats import t as student
from torch import Tensor

from federation.sites import SPLITS, parse_classes, patients_of, read_federation
from recon import (
    Downstream,
    PersonPrediction,
    Sample,
    TaskLabels,
    TaskNetwork,
    apply,
    collate,
    cosine_learning_rate,
    head_input,
    load_weights,
    make_head,
    probabilities,
    psnr,
    task_scores,
    train_locally,
    validation_accuracy,
)

#: The first two classes of the sites; the third is background here.
TASK = TaskLabels("segmentation", tuple(parse_classes(CLASSES))[:2])
HEAD, BATCH = {"channels": 8, "depth": 3}, 4
#: Rounds between two validations, and the first from which rounds without improvement count.
VALIDATED, EARLIEST = 5, 60
ARMS = ("local", "federated", "first block kept")
#: Parameters of the head that a site keeps, by arm; of the others it keeps none.
KEPT = {"first block kept": "first."}
MEAN = "mean of classes"
#: Dice by (seed, site, person, class), of an arm.
Dice = dict[tuple[int, str, str, str], float]


@dataclass(frozen=True)
class Budget:
    """Rounds at most, steps of a site in a round, rounds without improvement, and the first learning rate."""

    rounds: int
    steps: int
    patience: int
    rate: float


@dataclass(frozen=True)
class Site:
    """Slices in memory, the image that the head reads in place of the reference; test slices by person."""

    train: Sequence[Sample]
    validation: Sequence[Sample]
    people: Mapping[str, Sequence[Sample]]


@dataclass
class Best:
    """Best state of some networks, and the round in which it was."""

    score: float = -1.0
    round: int = -1
    states: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def offer(self, score: float, round_: int, networks: Mapping[str, TaskNetwork]) -> None:
        """Keep the networks if they are better."""
        if score > self.score:
            self.score, self.round = score, round_
            self.states = {name: deepcopy(network.head.state_dict()) for name, network in networks.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="folder of the sites and of scores.json")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=240, help="at most, of every arm (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="of a site in a round (default: %(default)s)")
    parser.add_argument("--patience", type=int, default=40, help="in rounds (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=4e-3, help="first learning rate (default: %(default)s)")
    arguments = parser.parse_args()
    if "FEDRECON_DATA" not in os.environ or arguments.out is None:
        print("left out: needs FEDRECON_DATA, the folder of images of people, and a folder for the run")
        return
    budget = Budget(arguments.rounds, arguments.steps, arguments.patience, arguments.rate)
    reconstruction = load_weights("brain-mri").eval()
    scores = read_scores(arguments.out / "scores.json")
    for seed in range(arguments.seeds):
        folder = arguments.out / f"seed{seed}"
        if not folder.exists():
            make_downstream_sites(folder, persons=4, validation=2, seed=seed)
        missing = [arm for arm in ARMS if not any(key[0] == seed for key in scores[arm])]
        sites = load_sites(folder, reconstruction) if missing else {}
        for arm in missing:
            scores[arm] |= test(sites, train_arm(arm, sites, reconstruction, budget, seed), seed)
            rows = [[*key, name, value] for name, found in scores.items() for key, value in found.items()]
            (arguments.out / "scores.json").write_text(json.dumps(rows))
        report(scores, seed)
    for other in ARMS[1:]:
        differences(f"{other} - local", scores[other], scores["local"])


def read_scores(path: Path) -> dict[str, Dice]:
    """Dice by arm from an earlier call."""
    scores: dict[str, Dice] = {arm: {} for arm in ARMS}
    for seed, site, person, label, arm, value in json.loads(path.read_text()) if path.exists() else []:
        scores[arm][seed, site, person, label] = value
    return scores


def load_sites(folder: Path, reconstruction: torch.nn.Module) -> dict[str, Site]:
    """All sites; prints the PSNR of the images that the heads read."""
    sites = {}
    for manifest in read_federation(folder):
        dataset = {split: manifest.dataset(split, folder / "maps", None, 0) for split in SPLITS}
        parts = {split: [seen(reconstruction, own[i]) for i in range(len(own))] for split, own in dataset.items()}
        quality = np.mean([value for part in parts.values() for _, value in part])
        print(f"{manifest.name}: {quality:.1f} dB, {len(parts['train'])} slices train", flush=True)
        tested = patients_of(manifest, dataset["test"], "test").slices
        people = {person: [parts["test"][i][0] for i in slices] for person, slices in tested.items()}
        train, validation = ([sample for sample, _ in parts[split]] for split in ("train", "validation"))
        sites[manifest.name] = Site(train, validation, people)
    return sites


def seen(reconstruction: torch.nn.Module, sample: Sample) -> tuple[Sample, float]:
    """A slice with the image of the network in place of the reference, and its PSNR."""
    batch = collate([sample])
    with torch.no_grad():
        image = batch.magnitude(apply(reconstruction, batch))
    assert sample.label is not None
    label = torch.where(sample.label <= len(TASK.classes), sample.label, 0)
    return replace(sample, reference=image[0] + 0j, label=label), psnr(batch.target(), image)


def train_arm(
    arm: str, sites: Mapping[str, Site], reconstruction: torch.nn.Module, budget: Budget, seed: int
) -> dict[str, TaskNetwork]:
    """Networks of an arm by site."""
    torch.manual_seed(seed)
    start = TaskNetwork(reconstruction.requires_grad_(False), make_head("unet", TASK, HEAD), TASK)
    if arm != "local":
        return train(sites, start, budget, seed, arm)
    return {name: train({name: site}, start, budget, seed, f"{arm}, {name}")[name] for name, site in sites.items()}


def train(
    sites: Mapping[str, Site], start: TaskNetwork, budget: Budget, seed: int, title: str
) -> dict[str, TaskNetwork]:
    """Rounds of local steps and means over the given sites; the networks of the best round."""
    networks = {name: TaskNetwork(start.reconstruction, deepcopy(start.head), TASK) for name in sites}
    moments: dict[str, Mapping[str, Tensor]] = {}
    best = Best()
    for number in range(budget.rounds + 1):
        if number % VALIDATED == 0:
            score = np.mean([accuracy(networks[name], site) for name, site in sites.items()])
            best.offer(float(score), number, networks)
            if number >= min(budget.rounds, max(best.round, EARLIEST) + budget.patience):
                break
        for name, network in networks.items():
            moments[name] = train_locally(
                network,
                sites[name].train,
                steps=budget.steps,
                batch_size=BATCH,
                learning_rate=cosine_learning_rate(budget.rate, number / budget.rounds),
                seed=1000 * seed + number,
                optimizer_state=moments.get(name),
                objective=Downstream(input="reference"),
            ).optimizer_state
        average([network.head for network in networks.values()], KEPT.get(title))
    for name, network in networks.items():
        network.head.load_state_dict(best.states[name])
    print(
        f"seed {seed}, {title}: best of {number} rounds is round {best.round}, validation {best.score:.3f}", flush=True
    )
    return networks


def accuracy(network: TaskNetwork, site: Site) -> float:
    """Validation score of a site."""
    return validation_accuracy(network, site.validation, on_reference=True) or 0.0


def average(heads: Sequence[torch.nn.Module], kept: str | None) -> None:
    """Replace the parameters of all heads by their mean, but for those whose names begin with ``kept``."""
    parameters = [dict(head.named_parameters()) for head in heads]
    with torch.no_grad():
        for name in parameters[0]:
            if kept is None or not name.startswith(kept):
                mean = torch.stack([own[name] for own in parameters]).mean(0)
                for own in parameters:
                    own[name].copy_(mean)


def test(sites: Mapping[str, Site], networks: Mapping[str, TaskNetwork], seed: int) -> Dice:
    """Dice of the test people of all sites."""
    found: Dice = {}
    for name, site in sites.items():
        network = networks[name].eval()
        for person, samples in site.people.items():
            batch = collate(list(samples))
            with torch.no_grad():
                told = probabilities(TASK, network.head(head_input(batch.target())))
            assert batch.label is not None
            one = PersonPrediction(person, batch.label.numpy(), told.numpy())
            scores = task_scores(TASK.kind, TASK.classes, [one])["classes"]
            found |= {(seed, name, person, label): scores[label]["scores"]["dice"]["value"] for label in TASK.classes}
    return found


def report(scores: Mapping[str, Dice], seed: int) -> None:
    """Dice of a seed by arm, class and site, mean over people."""
    for arm, found in scores.items():
        for label in TASK.classes:
            by_site = of_sites({key: value for key, value in found.items() if key[0] == seed and key[3] == label})
            print(f"seed {seed}, {arm}, {label}:", *(f"{site} {np.mean(own):.3f}" for site, own in by_site.items()))


def of_sites(found: Dice) -> dict[str, list[float]]:
    """Values by site."""
    return {site: [v for key, v in found.items() if key[1] == site] for site in sorted({key[1] for key in found})}


def differences(title: str, first: Dice, second: Dice) -> None:
    """Differences in Dice with their interval over people: by class and of their mean, by site and seed."""
    paired = {key: value - second[key] for key, value in first.items()}
    for label in (*TASK.classes, MEAN):
        print(f"{title}, {label}:")
        own = {key: value for key, value in paired.items() if label in (key[3], MEAN)}
        groups = {"all": own}
        for part, name in ((1, "site"), (0, "seed")):
            for group in sorted({key[part] for key in own}, key=str):
                groups[f"{name} {group}"] = {key: value for key, value in own.items() if key[part] == group}
        for name, values in groups.items():
            print(f"  {name:12s} {interval(values)}", flush=True)


def interval(paired: Dice) -> str:
    """Mean over people with its 95 % interval, and how many of them gain."""
    people = sorted({key[2] for key in paired})
    means = np.array([np.mean([value for key, value in paired.items() if key[2] == person]) for person in people])
    reach = student.ppf(0.975, len(means) - 1) * means.std(ddof=1) / len(means) ** 0.5
    low, high = means.mean() - reach, means.mean() + reach
    return f"{means.mean():+.3f} ({low:+.3f} to {high:+.3f}; {(means > 0).sum()} of {len(means)} people gain)"


if __name__ == "__main__":
    main()
