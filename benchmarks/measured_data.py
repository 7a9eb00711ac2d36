"""Networks trained on phantoms, applied to measured k-space and sinograms that were only undersampled.

    make demo demo-ct     # or other runs: --mri, --ct
    FEDRECON_DATA=... OMP_NUM_THREADS=1 python benchmarks/measured_data.py [--mri RUN] [--ct RUN] [--csv FILE]

Every scanner is an unseen site: shared regularizer, initial data consistency. MRI: the sites of
data_manifests/real_mri with a reference, the image of all samples of the same scan. CT: discs of the Helsinki
challenge with some of their 720 views; the reference is the filtered back-projection of all views, so its noise is
part of the score. TV and filtered back-projection are tuned on one scan, which is not in the table.
"""

import argparse
import csv
import os
from dataclasses import replace
from pathlib import Path

import torch

from federation import SiteManifest, load_manifest
from federation.experiment.run_folder import RunFolder
from federation.experiment.score_site import score_site
from federation.sites.writing import write_sites
from recon import CT_SCALE, SinogramSlices, write_sinograms

ROOT = Path(__file__).resolve().parents[1]
#: Sites with a reference; the first is for tuning.
MRI = ("prisma-fit", "triotim", "cima-x", "skyra", "larsonlab")
DISCS = ("solid_disc", "ta", "tb")
VIEWS = (120, 60, 30)
ARMS = {"mri": ("zero_filled", "cg_sense", "tv"), "ct": ("fbp", "tv")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mri", type=Path, default=ROOT / "runs" / "demo")
    parser.add_argument("--ct", type=Path, default=ROOT / "runs" / "demo_ct")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "measured", help="folder of the sites")
    parser.add_argument("--csv", type=Path, help="also write the table here")
    arguments = parser.parse_args()
    missing = [str(run) for run in (arguments.mri, arguments.ct) if not (run / "run.json").exists()]
    if missing or "FEDRECON_DATA" not in os.environ:
        print(f"left out: needs FEDRECON_DATA, the folder of measured data, and trained runs (missing: {missing})")
        return
    rows = table(arguments.mri, measured_mri()) + table(arguments.ct, measured_ct(arguments.work))
    if arguments.csv is not None:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        print(f"table: {arguments.csv}")


def measured_mri() -> list[SiteManifest]:
    """The sites with a reference; the others tune on the file of the first."""
    tuning, *others = (load_manifest(ROOT / "data_manifests" / "real_mri" / f"{name}.toml") for name in MRI)
    return [_tuned_on(manifest, tuning.files("test")[0]) for manifest in others]


def measured_ct(folder: Path) -> list[SiteManifest]:
    """The discs with fewer views."""
    data = load_manifest(ROOT / "data_manifests" / "real_mri" / f"{MRI[0]}.toml").root.parent / "ct_projections"
    for part in ("data", "sites"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name in DISCS:
        sample = SinogramSlices([data / "htc2022" / f"htc2022_{name}_full.mat"], "htc", format="htc2022", size=256)[0]
        image = sample.operator.start(sample.measurement)
        write_sinograms(
            folder / "data" / f"{name}.h5",
            sample.operator.grid,
            sample.operator.geometry,
            line_integrals=sample.measurement[None] * CT_SCALE,
            reference=image[None] * CT_SCALE,
            patient_id=name,
        )
    tables = [
        {
            "name": f"{name}-{views}-views",
            "modality": "ct",
            "unseen": True,
            "simulate": {"views": views},
            "data": {"root": "../data", "validation": [f"{DISCS[0]}.h5"], "test": [f"{name}.h5"]},
        }
        for name in DISCS[1:]
        for views in VIEWS
    ]
    write_sites(folder / "sites", tables, overwrite=True)
    return [load_manifest(folder / "sites" / f"{entry['name']}.toml") for entry in tables]


def _tuned_on(manifest: SiteManifest, file: Path) -> SiteManifest:
    data = manifest.data.model_copy(update={"validation": (file.name,)})
    return manifest.model_copy(update={"data": data, "unseen": True})


def table(path: Path, sites: list[SiteManifest]) -> list[dict[str, str]]:
    """Score every site and print PSNR in dB and SSIM."""
    run = RunFolder.open(path)
    modality = sites[0].modality
    evaluation = run.recipe.evaluation.model_copy(update={"arms": (*ARMS[modality], "shared")})
    run = replace(run, manifests=tuple(sites), recipe=run.recipe.model_copy(update={"evaluation": evaluation}))
    state, rows = run.selected(), []
    arms = (*ARMS[modality], "shared")
    print(f"\n{modality}, networks of {path}\n{'':20s}" + "".join(f"{arm:>16s}" for arm in arms))
    for site in sites:
        result = score_site((run, site.name, state))
        cells = {arm: result.arms[arm]["volumes"][0] for arm in arms}
        print(f"{site.name:20s}" + "".join(f"{c['psnr']:9.2f} {c['ssim']:.3f} " for c in cells.values()))
        rows += [
            {
                "modality": modality,
                "site": site.name,
                "arm": arm,
                "psnr": f"{c['psnr']:.4f}",
                "ssim": f"{c['ssim']:.4f}",
            }
            for arm, c in cells.items()
        ]
    return rows


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
