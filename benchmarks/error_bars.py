"""Coverage and width of calibrated error bars at five sites of real anatomy, by person.

    FEDRECON_DATA=... OMP_NUM_THREADS=1 python benchmarks/error_bars.py OUT [--modality mri] [--rounds 15]

FedAvg with ``network.error_bars`` trains at the sites of ``fedrecon compare --preset anatomy`` in MRI, where eight
people of a site are dealt anew: two for training, three for validation (calibration), three for the test.
"""

import argparse
import os
from pathlib import Path

from federation.comparison.anatomy_sites import make_anatomy_sites
from federation.experiment import evaluate_run, train_run
from federation.recipes import load_recipe
from federation.sites import load_manifest, read_federation
from recon import error_bars_text, text_table, write_atomically

#: People of a site for training and for validation; the rest is the test.
DEALT = {"train": 2, "validation": 3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="folder of sites and run")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--coverage", type=float, default=0.9)
    parser.add_argument("--matrix", type=int, default=64)
    arguments = parser.parse_args()
    if "FEDRECON_DATA" not in os.environ or arguments.out is None:
        print("left out: needs FEDRECON_DATA, the folder of images of people, and a folder for the run")
        return
    sites = arguments.out / "sites"
    if not sites.exists():
        make_anatomy_sites(sites, "mri", (64,) * 5, persons=8, test_slices=8, matrix=arguments.matrix)
        for manifest in read_federation(sites):
            _deal_anew(manifest.path)
    options = [
        f"federation.rounds={arguments.rounds}", "network.error_bars=true", "objective.error_bars=1.0",
        "evaluation.arms=['zero_filled', 'tv']",
    ]  # fmt: skip
    recipe, out = load_recipe("fedavg", options), arguments.out / "run"
    train_run(recipe, read_federation(sites), out, jobs=2, resume=out.exists(), say=print)
    results = evaluate_run(out, jobs=2, say=print, coverage=arguments.coverage)
    print(text_table(results), error_bars_text(results["error_bars"]), sep="\n\n")
    for site, one in results["error_bars"].items():
        print(
            f"{site}: width against constant {one['half_width'] / one['constant_half_width']:.2f} in the object, "
            f"{one['half_width_image'] / one['constant_half_width_image']:.2f} in the whole image"
        )


def _deal_anew(path: Path) -> None:
    """Deal the people of a site: all files of a person are in one split."""
    manifest = load_manifest(path)
    people: dict[str, list[str]] = {}
    for _, name in manifest.data.named():
        patient = manifest.open(manifest.root / name).patient_id
        people.setdefault(manifest.subject(name, patient), []).append(name)
    names, splits, begin = sorted(people), {}, 0
    for split in ("train", "validation", "test"):
        end = begin + DEALT.get(split, len(names))
        splits[split] = tuple(file for person in names[begin:end] for file in people[person])
        begin = end
    data = manifest.data.model_copy(update=splits)
    write_atomically(path, manifest.model_copy(update={"data": data}).to_toml().encode())
    path.with_name(f"{path.stem}.lock.json").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
