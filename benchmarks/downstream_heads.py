"""What reconstruction does to a downstream task, on real anatomy: ventricles and deep gray nuclei in heads.

    FEDRECON_DATA=... OMP_NUM_THREADS=1 python benchmarks/downstream_heads.py OUT [--head-rounds 20] [--steps 16]

Three simulated MRI scanners measure T1 images of IXI, each with another contrast, mask, noise and number of coils, and
eleven people: four for training, two for validation, five for the test, nobody at two sites. The labels are automatic
(DLMUSE), reduced with the images. FedAvg trains the reconstruction; then heads are trained in memory with the steps of
a site (`recon.train_locally`) and the plain mean of shared parameters after every round, the last round counts:

- on reference images, federated and by every site alone, and scored on the images of several methods;
- in two stages: on the images of the federation's own network;
- both further by a quarter of the rounds: the head of the two stages alone, or end to end, where the gradient of the
  task reaches the regularizer. Data consistency stays at the site.

Printed are PSNR and Dice by site, and differences paired by person over all sites with their 95 % intervals.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from federation.experiment import train_run
from federation.experiment.classical_arms import classical_method
from federation.experiment.personal_stage import site_network
from federation.experiment.run_folder import RunFolder
from federation.experiment.task import ReconstructionTask
from federation.recipes import load_recipe
from federation.sites import ImageLabels, MRIScanner, PersonImage, make_image_sites, patients_of, read_federation
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
    make_head,
    probabilities,
    psnr,
    task_differences,
    task_scores,
    train_locally,
)

#: Numbers of MUSE: third and lateral ventricles; caudate, putamen, pallidum and thalamus.
CLASSES = {"ventricles": (4, 51, 52), "deep_gray": (36, 37, 55, 56, 57, 58, 59, 60)}
LABELS, TASK = ImageLabels("{stem}_DLMUSE.nii.gz", CLASSES), TaskLabels("segmentation", tuple(CLASSES))
#: Parts of the eleven people of a site: four, two and five.
SPLIT = (4 / 11, 2 / 11, 5 / 11)
PEOPLE, SLICES = 11, 8
#: Small enough for one core.
NETWORK = ("network.cascades=4", "network.depth=3", "network.consistency='gradient'")
BATCH, RATE, HEAD = 4, 4e-3, {"channels": 8, "depth": 3}


@dataclass(frozen=True)
class Site:
    """Slices of a site in memory: for training, and of every test person; images of the test people by method."""

    network: TaskNetwork
    train: list[Sample]
    people: dict[str, list[Sample]]
    images: dict[str, dict[str, Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="folder of sites and runs")
    parser.add_argument("--rounds", type=int, default=12, help="of the reconstruction (default: %(default)s)")
    parser.add_argument("--head-rounds", type=int, default=20, help="of every head (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=16, help="of a site in a round of a head (default: %(default)s)")
    parser.add_argument("--matrix", type=int, default=64)
    arguments = parser.parse_args()
    if "FEDRECON_DATA" not in os.environ or arguments.out is None:
        print("left out: needs FEDRECON_DATA, the folder of images of people, and a folder for the run")
        return
    folder, base = arguments.out / "sites", arguments.out / "reconstruction"
    if not folder.exists():
        images = Path(os.environ["FEDRECON_DATA"]) / "mr_brain_t1_ixi_3T_philips"
        make_image_sites(people(images), folder, sites=scanners(arguments.matrix), split=SPLIT, labels=LABELS)
    recipe = load_recipe("fedavg", [*NETWORK, f"federation.rounds={arguments.rounds}", "evaluation.arms=[]"])
    train_run(recipe, read_federation(folder), base, jobs=1, resume=base.exists(), say=print)
    sites = load_sites(RunFolder.open(base))
    report_images(sites)
    rounds, steps, more = arguments.head_rounds, arguments.steps, max(1, arguments.head_rounds // 4)
    references = train(sites, rounds, steps, "reference")
    alone = train(sites, rounds, steps, "reference", federated=False)
    for method in ("reference", "zero_filled", "tv", "network"):
        report(f"head of references, on {method}", sites, predictions(sites, references, method))
    report("local head of references, on network", sites, predictions(sites, alone, "network"))
    for method in ("zero_filled", "tv", "network"):
        pairs = (predictions(sites, references, one) for one in (method, "reference"))
        difference(f"head of references: on {method} - on reference", *pairs)
    for method in ("reference", "network"):
        pairs = (predictions(sites, heads, method) for heads in (references, alone))
        difference(f"head of references, on {method}: federated - local", *pairs)
    stages = train(sites, rounds, steps, "reconstruction")
    report("two stages", sites, predictions(sites, stages))
    pairs = predictions(sites, stages), predictions(sites, references, "network")
    difference("two stages - head of references, on network", *pairs)
    longer = train(sites, more, steps, "reconstruction", start=stages)
    report("two stages, further", sites, predictions(sites, longer))
    end = train(sites, more, steps, "end_to_end", start=stages)
    report("end to end, further", sites, predictions(sites, end))
    difference("end to end - two stages, both further", predictions(sites, end), predictions(sites, longer))


def scanners(matrix: int) -> tuple[MRIScanner, ...]:
    """Three hospitals that differ in everything but the anatomy."""
    common = {"matrix": matrix, "slices": SLICES, "persons": PEOPLE, "center_fraction": 0.125}
    return (
        MRIScanner(name="north", coils=4, sampling="random", acceleration=4, noise_std=0.02, **common),
        MRIScanner(
            name="east", coils=6, sampling="equispaced", acceleration=4, noise_std=0.04, gray_scale="inverted", **common
        ),
        MRIScanner(
            name="west", coils=8, sampling="random", acceleration=6, noise_std=0.02, gray_scale="gamma", **common
        ),
    )


def people(folder: Path) -> list[PersonImage]:
    """The slices of every person between the first and the last that show a class."""
    found = []
    for file in sorted(folder.glob("*_T1.nii.gz"))[: 3 * PEOPLE]:
        person = file.name.split("_")[0]
        shown = LABELS.read(PersonImage(file, person)).any(-1).any(-1).nonzero().flatten()
        found.append(PersonImage(file, person, slices=(int(shown[0]), int(shown[-1]))))
    return found


def load_sites(run: RunFolder) -> dict[str, Site]:
    """All sites with the federation's network, and the images of every method."""
    sites = {}
    for manifest in run.manifests:
        task = ReconstructionTask(manifest, run.recipe, run.maps_folder(manifest.name))
        samples, trained = task.dataset("test"), task.dataset("train")
        by_person = patients_of(manifest, samples, "test").slices
        tested = {person: [samples[index] for index in slices] for person, slices in by_person.items()}
        torch.manual_seed(0)  # all heads start alike
        network = TaskNetwork(site_network(run, manifest), make_head("unet", TASK, HEAD), TASK)
        methods = {arm: classical_method(arm, task, {}) for arm in ("zero_filled", "tv")} | {"network": network}
        images = {arm: {one: shown(method, own) for one, own in tested.items()} for arm, method in methods.items()}
        images["reference"] = {person: torch.stack([s.target() for s in own]) for person, own in tested.items()}
        sites[manifest.name] = Site(network, [trained[i] for i in range(len(trained))], tested, images)
    return sites


