"""Error bars of a network: a small CNN beside the regularizers that says how far the image may be from the truth."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from physics import per_sample

#: Smallest value of a feature before its logarithm is taken, in parts of the maximum of the image.
_LEAST = 1e-4
#: Half-width at the start, in parts of the maximum of the image.
_START = 0.03


class ErrorBars(nn.Module):
    r"""Half-width of an interval around every pixel, :math:`w = s\, e^{h(\ldots)}`, with a small CNN h.

    The CNN is a residual-free U-Net with two levels. It sees the magnitude of the image, what the network changed in
    the start image, the logarithm of the change by the first and by the last regularizer, and the logarithm of the
    noise where the network is noise-aware. All of them are detached and in units of the image scale s: training the
    error bars changes no image, and :math:`w(a y) = a w(y)`.

    The half-width is relative until a site calibrates it, see :func:`recon.calibrate_error_bars`.

    Parameters
    ----------
    channels
        Channels of the hidden layers, the same at both levels.
    noise_level
        Whether the last feature is the noise of the image; else it is zero.
    """

    def __init__(self, channels: int = 16, noise_level: bool = False) -> None:
        super().__init__()
        self.noise_level = noise_level
        self.fine = _block(5, channels)
        self.middle, self.coarse = _block(channels, channels), _block(channels, channels)
        self.last = nn.Conv2d(channels, 1, 1)
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
        noise = torch.zeros_like(magnitude) if level is None else _logarithm(level.expand_as(magnitude))
        changes = [_logarithm(change.detach().abs()) for change in (first, last)]
        features = torch.stack((magnitude, start.detach().abs() - magnitude, *changes, noise), dim=-3)
        log_width = self._log_width(features.reshape(-1, *features.shape[-3:])).reshape(magnitude.shape)
        return per_sample(scale.detach(), magnitude.ndim - scale.ndim) * log_width.clamp(-16, 4).exp()

    def _log_width(self, features: Tensor) -> Tensor:
        height, width = features.shape[-2:]
        # Pad with zeros to a multiple of four; the padding is cut off below.
        padded = F.pad(features, (0, -width % 4, 0, -height % 4))
        fine = self.fine(padded)
        middle = self.middle(F.avg_pool2d(fine, 2))
        coarse = self.coarse(F.avg_pool2d(middle, 2))
        middle = middle + F.interpolate(coarse, scale_factor=2.0, mode="nearest")
        fine = fine + F.interpolate(middle, scale_factor=2.0, mode="nearest")
        out: Tensor = self.last(fine)[:, 0, :height, :width]
        return out


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
    return values.clamp_min(_LEAST).log() / 3 + 1


def _block(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU(), nn.Conv2d(n_out, n_out, 3, padding=1), nn.ReLU()
    )
