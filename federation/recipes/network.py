"""The network of a recipe: unrolled, with a condition, with adapters on a frozen base, or as a twin."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from recon import (
    CONDITION_DIM,
    DATA_CONSISTENCY,
    MODALITIES,
    REGULARIZERS,
    StepScale,
    TwinNetwork,
    UnrolledNetwork,
    add_lora,
    add_prompts,
    add_scales,
    base_name,
    is_adapter,
)

from ..config import ConfigError, config_error
from ..sites import SiteManifest
from .frozen_base import read_base
from .recipe_schema import NetworkSection

#: Functions that add adapters to a network, by the name used in recipes; the number is ``adapter_size``.
_ADAPT: dict[str, Callable[[nn.Module, int], list[str]]] = {
    "lora": add_lora,
    "dual_lora": partial(add_lora, dual=True),
    "prompt": add_prompts,
    "scale": lambda network, size: add_scales(network),
}


def consistency_at(manifest: SiteManifest, section: NetworkSection) -> str:
    """Name of the data consistency at a site: that of the manifest, or the recipe's for the modality.

    With ``none``, the control that shows the effect of the physics, a recipe overrules the manifest.
    """
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
        network = _unrolled(section, manifest)
        if section.twin:
            return TwinNetwork(network, _unrolled(section, manifest))
    except ValueError as error:
        raise ConfigError(f"recipe: network.{' '.join(str(error).split())}") from error
    if section.adapter != "none":
        _ADAPT[section.adapter](network, section.adapter_size)
    if section.base is not None:
        _load_base(network, Path(section.base))
    return network


def _unrolled(section: NetworkSection, manifest: SiteManifest | None) -> UnrolledNetwork:
    modality = next(iter(MODALITIES.values())) if manifest is None else manifest.kind
    consistency = section.consistency if manifest is None else consistency_at(manifest, section)
    options = section.consistency_arguments(consistency)
    return UnrolledNetwork(
        section.cascades,
        partial(DATA_CONSISTENCY.make, consistency, options, "consistency_options"),
        partial(REGULARIZERS.make, section.regularizer, section.regularizer_arguments(), "regularizer_options"),
        share_regularizer=section.share_cascades,
        ends_in=section.ends_in,
        combine=section.combine,
        site_strength=section.site_strength,
        start=section.start,
        correction=modality.correction if section.correct_operator else None,
        step_scale=partial(StepScale, CONDITION_DIM) if section.condition in ("consistency", "both") else None,
        uses_condition=section.conditioned,
        noise_level=section.noise_level,
    )


def _load_base(network: nn.Module, path: Path) -> None:
    """Load the shared parameters of a run; all others keep their initial values."""
    base = read_base(path)
    parameters = dict(network.named_parameters())
    plain = {name: base_name(name) for name in parameters if not is_adapter(name)}
    missing = sorted(base.keys() - set(plain.values()))
    if missing:
        found = f"a run with parameters such as {missing[0]}"
        raise config_error(path, "network.base", found, "a run with this network", "train one with the same [network]")
    with torch.no_grad():
        for name, parameter in parameters.items():
            source = plain.get(name)
            if source is not None and source in base:
                if base[source].shape != parameter.shape:
                    found = f"{source} of shape {tuple(base[source].shape)}"
                    raise config_error(
                        path, "network.base", found, str(tuple(parameter.shape)), "use the same [network]"
                    )
                parameter.copy_(base[source])