def shown(method: torch.nn.Module, samples: Sequence[Sample]) -> Tensor:
    """Displayed images of a method."""
    with torch.no_grad():
        batches = [collate([sample]) for sample in samples]
        return torch.cat([batch.magnitude(apply(method.eval(), batch)) for batch in batches])


def train(
    sites: Mapping[str, Site],
    rounds: int,
    steps: int,
    reads: str,
    *,
    start: Mapping[str, TaskNetwork] | None = None,
    federated: bool = True,
) -> dict[str, TaskNetwork]:
    """Networks by site after training; ``reads`` is the input of :class:`recon.Downstream`."""
    networks = {name: deepcopy(start[name] if start else site.network) for name, site in sites.items()}
    samples = {name: site.train for name, site in sites.items()}
    for name, network in networks.items():
        network.reconstruction.requires_grad_(reads == "end_to_end")
        if reads == "reconstruction":  # the network is frozen: its images are computed once, and stand for references
            seen = shown(network, samples[name])
            samples[name] = [replace(s, reference=image + 0j) for s, image in zip(samples[name], seen, strict=True)]
    objective = Downstream(input="end_to_end" if reads == "end_to_end" else "reference")
    moments: dict[str, Mapping[str, Tensor]] = {}
    for number in range(rounds):
        for name, network in networks.items():
            result = train_locally(
                network.train(),
                samples[name],
                steps=steps,
                batch_size=BATCH,
                learning_rate=cosine_learning_rate(RATE, number / rounds),
                seed=number,
                optimizer_state=moments.get(name),
                objective=objective,
            )
            moments[name] = result.optimizer_state
        if federated:
            average(list(networks.values()))
    return networks


