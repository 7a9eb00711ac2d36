"""Small trainable parts on a frozen network: low-rank updates, channel scales and prompts. Only they need to travel.

Each function changes a network in place, once it has its final parts and before or after its base is loaded: the
adapted network computes exactly what the base computes until it is trained.
"""

import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .data_consistency import SitePart

#: Last part of the names of the parameters that adapters add.
ADAPTER_PARAMETERS = ("lora_down", "lora_up", "own_down", "own_up", "channel_scale", "prompt")


class AdaptedConv(nn.Module):
    """A frozen convolution under ``base`` whose kernel is changed by few parameters."""

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
    r"""A convolution with kernel :math:`W + \frac{\alpha}{r} B A` of a low-rank update, which starts at zero.

    A convolution with :math:`A` makes ``rank`` channels of the input, one with :math:`B` the output of these. The
    one on the narrower side of the base has its spatial extent, the other is 1x1 [C]_: from 16 channels to 2 that takes
    34 parameters per rank where the other way takes 146. The two are multiplied into one kernel, so that an image is
    convolved once.

    Parameters
    ----------
    base
        The convolution, frozen.
    rank
        r, at least 1.
    alpha
        Factor of the update.
    dual
        A second pair ``own_down``, ``own_up``, added to the first: one is shared, the other stays at the site [D]_.
    generator
        Draws ``lora_down`` and ``own_down``; None is torch's own.

    References
    ----------
    .. [L] Hu et al., LoRA: Low-rank adaptation of large language models, ICLR 2022, eq. (3).
    .. [C] Yeh et al., Navigating text-to-image customization: From LyCORIS fine-tuning to model evaluation, ICLR 2024,
       for convolutions; there the first of the two has the spatial extent always.
    .. [D] Perramon-Llussà et al., Med-DualLoRA: Local adaptation of foundation models for 3D cardiac MRI, 2026.
    """

    def __init__(
        self,
        base: nn.Conv2d,
        rank: int,
        alpha: float = 1.0,
        *,
        dual: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(base)
        if rank < 1:
            raise ValueError(f"LoRAConv2d: rank is {rank}, expected at least 1")
        self.rank, self.alpha, self.dual = rank, alpha, dual
        n_out, n_in, *kernel = base.weight.shape
        wide_input = n_in > n_out
        down_shape = (rank, n_in, *((1, 1) if wide_input else kernel))
        up_shape = (n_out, rank, *(kernel if wide_input else (1, 1)))

        def down() -> nn.Parameter:
            drawn = base.weight.new_empty(down_shape)
            return nn.Parameter(nn.init.kaiming_uniform_(drawn, math.sqrt(5), generator=generator))

        self.lora_down, self.lora_up = down(), nn.Parameter(base.weight.new_zeros(up_shape))
        if dual:
            self.own_down, self.own_up = down(), nn.Parameter(base.weight.new_zeros(up_shape))

    def update(self) -> Tensor:
        """What is added to the base's kernel."""
        change = _product(self.lora_up, self.lora_down)
        if self.dual:
            change = change + _product(self.own_up, self.own_down)
        return self.alpha / self.rank * change

    def forward(self, x: Tensor) -> Tensor:
        return self._convolve(x, self.base.weight + self.update(), self.base.bias)


class ScaledConv2d(AdaptedConv):
    r"""A convolution whose output channels are scaled, :math:`l \odot (W x + b)`, from ones: the idea of (IA)^3.

    Parameters
    ----------
    base
        The convolution, frozen.

    References
    ----------
    .. [I] Liu et al., Few-shot parameter-efficient fine-tuning is better and cheaper than in-context learning, NeurIPS
       2022. There keys, values and hidden activations of transformers are scaled.
    """

    def __init__(self, base: nn.Conv2d) -> None:
        super().__init__(base)
        self.channel_scale = nn.Parameter(base.weight.new_ones(base.out_channels))

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.base.bias is None else self.base.bias * self.channel_scale
        return self._convolve(x, self.base.weight * self.channel_scale[:, None, None, None], bias)


class PromptedActivation(nn.Module):
    r"""An activation whose features read from learned tokens, :math:`h + \mathrm{softmax}(q K^T / \sqrt{C})\, P`.

    At every pixel the query q is the feature vector after layer normalization, the values are the prompt P, zero at
    the start, and the keys are :math:`P + K_0`. The constant :math:`K_0`, cosines of another frequency for each
    token, is to the tokens what a positional encoding is in a transformer: without it all tokens would start alike,
    get the same gradient and stay alike.

    In FedPR [P]_ prompts are further tokens in the self-attention of every Swin transformer layer of a pre-trained
    network, behind its frozen projections. Here a convolutional network is prompted, so there is a cross-attention
    from pixels to prompts and nothing else: no projections, no heads, no windows, no transformer layers.

    Parameters
    ----------
    activation
        What makes the features, without parameters.
    channels
        Width C of the features.
    tokens
        Rows of the prompt, ``(tokens, channels)``.

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
    network: nn.Module,
    rank: int,
    *,
    pattern: str = "regularizers.*",
    alpha: float = 1.0,
    dual: bool = False,
    generator: torch.Generator | None = None,
) -> list[str]:
    """Give convolutions a low-rank update, see :class:`LoRAConv2d`, and freeze the base.

    Parameters
    ----------
    network
        Changed in place: what was ``<name>.weight`` is now ``<name>.base.weight``, see :func:`base_name`.
    rank, alpha, dual, generator
        As for :class:`LoRAConv2d`.
    pattern
        Shell pattern of the names of the convolutions. Calls with disjoint patterns add up.

    Returns
    -------
        Names of the parameters that were added. With ``dual``, keep ``*.own_*``.

    Raises
    ------
    ValueError
        If the pattern matches no convolution, or one that is adapted already.
    """
    return _adapt_convolutions(
        "add_lora", network, pattern, lambda base: LoRAConv2d(base, rank, alpha, dual=dual, generator=generator)
    )


def add_scales(network: nn.Module, *, pattern: str = "regularizers.*") -> list[str]:
    """Give convolutions one scale per output channel, see :class:`ScaledConv2d`, and freeze the base.

    Parameters, return value and errors as for :func:`add_lora`.
    """
    return _adapt_convolutions("add_scales", network, pattern, ScaledConv2d)


def add_prompts(network: nn.Module, tokens: int = 20, *, pattern: str = "regularizers.*") -> list[str]:
    """Give every hidden layer a prompt, see :class:`PromptedActivation`, and freeze the base.

    Parameters
    ----------
    network
        Changed in place; the names of its parameters stay.
    tokens
        Per layer. The published 20 are for wide transformers; fewer suit narrow networks.
    pattern
        Shell pattern of the names of the activations that follow a convolution in a sequence.

    Returns
    -------
        Names of the parameters that were added.

    Raises
    ------
    ValueError
        If the pattern matches no such activation, or one that has a prompt already.
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
    chosen = _chosen("add_prompts", pattern, "activation behind a convolution", found)
    for name, activation in chosen.items():
        _replace(network, name, PromptedActivation(activation, widths[name], tokens))
    freeze_base(network)
    return [f"{name}.prompt" for name in chosen]


def freeze_base(network: nn.Module) -> None:
    """Let only adapters and the site's own parts be trained."""
    own = {id(p) for module in network.modules() if isinstance(module, SitePart) for p in module.parameters()}
    for name, parameter in network.named_parameters():
        if not is_adapter(name) and id(parameter) not in own:
            parameter.requires_grad_(False)


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return name.rpartition(".")[2] in ADAPTER_PARAMETERS


def base_name(name: str) -> str | None:
    """Name that a parameter of an adapted network has in the plain one; None if it belongs to an adapter.

    A checkpoint ``plain`` of the plain network loads into the adapted one as
    ``{name: plain[base] for name in adapted if (base := base_name(name)) is not None}``.
    """
    if is_adapter(name):
        return None
    *parents, leaf = name.split(".")
    return ".".join([*(parents[:-1] if parents[-1:] == ["base"] else parents), leaf])


def _product(up: Tensor, down: Tensor) -> Tensor:
    """Kernel ``(n_out, n_in, height, width)`` of convolving with ``down`` and then ``up``, one of which is 1x1."""
    return (up[:, :, None] * down[None]).sum(dim=1)


def _adapt_convolutions(
    who: str, network: nn.Module, pattern: str, adapt: Callable[[nn.Conv2d], AdaptedConv]
) -> list[str]:
    inside = {id(module.base) for module in network.modules() if isinstance(module, AdaptedConv)}
    found = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | AdaptedConv) and id(module) not in inside
    }
    added: list[str] = []
    for name, module in _chosen(who, pattern, "convolution", found).items():
        assert isinstance(module, nn.Conv2d)
        adapted = adapt(module)
        _replace(network, name, adapted)
        added += [f"{name}.{own}" for own, _ in adapted.named_parameters() if is_adapter(own)]
    freeze_base(network)
    return added


def _chosen(who: str, pattern: str, what: str, found: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The modules whose names match, none of which may be adapted already."""
    chosen = {name: module for name, module in found.items() if fnmatchcase(name, pattern)}
    if not chosen:
        names = ", ".join(list(found)[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "")
        raise ValueError(f"{who}: pattern {pattern!r} matches no {what}; there is {names or 'none'}")
    taken = [name for name, module in chosen.items() if isinstance(module, AdaptedConv | PromptedActivation)]
    if taken:
        raise ValueError(f"{who}: {taken[0]} is adapted already; use patterns that do not overlap")
    return chosen


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, key = name.rpartition(".")
    setattr(network.get_submodule(parent), key, module)
