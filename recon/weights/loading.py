"""Networks from files of weights, and the files from networks."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..errors import DataError, data_error
from ..files import write_atomically
from ..modalities import MODALITIES
from ..networks import Network, NetworkSettings
from .catalog import WeightsFile, open_weights


def load_weights(name: Path | str) -> Network:
    """The network of some weights, ready to reconstruct: all parameters loaded, in evaluation mode.

    Parameters
    ----------
    name
        A name in :data:`STARTER_WEIGHTS`, or a file of :func:`save_weights`.

    Raises
    ------
    DataError
        If there is no such file, it is damaged, or its tensors are not those of its network.
    """
    file = open_weights(name)
    network = _network(file)
    network.load_state_dict(_checked(file, network))
    return network.eval()


def read_weights(file: WeightsFile) -> dict[str, Tensor]:
    """All parameters by name, checked against the network of the file; errors as of :func:`load_weights`."""
    return _checked(file, _network(file))


def save_weights(
    network: nn.Module,
    path: Path | str,
    settings: NetworkSettings,
    modality: str,
    title: str,
    limits: Mapping[str, float] = MappingProxyType({}),
) -> None:
    """Write all parameters of a network with its settings into one safetensors file, atomically.

    Parameters
    ----------
    settings
        What the network was built from.
    modality
        Name in :data:`MODALITIES`.
    title
        What the weights are for, in one line.
    limits
        Largest ``matrix`` and ``acceleration``, ``least_photons`` per ray and ``least_degrees`` of the arc of the views
        of the scans that they suit; empty: unknown.

    Raises
    ------
    ValueError
        If the modality is unknown, or the parameters are not those of the settings.
    DataError
        If the file cannot be written.
    """
    if modality not in MODALITIES:
        raise ValueError(f"save_weights: modality is {modality!r}, expected one of {', '.join(MODALITIES)}")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    if difference := _difference(state, _built(settings, modality).state_dict()):
        raise ValueError(f"save_weights: {difference}, for these settings")
    stored = {"network": settings.record(), "limits": dict(limits)}
    metadata = {key: json.dumps(value, sort_keys=True) for key, value in stored.items()}
    metadata |= {"modality": modality, "title": title}
    write_atomically(Path(path), safetensors.torch.save(state, metadata))


def _network(file: WeightsFile) -> Network:
    if file.modality not in MODALITIES:
        advice = "load its plugin, or give another file"
        raise data_error(file.path, "modality", repr(file.modality), " or ".join(MODALITIES), advice)
    try:
        return _built(NetworkSettings.of(file.network), file.modality)
    except (ValueError, TypeError) as error:
        text = " ".join(str(error).split())
        raise DataError(f"{file.path}: network.{text}; load its plugin, or use the version that wrote it") from None


def _built(settings: NetworkSettings, modality: str) -> Network:
    with torch.random.fork_rng(devices=[]):  # the initial parameters are replaced: draw none of the caller's numbers
        return settings.build(MODALITIES[modality].correction)


def _checked(file: WeightsFile, network: Network) -> dict[str, Tensor]:
    try:
        state = safetensors.torch.load(file.path.read_bytes())
    except (SafetensorError, OSError) as error:
        raise data_error(file.path, "file", f"unreadable tensors ({error})", "weights", "get the file again") from None
    if difference := _difference(state, network.state_dict()):
        raise DataError(f"{file.path}: {difference}; get the file again")
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise data_error(file.path, name, "NaN or infinity", "finite numbers", "get the file again")
    return state


def _difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> str:
    """How the names, shapes or types of tensors differ; empty if they agree."""
    for name in sorted(found.keys() ^ expected.keys()):
        return f"{name}: found a tensor of no such name" if name in found else f"{name}: found no such tensor"
    for name, tensor in expected.items():
        ours, theirs = (f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in (found[name], tensor))
        if ours != theirs:
            return f"{name}: found {ours}, expected {theirs}"
    return ""
