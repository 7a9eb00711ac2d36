"""Adapters: small trainable parts on a frozen network, so that only few parameters travel.

Low-rank updates, channel scales and prompts of the regularizers. Each function changes a complete network in place,
before or after the base is loaded. Before training, the adapted network gives exactly the image of the base.
"""

import math
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .data_consistency import SitePart

#: Last component of the names of adapter parameters.
ADAPTER_PARAMETERS = ("lora_down", "lora_up", "own_down", "own_up", "channel_scale", "prompt")


class AdaptedConv(nn.Module):
    """A frozen convolution ``base`` whose kernel a few parameters change."""

    def __init__(self, base: nn.Conv2d) -> None:
        super().__init__()
        if base.groups != 1 or base.padding_mode != "zeros":
            found = f"groups={base.groups}, padding_mode={base.padding_mode!r}"
            raise ValueError(f"{type(self).__name__}: convolution has {found}, expected one group and zeros")
        self.base = base.requires_grad_(False)

    @property
    def out_channels(self) -> int:
        return self.base.out_channels

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.base.stride, self.base.padding, self.base.dilation)


class LoRAConv2d(AdaptedConv):
    r"""A convolution with the kernel :math:`W + \frac{1}{r} U D`, whose low-rank update starts at zero.

    D maps the input to r channels and U maps these to the output. The factor on the side of fewer channels has the
    spatial extent of the base, the other is 1x1 [C]_: from 16 channels to 2 this needs 34 parameters per rank, the
    opposite choice 146. U and D are multiplied into one kernel, so that an image is convolved once.

    Parameters
    ----------
    base
        The convolution, frozen.
    rank
        r, at least 1.
    dual
        Add a second pair ``own_down``, ``own_up``: one pair is shared, the other stays at the site [D]_.

    References
    ----------
    .. [L] Hu et al., LoRA: Low-rank adaptation of large language models, ICLR 2022, eq. (3).
    .. [C] Yeh et al., Navigating text-to-image customization: From LyCORIS fine-tuning to model evaluation, ICLR 2024,
       for convolutions; there D always has the spatial extent.
    .. [D] Perramon-Llussà et al., Med-DualLoRA: Local adaptation of foundation models for 3D cardiac MRI, 2026.
    """

    def __init__(self, base: nn.Conv2d, rank: int, *, dual: bool = False) -> None:
        super().__init__(base)
        if rank < 1:
            raise ValueError(f"LoRAConv2d: rank is {rank}, expected at least 1")
        self.rank, self.dual = rank, dual
        n_out, n_in, *kernel = base.weight.shape
        wide_input = n_in > n_out
        down_shape = (rank, n_in, *((1, 1) if wide_input else kernel))
        up_shape = (n_out, rank, *(kernel if wide_input else (1, 1)))

        def down() -> nn.Parameter:
            return nn.Parameter(nn.init.kaiming_uniform_(base.weight.new_empty(down_shape), math.sqrt(5)))

        self.lora_down, self.lora_up = down(), nn.Parameter(base.weight.new_zeros(up_shape))
        if dual:
            self.own_down, self.own_up = down(), nn.Parameter(base.weight.new_zeros(up_shape))

    def update(self) -> Tensor:
        """Update of the kernel, shape of the base's kernel."""
        change = _product(self.lora_up, self.lora_down)
        if self.dual:
            change = change + _product(self.own_up, self.own_down)
        return 1 / self.rank * change

    def forward(self, x: Tensor) -> Tensor:
        return self._convolve(x, self.base.weight + self.update(), self.base.bias)


