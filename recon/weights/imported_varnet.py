"""Trained weights of fastMRI's and DIRECT's VarNet: read without running code, and given the names of our network."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..errors import data_error
from ..networks import NetworkSettings, VarNet
from .torch_file import read_content

#: Prefix of the network in a checkpoint of fastMRI's training module.
_LIGHTNING = "varnet."
#: Names of the lists of blocks.
_BLOCKS = {"down": "down_sample_layers", "up": "up_conv"}


@dataclass(frozen=True)
class _Program:
    """How a program names the parameters of its VarNet. The names within a U-Net are those of fastMRI in all of them.

    ``cascades``, ``unet`` and ``weight`` are the prefix of all cascades, that of a U-Net and the name of a weight;
    ``maps`` is the prefix of the U-Net for coil maps.
    """

    name: str
    architecture: Literal["varnet", "direct_varnet"]
    cascades: str
    unet: str
    weight: str
    maps: str
    advice: str


_FASTMRI = _Program(
    name="fastMRI",
    architecture="varnet",
    cascades="cascades.",
    unet="cascades.{}.model.unet.",
    weight="cascades.{}.dc_weight",
    maps="sens_net.norm_unet.unet.",
    advice="give a state dict of `fastmri.models.VarNet`, or a checkpoint of its training",
)
_DIRECT = _Program(
    name="DIRECT",
    architecture="direct_varnet",
    cascades="layers_list.",
    unet="layers_list.{}.regularizer_model.",
    weight="layers_list.{}.learning_rate",
    maps="sensitivity_model.",
    advice="give a checkpoint of DIRECT's EndToEndVarNet with a sensitivity_model, both of UnetModel2d",
)


def import_varnet(path: Path | str) -> tuple[NetworkSettings, VarNet]:
    """The network of a file of fastMRI or of DIRECT, with its settings for :func:`save_weights`.

    Parameters
    ----------
    path
        A file of ``torch.save`` or safetensors: a state dict of ``fastmri.models.VarNet``; a checkpoint of PyTorch
        Lightning whose ``state_dict`` has these names after ``varnet.``; or a checkpoint of DIRECT, whose ``model`` is
        an ``EndToEndVarNet`` and whose ``sensitivity_model`` refines the coil maps. Other entries are not used. It is
        read with ``weights_only=True``: a file that needs other classes is refused.

    Raises
    ------
    DataError
        If the file cannot be read, or is no VarNet; see :func:`from_fastmri` and :func:`from_direct`.
    """
    path = Path(path)
    content = read_content(path, _FASTMRI.advice)
    if isinstance(content, Mapping) and isinstance(model := content.get("model"), Mapping):
        refines = content.get("sensitivity_model")
        if refines is not None or any(str(name).startswith(_DIRECT.cascades) for name in model):
            return from_direct(model, refines if isinstance(refines, Mapping) else {}, path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise data_error(path, "file", f"a {type(content).__name__}", "a state dict", _FASTMRI.advice)
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
    return _imported(_FASTMRI, state, where)


def from_direct(
    model: Mapping[str, Tensor], sensitivity_model: Mapping[str, Tensor], where: Path | str
) -> tuple[NetworkSettings, VarNet]:
    """The network of two state dicts of DIRECT, an ``EndToEndVarNet`` and the ``UnetModel2d`` for its coil maps.

    The state dicts do not tell how the network was trained: :class:`DirectVarNet` states what is assumed.

    Parameters
    ----------
    where
        File of the state dicts, for messages.

    Raises
    ------
    DataError
        As :func:`from_fastmri`.
    """
    named = {f"{_DIRECT.maps}{name}": tensor for name, tensor in sensitivity_model.items()}
    return _imported(_DIRECT, {str(name): tensor for name, tensor in model.items()} | named, where)


def _imported(program: _Program, state: Mapping[str, Tensor], where: Path | str) -> tuple[NetworkSettings, VarNet]:
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            found = f"{tensor.dtype}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise data_error(where, name, found, "a tensor of floating-point numbers", program.advice)
    channels, depth = _size(program, state, program.unet.format(0), where)
    sensitivity_channels, sensitivity_depth = _size(program, state, program.maps, where)
    settings = NetworkSettings(
        architecture=program.architecture,
        architecture_options={
            "sensitivity_channels": sensitivity_channels,
            "sensitivity_depth": sensitivity_depth,
            "raw_coils": True,
        },
        cascades=_count(state, program.cascades),
        channels=channels,
        depth=depth,
    )
    with torch.device("meta"):  # allocates nothing, and draws no random numbers
        network = settings.build()
    assert isinstance(network, VarNet)
    expected = {
        _name_there(program, name, settings): (name, tensor.shape) for name, tensor in network.state_dict().items()
    }
    for names, found in ((expected.keys() - state.keys(), "no"), (state.keys() - expected.keys(), "an unexpected")):
        if names:
            others = f"; {len(names) - 1} others as well" if len(names) > 1 else ""
            raise data_error(
                where, min(names), f"{found} tensor of this name{others}", _words(settings), program.advice
            )
    loaded: dict[str, Tensor] = {}
    for theirs, (name, shape) in expected.items():
        wanted = (1,) if name.startswith("consistency.") else tuple(shape)
        tensor = state[theirs].detach().float()
        if tuple(tensor.shape) != wanted:
            found = f"shape {tuple(tensor.shape)}"
            raise data_error(where, theirs, found, f"{wanted} in {_words(settings)}", program.advice)
        if not bool(tensor.isfinite().all()):
            raise data_error(where, theirs, "NaN or infinity", "finite numbers", "get the file again")
        loaded[name] = tensor.reshape(shape).clone()
    network.load_state_dict(loaded, assign=True)
    return settings, network.eval()


def _size(program: _Program, state: Mapping[str, Tensor], prefix: str, where: Path | str) -> tuple[int, int]:
    """Channels and depth of a U-Net."""
    first, bottom = (f"{prefix}{name}.layers.0.weight" for name in ("down_sample_layers.0", "conv"))
    for name in (first, bottom):
        if name not in state:
            other = f"a state dict of {len(state)} tensors without it" + (f", such as {min(state)}" if state else "")
            raise data_error(where, name, other, f"a VarNet of {program.name}", program.advice)
    channels, depth = len(state[first]) if state[first].ndim else 0, _count(state, f"{prefix}down_sample_layers.")
    # Before the network is built: sizes of a damaged file have no limit.
    expected = (channels * 2**depth, channels * 2 ** (depth - 1), 3, 3)
    if (found := tuple(state[bottom].shape)) != expected:
        words = f"{expected} after {depth} levels of {channels} channels"
        raise data_error(where, bottom, f"shape {found}", words, program.advice)
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


def _name_there(program: _Program, name: str, settings: NetworkSettings) -> str:
    """Name in the program of a parameter of :class:`VarNet`."""
    if name.startswith("consistency."):
        return program.weight.format(name.split(".")[1])
    depth = settings.depth
    if name.startswith("sensitivity."):
        prefix, depth = program.maps, settings.architecture_options["sensitivity_depth"]
    else:
        prefix = program.unet.format(name.split(".")[1])
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
