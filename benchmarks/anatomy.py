"""Sites of real anatomy: images of people in FEDRECON_DATA, dealt by person, measured by simulated scanners.

    FEDRECON_DATA=... python benchmarks/anatomy.py OUT --modality mri [--persons-per-site 8] [--slices 16]
    FEDRECON_DATA=... python benchmarks/anatomy.py OUT --modality ct [--slices 16]

The sites are those of ``fedrecon compare --preset anatomy``, see `federation/comparison/anatomy_sites.py`. ``--slices``
is the number of training slices of a site, one for all or one for each of the five; validation and test do not depend
on it. 256 need 8 persons per site; CT sites use all slices where there are fewer. OUT/made_from holds the table of
persons and the label maps.
"""

import argparse
import os
from pathlib import Path

from federation import check_sites
from federation.comparison.anatomy_sites import make_anatomy_sites

ROOT = Path(__file__).resolve().parents[1]


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
    out = arguments.out or ROOT / "runs" / f"anatomy_{arguments.modality}"
    make_anatomy_sites(
        out,
        arguments.modality,
        arguments.slices * (5 if len(arguments.slices) == 1 else 1),
        persons=arguments.persons_per_site,
        test_slices=arguments.test_slices,
        matrix=arguments.matrix,
        seed=arguments.seed,
        overwrite=arguments.overwrite or arguments.out is None,
    )
    for site in check_sites(out):
        parts = ", ".join(f"{part.split} {part.slices} of {part.subjects}" for part in site.splits)
        print(f"{site.name:10s} slices of persons: {parts}")
    print(f"simulated from images, not measured: {out}")


if __name__ == "__main__":
    main()
