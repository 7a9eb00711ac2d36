"""Trained weights of fastMRI's VarNet: read without running code of the file, and given the names of our network."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import data_error
from ..networks import NetworkSettings, VarNet
from .torch_file import read_content

_CASCADE, _MAPS = "cascades.{}.model.unet.", "sens_net.norm_unet.unet."
#: Prefix of the network in a checkpoint of fastMRI's training module.
_LIGHTNING = "varnet."
#: Names of the lists of blocks.
_BLOCKS = {"down": "down_sample_layers", "up": "up_conv"}
_ADVICE = "give a state dict of `fastmri.models.VarNet`, or a checkpoint of its training"


def import_fastmri(path: Path | str) -> tuple[NetworkSettings, VarNet]:
    """The network of a file of fastMRI, with its settings for :func:`save_weights`.

    Parameters
    ----------
    path
        A file of ``torch.save`` or safetensors: a state dict of ``fastmri.models.VarNet``, or a checkpoint of PyTorch
        Lightning whose ``state_dict`` has these names after ``varnet.``; its other entries are not used. It is read
        with ``weights_only=True``: a file that needs other classes is refused.

    Raises
    ------
    DataError
        If the file cannot be read, or is no VarNet; see :func:`from_fastmri`.
    """
    path = Path(path)
    content = read_content(path, _ADVICE)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise data_error(path, "file", f"a {type(content).__name__}", "a state dict", _ADVICE)
    state = {str(name): tensor for name, tensor in content.items()}
    if any(name.startswith(_LIGHTNING) for name in state):
        state = {name.removeprefix(_LIGHTNING): t for name, t in state.items() if name.startswith(_LIGHTNING)}
    return from_fastmri(state, path)


def from_fastmri(state: Mapping[str, Tensor], where: Path | str) -> tuple[NetworkSettings, VarNet]:
    """The network of a state dict of ``fastmri.models.VarNet``, ready to reconstruct, with its settings.

    Cascades, channels and depths of both U-Nets are read from names and shapes. The state dict does not tell whether
    the network was trained with ``mask_center=False``; here the coil maps come from the center.

    Parameters
    ----------
    where
        File of the state dict, for messages.

    Raises
    ------
    DataError
        If a tensor is missing, has an unknown name, another shape, or values that are no finite numbers.
    """
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            found = f"{tensor.dtype}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise data_error(where, name, found, "a tensor of floating-point numbers", _ADVICE)
    channels, depth = _size(state, _CASCADE.format(0), where)
    sensitivity_channels, sensitivity_depth = _size(state, _MAPS, where)
    settings = NetworkSettings(
        architecture="varnet",
        architecture_options={
            "sensitivity_channels": sensitivity_channels,
            "sensitivity_depth": sensitivity_depth,
            "raw_coils": True,
        },
        cascades=_count(state, "cascades."),
        channels=channels,
        depth=depth,
    )
    with torch.device("meta"):  # allocates nothing, and draws no random numbers
        network = settings.build()
    assert isinstance(network, VarNet)
    expected = {_name_in_fastmri(name, settings): (name, tensor.shape) for name, tensor in network.state_dict().items()}
    for names, found in ((expected.keys() - state.keys(), "no"), (state.keys() - expected.keys(), "an unexpected")):
        if names:
            others = f"; {len(names) - 1} others as well" if len(names) > 1 else ""
            raise data_error(where, min(names), f"{found} tensor of this name{others}", _words(settings), _ADVICE)
    loaded: dict[str, Tensor] = {}
    for theirs, (name, shape) in expected.items():
        wanted = (1,) if name.startswith("consistency.") else tuple(shape)
        tensor = state[theirs].detach().float()
        if tuple(tensor.shape) != wanted:
            found = f"shape {tuple(tensor.shape)}"
            raise data_error(where, theirs, found, f"{wanted} in {_words(settings)}", _ADVICE)
        if not bool(tensor.isfinite().all()):
            raise data_error(where, theirs, "NaN or infinity", "finite numbers", "get the file again")
        loaded[name] = tensor.reshape(shape).clone()
    network.load_state_dict(loaded, assign=True)
    return settings, network.eval()


def _size(state: Mapping[str, Tensor], prefix: str, where: Path | str) -> tuple[int, int]:
    """Channels and depth of a U-Net."""
    first, bottom = (f"{prefix}{name}.layers.0.weight" for name in ("down_sample_layers.0", "conv"))
    for name in (first, bottom):
        if name not in state:
            other = f"a state dict of {len(state)} tensors without it" + (f", such as {min(state)}" if state else "")
            raise data_error(where, name, other, "a VarNet of fastMRI", _ADVICE)
    channels, depth = len(state[first]) if state[first].ndim else 0, _count(state, f"{prefix}down_sample_layers.")
    # Before the network is built: sizes of a damaged file have no limit.
    expected = (channels * 2**depth, channels * 2 ** (depth - 1), 3, 3)
    if (found := tuple(state[bottom].shape)) != expected:
        words = f"{expected} after {depth} levels of {channels} channels"
        raise data_error(where, bottom, f"shape {found}", words, _ADVICE)
    return channels, depth


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many different numbers follow a prefix."""
    return len({name.removeprefix(prefix).partition(".")[0] for name in state if name.startswith(prefix)})


def _words(settings: NetworkSettings) -> str:
    maps = settings.architecture_options
    return (
        f"a VarNet of {settings.cascades} cascades, {settings.channels} channels and {settings.depth} pools, for maps "
        f"{maps['sensitivity_channels']} and {maps['sensitivity_depth']}"
    )


def _name_in_fastmri(name: str, settings: NetworkSettings) -> str:
    """Name in fastMRI of a parameter of :class:`VarNet`."""
    if name.startswith("consistency."):
        return f"cascades.{name.split('.')[1]}.dc_weight"
    depth = settings.depth
    if name.startswith("sensitivity."):
        prefix, depth = _MAPS, settings.architecture_options["sensitivity_depth"]
    else:
        prefix = _CASCADE.format(name.split(".")[1])
    part, *rest = name.split(".")[2:]
    leaf = rest[-1]
    if part == "last":
        return f"{prefix}up_conv.{depth - 1}.1.{leaf}"
    if part == "rise":
        return f"{prefix}up_transpose_conv.{rest[0]}.layers.0.{leaf}"
    layer = {"0": "0", "3": "4"}[rest[-2]]  # fastMRI has a dropout between the two convolutions
    if part == "bottom":
        return f"{prefix}conv.layers.{layer}.{leaf}"
    last = ".0" if part == "up" and rest[0] == str(depth - 1) else ""  # in a pair with the 1x1 convolution
    return f"{prefix}{_BLOCKS[part]}.{rest[0]}{last}.layers.{layer}.{leaf}"
