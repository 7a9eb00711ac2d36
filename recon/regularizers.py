"""Learned regularizers: image in, image out. The half of an unrolled network that all sites share."""

import itertools
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Regularizer(nn.Module, ABC):
    """Removes what does not look like an image. Complex numbers become two channels only in here.

    Subclasses implement :meth:`refine` on real tensors ``(batch, 2, height, width)``.
    """

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the refined image, shape and dtype of ``x``, ``(*batch, height, width)``.

        Raises
        ------
        ValueError
            If a condition is given: none of the present regularizers uses one.
        """
        if condition is not None:
            raise ValueError(f"{type(self).__name__}: takes no condition, got one of shape {tuple(condition.shape)}")
        flat = x.reshape(-1, *x.shape[-2:])
        # Real and imaginary part lie next to each other, which is what channels last means: no copy, and the
        # convolutions run a fifth faster in that layout.
        pairs = torch.view_as_real(flat) if flat.is_complex() else torch.stack((flat, torch.zeros_like(flat)), dim=-1)
        out = self.refine(pairs.movedim(-1, 1)).movedim(1, -1)
        image = torch.view_as_complex(out.contiguous()) if x.is_complex() else out[..., 0]
        return image.reshape(x.shape)

    @abstractmethod
    def refine(self, channels: Tensor) -> Tensor: ...


class ConvRegularizer(Regularizer):
    """Plain residual CNN: ``layers`` 3x3 convolutions with ReLU, starting as the identity.

    Parameters
    ----------
    channels
        Width of the hidden layers.
    layers
        Number of convolutions, at least 2.
    """

    def __init__(self, channels: int = 32, layers: int = 5) -> None:
        super().__init__()
        if layers < 2:
            raise ValueError(f"ConvRegularizer: layers is {layers}, expected at least 2")
        widths = [2] + [channels] * (layers - 1)
        hidden: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(widths):
            hidden += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU()]
        self.hidden = nn.Sequential(*hidden)
        self.last = _zero(nn.Conv2d(channels, 2, 3, padding=1))

    def refine(self, channels: Tensor) -> Tensor:
        out: Tensor = channels + self.last(self.hidden(channels))
        return out


class UNetRegularizer(Regularizer):
    """Small residual U-Net without normalization layers, starting as the identity; any image size.

    Parameters
    ----------
    channels
        Width at full resolution; doubled at every level.
    levels
        Number of times the resolution is halved, at least 1.
    """

    def __init__(self, channels: int = 16, levels: int = 2) -> None:
        super().__init__()
        if levels < 1:
            raise ValueError(f"UNetRegularizer: levels is {levels}, expected at least 1")
        widths = [channels * 2**level for level in range(levels + 1)]
        self.levels = levels
        self.first = _block(2, channels)
        self.down = nn.ModuleList(_block(a, b) for a, b in itertools.pairwise(widths))
        self.reduce = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(_block(a, a) for a in widths[:-1])
        self.last = _zero(nn.Conv2d(channels, 2, 1))

    def refine(self, channels: Tensor) -> Tensor:
        height, width = channels.shape[-2:]
        multiple = 2**self.levels
        # Zeros up to the next multiple, cut off again below.
        padded = F.pad(channels, (0, -width % multiple, 0, -height % multiple))
        features = [self.first(padded)]
        for block in self.down:
            features.append(block(F.avg_pool2d(features[-1], 2)))
        x = features.pop()
        for reduce, block in zip(reversed(self.reduce), reversed(self.up), strict=True):
            x = F.interpolate(reduce(x), scale_factor=2.0, mode="nearest")
            x = block(x + features.pop())  # a sum costs a fifth less than joining channels
        out: Tensor = channels + self.last(x)[..., :height, :width]
        return out


def _block(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, padding=1),
        nn.LeakyReLU(0.1),
        nn.Conv2d(n_out, n_out, 3, padding=1),
        nn.LeakyReLU(0.1),
    )


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    """A residual branch that starts at zero makes the untrained network equal to plain data consistency."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


#: Regularizers by the name used in recipes.
REGULARIZERS: dict[str, type[Regularizer]] = {"cnn": ConvRegularizer, "unet": UNetRegularizer}
