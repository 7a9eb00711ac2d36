"""Sites of real anatomy: images of people in FEDRECON_DATA, dealt by person, measured by simulated scanners.

    FEDRECON_DATA=... python benchmarks/anatomy.py OUT --modality mri [--persons-per-site 8] [--slices 16]
    FEDRECON_DATA=... python benchmarks/anatomy.py OUT --modality ct [--slices 16]

MRI: five sites and one unseen, another contrast, mask, noise and coil count at each. CT: HyperFed's five protocols and
one unseen with half the views. ``--slices`` is the number of training slices of a site, one for all or one for each of
the five; validation and test do not depend on it. 256 need 8 persons per site; CT sites use all slices where there are
fewer. Measured k-space and projections of the folder are never used: they are for testing. OUT/made_from holds
the table of persons and the label maps.
"""

import argparse
import csv
import os
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np

from federation import check_sites, make_ct_image_sites, make_image_sites
from federation.sites import CTScanner, MRIScanner, PersonImage, read_persons, scan_of
from recon import read_images

ROOT = Path(__file__).resolve().parents[1]
#: Half of the persons of a site are for training, a quarter each for validation and test.
SPLIT = (0.5, 0.25, 0.25)
COLUMNS = ("file", "person", "contrast", "slices", "kind", "site", "split")
IXI, LJUBLJANA = "mr_brain_t1_ixi_3T_philips", "mr_brain_t1_t2_flair_ms_ljubljana"
LABELS, LABEL_SLICES = "mr_brain_label_maps_synthseg/synthseg_label_slices.npz", 16
#: Splits of the four persons of the unseen MRI site; those for training are for its local arm and its fine-tuning.
UNSEEN = {"patient01": "train", "patient12": "validation", "patient19": "test", "patient20": "test"}
#: Training slices of the CT sites.
CT_SLICES = (10, 10, 15, 112, 5)