class ScaledConv2d(AdaptedConv):
    r"""A convolution with scaled output channels, :math:`l \odot (W x + b)` with l = 1 at the start: idea of (IA)^3.

    Parameters
    ----------
    base
        The convolution, frozen.

    References
    ----------
    .. [I] Liu et al., Few-shot parameter-efficient fine-tuning is better and cheaper than in-context learning, NeurIPS
       2022. There the scales act on keys, values and hidden activations of transformers.
    """

    def __init__(self, base: nn.Conv2d) -> None:
        super().__init__(base)
        self.channel_scale = nn.Parameter(base.weight.new_ones(base.out_channels))

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.base.bias is None else self.base.bias * self.channel_scale
        return self._convolve(x, self.base.weight * self.channel_scale[:, None, None, None], bias)


class PromptedActivation(nn.Module):
    r"""An activation with attention to learned tokens, :math:`h + \mathrm{softmax}(q K^T / \sqrt{C})\, P`.

    h are the features after the activation. At every pixel the query q is the feature vector after layer
    normalization, the values are the prompt P, zero at the start, and the keys are :math:`K = P + K_0`. The constant
    :math:`K_0` holds cosines of another frequency for each token, like a positional encoding: without it all tokens
    would start equal, have the same gradient and remain equal.

    In FedPR [P]_ prompts are additional tokens in the self-attention of a pre-trained Swin transformer. Here the
    network is convolutional, so this is cross-attention from pixels to prompts alone, without projections, heads or
    windows.

    Parameters
    ----------
    activation
        The activation, without parameters.
    channels
        Number C of feature channels.
    tokens
        Number of tokens; the prompt has the shape ``(tokens, channels)``.

    References
    ----------
    .. [P] Feng et al., Learning federated visual prompt in null space for MRI reconstruction, CVPR 2023.
    """

    keys: Tensor

    def __init__(self, activation: nn.Module, channels: int, tokens: int = 20) -> None:
        super().__init__()
        if tokens < 1:
            raise ValueError(f"PromptedActivation: tokens is {tokens}, expected at least 1")
        self.activation = activation
        self.prompt = nn.Parameter(torch.zeros(tokens, channels))
        frequencies = math.pi * (torch.arange(tokens) + 1) / (tokens + 1)
        keys = math.sqrt(2) * (frequencies[:, None] * (torch.arange(channels) + 0.5)).cos()
        self.register_buffer("keys", keys, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.activation(x)
        pixels = features.movedim(1, -1)
        queries = F.layer_norm(pixels, pixels.shape[-1:])
        scores = queries @ (self.prompt + self.keys).mT / math.sqrt(pixels.shape[-1])
        return features + (scores.softmax(dim=-1) @ self.prompt).movedim(-1, 1)


def add_lora(
    network: nn.Module, rank: int, *, dual: bool = False, below: str = "regularizers.", but: Collection[str] = ()
) -> list[str]:
    """Give all convolutions of the regularizers a low-rank update, see :class:`LoRAConv2d`, and freeze the base.

    Parameters
    ----------
    network
        Changed in place: ``<name>.weight`` becomes ``<name>.base.weight``, see :func:`base_name`.
    rank, dual
        As for :class:`LoRAConv2d`.
    below
        Beginning of the names of the convolutions; empty: all.
    but
        Names of parameters that stay as they are and are not frozen.

    Returns
    -------
        Names of the new parameters. With ``dual``, ``*.own_*`` are those to keep at the site.

    Raises
    ------
    ValueError
        If the regularizers have no convolution, or one is adapted already.
    """
    return _adapt_convolutions("add_lora", network, lambda base: LoRAConv2d(base, rank, dual=dual), below, but)


def add_scales(network: nn.Module) -> list[str]:
    """Give all convolutions of the regularizers one scale per output channel and freeze the base.

    See :class:`ScaledConv2d`; parameters, return value and errors as for :func:`add_lora`.
    """
    return _adapt_convolutions("add_scales", network, ScaledConv2d)


def add_prompts(network: nn.Module, tokens: int = 20) -> list[str]:
    """Give every activation behind a convolution of the regularizers a prompt and freeze the base.

    See :class:`PromptedActivation`.

    Parameters
    ----------
    network
        Changed in place; the names of its parameters stay.
    tokens
        Tokens per layer. The published 20 are for wide transformers; narrow networks need fewer.

    Returns
    -------
        Names of the new parameters.

    Raises
    ------
    ValueError
        If there is no such activation, or one has a prompt already.
    """
    found: dict[str, nn.Module] = {}
    widths: dict[str, int] = {}
    for name, parent in network.named_modules():
        channels = 0
        for key, child in parent.named_children() if isinstance(parent, nn.Sequential) else ():
            if isinstance(child, nn.Conv2d | AdaptedConv):
                channels = child.out_channels
            elif channels and isinstance(child, nn.ReLU | nn.LeakyReLU | PromptedActivation):
                place = f"{name}.{key}" if name else key
                found[place], widths[place] = child, channels
    chosen = _chosen("add_prompts", "activation behind a convolution", found)
    for name, activation in chosen.items():
        _replace(network, name, PromptedActivation(activation, widths[name], tokens))
    freeze_base(network)
    return [f"{name}.prompt" for name in chosen]


def freeze_base(network: nn.Module, but: Collection[str] = ()) -> None:
    """Freeze all parameters except adapters, site parts and those named in ``but``."""
    kept = {id(p) for module in network.modules() if isinstance(module, SitePart) for p in module.parameters()}
    kept |= {id(network.get_parameter(name)) for name in but}
    for name, parameter in network.named_parameters():
        if not is_adapter(name) and id(parameter) not in kept:
            parameter.requires_grad_(False)


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return name.rpartition(".")[2] in ADAPTER_PARAMETERS


def base_name(name: str) -> str | None:
    """Name of a parameter of an adapted network in the network without adapters; None for adapter parameters.

    A checkpoint ``plain`` of the network without adapters loads into the adapted network as
    ``{name: plain[base] for name in adapted if (base := base_name(name)) is not None}``.
    """
    if is_adapter(name):
        return None
    *parents, leaf = name.split(".")
    return ".".join([*(parents[:-1] if parents[-1:] == ["base"] else parents), leaf])


def _product(up: Tensor, down: Tensor) -> Tensor:
    """Kernel ``(n_out, n_in, height, width)`` of a convolution with ``down`` and then ``up``, one of which is 1x1."""
    return (up[:, :, None] * down[None]).sum(dim=1)


def _adapt_convolutions(
    who: str,
    network: nn.Module,
    adapt: Callable[[nn.Conv2d], AdaptedConv],
    below: str = "regularizers.",
    but: Collection[str] = (),
) -> list[str]:
    inside = {id(module.base) for module in network.modules() if isinstance(module, AdaptedConv)}
    found = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | AdaptedConv) and id(module) not in inside and f"{name}.weight" not in but
    }
    added: list[str] = []
    for name, module in _chosen(who, "convolution", found, below).items():
        assert isinstance(module, nn.Conv2d)
        adapted = adapt(module)
        _replace(network, name, adapted)
        added += [f"{name}.{parameter}" for parameter, _ in adapted.named_parameters() if is_adapter(parameter)]
    freeze_base(network, but)
    return added


def _chosen(who: str, what: str, found: Mapping[str, nn.Module], below: str = "regularizers.") -> dict[str, nn.Module]:
    """The modules whose names begin with ``below``, none of which may be adapted already."""
    chosen = {name: module for name, module in found.items() if name.startswith(below)}
    if not chosen:
        place = f"below {below.rstrip('.')!r} " if below else ""
        raise ValueError(f"{who}: found no {what} {place}of the network, expected at least one")
    taken = [name for name, module in chosen.items() if isinstance(module, AdaptedConv | PromptedActivation)]
    if taken:
        raise ValueError(f"{who}: {taken[0]} is adapted already; use one such adapter")
    return chosen


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, key = name.rpartition(".")
    setattr(network.get_submodule(parent), key, module)
