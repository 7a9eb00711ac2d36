"""Slices for a head whose images stay the same in all rounds: each image is made once and kept in memory."""

from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from recon import Downstream, ImageStore, Samples, SeenSlices, TaskNetwork, TaskTerm, VolumeSlices

from ..methods import parameters_of
from ..recipes import Recipe
from ..serialization import digest
from ..sites import SiteManifest

#: Images of all sites and arms in this process.
_STORE = ImageStore()


def keeps_images(recipe: Recipe, network: nn.Module) -> bool:
    """Whether a head meets the same image of a slice in every round.

    Not where the reconstruction trains, nor where every pass draws anew. Recipes of frozen networks have no penalty
    that reads the measurement.
    """
    if recipe.task is None or not isinstance(network, TaskNetwork):
        return False
    if recipe.training.redraw or recipe.training.augment is not None:
        return False
    return not any(parameter.requires_grad for parameter in network.reconstruction.parameters())


def head_slices(
    recipe: Recipe, manifest: SiteManifest, network: nn.Module, samples: VolumeSlices, objective: TaskTerm
) -> tuple[Samples, TaskTerm]:
    """Slices and task of a training: images in memory where :func:`keeps_images` holds, else both as they are."""
    if not isinstance(objective, Downstream) or not keeps_images(recipe, network):
        return samples, objective
    return seen_slices(recipe, manifest, network, samples), replace(objective, input="reference")


def seen_slices(recipe: Recipe, manifest: SiteManifest, network: nn.Module, samples: VolumeSlices) -> Samples:
    """The images that the head reads, see :class:`recon.SeenSlices`."""
    assert isinstance(network, TaskNetwork) and recipe.task is not None
    reconstruction = network.reconstruction
    parameters = parameters_of(reconstruction, [name for name, _ in reconstruction.named_parameters()])
    device = next((parameter.device.type for parameter in network.parameters()), "cpu")
    settings = repr((manifest, recipe.network, recipe.task.input, device, torch.get_num_threads()))
    key: Hashable = (digest(parameters), settings, *(_version(volume.path) for volume in samples.volumes))
    return SeenSlices(samples, network, on_reference=recipe.task.input == "reference", store=_STORE, key=key)


def _version(path: Path) -> tuple[str, int, int]:
    """What tells a file from one that replaced it."""
    found = path.stat()
    return str(path), found.st_size, found.st_mtime_ns
