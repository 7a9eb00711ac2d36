"""Whether `reconstruct` tells scans of other anatomy from those of the site, by person.

    FEDRECON_DATA=... OMP_NUM_THREADS=1 python benchmarks/usual_scans.py OUT

Heads of eight people at each of five sites of real anatomy (MRI at 64x64), and slices of other anatomy by the same
scanners: two prostates, a heart, and CT images of 12 trunks as if they were magnitudes. The network is the starter
weights `brain-mri`. Three people of a site are its usual scans, the others and the other anatomy are compared with
them; 20 draws of the three. Prints the AUC of `UsualScans.distance`, and how many scans bring a warning.
"""

import csv
import os
import sys
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
from torch import nn

from federation import make_image_sites
from federation.comparison.anatomy_persons import mri_scanners
from federation.comparison.anatomy_sites import make_anatomy_sites
from federation.sites import read_federation, read_persons
from recon import UsualScans, VolumeSlices, load_weights, measure_scan

MATRIX, USUAL, DRAWS = 64, 3, 20
#: Files of `FEDRECON_DATA`, slices of a person, and what is added to make Hounsfield units positive.
OTHERS = (
    ("ct_and_mr_slices_msd/msd_prostate2_heart1.nii.gz", 1, 0.0),
    ("ct_and_mr_slices_msd/msd_ct_5people.nii.gz", 1, 1000.0),
    ("ct_chest_abdomen_sbu/sbu_ge_7people.nii.gz", 2, 1000.0),
)

Features = dict[str, float]
#: Distance of a scan from the usual ones and whether it brings a warning, of the site's scans and of other anatomy.
Distances = tuple[list[tuple[float, bool]], list[tuple[float, bool]]]


def main() -> None:
    if "FEDRECON_DATA" not in os.environ or len(sys.argv) < 2:
        print("left out: needs FEDRECON_DATA, the folder of images of people, and a folder for the sites")
        return
    out = Path(sys.argv[1])
    make_anatomy_sites(out / "heads", "mri", (MATRIX,) * 5, persons=8, test_slices=6, matrix=MATRIX, overwrite=True)
    table = other_people(out / "others")
    network, generator = load_weights("brain-mri").eval(), np.random.default_rng(0)
    all_distances: Distances = ([], [])
    for scanner in mri_scanners(None, (MATRIX,) * 5, 6, MATRIX)[:5]:
        changes = {"contrast": "T1", "unseen": True, "train_slices": None, "slices": 1}
        place = out / "others" / scanner.name
        other = scanner.model_copy(update=changes)
        make_image_sites(read_persons(table), place, sites=(other,), split=(0, 0, 1), source=table, overwrite=True)
        (manifest,) = (site for site in read_federation(out / "heads") if site.name == scanner.name)
        heads: dict[str, list[Features]] = {}
        for split in ("train", "validation", "test"):
            measured = measure(network, samples := manifest.dataset(split, out / "maps", None, 0))
            for volume, found in zip(samples.volumes, measured, strict=True):
                heads.setdefault(str(volume.patient_id), []).append(found)
        (site,) = read_federation(place)
        bodies = measure(network, site.dataset("test", out / "maps", None, 0))
        distances: Distances = ([], [])
        for _ in range(DRAWS):
            chosen = generator.choice(sorted(heads), USUAL, replace=False)
            usual = UsualScans.of([found for person in chosen for found in heads[person]])
            rest = [found for person in heads if person not in chosen for found in heads[person]]
            for kind, scans in enumerate((rest, bodies)):
                distances[kind].extend((usual.distance(found), bool(usual.unusual(found))) for found in scans)
        print(line(scanner.name, distances), flush=True)
        for kept, new in zip(all_distances, distances, strict=True):
            kept.extend(new)
    print(line("all", all_distances))


def other_people(folder: Path) -> Path:
    """Write an image per person, and the table of the persons."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [("file", "person", "contrast", "split")]
    for name, slices, added in OTHERS:
        images = nibabel.load(Path(os.environ["FEDRECON_DATA"]) / name).get_fdata()
        for first in range(0, images.shape[-1], slices):
            person = f"{Path(name).name.split('.')[0]}_{first // slices}"
            image = np.clip(images[..., first : first + slices] + added, 0, None).astype(np.float32)
            nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), folder / f"{person}.nii.gz")
            rows.append((f"{person}.nii.gz", person, "T1", "test"))
    with (folder / "persons.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "persons.csv"


def measure(network: nn.Module, samples: VolumeSlices) -> list[Features]:
    return [measure_scan(network, samples, number) for number in range(len(samples.volumes))]


def line(site: str, distances: Distances) -> str:
    (usual, warned), (other, found) = (np.array(values).T for values in distances)
    told = f"{mean(warned):.0%} of the site's scans and {mean(found):.0%} of other anatomy bring a warning"
    return f"{site:8s} AUC {auc(usual, other):.3f}   {told}"


def auc(low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]) -> float:
    """Part of the pairs in the right order."""
    place = np.searchsorted(np.sort(low), high, "left") + np.searchsorted(np.sort(low), high, "right")
    return mean(place / 2 / len(low))


def mean(values: npt.NDArray[np.generic]) -> float:
    return float(np.mean(values))


if __name__ == "__main__":
    main()
