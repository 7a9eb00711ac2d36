"""Tiny MRI hospitals whose bright pixels are labelled, and short recipes of heads."""

from pathlib import Path

import numpy as np

from federation import SiteManifest, load_federation, make_demo_sites
from federation.sites import DEMO_SITES, SPLITS

#: A head and a network that train in a second.
TINY = (
    "network.cascades=1", "network.channels=4", "task.head_options={channels=4, depth=1}", "federation.rounds=1",
    "training.steps_per_round=3", "training.batch_size=2", "evaluation.arms=[]",
    "task.classes=['bright']",
)  # fmt: skip

#: The network of `TINY`, to be trained first; sites take turns, so the last round counts and what they keep differs.
BASE = (
    "network.cascades=1", "network.channels=4", "federation.rounds=2", "federation.schedule=cyclic",
    "training.steps_per_round=1", "evaluation.arms=[]",
)  # fmt: skip


def make_labelled_sites(folder: Path, count: int = 2) -> list[SiteManifest]:
    """Demo hospitals with labels."""
    make_demo_sites(folder, size=32, train=1, validation=1, test=2, slices=2, sites=DEMO_SITES[:count])
    return add_labels(folder)


def add_labels(folder: Path, kind: str = "segmentation") -> list[SiteManifest]:
    """Label the bright pixels of every scan, or say of every slice whether it has more of them than the next one."""
    for manifest in load_federation(folder):
        rows = ["file,slice,bright"]
        for split in SPLITS:
            for name in getattr(manifest.data, split):
                bright = _bright(manifest, name)
                np.savez((manifest.root / name).with_suffix(".npz"), labels=bright.astype(np.uint8))
                more = np.roll(bright, 1, 0).sum((1, 2)) > bright.sum((1, 2))
                rows += [f"{name},{i},{int(found)}" for i, found in enumerate(more)]
        (manifest.root / f"{manifest.name}.csv").write_text("\n".join(rows))
        labels = "{path}.npz" if kind == "segmentation" else f"{manifest.name}.csv"
        text = f'\n[task]\nkind = "{kind}"\nclasses = ["bright"]\nlabels = "{labels}"\n'
        manifest.path.write_text(manifest.path.read_text() + text)
    return load_federation(folder)


def _bright(manifest: SiteManifest, name: str) -> np.ndarray:
    samples = manifest.samples([manifest.root / name])
    targets = np.stack([samples[i].target().numpy() for i in range(len(samples))])
    return targets > 0.6 * targets.max()
