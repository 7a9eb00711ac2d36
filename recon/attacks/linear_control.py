"""The positive control: a network from whose gradient an image can be recovered, so that the attack must succeed."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from physics import LinearOperator

from ..data import Sample
from ..training import Supervised
from .gradients import Victim


class LinearReconstruction(nn.Module):
    """One fully connected layer from the backprojection to the image; complex numbers are two channels.

    The gradient of its bias is the residual r, that of its weight is the outer product of r and the backprojection:
    together they hold both.

    Parameters
    ----------
    n_pixels
        Pixels of the image.
    channels
        2 for complex images, 1 for real ones.
    """

    def __init__(self, n_pixels: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        size = n_pixels * channels
        self.weight = nn.Parameter(0.1 * torch.randn(size, size) / size**0.5)
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, y: Tensor, A: LinearOperator) -> Tensor:
        """Reconstruct, ``(batch, *A.range_shape) -> (batch, *A.domain_shape)``."""
        start = LinearOperator.normalized_adjoint(A, y)
        if self.channels == 1:
            return nn.functional.linear(start.flatten(1), self.weight, self.bias).reshape(start.shape)
        parts = torch.view_as_real(start)
        out = nn.functional.linear(parts.flatten(1), self.weight, self.bias)
        return torch.view_as_complex(out.reshape(parts.shape))


def linear_victim(sample: Sample, seed: int = 0) -> Victim:
    """A slice, measured without noise, at a site that trains :class:`LinearReconstruction` with the mean squared error.

    Parameters
    ----------
    sample
        A batch of one small slice: the layer has as many weights as the square of its pixels.
    """
    if sample.reference is None:
        raise ValueError("linear_victim: the slice has no reference, expected one")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = LinearReconstruction(sample.reference[0].numel(), 2 if sample.reference.is_complex() else 1)
    exact = replace(sample, measurement=sample.operator(sample.reference))
    return Victim(network, ("weight", "bias"), exact, Supervised("mse"))
