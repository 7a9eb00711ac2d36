"""Networks trained on phantoms, applied to measured k-space and sinograms that were only undersampled.

    make demo demo-ct     # or other runs: --mri, --ct
    FEDRECON_DATA=... OMP_NUM_THREADS=1 python benchmarks/measured_data.py [--mri RUN] [--ct RUN] [--csv FILE]
    FEDRECON_DATA=... OMP_NUM_THREADS=1 python benchmarks/measured_data.py --only ct    # the table of one modality

Every scanner is an unseen site: shared regularizer, initial data consistency. MRI: the sites of
data_manifests/real_mri with a reference, the image of all samples of the same scan. CT: discs of the Helsinki
challenge with some of their 720 views, scored as by benchmarks/starter_weights.py: PSNR inside the circle, against the
filtered back-projections of two halves of the other views, a lower bound; without SSIM. TV and filtered back-projection
are tuned on one scan, which is not in the table; in CT on that with as many views.
"""

import argparse
import csv
import os
from dataclasses import replace
from pathlib import Path

import torch
from starter_scans import data_folder, measured_discs
from starter_weights import classical, score
from torch import nn

from federation import SiteManifest, load_manifest
from federation.experiment.run_folder import RunFolder
from federation.experiment.score_site import score_site
from recon import FilteredBackprojection, Sample, apply, collate

ROOT = Path(__file__).resolve().parents[1]
#: Sites with a reference; the first is for tuning.
MRI = ("prisma-fit", "triotim", "cima-x", "skyra", "larsonlab")
ARMS = ("zero_filled", "cg_sense", "tv", "shared")
#: Disc on which CT methods are tuned, and values that filtered back-projection chooses from.
TUNING, CUTOFFS = "solid_disc", FilteredBackprojection.candidates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mri", type=Path, default=ROOT / "runs" / "demo")
    parser.add_argument("--ct", type=Path, default=ROOT / "runs" / "demo_ct")
    parser.add_argument("--only", choices=("mri", "ct"), help="rows of the other modality in --csv stay")
    parser.add_argument("--csv", type=Path, help="also write the table here")
    arguments = parser.parse_args()
    chosen = (arguments.only,) if arguments.only else ("mri", "ct")
    missing = [str(getattr(arguments, kind)) for kind in chosen]
    missing = [run for run in missing if not (Path(run) / "run.json").exists()]
    if missing or "FEDRECON_DATA" not in os.environ:
        print(f"left out: needs FEDRECON_DATA, the folder of measured data, and trained runs (missing: {missing})")
        return
    rows = {"mri": [], "ct": []} | kept_rows(arguments.csv, chosen)
    if "mri" in chosen:
        rows["mri"] = table(arguments.mri, measured_mri())
    if "ct" in chosen:
        rows["ct"] = disc_table(arguments.ct, data_folder())
    if arguments.csv is not None:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, ("modality", "site", "arm", "psnr", "ssim"))
            writer.writeheader()
            writer.writerows(rows["mri"] + rows["ct"])
        print(f"table: {arguments.csv}")


def kept_rows(path: Path | None, chosen: tuple[str, ...]) -> dict[str, list[dict[str, str]]]:
    """Rows of a table from before, of the modalities that are not measured now."""
    if path is None or not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {kind: [row for row in rows if row["modality"] == kind] for kind in ("mri", "ct") if kind not in chosen}


def measured_mri() -> list[SiteManifest]:
    """The sites with a reference; the others tune on the file of the first."""
    tuning, *others = (load_manifest(ROOT / "data_manifests" / "real_mri" / f"{name}.toml") for name in MRI)
    return [_tuned_on(manifest, tuning.files("test")[0]) for manifest in others]


def disc_table(path: Path, data: Path) -> list[dict[str, str]]:
    """Score the discs and print PSNR in dB, a lower bound, see `starter_weights.score`."""
    run = RunFolder.open(path)
    state = run.selected()
    network = run.spec(run.manifests[0]).build().network_at(state.shared, state.round)
    tried: dict[str, list[nn.Module]] = {"fbp": [FilteredBackprojection(cutoff=c) for c in CUTOFFS]}
    tried["tv"] = classical("ct")["TV"]
    discs = dict(measured_discs(data))
    arms, rows, tuned = (*tried, "shared"), [], {}
    print(f"\nct, network of {path}\n{'':20s}" + "".join(f"{arm:>10s}" for arm in arms))
    for title, sample in discs.items():
        disc, views = title.split(", ")
        if disc == TUNING:
            continue
        if views not in tuned:
            tuning = discs[f"{TUNING}, {views}"]
            tuned[views] = {arm: max(each, key=lambda one, on=tuning: _score(one, on)) for arm, each in tried.items()}
        found = {arm: _score(method, sample) for arm, method in {**tuned[views], "shared": network}.items()}
        site = f"{disc}-{views.replace(' ', '-')}"
        print(f"{site:20s}" + "".join(f"{value:10.2f}" for value in found.values()), flush=True)
        rows += [
            {"modality": "ct", "site": site, "arm": arm, "psnr": f"{value:.4f}", "ssim": ""}
            for arm, value in found.items()
        ]
    return rows


def _score(method: nn.Module, sample: Sample) -> float:
    batch = collate([sample])
    method.eval()
    with torch.no_grad():
        return score(apply(method, batch)[0], batch)


def _tuned_on(manifest: SiteManifest, file: Path) -> SiteManifest:
    data = manifest.data.model_copy(update={"validation": (file.name,)})
    return manifest.model_copy(update={"data": data, "unseen": True})


def table(path: Path, sites: list[SiteManifest]) -> list[dict[str, str]]:
    """Score every site and print PSNR in dB and SSIM."""
    run = RunFolder.open(path)
    evaluation = run.recipe.evaluation.model_copy(update={"arms": ARMS})
    run = replace(run, manifests=tuple(sites), recipe=run.recipe.model_copy(update={"evaluation": evaluation}))
    state, rows = run.selected(), []
    print(f"\nmri, networks of {path}\n{'':20s}" + "".join(f"{arm:>16s}" for arm in ARMS))
    for site in sites:
        result = score_site((run, site.name, state))
        cells = {arm: result.arms[arm]["volumes"][0] for arm in ARMS}
        print(f"{site.name:20s}" + "".join(f"{c['psnr']:9.2f} {c['ssim']:.3f} " for c in cells.values()))
        rows += [
            {
                "modality": "mri",
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
