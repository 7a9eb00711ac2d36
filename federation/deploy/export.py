"""Export a deployed run at a site as a run folder for `fedrecon evaluate` and `fedrecon reconstruct`."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from recon import DataError, write_atomically

from ..experiment import BASE, RunFolder, algorithm_of, personalize, score_text
from ..recipes import Recipe, attach_base, load_recipe
from ..serialization import Checkpoint, load_checkpoint, load_newest, save_checkpoint, saved_rounds
from ..worker_pool import computing_with
from .site_folder import SiteFolder


def export_run(folder: SiteFolder, run: str, out: Path, say: Callable[[str], None]) -> RunFolder:
    """Write a run folder with the last shared parameters from the server and the kept parameters of the site.

    If the recipe has patience and the run ended before its last round, those of the best round, which the server names.
    If the recipe has a personal stage, it runs here on the site's data. ``out`` appears once everything is written.

    Raises
    ------
    DataError
        If the server has sent no parameters yet, or ``out`` is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out}: is not empty; choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        _write(folder, run, part, say)
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return RunFolder.open(out)


def _write(folder: SiteFolder, run: str, out: Path, say: Callable[[str], None]) -> None:
    state = folder.state(run)
    newest = load_newest(state / "seen")
    if newest is None:
        raise DataError(f"{state}: the server has sent no parameters of run {run[:16]} yet; export it later")
    recipe = load_recipe(folder.approvals.folder / run / "recipe.toml")
    chosen = _chosen(state / "seen", newest, recipe)
    if chosen is not newest:
        say(f"the server sent {newest.round + 1} rounds; round {chosen.round} is the best by its validation scores")
    base = attach_base(recipe, folder.approvals.base(run)).network.base
    threads = folder.settings.threads
    exported = RunFolder.create(out, recipe, [folder.manifest], resume=False, exported=True, threads=threads)
    exported.keep_maps(folder.name)  # nothing of a patient outside the folders that the site chose
    if base is not None:
        write_atomically(out / BASE, Path(base).read_bytes())
    if (state / "kept").is_dir():
        shutil.copytree(state / "kept", exported.site_folder(folder.name) / "kept")
    numbers = {"history": [], "algorithm": algorithm_of(recipe).describe(), "accepted": {}}
    save_checkpoint(out / "checkpoints", chosen.round, chosen.tensors, numbers)
    if recipe.personal.steps:
        say(f"{recipe.personal.steps} personal steps ...")
        with computing_with(exported.threads()):
            before, after = personalize((RunFolder.open(out), folder.name, False))
        say(f"validation: {score_text(before, recipe)} -> {score_text(after, recipe)}; the better of the two is used")


def _chosen(seen: Path, newest: Checkpoint, recipe: Recipe) -> Checkpoint:
    """The broadcast of the best round if patience ended the run, else the newest one.

    After all rounds the site does not know whether the last one is better: the server's last score came after it.
    """
    best = newest.numbers.get("best")
    if recipe.training.patience is None or newest.round >= recipe.federation.rounds or best not in saved_rounds(seen):
        return newest
    return load_checkpoint(seen, best)
