"""Error bars of a network: a small part beside the regularizers that says how far the image may be from the truth."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from physics import per_sample

#: Smallest value of a feature before its logarithm is taken, in parts of the maximum of the image.
_LEAST = 1e-4
#: Edge in pixels of the square over which features are averaged.
_WINDOW = 9
#: Half-width at the start, in parts of the maximum of the image.
_START = 0.03


class ErrorBars(nn.Module):
    r"""Half-width of an interval around every pixel, :math:`w = s\, e^{h(\ldots)}`, with a small network h per pixel.

    h sees the logarithm of local means over squares of 9 pixels: of the magnitude of the image, of its difference to
    the start image, of the changes by the first and by the last regularizer; and the logarithm of the noise where the
    network is noise-aware. All of them are detached and in units of the image scale s: training the error bars changes
    no image, and :math:`w(a y) = a w(y)`. Few numbers about a neighbourhood, and few parameters: a convolutional
    network learned the errors of the people on whom it was trained, and was worse than a constant on others.

    The half-width is relative until a site calibrates it, see :func:`recon.calibrate_error_bars`.

    Parameters
    ----------
    channels
        Size of the only hidden layer.
    noise_level
        Whether the last feature is the noise of the image; else it is zero.
    """

    def __init__(self, channels: int = 8, noise_level: bool = False) -> None:
        super().__init__()
        self.noise_level = noise_level
        self.hidden = nn.Conv2d(5, channels, 1)
        # On the features themselves, too: log-linear from the first step on.
        self.last = nn.Conv2d(channels + 5, 1, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.constant_(self.last.bias, torch.tensor(_START).log().item())  # type: ignore[arg-type]

    def forward(
        self, image: Tensor, start: Tensor, first: Tensor, last: Tensor, level: Tensor | None, scale: Tensor
    ) -> Tensor:
        """Half-width, real, the shape of the image.

        Parameters
        ----------
        image, start
            Image and start image of the network, ``(*batch, height, width)``, in units of ``scale``.
        first, last
            Changes by the first and the last regularizer.
        level
            Standard deviation of the noise per pixel, in the same units; None: unknown.
        scale
            Factor from these units to those of the half-width, ``(*batch,)``.
        """
        magnitude = image.detach().abs()
        seen = [magnitude, (start.detach().abs() - magnitude).abs(), first.detach().abs(), last.detach().abs()]
        noise = torch.zeros_like(magnitude) if level is None else _logarithm(level.expand_as(magnitude))
        features = torch.stack([*(_logarithm(_local_mean(values)) for values in seen), noise], dim=-3)
        flat = features.reshape(-1, *features.shape[-3:])
        log_width = self.last(torch.cat((F.relu(self.hidden(flat)), flat), dim=1))[:, 0].reshape(magnitude.shape)
        width: Tensor = per_sample(scale.detach(), magnitude.ndim - scale.ndim) * log_width.clamp(-16, 4).exp()
        return width


def error_bars_of(network: nn.Module) -> ErrorBars | None:
    """The error bars of a network, which may be wrapped; None if it has none."""
    return next((module for module in network.modules() if isinstance(module, ErrorBars)), None)


@contextmanager
def recorded_half_widths(network: nn.Module) -> Iterator[list[Tensor]]:
    """Half-widths of every call of a network inside the block.

    Raises
    ------
    ValueError
        If the network has no error bars.
    """
    bars = error_bars_of(network)
    if bars is None:
        raise ValueError(f"{type(network).__name__}: has no error bars; set network.error_bars = true and train")
    found: list[Tensor] = []
    handle = bars.register_forward_hook(lambda module, inputs, output: found.append(output))
    try:
        yield found
    finally:
        handle.remove()


def _logarithm(values: Tensor) -> Tensor:
    """Logarithm of positive numbers below one, scaled to order one."""
    return values.clamp_min(_LEAST).log() / 2 + 1


def _local_mean(values: Tensor) -> Tensor:
    """Mean over a square around each pixel, as far as it lies within the image."""
    flat = values.reshape(-1, 1, *values.shape[-2:])
    mean = F.avg_pool2d(flat, _WINDOW, 1, _WINDOW // 2, count_include_pad=False)
    return mean.reshape(values.shape)
