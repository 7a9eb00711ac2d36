"""Persons in the folder FEDRECON_DATA, their places at the sites of real anatomy, and the scanners of these sites.

MRI: five sites and one unseen, another contrast, mask, noise and coil count at each. CT: HyperFed's five protocols and
one unseen with half the views. Measured k-space and projections of the folder are never used: they are for testing.
"""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from recon import read_images

from ..config import ConfigError
from ..sites import CTScanner, MRIScanner, PersonImage, read_persons, scan_of

#: Environment variable with the folder of images of people.
DATA_VARIABLE = "FEDRECON_DATA"
#: Sites that train, in the order of their numbers of slices.
MRI_NAMES = ("north", "east", "south", "west", "volume")
CT_NAMES = tuple(f"protocol{number}" for number in range(1, 6))
#: Half of the persons of a site are for training, a quarter each for validation and test.
SPLIT = (0.5, 0.25, 0.25)
COLUMNS = ("file", "person", "contrast", "slices", "kind", "site", "split")
IXI, LJUBLJANA = "mr_brain_t1_ixi_3T_philips", "mr_brain_t1_t2_flair_ms_ljubljana"
LABELS, LABEL_SLICES = "mr_brain_label_maps_synthseg/synthseg_label_slices.npz", 16
SBU, MSD = "ct_chest_abdomen_sbu/sbu_ge_7people.nii.gz", "ct_and_mr_slices_msd/msd_ct_5people.nii.gz"
#: CT images of many slices, each of one person.
CT_TRAINING = (
    ("ct_images/chest_siemens", "siemens"),
    ("ct_chest_lidc/LIDC-IDRI-0314.nii.gz", "lidc"),
    ("ct_abdomen_liver_labels_chaos/chaos_ct_set3.nii.gz", "chaos"),
    ("ct_images/trunk_3mm.nii.gz", "trunk"),
    ("ct_images/abdomen_ge", "ge"),
)
#: Splits of the four persons of the unseen MRI site; those for training are for its local arm and its fine-tuning.
UNSEEN = {"patient01": "train", "patient12": "validation", "patient19": "test", "patient20": "test"}
#: Training slices that the CT sites have at most.
CT_SLICES = (10, 10, 15, 112, 5)
#: Persons of equal MRI scanners, all 34 with T1, and their split: more of them test, as claims are about single sites.
EQUAL_PERSONS, EQUAL_SPLIT = (6, 6, 6, 10, 6), (0.4, 0.1, 0.5)
#: The first label map, counted from 0, that no site uses with up to 64 training slices.
FIRST_BASE_LABEL = 8

Row = tuple[str, str, str, str, str, str, str]


def data_folder() -> Path:
    """The folder of images of people.

    Raises
    ------
    ConfigError
        If the environment variable is not set, or is no folder.
    """
    named = os.environ.get(DATA_VARIABLE)
    if not named or not Path(named).is_dir():
        found = f"{named!r}, which is no folder" if named else "no such variable"
        raise ConfigError(
            f"environment: {DATA_VARIABLE}: found {found}, expected the folder of images of people; set it"
        )
    return Path(named)


def mri_scanners(
    persons: int | None,
    slices: Sequence[int],
    test_slices: int,
    matrix: int,
    *,
    equal: bool = False,
    contrast: str = "T1",
) -> tuple[MRIScanner, ...]:
    """Five scanners and one unseen, another contrast at each.

    Parameters
    ----------
    persons
        Persons of a site; None: its share.
    equal
        The first scanner five times.
    contrast
        Contrast of the images; drawn images have no other gray scale.
    """
    common: dict[str, Any] = {"matrix": matrix, "slices": test_slices}
    t1: dict[str, Any] = {"contrast": contrast, "persons": persons}
    scales: list[dict[str, Any]] = [{"gray_scale": kind} for kind in ("inverted", "gamma")]
    inverted, gamma = ({}, {}) if contrast == "drawn" else scales
    north, east, south, west, volume = ({**common, "train_slices": number} for number in slices)
    scanners = (
        MRIScanner(
            name="north", coils=4, sampling="random", acceleration=4, center_fraction=0.125, noise_std=0.01,
            **t1, **north,
        ),
        MRIScanner(
            name="east", coils=6, sampling="equispaced", acceleration=3, center_fraction=0.125, noise_std=0.03,
            **t1, **inverted, **east,
        ),
        MRIScanner(
            name="south", coils=8, sampling="partial_fourier", acceleration=3, center_fraction=0.125, noise_std=0.02,
            contrast="drawn", **south,
        ),
        MRIScanner(
            name="west", coils=8, sampling="random", acceleration=6, center_fraction=0.08, noise_std=0.005,
            **t1, **gamma, **west,
        ),
        MRIScanner(
            name="volume", coils=6, sampling="poisson", acceleration=6, center_fraction=0.125, noise_std=0.01,
            **t1, **inverted, **volume,
        ),
        MRIScanner(
            name="unseen", coils=6, sampling="random", acceleration=8, center_fraction=0.08, noise_std=0.02,
            contrast="FLAIR", persons=len(UNSEEN), unseen=True, **common,
        ),
    )  # fmt: skip
    if not equal:
        return scanners
    alike = [
        scanners[0].model_copy(update={"name": name, "train_slices": number, "persons": number_of_persons})
        for name, number, number_of_persons in zip(MRI_NAMES, slices, EQUAL_PERSONS, strict=True)
    ]
    return (*alike, scanners[-1])


