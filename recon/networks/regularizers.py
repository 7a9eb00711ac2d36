"""Learned regularizers, image to image: the part of an unrolled network that all sites share."""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .conditioning import FiLM, require_condition

Norm = Literal["none", "instance", "group"]
Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


class Regularizer(nn.Module, ABC):
    """A learned map of images that removes artifacts and noise.

    Subclasses implement :meth:`refine` on real and imaginary part, real tensors ``(batch, 2, height, width)``; one that
    mixes more axes of the image than two states ``image_axes`` and gets ``(batch, 2, *image)``. A recipe
    gives a subclass the arguments that it declares: ``channels`` and ``depth`` (its size), ``condition_dim`` if it can
    take a condition, ``noise_level`` if it can be told the noise, ``norm`` and ``attention`` if it has them, and any
    others as ``[network.regularizer_options]``.

    Parameters
    ----------
    condition_dim
        Length of the condition vector; 0 for a regularizer without condition.
    noise_level
        Whether it is told the noise per pixel: a third channel of the input of :meth:`refine`.
    memory_in, memory_out
        Channels of memory: those that it gets from the regularizer of the cascade before, the last channels of its
        input, and those that it gives to the next one, the last channels of its output.
    """

    #: Number of axes of the image that it mixes; a network treats all others one by one.
    image_axes = 2

    def __init__(
        self, condition_dim: int = 0, noise_level: bool = False, memory_in: int = 0, memory_out: int = 0
    ) -> None:
        super().__init__()
        for name, number in (("condition_dim", condition_dim), ("memory_in", memory_in), ("memory_out", memory_out)):
            if number < 0:
                raise ValueError(f"{type(self).__name__}: {name} is {number}, expected 0 or more")
        self.condition_dim, self.noise_level = condition_dim, noise_level
        self.memory_in, self.memory_out = memory_in, memory_out

    def forward(self, x: Tensor, condition: Tensor | None = None, level: Tensor | None = None) -> Tensor:
        """Refined image, shape and dtype of ``x``, ``(*batch, height, width)`` or ``(*batch, ..., height, width)``.

        Parameters and errors as of :meth:`with_memory`, whose memory is zero.
        """
        return self.with_memory(x, condition, level)[0]

    def with_memory(
        self, x: Tensor, condition: Tensor | None = None, level: Tensor | None = None, *, memory: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Refined image, and the memory for the regularizer of the next cascade.

        Parameters
        ----------
        condition
            ``(*batch, condition_dim)``, or ``(condition_dim,)`` for the whole batch.
        level
            Logarithm of the noise, real, the shape of ``x``, scaled to order one.
        memory
            What the regularizer before returned for the same images; None: zeros.

        Raises
        ------
        ValueError
            If a condition, a level or a memory is missing, unexpected, or of another shape.
        """
        n_axes = self.image_axes
        if x.ndim < n_axes:
            found = f"an image of shape {tuple(x.shape)}"
            raise ValueError(f"{type(self).__name__}: got {found}, expected {n_axes} axes or more")
        flat_condition = self._flat(condition, x.shape[: x.ndim - n_axes])
        self._require_level(level, x.shape)
        flat = x.reshape(-1, *x.shape[-n_axes:])
        # Complex numbers in memory are real channels in the channels-last layout: no copy, and convolutions are a
        # fifth faster in this layout.
        pairs = torch.view_as_real(flat) if flat.is_complex() else torch.stack((flat, torch.zeros_like(flat)), dim=-1)
        if level is not None:
            pairs = torch.cat((pairs, level.reshape(*flat.shape, 1)), dim=-1)
        parts = [pairs, *self._remembered(memory, pairs)]
        channels = (torch.cat(parts, dim=-1) if len(parts) > 1 else pairs).movedim(-1, 1)
        refined = self.refine(channels, flat_condition)
        if refined.shape[1] != 2 + self.memory_out:
            found = f"{refined.shape[1]} channels of `refine`"
            raise ValueError(f"{type(self).__name__}: got {found}, expected 2 and {self.memory_out} of memory")
        # Split, not sliced: the derivative of a slice is an array of zeros with the slice in it.
        pair, memory = refined.split((2, self.memory_out), dim=1) if self.memory_out else (refined, None)
        out = pair.movedim(1, -1)
        image = torch.view_as_complex(out.contiguous()) if x.is_complex() else out[..., 0]
        return image.reshape(x.shape), memory

    @abstractmethod
    def refine(self, channels: Tensor, condition: Tensor | None) -> Tensor:
        """The two refined channels, then those of the memory for the next regularizer.

        The input has two channels, with the noise level three, then those of the memory from before. The condition is
        ``(batch, condition_dim)`` or ``(condition_dim,)``, None if unused.
        """

    def _remembered(self, memory: Tensor | None, pairs: Tensor) -> list[Tensor]:
        """The memory as last axis, as ``pairs`` has it, zeros if there is none yet."""
        if not self.memory_in:
            if memory is not None:
                raise ValueError(f"{type(self).__name__}: got memory of shape {tuple(memory.shape)}, expected none")
            return []
        shape = (pairs.shape[0], self.memory_in, *pairs.shape[1:-1])
        if memory is None:
            return [pairs.new_zeros(*pairs.shape[:-1], self.memory_in)]
        if memory.shape != shape:
            found = f"memory of shape {tuple(memory.shape)}"
            raise ValueError(f"{type(self).__name__}: got {found}, expected {shape}")
        return [memory.movedim(1, -1)]

    def _require_level(self, level: Tensor | None, shape: torch.Size) -> None:
        found = None if level is None else tuple(level.shape)
        expected = tuple(shape) if self.noise_level else None
        if found != expected:
            raise ValueError(f"{type(self).__name__}: noise level has shape {found}, expected {expected}")

    def _flat(self, condition: Tensor | None, batch: torch.Size) -> Tensor | None:
        who = type(self).__name__
        if self.condition_dim == 0:
            if condition is not None:
                raise ValueError(f"{who}: takes no condition, got one of shape {tuple(condition.shape)}")
            return None
        if condition is None:
            raise ValueError(f"{who}: got no condition, expected one of length {self.condition_dim}")
        require_condition(who, condition, self.condition_dim, batch)
        return condition if condition.ndim == 1 else condition.reshape(-1, self.condition_dim)


class ConvRegularizer(Regularizer):
    """Plain residual CNN: ``depth`` 3x3 convolutions with ReLU; the identity at the start.

    Names of its parameters: ``hidden.0``, ``hidden.2``, ... and ``last``; with the options also ``hidden.norm``,
    ``film`` and ``attention``.

    Parameters
    ----------
    channels
        Channels of the hidden layers.
    depth
        Number of convolutions, at least 2.
    condition_dim
        Above 0: every hidden layer is followed by a :class:`FiLM` with a condition of this length.
    noise_level
        As for :class:`Regularizer`.
    norm
        Normalization of every hidden layer before its ReLU, affine and without running statistics.
    attention
        Whether a :class:`ChannelAttention` precedes the last layer.
    memory_in, memory_out
        As for :class:`Regularizer`. Where it has both, it adds to the memory as to the image.
    """

    def __init__(
        self,
        channels: int = 32,
        depth: int = 5,
        *,
        condition_dim: int = 0,
        noise_level: bool = False,
        norm: Norm = "none",
        attention: bool = False,
        memory_in: int = 0,
        memory_out: int = 0,
    ) -> None:
        super().__init__(condition_dim, noise_level, memory_in, memory_out)
        if depth < 2:
            raise ValueError(f"ConvRegularizer: depth is {depth}, expected at least 2 layers")
        self.hidden = ConvStack([2 + noise_level + memory_in] + [channels] * (depth - 1), nn.ReLU, norm)
        self.last = _zero(nn.Conv2d(channels, 2 + memory_out, 3, padding=1), 2)
        self.film = _films([channels] * (depth - 1), condition_dim)
        self.attention = ChannelAttention(channels) if attention else nn.Identity()

    def refine(self, channels: Tensor, condition: Tensor | None) -> Tensor:
        change = self.residual(channels, condition)
        if not self.noise_level and self.memory_in == self.memory_out:
            return channels + change
        before: tuple[Tensor, ...] = channels.split((2, int(self.noise_level), self.memory_in), dim=1)
        image, _, memory = before
        if not self.memory_out:
            return image + change
        of_image, new = change.split((2, self.memory_out), dim=1)
        return torch.cat((image + of_image, memory + new if self.memory_in == self.memory_out else new), dim=1)

    def residual(self, channels: Tensor, condition: Tensor | None) -> Tensor:
        """The change that :meth:`refine` adds to the image, and the channels of the memory."""
        features = channels
        for index in range(self.hidden.layers):
            features = _modulated(self.film, index, self.hidden.layer(index, features), condition)
        out: Tensor = self.last(self.attention(features))
        return out


class UNetRegularizer(Regularizer):
    """Small residual U-Net for any image size; the identity at the start.

    Names of its parameters: ``first`` and ``down`` in the encoder, ``reduce``, ``up`` and ``last`` in the decoder; with
    the options also ``norm`` in each block, ``film`` and ``attention``.

    Parameters
    ----------
    channels
        Channels at full resolution; doubled at every level.
    depth
        Number of times the resolution is halved, at least 1.
    condition_dim
        Above 0: every block is followed by a :class:`FiLM` with a condition of this length.
    noise_level, norm, attention
        As for :class:`ConvRegularizer`; every convolution of a block is normalized.
    """

    def __init__(
        self,
        channels: int = 16,
        depth: int = 2,
        *,
        condition_dim: int = 0,
        noise_level: bool = False,
        norm: Norm = "none",
        attention: bool = False,
    ) -> None:
        super().__init__(condition_dim, noise_level)
        if depth < 1:
            raise ValueError(f"UNetRegularizer: depth is {depth}, expected at least 1 level")
        widths = [channels * 2**level for level in range(depth + 1)]
        self.levels = depth
        self.first = _block(2 + noise_level, channels, norm)
        self.down = nn.ModuleList(_block(a, b, norm) for a, b in itertools.pairwise(widths))
        self.reduce = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(_block(a, a, norm) for a in widths[:-1])
        self.last = _zero(nn.Conv2d(channels, 2, 1))
        self.film = _films(widths + widths[:-1], condition_dim)  # in the order of the blocks above
        self.attention = ChannelAttention(channels) if attention else nn.Identity()

    def refine(self, channels: Tensor, condition: Tensor | None) -> Tensor:
        height, width = channels.shape[-2:]
        multiple = 2**self.levels
        # Pad with zeros to the next multiple; the padding is cut off below.
        padded = F.pad(channels, (0, -width % multiple, 0, -height % multiple))
        features = [_modulated(self.film, 0, self.first(padded), condition)]
        for index, block in enumerate(self.down, start=1):
            features.append(_modulated(self.film, index, block(F.avg_pool2d(features[-1], 2)), condition))
        x = features.pop()
        for level in reversed(range(self.levels)):
            x = F.interpolate(self.reduce[level](x), scale_factor=2.0, mode="nearest")
            x = self.up[level](x + features.pop())  # a sum is a fifth faster than concatenated channels
            x = _modulated(self.film, self.levels + 1 + level, x, condition)
        out: Tensor = channels[:, :2] + self.last(self.attention(x))[..., :height, :width]
        return out


class FrequencySplitRegularizer(Regularizer):
    r"""One residual CNN for low and one for high frequencies, :math:`x + L(x_l) + H(x - x_l)`, as in FedFDD [F]_.

    :math:`x_l` is the image of the lowest coefficients of an orthonormal discrete cosine transform. The parameters of L
    are named ``low``, those of H ``high``. With ``keep = ["*.low.*"]`` the sites share the restoration of fine detail
    and each keeps that of its contrast. The branches of the paper are U-Nets for denoising.

    Parameters
    ----------
    channels, depth
        Size of each of the two CNNs, as for :class:`ConvRegularizer`.
    cutoff
        Fraction of low coefficients along each axis, above 0 and at most 1; at least one coefficient is low.
    condition_dim, noise_level, norm, attention
        As for :class:`ConvRegularizer`.

    References
    ----------
    .. [F] Chen et al., FedFDD: Federated learning with frequency domain decomposition for low-dose CT denoising, MIDL
       2024.
    """

    def __init__(
        self,
        channels: int = 32,
        depth: int = 5,
        *,
        cutoff: float = 0.125,
        condition_dim: int = 0,
        noise_level: bool = False,
        norm: Norm = "none",
        attention: bool = False,
    ) -> None:
        super().__init__(condition_dim, noise_level)
        if not 0 < cutoff <= 1:
            raise ValueError(f"FrequencySplitRegularizer: cutoff is {cutoff}, expected more than 0 and at most 1")
        self.cutoff = cutoff
        branch = partial(
            ConvRegularizer,
            channels,
            depth,
            condition_dim=condition_dim,
            noise_level=noise_level,
            norm=norm,
            attention=attention,
        )
        self.low, self.high = branch(), branch()

    def refine(self, channels: Tensor, condition: Tensor | None) -> Tensor:
        image, level = channels[:, :2], channels[:, 2:]
        low = low_frequencies(image, self.cutoff)
        branches = [(self.low, low), (self.high, image - low)]
        residuals = [branch.residual(torch.cat((part, level), 1), condition) for branch, part in branches]
        return image + residuals[0] + residuals[1]


class ChannelAttention(nn.Module):
    """Squeeze and excitation: scales channels by factors between 0 and 2 that depend on their means, 1 at the start.

    Parameters
    ----------
    channels
        Number of channels; the hidden layer has a quarter as many.

    References
    ----------
    .. [H] Hu, Shen and Sun, Squeeze-and-excitation networks, CVPR 2018. There the factors are between 0 and 1, and the
       hidden layer has a ReLU.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 4, 1)
        # Leaky ReLU: with so few hidden units, all ReLUs could be inactive from the start.
        self.gate = nn.Sequential(nn.Linear(channels, hidden), _leaky(), _zero(nn.Linear(hidden, channels)))

    def forward(self, features: Tensor) -> Tensor:
        gate = 2 * self.gate(features.mean(dim=(-2, -1))).sigmoid()
        out: Tensor = features * gate[..., None, None]
        return out


