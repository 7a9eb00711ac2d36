"""Tiny MRI hospitals whose bright pixels are labelled, and short recipes of heads."""

from pathlib import Path

import numpy as np

from federation import SiteManifest, load_federation, make_demo_sites
from federation.sites import DEMO_SITES

#: A head and a network that train in a second.
TINY = (
    "network.cascades=1", "network.channels=4", "task.head_options={channels=4, depth=1}", "federation.rounds=2",
    "training.steps_per_round=3", "training.batch_size=2", "evaluation.arms=['zero_filled', 'local']",
    "task.classes=['bright']",
)  # fmt: skip

#: The network of `TINY`, to be trained first; sites take turns, so the last round counts and they keep other parameters.
BASE = (
    "network.cascades=1", "network.channels=4", "federation.rounds=2", "federation.schedule=cyclic",
    "training.steps_per_round=3", "evaluation.arms=[]",
)  # fmt: skip


def make_labelled_sites(folder: Path, count: int = 2, classes: str = "bright", seed: int = 0) -> list[SiteManifest]:
    """Sites with a label map of every scan, or with a row for every slice if ``classes`` is empty."""
    make_demo_sites(folder, size=32, train=2, validation=1, test=2, slices=2, sites=DEMO_SITES[:count])
    for manifest in load_federation(folder):
        for split in ("train", "validation", "test"):
            samples = manifest.dataset(split)  # type: ignore[arg-type]
            for number, volume in enumerate(samples.volumes):
                first = samples.first(number)
                targets = [samples[first + i].target() for i in range(samples.n_slices(number))]
                label = np.stack([(target > 0.6 * target.amax()).numpy() for target in targets]).astype(np.uint8)
                np.savez(volume.path.with_suffix(".npz"), labels=label)
        text = manifest.path.read_text()
        task = '\n[task]\nkind = "segmentation"\nclasses = ["bright"]\nlabels = "{path}.npz"\n'
        manifest.path.write_text(text + task)
    return load_federation(folder)
