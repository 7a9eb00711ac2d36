"""What a site takes home of a run: a run folder that `fedrecon evaluate` and `fedrecon reconstruct` read."""

import shutil
from pathlib import Path

from recon import DataError

from ..experiment import RunFolder, algorithm_of
from ..recipe import load_recipe
from ..store import load_newest, save_checkpoint
from .site_folder import SiteFolder


def export_run(folder: SiteFolder, run: str, out: Path) -> RunFolder:
    """Write a run folder with the last shared parameters that the server sent and those that the site keeps.

    Raises
    ------
    DataError
        If nothing has come yet, or ``out`` holds something.
    """
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out}: is not empty; choose another --out")
    state = folder.state(run)
    newest = load_newest(state / "seen")
    if newest is None:
        raise DataError(f"{state}: the server has sent nothing of run {run[:16]} yet")
    recipe = load_recipe(folder.approvals.folder / run / "recipe.toml")
    exported = RunFolder.create(out, recipe, [folder.manifest], resume=False)
    if (state / "kept").is_dir():
        shutil.copytree(state / "kept", exported.site_folder(folder.name) / "kept")
    numbers = {"history": [], "algorithm": algorithm_of(recipe).describe(), "accepted": {}}
    save_checkpoint(out / "checkpoints", newest.round, newest.tensors, numbers)
    return exported
