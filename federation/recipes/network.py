"""The network of a recipe: unrolled, conditioned, on a frozen base with adapters, or with a private twin."""

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

from ..config import config_error
from ..sites import SiteManifest
from .frozen_base import read_base
from .recipe_schema import NetworkSection

#: Adapters by the name used in recipes; each gets the network and ``adapter_size``.
_ADAPT: dict[str, Callable[[nn.Module, int], list[str]]] = {
    "lora": add_lora,
    "dual_lora": partial(add_lora, dual=True),
    "prompt": add_prompts,
    "scale": lambda network, size: add_scales(network),
}


def consistency_at(manifest: SiteManifest, table: NetworkSection) -> str:
    """Name of the data consistency at a site: its own, or the recipe's for its modality.

    A recipe without data consistency, the control of what physics brings, has none at any site.
    """
    chosen = table.consistency_of(manifest.modality)
    return chosen if chosen == "none" else manifest.consistency or chosen


def build_network(table: NetworkSection, manifest: SiteManifest | None = None) -> nn.Module:
    """The network of a recipe, initialized from torch's global generator.

    All sites share the regularizer; a ``manifest`` gives it the parts of that site, None those of an MRI site without
    choices of its own.

    Raises
    ------
    ConfigError
        If the base is not that of this network.
    """
    if table.twin:
        return TwinNetwork(_unrolled(table, manifest), _unrolled(table, manifest))
    network = _unrolled(table, manifest)
    if table.adapter != "none":
        _ADAPT[table.adapter](network, table.adapter_size)
    if table.base is not None:
        _load_base(network, Path(table.base))
    return network


def _unrolled(table: NetworkSection, manifest: SiteManifest | None) -> UnrolledNetwork:
    modality = next(iter(MODALITIES.values())) if manifest is None else manifest.kind
    consistency = table.consistency if manifest is None else consistency_at(manifest, table)
    make = partial(REGULARIZERS[table.regularizer], **table.regularizer_arguments())
    return UnrolledNetwork(
        table.cascades,
        partial(DATA_CONSISTENCY[consistency], **table.consistency_arguments(consistency)),
        make,
        share_regularizer=table.share_cascades,
        ends_in=table.ends_in,
        combine=table.combine,
        site_strength=table.site_strength,
        start=table.start,
        correction=modality.correction if table.correct_operator else None,
        step_scale=partial(StepScale, CONDITION_DIM) if table.condition in ("consistency", "both") else None,
        uses_condition=table.conditioned,
    )


def _load_base(network: nn.Module, path: Path) -> None:
    """Load the shared parameters of a run; what the run does not share (data consistency) stays as drawn."""
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
