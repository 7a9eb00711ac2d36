"""Learning curves of a trained run, read from its folder."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from torch import nn

from recon import MEAN_OF_SITES, LearningCurve

from ..methods import RoundScore, ServerState, parameter_scope
from ..recipes import LOCAL, Recipe, network_of
from ..rounds import Stopping, read_rows
from ..sites import SiteManifest
from .run_folder import RunFolder
from .task import ReconstructionTask


def curves_of(run: RunFolder) -> dict[str, list[LearningCurve]]:
    """Learning curves of the federated arm, and of the local arm of every site that was trained alone.

    Empty for a run that a deployed site exported, which has no scores.
    """
    if not run.selected().history:
        return {}
    slices = {m.name: training_slices(run.recipe, m, run.maps_folder(m.name)) for m in run.learners}
    together = {manifest.name: slices[manifest.name] for manifest in run.participants}
    size = max(trained_parameters(run.recipe, manifest) for manifest in run.participants)
    found = {run.recipe.name: [_read(run, run.path, run.selected(), MEAN_OF_SITES, together, size)]}
    if LOCAL in run.recipe.evaluation.arms:
        found[LOCAL] = local_curves(run, slices)
    return found


def local_curves(run: RunFolder, slices: Mapping[str, int]) -> list[LearningCurve]:
    """Learning curve of every site that trained alone; ``slices`` are training slices by site."""
    return [
        _read(
            run,
            run.local_folder(manifest.name),
            run.selected(local=manifest.name),
            manifest.name,
            {manifest.name: slices[manifest.name]},
            trained_parameters(run.recipe, manifest),
        )
        for manifest in run.learners
    ]


def curve(
    recipe: Recipe,
    name: str,
    history: Sequence[RoundScore],
    selected: int,
    steps: int,
    slices: Mapping[str, int],
    parameters: int,
    *,
    in_turn: bool = False,
) -> LearningCurve:
    """The learning curve of a training by a recipe, see :class:`recon.LearningCurve` and :class:`Stopping`."""
    ended = Stopping(recipe.federation.rounds, recipe.training.patience, in_turn).reason(history)
    scores = [(score.round, score.mean) for score in history]
    return LearningCurve(name, scores, selected, steps, ended, dict(slices), parameters)


def trained_parameters(recipe: Recipe, manifest: SiteManifest) -> int:
    """Number of parameters that train at a site, shared and kept."""
    network: nn.Module = network_of(recipe, manifest)
    scope = parameter_scope(network, recipe.scope.rules())
    return sum(network.get_parameter(name).numel() for name in (*scope.shared, *scope.kept))


def training_slices(recipe: Recipe, manifest: SiteManifest, maps_folder: Path) -> int:
    """Number of training slices of a site."""
    return len(ReconstructionTask(manifest, recipe, maps_folder).dataset("train"))


def steps_by_site(folder: Path, sites: Collection[str], before: int | None = None) -> dict[str, int]:
    """Optimizer steps by site in the rounds before ``before``, or in all."""
    steps = dict.fromkeys(sites, 0)
    for row in read_rows(folder):
        if row["n_samples"] is not None and (before is None or row["round"] < before):
            steps[row["site"]] += row["n_steps"]
    return steps


def _read(
    run: RunFolder, folder: Path, state: ServerState, name: str, slices: Mapping[str, int], parameters: int
) -> LearningCurve:
    """The curve of the training in ``folder``, whose selected state is ``state``."""
    steps = max(steps_by_site(folder, slices, state.round).values())
    in_turn = name == MEAN_OF_SITES and run.recipe.federation.schedule == "cyclic"
    return curve(run.recipe, name, state.history, state.round, steps, slices, parameters, in_turn=in_turn)
