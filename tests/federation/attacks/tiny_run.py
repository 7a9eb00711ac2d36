"""Two simulated CT sites and a run of two rounds, in a second."""

from collections.abc import Sequence
from pathlib import Path

from federation import RunFolder, load_federation, load_recipe, make_ct_demo_sites
from federation.experiment import train_run
from federation.recipes.recipe_library import LIBRARY
from federation.sites import CT_DEMO_SITES

RECIPE = LIBRARY / "demos" / "fedavg_ct.toml"
TINY = (
    "network.channels=2", "network.depth=2", "network.cascades=1", "federation.rounds=2", "training.steps_per_round=2",
    "personal.steps=0", "evaluation.arms=[]",
)  # fmt: skip


def make_sites(folder: Path) -> Path:
    """One patient with two slices in each split."""
    make_ct_demo_sites(folder, size=32, train=1, validation=1, test=1, slices=2, sites=CT_DEMO_SITES[:2])
    return folder


def train(sites: Path, out: Path, options: Sequence[str] = (), recipe: Path | str = RECIPE) -> RunFolder:
    """A run of a recipe with the options of :data:`TINY` and others."""
    found = load_recipe(recipe, [*TINY, *options])
    return train_run(found, load_federation(sites), out, jobs=1, resume=False, say=lambda _: None)
