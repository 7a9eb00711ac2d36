"""What reconstruction does to a downstream task, on real anatomy: ventricles and deep gray matter in heads.

    FEDRECON_DATA=... OMP_NUM_THREADS=1 python benchmarks/downstream_heads.py OUT [--rounds 12] [--head-rounds 16]

Three simulated MRI scanners measure T1 images of IXI, each another contrast, sampling, noise and number of coils, and
eleven people: four for training, two for validation, five for the test, nobody at two sites. The labels are automatic
(DLMUSE), reduced with the images. FedAvg trains the reconstruction; then heads are trained in three ways:

- on reference images, and scored on the images of every arm (`downstream_reference`);
- on the images of the federation's own network (`downstream_two_stage`);
- end to end, where the gradient of the task reaches the regularizer (`downstream_end_to_end`).

Printed are Dice by site, and differences paired by person over all sites with their 95 % intervals.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from federation.experiment import evaluate_run, train_run
from federation.experiment.classical_arms import classical_method
from federation.experiment.personal_stage import site_network
from federation.experiment.run_folder import RunFolder
from federation.experiment.task import ReconstructionTask
from federation.recipes import load_recipe
from federation.sites import ImageLabels, MRIScanner, PersonImage, make_image_sites, patients_of, read_federation
from recon import (
    PersonPrediction,
    apply,
    collate,
    head_input,
    probabilities,
    task_differences,
    task_network_of,
    task_text,
)

#: Numbers of MUSE: third and lateral ventricles; caudate, putamen, pallidum and thalamus.
CLASSES = {"ventricles": (4, 51, 52), "deep_gray": (36, 37, 55, 56, 57, 58, 59, 60)}
LABELS = ImageLabels("{stem}_DLMUSE.nii.gz", CLASSES)
#: Parts of the eleven people of a site: four, two and five.
SPLIT = (4 / 11, 2 / 11, 5 / 11)
PEOPLE, SLICES = 11, 8
#: Small enough for one core; the same steps in every arm.
NETWORK = ("network.cascades=4", "network.depth=3", "network.consistency='gradient'")
HEAD = ("training.steps_per_round=16", "training.batch_size=2", "task.head_options={channels=8, depth=3}")


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
    """The slices of every person that show a class."""
    found = []
    for file in sorted(folder.glob("*_T1.nii.gz"))[: 3 * PEOPLE]:
        person = file.name.split("_")[0]
        shown = LABELS.read(PersonImage(file, person)).any(-1).any(-1).nonzero().flatten()
        found.append(PersonImage(file, person, slices=(int(shown[0]), int(shown[-1]))))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="folder of sites and runs")
    parser.add_argument("--rounds", type=int, default=12, help="of the reconstruction (default: %(default)s)")
    parser.add_argument("--head-rounds", type=int, default=16, help="of every head (default: %(default)s)")
    parser.add_argument("--matrix", type=int, default=64)
    arguments = parser.parse_args()
    if "FEDRECON_DATA" not in os.environ or arguments.out is None:
        print("left out: needs FEDRECON_DATA, the folder of images of people, and a folder for the runs")
        return
    sites, base = arguments.out / "sites", arguments.out / "reconstruction"
    if not sites.exists():
        folder = Path(os.environ["FEDRECON_DATA"]) / "mr_brain_t1_ixi_3T_philips"
        make_image_sites(people(folder), sites, sites=scanners(arguments.matrix), split=SPLIT, labels=LABELS)
    train("fedavg", sites, base, [*NETWORK, f"federation.rounds={arguments.rounds}", "evaluation.arms=[]"])
    options = [
        *NETWORK, *HEAD, f"federation.rounds={arguments.head_rounds}", f"task.classes={list(CLASSES)}",
        f"network.base='{base}'",
    ]  # fmt: skip
    arms: dict[str, dict[str, list[PersonPrediction]]] = {}
    for name in ("reference", "two_stage", "end_to_end"):
        run = arguments.out / name
        images = ["zero_filled", "tv"] if name == "reference" else []
        train(f"downstream/{name}", sites, run, [*options, f"evaluation.arms={[*images, 'local']}"])
        print(name, task_text(evaluate_run(run, jobs=1, say=print)), sep="\n\n", end="\n\n")
        arms[name] = test_people(run, images)
    for title, first, second in comparisons(arms):
        for label, found in task_differences("segmentation", list(CLASSES), first, second).items():
            value, interval = found["dice"]["value"], found["dice"]["interval"]
            shown = "no interval" if interval is None else f"{interval[0]:+.3f} to {interval[1]:+.3f}"
            print(f"{title:60s} {label:10s} Dice {value:+.3f} ({shown}), {found['dice']['people']} people")


def train(name: str, sites: Path, out: Path, options: Sequence[str]) -> None:
    """Train a recipe, or go on with it."""
    train_run(load_recipe(name, options), read_federation(sites), out, jobs=1, resume=out.exists(), say=print)


def test_people(folder: Path, classical: Sequence[str]) -> dict[str, list[PersonPrediction]]:
    """Predictions of the test people of all sites, by arm: ``federated``, ``local``, ``reference`` and classical ones.

    The head of the federation reads the images of classical methods and the references.
    """
    run, found = RunFolder.open(folder), dict[str, list[PersonPrediction]]()
    for manifest in run.manifests:
        task = ReconstructionTask(manifest, run.recipe, run.maps_folder(manifest.name))
        samples = task.dataset("test")
        networks = {arm: site_network(run, manifest, local=arm == "local").eval() for arm in ("federated", "local")}
        methods = networks | {arm: classical_method(arm, task, {}) for arm in classical} | {"reference": None}
        for person, slices in patients_of(manifest, samples, "test").slices.items():
            batches = [collate([samples[index]]) for index in slices]
            truth = torch.cat([batch.label for batch in batches if batch.label is not None]).numpy()
            for arm, method in methods.items():
                network = task_network_of(networks.get(arm, networks["federated"]))
                assert network is not None
                with torch.no_grad():
                    shown = [b.target() if method is None else b.magnitude(apply(method, b)) for b in batches]
                    told = [probabilities(network.labels, network.head(head_input(image))) for image in shown]
                found.setdefault(arm, []).append(PersonPrediction(person, truth, torch.cat(told).numpy()))
    return found


def comparisons(
    arms: Mapping[str, Mapping[str, list[PersonPrediction]]],
) -> list[tuple[str, list[PersonPrediction], list[PersonPrediction]]]:
    """What the benchmark asks: title, first arm, second arm."""
    reference, stages, end = (arms[name] for name in ("reference", "two_stage", "end_to_end"))
    images = [
        (f"head of references: images of {arm} - reference images", reference[arm], reference["reference"])
        for arm in ("zero_filled", "tv", "federated")
    ]
    return [
        *images,
        ("head of references, on reconstructions: federated - local", reference["federated"], reference["local"]),
        ("two stages: federated - local", stages["federated"], stages["local"]),
        ("two stages - head of references", stages["federated"], reference["federated"]),
        ("end to end - two stages", end["federated"], stages["federated"]),
        ("end to end: federated - local", end["federated"], end["local"]),
    ]


if __name__ == "__main__":
    main()
