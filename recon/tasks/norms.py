"""Normalizations of heads, none of which averages over the batch."""

import math

import torch
from torch import Tensor, nn


class ChannelAffine(nn.Module):
    """Scale and shift of every channel: batch normalization with running statistics that stay as they are.

    Parameters
    ----------
    eps
        That of the batch normalization, for :meth:`TorchvisionHead.own_state`.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None] + self.bias[:, None, None]


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalization with up to eight groups."""
    return nn.GroupNorm(math.gcd(channels, 8), channels)