def average(networks: Sequence[TaskNetwork]) -> None:
    """The mean of all parameters but those of data consistency, in all networks."""
    parameters = [dict(network.named_parameters()) for network in networks]
    with torch.no_grad():
        for name in parameters[0]:
            if ".consistency." not in name:
                mean = torch.stack([own[name] for own in parameters]).mean(0)
                for own in parameters:
                    own[name].copy_(mean)


def predictions(
    sites: Mapping[str, Site], networks: Mapping[str, TaskNetwork], method: str | None = None
) -> dict[str, list[PersonPrediction]]:
    """Test people by site; the heads read the images of a method, None: of their own network."""
    found: dict[str, list[PersonPrediction]] = {}
    for name, site in sites.items():
        network = networks[name].eval()
        for person, samples in site.people.items():
            images = shown(network, samples) if method is None else site.images[method][person]
            truth = torch.stack([sample.label for sample in samples if sample.label is not None])
            with torch.no_grad():
                told = probabilities(TASK, network.head(head_input(images)))
            found.setdefault(name, []).append(PersonPrediction(f"{name} {person}", truth.numpy(), told.numpy()))
    return found


def report_images(sites: Mapping[str, Site]) -> None:
    """PSNR by site and method, mean over people."""
    print(f"{'PSNR (dB)':44s}", *(f"{name:>12s}" for name in sites))
    for method in ("zero_filled", "tv", "network"):
        values = [
            sum(psnr(site.images["reference"][one], image) for one, image in site.images[method].items())
            / len(site.people)
            for site in sites.values()
        ]
        print(f"{method:44s}", *(f"{value:12.2f}" for value in values), flush=True)


def report(title: str, sites: Mapping[str, Site], found: Mapping[str, Sequence[PersonPrediction]]) -> None:
    """Dice by class and site."""
    for label in CLASSES:
        cells = []
        for name in sites:
            score = task_scores("segmentation", tuple(CLASSES), found[name])["classes"][label]["scores"]["dice"]
            cells.append(f"{score['value']:12.3f}")
        print(f"{title}, Dice of {label}".ljust(44), *cells, flush=True)


def difference(
    title: str, first: Mapping[str, list[PersonPrediction]], second: Mapping[str, list[PersonPrediction]]
) -> None:
    """Paired differences in Dice over the people of all sites, and by site."""
    pooled = [[one for own in arm.values() for one in own] for arm in (first, second)]
    by_site = {name: task_differences("segmentation", tuple(CLASSES), first[name], second[name]) for name in first}
    for label, found in task_differences("segmentation", tuple(CLASSES), *pooled).items():
        dice = found["dice"]
        ends = "no interval" if dice["interval"] is None else "{:+.3f} to {:+.3f}".format(*dice["interval"])
        each = ", ".join(f"{name} {one[label]['dice']['value']:+.3f}" for name, one in by_site.items())
        print(f"{title}: {label} {dice['value']:+.3f} ({ends}; {dice['people']} people); {each}", flush=True)


if __name__ == "__main__":
    main()