class ConvStack(nn.Sequential):
    """Layers of 3x3 convolution, norm and activation; parameters ``0``, ``2``, ... and ``norm.0``, ``norm.1``, ..."""

    norm: nn.ModuleList

    def __init__(self, widths: Sequence[int], activation: Callable[[], nn.Module], norm: Norm) -> None:
        parts: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(widths):
            parts += [nn.Conv2d(n_in, n_out, 3, padding=1), activation()]
        super().__init__(*parts)
        self.layers = len(widths) - 1
        # Not among the numbered parts, so that these have the same names with and without norms.
        self.norm = nn.ModuleList(_norm(norm, width) for width in widths[1:])

    def forward(self, x: Tensor) -> Tensor:
        for index in range(self.layers):
            x = self.layer(index, x)
        return x

    def layer(self, index: int, x: Tensor) -> Tensor:
        """Output of one layer: convolution, norm and activation."""
        out: Tensor = self[2 * index + 1](self.norm[index](self[2 * index](x)))
        return out


def low_frequencies(image: Tensor, cutoff: float) -> Tensor:
    r"""Projection of an image on its lowest DCT coefficients, :math:`C_h^T C_h\, x\, C_w^T C_w`.

    :math:`C_n` are the first ``round(cutoff * n)`` rows, at least one, of the orthonormal DCT-II matrix of size n.

    Parameters
    ----------
    image
        Real, ``(..., height, width)``.
    cutoff
        Fraction of the coefficients along each axis, above 0 and at most 1.
    """
    rows, columns = (_cosines(n, max(round(cutoff * n), 1), image.dtype, image.device) for n in image.shape[-2:])
    return rows.mT @ (rows @ image @ columns.mT) @ columns


