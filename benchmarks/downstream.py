"""Sites of real anatomy with labels: T1 of IXI and its automatic structures, four scanners, few labeled persons each.

    FEDRECON_DATA=... python benchmarks/downstream.py OUT [--task segmentation] [--persons 4]

Each site has ``--persons`` persons for training and one for validation; the others of the 34 test, dealt evenly.
Classes are the ventricles, the deep gray nuclei and the white matter of the lobes, in slices at the height of the
ventricles. The labels are those of DLMUSE, which saw the images at their full matrix: scores are agreement with another
network, not with experts.
"""

import argparse
import os
import random
from pathlib import Path
from typing import Any, get_args

from federation import ImageLabels, MadeSite, check_sites, make_image_sites
from federation.comparison.anatomy_persons import IXI, data_folder
from federation.sites import MRIScanner, PersonImage, parse_classes
from recon import TaskKind

ROOT = Path(__file__).resolve().parents[1]
#: Numbers of the MUSE atlas.
CLASSES = ("ventricles=4,11,49-52", "deep_gray=23,30,36,37,55-60", "white=81-88")
LABELS = "{stem}_DLMUSE.nii.gz"
#: Pixels per side, about half the source, and slices of a person.
MATRIX, SLICES = 64, 12
#: Another mask, noise, number of coils and gray scale at each.
SCANNERS: tuple[dict[str, Any], ...] = (
    {"name": "north", "coils": 4, "sampling": "random", "acceleration": 4, "center_fraction": 0.125, "noise_std": 0.01},
    {
        "name": "east", "coils": 6, "sampling": "equispaced", "acceleration": 3, "center_fraction": 0.125,
        "noise_std": 0.03, "gray_scale": "gamma",
    },
    {
        "name": "south", "coils": 8, "sampling": "partial_fourier", "acceleration": 3, "center_fraction": 0.125,
        "noise_std": 0.02, "gray_scale": "inverted",
    },
    {
        "name": "west", "coils": 8, "sampling": "random", "acceleration": 6, "center_fraction": 0.08,
        "noise_std": 0.005,
    },
)  # fmt: skip


def make_downstream_sites(
    out: Path,
    *,
    kind: TaskKind = "segmentation",
    persons: int = 4,
    validation: int = 1,
    seed: int = 0,
    overwrite: bool = False,
) -> list[MadeSite]:
    """Write the sites; ``persons`` train and ``validation`` validate at each, 7 together at most; ``seed`` deals."""
    labels = ImageLabels(LABELS, parse_classes(CLASSES), kind)
    scanners = [MRIScanner(matrix=MATRIX, slices=SLICES, **scanner) for scanner in SCANNERS]
    images = _dealt(labels, [scanner.name for scanner in scanners], persons, seed, validation)
    return make_image_sites(images, out, sites=scanners, seed=seed, labels=labels, overwrite=overwrite)


def _dealt(labels: ImageLabels, sites: list[str], persons: int, seed: int, validation: int = 1) -> list[PersonImage]:
    """Images of all persons with their sites and splits, and the slices at the height of the ventricles."""
    images = []
    for file in sorted((data_folder() / IXI).glob("*_T1.nii.gz")):
        image = PersonImage(file, file.name.split("-")[0])
        shown = (labels.read(image) == 1).any(-1).any(-1).nonzero().flatten()
        images.append((image.file, image.person, (int(shown[0]), int(shown[-1]))))
    random.Random(seed).shuffle(images)
    places = [(site, part) for part in ("train",) * persons + ("validation",) * validation for site in sites]
    places += [(sites[number % len(sites)], "test") for number in range(len(images) - len(places))]
    return [
        PersonImage(file, person, slices=slices, site=site, split=part)  # type: ignore[arg-type]
        for (file, person, slices), (site, part) in zip(images, places, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="folder of the sites; default: runs/downstream, anew")
    parser.add_argument("--task", choices=get_args(TaskKind), default="segmentation")
    parser.add_argument("--persons", type=int, default=4, help="for training at a site, 1 to 6 (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    arguments = parser.parse_args()
    if not 1 <= arguments.persons <= 6:
        parser.error(f"--persons: found {arguments.persons}, expected 1 to 6 of the 34 with T1")
    if "FEDRECON_DATA" not in os.environ:
        print("left out: needs FEDRECON_DATA, the folder of images of people")
        return
    out = arguments.out or ROOT / "runs" / "downstream"
    overwrite = arguments.overwrite or arguments.out is None
    make_downstream_sites(out, kind=arguments.task, persons=arguments.persons, seed=arguments.seed, overwrite=overwrite)
    for site in check_sites(out):
        for part in site.splits:
            shown = "" if part.labels is None else ", ".join(f"{k} {n[1]}" for k, n in part.labels.classes.items())
            print(
                f"{site.name:8s} {part.split:10s} {part.subjects:2d} persons {part.slices:3d} slices, showing {shown}"
            )
    print(f"simulated from images, not measured: {out}")


if __name__ == "__main__":
    main()