Row = tuple[str, str, str, str, str, str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="folder of the sites; default: runs/anatomy_<modality>, anew")
    parser.add_argument("--modality", choices=("mri", "ct"), default="mri")
    parser.add_argument("--persons-per-site", type=int, default=8, help="MRI, 4 to 8 (default: %(default)s)")
    parser.add_argument("--slices", type=int, nargs="+", default=[16], help="training slices per site (default: 16)")
    parser.add_argument("--test-slices", type=int, default=8, help="of each person for validation or test (MRI)")
    parser.add_argument("--matrix", type=int, default=64, help="pixels per side, at most 66 (MRI) or 80 (CT)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    arguments = parser.parse_args()
    if len(arguments.slices) not in (1, 5):
        parser.error(
            f"--slices: found {len(arguments.slices)} numbers, expected one, or one for each of the five sites"
        )
    if not 4 <= arguments.persons_per_site <= 8:
        parser.error(f"--persons-per-site: found {arguments.persons_per_site}, expected 4 to 8 of the 34 with T1")
    if "FEDRECON_DATA" not in os.environ:
        print("left out: needs FEDRECON_DATA, the folder of images of people")
        return
    slices = arguments.slices * (5 if len(arguments.slices) == 1 else 1)
    out = arguments.out or ROOT / "runs" / f"anatomy_{arguments.modality}"
    given = {"seed": arguments.seed, "overwrite": arguments.overwrite or arguments.out is None}
    if arguments.modality == "mri":
        scanners = mri_scanners(arguments.persons_per_site, slices, arguments.test_slices, arguments.matrix)
        persons = write_table(out, mri_rows(out, arguments.persons_per_site, slices[2]))
        make_image_sites(persons, out, sites=scanners, split=SPLIT, source=table_path(out), **given)
    else:
        persons = write_table(out, ct_rows())
        ct_sites = ct_scanners(slices, arguments.matrix)
        make_ct_image_sites(persons, out, sites=ct_sites, split=SPLIT, source=table_path(out), **given)
    for site in check_sites(out):
        parts = ", ".join(f"{part.split} {part.slices} of {part.subjects}" for part in site.splits)
        print(f"{site.name:10s} slices of persons: {parts}")
    print(f"simulated from images, not measured: {out}")


def mri_scanners(persons: int, slices: Sequence[int], test_slices: int, matrix: int) -> tuple[MRIScanner, ...]:
    """Five scanners and one unseen, another contrast at each."""
    common = {"matrix": matrix, "slices": test_slices}
    north, east, south, west, volume = ({**common, "train_slices": number} for number in slices)
    return (
        MRIScanner(
            name="north", coils=4, sampling="random", acceleration=4, center_fraction=0.125, noise_std=0.01,
            contrast="T1", persons=persons, **north,
        ),
        MRIScanner(
            name="east", coils=6, sampling="equispaced", acceleration=3, center_fraction=0.125, noise_std=0.03,
            contrast="T1", gray_scale="inverted", persons=persons, **east,
        ),
        MRIScanner(
            name="south", coils=8, sampling="partial_fourier", acceleration=3, center_fraction=0.125, noise_std=0.02,
            contrast="drawn", **south,
        ),
        MRIScanner(
            name="west", coils=8, sampling="random", acceleration=6, center_fraction=0.08, noise_std=0.005,
            contrast="T1", gray_scale="gamma", persons=persons, **west,
        ),
        MRIScanner(
            name="volume", coils=6, sampling="poisson", acceleration=6, center_fraction=0.125, noise_std=0.01,
            contrast="T1", gray_scale="inverted", persons=persons, **volume,
        ),
        MRIScanner(
            name="unseen", coils=6, sampling="random", acceleration=8, center_fraction=0.08, noise_std=0.02,
            contrast="FLAIR", persons=len(UNSEEN), unseen=True, **common,
        ),
    )  # fmt: skip


def mri_rows(out: Path, persons: int, drawn_slices: int) -> list[Row]:
    """A line for every file: T1 of 34 persons, label maps of up to 20, FLAIR of the four of the unseen site.

    A label map has 16 slices: the site that they are drawn for has more persons where its training slices need them.
    """
    data = Path(os.environ["FEDRECON_DATA"])
    rows: list[Row] = []
    for file in sorted((data / IXI).glob("*_T1.nii.gz")):
        brain = read_images(file.with_name(file.name.replace("_T1", "_T1_DLMUSE"))) > 0
        shown = (brain.float().mean((-2, -1)) > 0.02).nonzero().flatten()  # neither neck nor skullcap
        slices = f"{max(int(shown[0]) - 4, 0)}-{min(int(shown[-1]) + 2, len(brain) - 1)}"
        rows.append((f"${{FEDRECON_DATA}}/{IXI}/{file.name}", file.name.split("-")[0], "T1", slices, "", "", ""))
    quarter = round(persons / 4)
    parts = ["test"] * quarter + ["validation"] * quarter
    parts += ["train"] * max(persons - 2 * quarter, -(-drawn_slices // LABEL_SLICES))
    # The same persons test and validate whatever the number of training slices.
    for number, (labels, part) in enumerate(zip(np.load(data / LABELS)["labels"], parts, strict=False), start=1):
        file = out / "made_from" / "labels" / f"synthseg{number:02d}.nii.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        canonical = labels.astype(np.int16).transpose(2, 1, 0)[::-1, ::-1]
        nibabel.save(nibabel.Nifti1Image(canonical, np.eye(4)), file)
        rows.append((f"labels/{file.name}", file.name.split(".")[0], "drawn", "", "labels", "south", part))
    for file in sorted((data / LJUBLJANA).glob("*_FLAIR.nii.gz")):
        person = file.name.split("_")[0]
        path = f"${{FEDRECON_DATA}}/{LJUBLJANA}/{file.name}"
        rows.append((path, f"ljubljana-{person}", "FLAIR", "", "", "unseen", UNSEEN[person]))
    return rows


def ct_scanners(slices: Sequence[int], matrix: int) -> tuple[CTScanner, ...]:
    """HyperFed's protocols with another table and field of view each, and one with half the views."""
    number = [min(wanted, most) for wanted, most in zip(slices, CT_SLICES, strict=True)]
    common, views = {"matrix": matrix}, scan_of(2, matrix)[1].shape[0]
    return (
        CTScanner(name="protocol1", protocol=1, train_slices=number[0], **common),
        CTScanner(name="protocol2", protocol=2, table="flat", train_slices=number[1], **common),
        CTScanner(name="protocol3", protocol=3, table="curved", train_slices=number[2], **common),
        CTScanner(name="protocol4", protocol=4, table="flat", field_of_view=1.2, train_slices=number[3], **common),
        CTScanner(name="protocol5", protocol=5, table="curved", field_of_view=1.1, train_slices=number[4], **common),
        CTScanner(name="unseen", protocol=2, table="flat", views=views // 2, unseen=True, **common),
    )


def ct_rows() -> list[Row]:
    """17 persons. Those with many slices train; one with one slice validates, one with two tests each site."""
    sbu, msd = "ct_chest_abdomen_sbu/sbu_ge_7people.nii.gz", "ct_and_mr_slices_msd/msd_ct_5people.nii.gz"
    training = (
        ("ct_images/chest_siemens", "siemens"),
        ("ct_chest_lidc/LIDC-IDRI-0314.nii.gz", "lidc"),
        ("ct_abdomen_liver_labels_chaos/chaos_ct_set3.nii.gz", "chaos"),
        ("ct_images/trunk_3mm.nii.gz", "trunk"),
        ("ct_images/abdomen_ge", "ge"),
    )
    two = [(sbu, f"sbu{n + 1}", f"{2 * n}-{2 * n + 1}") for n in range(7)]
    placed: list[tuple[str, str, str, str, str]] = []
    for n, (file, person) in enumerate(training):
        site = f"protocol{n + 1}"
        placed.append((file, person, "", site, "train"))
        placed.append((msd, f"msd{n + 1}", str(n), site, "validation"))
        placed.append((*two[n], site, "test"))
    placed += [(*two[5], "protocol5", "train"), (*two[6], "unseen", "test")]
    return [(f"${{FEDRECON_DATA}}/{file}", person, "", slices, "", *place) for file, person, slices, *place in placed]


def table_path(out: Path) -> Path:
    return out / "made_from" / "persons.csv"


def write_table(out: Path, rows: Sequence[Row]) -> list[PersonImage]:
    """Write the table of persons and read it back."""
    path = table_path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return read_persons(path)


if __name__ == "__main__":
    main()
