"""The network of a recipe: plain, with a condition, with adapters on a frozen base, or as a twin."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from recon import (
    MODALITIES,
    TaskNetwork,
    TwinNetwork,
    add_lora,
    add_prompts,
    add_scales,
    base_name,
    class_parameters,
    is_adapter,
    read_weights,
)

from ..config import ConfigError, config_error
from ..serialization import State
from ..sites import SiteManifest
from .frozen_base import read_base
from .head_start import made_head
from .recipe import Recipe
from .recipe_schema import NetworkSection
from .starting_point import require_same_network, weights_of

#: Functions that add adapters to a network, by the name used in recipes; the number is ``adapter_size``.
_ADAPT: dict[str, Callable[[nn.Module, int], list[str]]] = {
    "lora": add_lora,
    "dual_lora": partial(add_lora, dual=True),
    "prompt": add_prompts,
    "scale": lambda network, size: add_scales(network),
}


def consistency_at(manifest: SiteManifest, section: NetworkSection) -> str:
    """Name of the data consistency at a site: that of the manifest, or the recipe's for the modality.

    With ``none``, the control that shows the effect of the physics, a recipe overrules the manifest. Other networks
    than the unrolled one have none: that of the manifest does not apply.
    """
    if section.architecture != "unrolled":
        return section.consistency
    chosen = section.consistency_of(manifest.modality)
    return chosen if chosen == "none" else manifest.consistency or chosen


def build_network(section: NetworkSection, manifest: SiteManifest | None = None) -> nn.Module:
    """The network of a recipe, initialized from torch's global generator.

    Parameters
    ----------
    manifest
        The site, which decides data consistency and correction; None: an MRI site with those of the recipe.

    Raises
    ------
    ConfigError
        If a part refuses its options, or the base belongs to another network.
    """
    try:
        network = _plain(section, manifest)
        if section.twin:
            return TwinNetwork(network, _plain(section, manifest))
    except ValueError as error:
        raise ConfigError(f"recipe: network.{' '.join(str(error).split())}") from error
    if section.adapter != "none":
        _ADAPT[section.adapter](network, section.adapter_size)
    if section.base is not None:
        _load_base(network, section, section.base, manifest)
    return network


def network_of(recipe: Recipe, manifest: SiteManifest | None = None) -> nn.Module:
    """The network of a recipe, with the head of its task behind it if it has one, see :func:`build_network`.

    Raises
    ------
    ConfigError
        As for :func:`build_network`, or if the head refuses its options.
    """
    if recipe.task is None:
        return build_network(recipe.network, manifest)
    task, labels = recipe.task, recipe.task.labels
    # First: its initial values depend on no part that a site has of its own.
    head, _ = made_head(task)
    if task.adapter == "lora":
        # The last layers, of the classes, train whole.
        try:
            add_lora(head, task.adapter_size, below="", but=class_parameters(task.head, labels, task.head_options))
        except ValueError as error:
            raise ConfigError(f"recipe: task.adapter: {error}; choose another task.head") from None
    return TaskNetwork(build_network(recipe.network, manifest), head, labels)


def _plain(section: NetworkSection, manifest: SiteManifest | None) -> nn.Module:
    modality = next(iter(MODALITIES.values())) if manifest is None else manifest.kind
    consistency = None if manifest is None else consistency_at(manifest, section)
    network = section.settings(consistency).build(modality.correction)
    if manifest is not None and (only := getattr(network, "only_for", "")) not in ("", modality.name):
        found = f"{section.architecture!r} at the {modality.title} site {manifest.name}"
        raise ValueError(f"architecture: found {found}, expected sites of {MODALITIES[only].title}")
    return network


def _load_base(network: nn.Module, section: NetworkSection, base: str, manifest: SiteManifest | None) -> None:
    """Load all parameters of weights, or the shared ones of a run; all others keep their initial values."""
    file = weights_of(base)
    if file is not None:
        require_same_network(section, file)
    state = read_base(Path(base)) if file is None else read_weights(file)
    # Parts that a site has of its own were not trained: another data consistency, or a correction of its operator.
    here = next(iter(MODALITIES)) if manifest is None else manifest.modality
    trained = here if file is None else file.modality
    consistency = section.consistency if manifest is None else consistency_at(manifest, section)
    own = {"consistency": consistency != section.consistency_of(trained), "correction": here != trained}
    _load(network, {name: tensor for name, tensor in state.items() if not own.get(name.split(".")[0])}, base)


def _load(network: nn.Module, state: State, base: str) -> None:
    parameters = dict(network.named_parameters())
    plain = {name: base_name(name) for name in parameters if not is_adapter(name)}
    missing = sorted(state.keys() - set(plain.values()))
    if missing:
        found = f"a run with parameters such as {missing[0]}"
        raise config_error(base, "network.base", found, "a run with this network", "train one with the same [network]")
    with torch.no_grad():
        for name, parameter in parameters.items():
            source = plain.get(name)
            if source is not None and source in state:
                if state[source].shape != parameter.shape:
                    found = f"{source} of shape {tuple(state[source].shape)}"
                    raise config_error(
                        base, "network.base", found, str(tuple(parameter.shape)), "use the same [network]"
                    )
                parameter.copy_(state[source])
