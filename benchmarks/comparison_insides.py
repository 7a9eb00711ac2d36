"""Parameters of the networks of a comparison, to see why an arm does not do what was expected.

python benchmarks/comparison_insides.py runs/full
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from federation import RunFolder, load_federation
from federation.experiment.train import initial_state
from federation.methods import selected_state
from federation.serialization.checkpoints import load_newest

MODALITIES = ("mri", "ct")


def main() -> None:
    if len(sys.argv) != 2:
        print("benchmarks/comparison_insides.py: expected the folder of a comparison, such as runs/full")
        return
    folder = Path(sys.argv[1])
    for modality in MODALITIES:
        for seed in sorted((folder / modality / "together").glob("seed*")):
            runs = {arm: seed / arm / "run" for arm in ("fedavg", "kept_last_cascade", "topk")}
            here = {arm: run for arm, run in runs.items() if run.is_dir()}
            print(f"{modality}, {seed.name}" + ("" if here else ": no networks, its arms come from published tables"))
            if "fedavg" in here:
                print_first_steps(here["fedavg"])
            if "kept_last_cascade" in here:
                print_last_cascades(here["kept_last_cascade"])
            for arm in ("fedavg", "topk"):
                if arm in here:
                    print_moved(arm, here[arm])
    print_maps(folder / "mri")


def kept(run: Path) -> dict[str, dict[str, Tensor]]:
    """Newest kept parameters by site."""
    newest = {site.name: load_newest(site / "kept") for site in sorted((run / "sites").iterdir())}
    return {site: dict(found.tensors) for site, found in newest.items() if found is not None}


def print_first_steps(run: Path) -> None:
    """Step of the data consistency in the first cascade, by site."""
    steps = {
        site: next(t for name, t in state.items() if name.startswith("kept.consistency.0.log_step"))
        for site, state in kept(run).items()
    }
    print("  first step: " + ", ".join(f"{site} {float(t.flatten()[0].exp()):.2f}" for site, t in steps.items()))


def print_last_cascades(run: Path) -> None:
    """Distance of each site's last cascade from their mean, relative to the norm of the mean."""
    last = [
        torch.cat([t.flatten() for name, t in sorted(state.items()) if name.startswith("kept.regularizers.")])
        for state in kept(run).values()
    ]
    mean = torch.stack(last).mean(0)
    print(
        "  kept cascades from their mean: " + ", ".join(f"{float((t - mean).norm() / mean.norm()):.2f}" for t in last)
    )


def print_moved(arm: str, run: Path) -> None:
    """Fraction of the shared parameters that differ from their initial values."""
    before, _ = initial_state(RunFolder.open(run).recipe)
    after = selected_state(run).shared
    moved = sum(int((after[name] != before[name]).sum()) for name in before)
    count = sum(tensor.numel() for tensor in before.values())
    print(f"  {arm}: {moved / count:.1%} of {count} numbers moved")


def print_maps(mri: Path) -> None:
    """Relative distance of low-resolution coil maps from ESPIRiT's, plain and weighted by the image."""
    print("coil maps of low resolution less ESPIRiT's, relative; weighted by the image")
    tables = [(mri / name / "sites", mri / name / "maps") for name in ("together", "operator_wrong")]
    for good, wrong in zip(*(load_federation(sites) for sites, _ in tables), strict=True):
        samples = [
            site.dataset("test", maps / site.name)[1] for site, (_, maps) in zip((good, wrong), tables, strict=True)
        ]
        a, b = (sample.operator.maps.squeeze(0) for sample in samples)
        phase = (b.conj() * a).sum(0)
        error = (a - b * phase / phase.abs().clamp(min=1e-12)).abs().square().sum(0)
        size, weight = a.abs().square().sum(0), samples[1].reference.abs().squeeze().square()
        plain, weighted = error.sum() / size.sum(), (error * weight).sum() / (size * weight).sum()
        print(f"  {good.name:12s} {float(plain.sqrt()):.2f}; {float(weighted.sqrt()):.3f}")


if __name__ == "__main__":
    main()