@lru_cache(maxsize=32)
def _cosines(n: int, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The first rows of the orthonormal DCT-II matrix, ``(count, n)``."""
    # Autograd refuses tensors that were made in inference mode, and the cache may return this one later.
    with torch.inference_mode(False):
        phases = torch.arange(count, dtype=torch.float64)[:, None] * (torch.arange(n, dtype=torch.float64) + 0.5)
        cosines = (phases * (math.pi / n)).cos() * math.sqrt(2 / n)
        cosines[0] = 1 / math.sqrt(n)
        return cosines.to(device, dtype)


def _films(widths: Sequence[int], condition_dim: int) -> nn.ModuleList:
    return nn.ModuleList(FiLM(width, condition_dim) for width in widths if condition_dim)


def _modulated(films: nn.ModuleList, index: int, features: Tensor, condition: Tensor | None) -> Tensor:
    if condition is None:
        return features
    out: Tensor = films[index](features, condition)
    return out


def _norm(kind: Norm, channels: int) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    if kind == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    if kind == "group":
        return nn.GroupNorm(math.gcd(channels, 4), channels)
    raise ValueError(f"Regularizer: norm is {kind!r}, expected 'none', 'instance' or 'group'")


def _block(n_in: int, n_out: int, norm: Norm) -> ConvStack:
    return ConvStack([n_in, n_out, n_out], _leaky, norm)


def _leaky() -> nn.Module:
    return nn.LeakyReLU(0.1)


def _zero(layer: Layer, first: int | None = None) -> Layer:
    """The layer with zero weights of its first outputs, or all: the untrained network is plain data consistency."""
    nn.init.zeros_(layer.weight[:first])
    if layer.bias is not None:
        nn.init.zeros_(layer.bias[:first])
    return layer
