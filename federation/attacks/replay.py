"""The update of a site in a round of the run, computed again on the matrix of the attack."""

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory

from ..experiment import algorithm_of
from ..methods import CHECKPOINTS, ServerState, state_of_checkpoint
from ..rounds import Row, read_rows
from ..serialization import SiteUpdate, load_checkpoint
from ..sites import Split
from .plan import AttackPlan
from .small_task import SmallTask


def replayed_round(plan: AttackPlan) -> int | None:
    """The selected round, if sites trained in it, else the last one in which they did; None: none."""
    rounds = [row["round"] for row in _trained(plan)]
    return min(plan.run.selected().round, max(rounds)) if rounds else None


def replayed_state(plan: AttackPlan) -> ServerState:
    """The server's state at the start of the replayed round, with its memory of that time.

    Raises
    ------
    DataError
        If the checkpoint is missing or damaged.
    ValueError
        If no site trained.
    """
    round_ = replayed_round(plan)
    if round_ is None:
        raise ValueError(f"replayed_state: found no round with training in {plan.run.path}, expected one")
    return state_of_checkpoint(load_checkpoint(plan.run.path / CHECKPOINTS, round_), plan.run.path)


def why_not_replayed(plan: AttackPlan, names: Collection[str]) -> str:
    """The reason why the updates of these sites cannot be replayed; empty: they can."""
    recipe = plan.run.recipe
    if getattr(recipe.build_objective(), "holds_out", False):
        return "the loss holds out random measurements in every step, which is not replayed"
    round_ = replayed_round(plan)
    if round_ is None:
        return "no site has trained in any round"
    there = {row["site"] for row in _trained(plan) if row["round"] == round_}
    if absent := [name for name in names if name not in there]:
        return f"{', '.join(absent)} took no part in round {round_}"
    noise = recipe.privacy.noise()
    if noise is not None:
        patients, needed = len(plan.task(plan.site, "test").patients()), noise.patients_per_step
        if patients < needed:
            return (
                f"its control would train on the test patients of {plan.site}: found {patients}, expected at least "
                f"privacy.patients_per_step, {needed}"
            )
    return ""


def replayed_update(plan: AttackPlan, name: str, split: Split = "train") -> SiteUpdate:
    """The update of a site in the replayed round, with decoded parameters.

    It has the broadcast, optimizer, learning rate, steps, order and transforms of the round; the site begins with the
    kept state that it had then. The slices have no augmentation and the first draw of ``[simulate]``; secret noise is
    drawn anew.

    Parameters
    ----------
    split
        Slices on which it trains; those of the control come from patients who do not train.
    """
    run, manifest = plan.run, plan.run.manifest(name)
    state, spec = replayed_state(plan), run.spec(manifest)
    broadcast = replace(algorithm_of(run.recipe).broadcast(state, name), shared=state.shared, encoded=False)
    task = partial(SmallTask, manifest, run.recipe, run.maps_folder(name), plan.size, split)
    with TemporaryDirectory() as folder:
        if spec.folder.is_dir():
            copytree(spec.folder, folder, dirs_exist_ok=True)
        site = replace(spec, task=task, folder=Path(folder)).build()
        update = site.train_round(broadcast)
        if not update.encoded:
            return update
        return replace(update, shared=site.wire.decode(broadcast.shared, update.shared), encoded=False)


def _trained(plan: AttackPlan) -> list[Row]:
    """Lines of the round log whose site trained."""
    return [row for row in read_rows(plan.run.path) if row.get("n_steps") is not None]