def mri_rows(out: Path, persons: int, drawn_slices: int, *, drawn: bool = True) -> list[Row]:
    """A line for every file: T1 of 34 persons, label maps of up to 20, FLAIR of the four of the unseen site.

    A label map has 16 slices: the site that they are drawn for has more persons where its training slices need them.
    Without ``drawn`` there are no label maps.
    """
    data = data_folder()
    rows: list[Row] = []
    for file in sorted((data / IXI).glob("*_T1.nii.gz")):
        brain = read_images(file.with_name(file.name.replace("_T1", "_T1_DLMUSE")), labels=True) > 0
        shown = (brain.float().mean((-2, -1)) > 0.02).nonzero().flatten()  # neither neck nor skullcap
        slices = f"{max(int(shown[0]) - 4, 0)}-{min(int(shown[-1]) + 2, len(brain) - 1)}"
        rows.append((f"${{FEDRECON_DATA}}/{IXI}/{file.name}", file.name.split("-")[0], "T1", slices, "", "", ""))
    quarter = round(persons / 4)
    parts = ["test"] * quarter + ["validation"] * quarter
    parts += ["train"] * max(persons - 2 * quarter, -(-drawn_slices // LABEL_SLICES))
    # The same persons test and validate whatever the number of training slices.
    rows += _label_rows(out, 0, [("south", part) for part in parts] if drawn else [])
    for file in sorted((data / LJUBLJANA).glob("*_FLAIR.nii.gz")):
        person = file.name.split("_")[0]
        path = f"${{FEDRECON_DATA}}/{LJUBLJANA}/{file.name}"
        rows.append((path, f"ljubljana-{person}", "FLAIR", "", "", "unseen", UNSEEN[person]))
    return rows


def base_rows(out: Path) -> list[Row]:
    """Label maps of persons that are at no site: two for training at each site, and one for validation at two."""
    training = [(site, "train") for site in MRI_NAMES for _ in range(2)]
    return _label_rows(out, FIRST_BASE_LABEL, [*training, ("north", "validation"), ("east", "validation")])


def _label_rows(out: Path, first: int, places: Sequence[tuple[str, str]]) -> list[Row]:
    """Write label maps from the number ``first`` on, and return a line of each with its site and split."""
    if not places:
        return []
    rows: list[Row] = []
    with np.load(data_folder() / LABELS) as stored:
        maps = stored["labels"][first:]
    for number, (labels, (site, part)) in enumerate(zip(maps, places, strict=False), start=first + 1):
        file = out / "made_from" / "labels" / f"synthseg{number:02d}.nii.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        canonical = labels.astype(np.int16).transpose(2, 1, 0)[::-1, ::-1]
        nibabel.save(nibabel.Nifti1Image(canonical, np.eye(4)), file)  # type: ignore[no-untyped-call]
        rows.append((f"labels/{file.name}", file.name.split(".")[0], "drawn", "", "labels", site, part))
    return rows


def ct_scanners(slices: Sequence[int], matrix: int) -> tuple[CTScanner, ...]:
    """HyperFed's protocols with another table and field of view each, and one with half the views."""
    common: dict[str, Any] = {"matrix": matrix}
    views = scan_of(2, matrix)[1].shape[0]
    return (
        CTScanner(name="protocol1", protocol=1, train_slices=slices[0], **common),
        CTScanner(name="protocol2", protocol=2, table="flat", train_slices=slices[1], **common),
        CTScanner(name="protocol3", protocol=3, table="curved", train_slices=slices[2], **common),
        CTScanner(name="protocol4", protocol=4, table="flat", field_of_view=1.2, train_slices=slices[3], **common),
        CTScanner(name="protocol5", protocol=5, table="curved", field_of_view=1.1, train_slices=slices[4], **common),
        CTScanner(name="unseen", protocol=2, table="flat", views=views // 2, unseen=True, **common),
    )


def ct_rows() -> list[Row]:
    """17 persons. Those with many slices train; one with one slice validates, one with two tests each site."""
    two = [(SBU, f"sbu{n + 1}", f"{2 * n}-{2 * n + 1}") for n in range(7)]
    placed: list[tuple[tuple[str, str, str], str, str]] = []
    for n, (file, person) in enumerate(CT_TRAINING):
        site = CT_NAMES[n]
        placed.append(((file, person, ""), site, "train"))
        placed.append(((MSD, f"msd{n + 1}", str(n)), site, "validation"))
        placed.append((two[n], site, "test"))
    placed += [(two[5], "protocol5", "train"), (two[6], "unseen", "test")]
    return [
        (f"${{FEDRECON_DATA}}/{file}", person, "", slices, "", site, part)
        for (file, person, slices), site, part in placed
    ]


def table_path(out: Path) -> Path:
    """The table of persons of sites that were made."""
    return out / "made_from" / "persons.csv"


def write_table(out: Path, rows: Sequence[Row]) -> list[PersonImage]:
    """Write the table of persons and read it back."""
    path = table_path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return read_persons(path)
