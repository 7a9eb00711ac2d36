"""Weights of a run as files for others: safetensors, and a model card beside them."""

from pathlib import Path

from torch import nn

from recon import DataError, NetworkSettings, TaskNetwork, TwinNetwork, save_weights, shown_files, write_atomically

from ..config import config_error
from ..methods import load_parameters, parameter_scope
from ..recipes import consistency_at
from ..rounds import initial_network
from ..sites import SiteManifest
from .model_card import CARD, model_card
from .personal_stage import site_network
from .run_folder import RunFolder
from .task import ReconstructionTask


def export_weights(
    path: Path | str,
    out: Path | str,
    *,
    site: str | None = None,
    sites: Path | str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the weights of the best round of a run, and ``MODEL.md``, their card.

    Parameters
    ----------
    path
        Folder of a trained run.
    out
        Folder to write.
    site
        The network that this site uses, its kept parameters and personal stage included; None: the shared parameters,
        with the initial values of those that sites keep, as at an unseen site.
    sites
        Folder of the manifests, if they have moved since training.
    overwrite
        Replace earlier weights in the folder.

    Returns
    -------
        The file of the weights; ``recon.load_weights`` and ``--start-from`` read it.

    Raises
    ------
    DataError
        If the run is no plain network, or its sites have different ones and none is named.
    """
    run, out = RunFolder.open(path, sites), Path(out)
    manifest = _site_of(run, site)
    file = out / f"{run.recipe.name}{'' if site is None else f'_{site}'}.safetensors"
    if out.is_dir() and (shown_files(out) and not overwrite):
        raise config_error(out, "--out", "a folder with files", "a new folder", "choose another --out or --overwrite")
    network = site_network(run, manifest) if site is not None else _shared_network(run, manifest)
    if isinstance(network, TwinNetwork | TaskNetwork) or run.recipe.network.adapter != "none":
        found = f"a {type(network).__name__} with adapter {run.recipe.network.adapter!r}"
        raise config_error(path, "network", found, "one plain network", "share the run folder instead")
    limits = _limits(run)
    kept = () if site is not None else parameter_scope(network, run.recipe.scope.rules()).kept
    card = model_card(run, file.name, limits, site=site, kept=kept)
    title = f"{run.recipe.name} of {len(run.participants)} sites" + ("" if site is None else f", at {site}")
    save_weights(network, file, _settings(run, manifest), manifest.modality, title, limits)
    write_atomically(out / CARD, card.encode())
    return file


def _site_of(run: RunFolder, site: str | None) -> SiteManifest:
    """The site whose network is built: the one that is named, else any, if all have the same network."""
    if site is not None:
        return run.manifest(site)
    kinds = {(manifest.modality, consistency_at(manifest, run.recipe.network)) for manifest in run.participants}
    if len(kinds) > 1:
        found = "sites with different data consistency or modality"
        raise config_error(run.path, "--site", found, "one of them", "name the site whose network is exported")
    return run.participants[0]


def _shared_network(run: RunFolder, manifest: SiteManifest) -> nn.Module:
    task = ReconstructionTask(manifest, run.recipe, run.maps_folder(manifest.name))
    network = initial_network(task.network, run.recipe.federation.seed)
    load_parameters(network, run.selected().shared)
    return network.eval()


def _settings(run: RunFolder, manifest: SiteManifest) -> NetworkSettings:
    return run.recipe.network.settings(consistency_at(manifest, run.recipe.network))


def _limits(run: RunFolder) -> dict[str, float]:
    """Largest displayed image and highest acceleration among the training scans; empty if they cannot be read."""
    matrix, acceleration = 0.0, 0.0
    if run.recipe.privacy.noise() is not None:
        return {}  # one patient could set them, and no noise would hide it
    try:
        for manifest in run.participants:
            samples = manifest.dataset("train", run.maps_folder(manifest.name))
            for number in range(len(samples.volumes)):
                matrix = max(matrix, *(samples.image_header(number).shape or (0, 0)))
                acceleration = max(acceleration, samples.acceleration(number))
    except DataError:
        return {}
    return {"acceleration": round(acceleration, 2)} | ({"matrix": matrix} if matrix else {})
