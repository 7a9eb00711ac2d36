"""The personal stage: after the rounds every site trains all parameters further on its own data."""

import copy

from torch import nn

from recon import PREPARING, DataConsistent, FixedCondition, doing

from ..methods import load_parameters, parameters_of
from ..progress import within
from ..rounds import initial_network
from ..serialization import load_checkpoint, save_checkpoint, saved_rounds
from ..sites import SiteManifest
from .run_folder import RunFolder
from .task import ReconstructionTask


def personalize(job: tuple[RunFolder, str, bool]) -> tuple[float | None, float | None]:
    """Fine-tune the selected network at one site and keep it there, unless this was done before.

    The fine-tuned parameters are kept if they do not score worse on validation data, else those before.

    Parameters
    ----------
    job
        The run, the name of the site, and True for its local arm.

    Returns
    -------
        Validation scores before and after.
    """
    run, name, local = job
    with within(site=name, part="personal stage" + (" of the local arm" if local else "")), doing(PREPARING):
        return _personalize(run, name, local)


def _personalize(run: RunFolder, name: str, local: bool) -> tuple[float | None, float | None]:
    manifest = run.manifest(name)
    state = run.selected(local=name if local else None)
    folder = run.personal_folder(name, local=local)
    if state.round in saved_rounds(folder):
        numbers = load_checkpoint(folder, state.round).numbers
        return numbers["before"], numbers["after"]
    task = ReconstructionTask(manifest, run.recipe, run.maps_folder(name))
    network = run.spec(manifest, local=local).build().network_at(state.shared, state.round)
    before = task.validate(network)
    tuned = copy.deepcopy(network)
    task.fine_tune(tuned, state.shared)
    after = task.validate(tuned)
    chosen = tuned if before is None or after is None or after >= before else network
    parameters = parameters_of(chosen, [parameter for parameter, _ in chosen.named_parameters()])
    save_checkpoint(folder, state.round, parameters, {"before": before, "after": after})
    return before, after


def site_network(run: RunFolder, manifest: SiteManifest, *, local: bool = False) -> nn.Module:
    """The network that a site uses: its personal network, else the selected shared parameters with its kept ones.

    Includes the corrections of the personal stage at test time.
    """
    stage = run.recipe.personal
    state = run.selected(local=manifest.name if local else None)
    folder = run.personal_folder(manifest.name, local=local)
    if not stage.steps or state.round not in saved_rounds(folder):
        network = run.spec(manifest, local=local).build().network_at(state.shared, state.round)
    else:
        task = ReconstructionTask(manifest, run.recipe, run.maps_folder(manifest.name))
        network = initial_network(task.network, run.recipe.federation.seed)
        load_parameters(network, load_checkpoint(folder, state.round).tensors)
    if stage.nearest_code and manifest.unseen and not local:
        network = FixedCondition(network, run.nearest_code(manifest))
    return DataConsistent(network, stage.test_time_weight, stage.test_time) if stage.test_time else network
