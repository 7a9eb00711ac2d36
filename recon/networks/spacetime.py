"""Regularizers of images with three axes: frames of a moving object, or volumes."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .regularizers import Regularizer


class SpaceTimeRegularizer(Regularizer):
    """Residual CNN of frames: every layer convolves in space (3x3), then along time (3); the identity at the start.

    The mean over time, to which every position of k-space contributes that some frame samples, is a second input of the
    first layer. Convolutions along time are residual and start at zero. Time is periodic, as in a cine of a heart: the
    frame after the last is the first. A single frame is its own neighbor.

    Names of its parameters: ``space.0``, ``time.0``, ``space.1``, ... and ``last``.

    Parameters
    ----------
    channels
        Channels of the hidden layers.
    depth
        Number of layers, at least 2; the last is a convolution in space alone.
    """

    image_axes = 3

    def __init__(self, channels: int = 24, depth: int = 4) -> None:
        super().__init__()
        if depth < 2:
            raise ValueError(f"SpaceTimeRegularizer: depth is {depth}, expected at least 2 layers")
        widths = [4] + [channels] * (depth - 1)
        space, time = (1, 3, 3), (3, 1, 1)
        pairs = list(itertools.pairwise(widths))
        self.space = nn.ModuleList(nn.Conv3d(a, b, space, padding=(0, 1, 1)) for a, b in pairs)
        self.time = nn.ModuleList(_zero(nn.Conv3d(b, b, time)) for _, b in pairs)
        self.last = _zero(nn.Conv3d(channels, 2, space, padding=(0, 1, 1)))

    def refine(self, channels: Tensor, condition: Tensor | None) -> Tensor:
        features = torch.cat((channels, channels.mean(2, keepdim=True).expand_as(channels)), dim=1)
        for space, time in zip(self.space, self.time, strict=True):
            features = F.relu(space(features))
            around = torch.cat((features[:, :, -1:], features, features[:, :, :1]), dim=2)
            features = features + time(around)
        out: Tensor = channels + self.last(features)
        return out


class VolumeRegularizer(Regularizer):
    """Plain residual 3-D CNN, ``depth`` 3x3x3 convolutions with ReLU; the identity at the start.

    Names of its parameters: ``hidden.0``, ``hidden.1``, ... and ``last``.

    Parameters
    ----------
    channels
        Channels of the hidden layers.
    depth
        Number of convolutions, at least 2.
    """

    image_axes = 3

    def __init__(self, channels: int = 16, depth: int = 3) -> None:
        super().__init__()
        if depth < 2:
            raise ValueError(f"VolumeRegularizer: depth is {depth}, expected at least 2 layers")
        pairs = itertools.pairwise([2] + [channels] * (depth - 1))
        self.hidden = nn.ModuleList(nn.Conv3d(a, b, 3, padding=1) for a, b in pairs)
        self.last = _zero(nn.Conv3d(channels, 2, 3, padding=1))

    def refine(self, channels: Tensor, condition: Tensor | None) -> Tensor:
        features = channels
        for layer in self.hidden:
            features = F.relu(layer(features))
        out: Tensor = channels + self.last(features)
        return out


def _zero(layer: nn.Conv3d) -> nn.Conv3d:
    """The layer with zeros, so that a residual branch starts as nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
