"""Two MRI and two CT sites with one shared regularizer, against MRI alone and CT alone at equal steps per site.

    OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 \
        python benchmarks/mixed_modalities.py [folder]

Runs and reports are written to the folder (default runs/mixed). A positive difference is a gain from sharing across
modalities.
"""

import sys
from pathlib import Path

from federation import load_federation, load_recipe, make_ct_demo_sites, make_demo_sites
from federation.experiment.evaluate import evaluate_run
from federation.experiment.train import train_run
from federation.recipes.recipe_library import LIBRARY
from federation.sites import CT_DEMO_SITES
from federation.sites.simulated_mri import DEMO_SITES

RECIPE = LIBRARY / "demos" / "fedavg_mixed.toml"


def main(out: Path) -> None:
    folder = out / "sites"
    if not any(folder.glob("*.toml")):
        make_demo_sites(folder, sites=DEMO_SITES[:2], train=8, test=2)
        make_ct_demo_sites(folder, sites=CT_DEMO_SITES[:2], jobs=2)
    sites = load_federation(folder)
    recipe = load_recipe(RECIPE)
    arms = {"mixed": sites, **{m: [site for site in sites if site.modality == m] for m in ("mri", "ct")}}
    scores = {}
    for arm, chosen in arms.items():
        train_run(recipe, chosen, out / arm, jobs=2, resume=(out / arm).exists(), say=print)
        scores[arm] = evaluate_run(out / arm, jobs=2, say=print)["arms"]
    print(f"\n{'PSNR in dB':12s} {'tv':>7s} {'local':>7s} {'own modality':>13s} {'mixed':>7s} {'difference':>11s}")
    for site in sites:
        alone = scores[site.modality]
        tv, local, own = (alone[name]["sites"][site.name]["psnr"] for name in ("tv", "local", recipe.name))
        both = scores["mixed"][recipe.name]["sites"][site.name]["psnr"]
        print(f"{site.name:12s} {tv:7.2f} {local:7.2f} {own:13.2f} {both:7.2f} {both - own:+11.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/mixed"))
