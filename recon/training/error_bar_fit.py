"""The loss that trains error bars: quantile regression of the error of the image."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..data import Sample, Samples, collate
from ..errors import DataError
from ..method import apply, to_device_of
from ..networks import recorded_half_widths
from ..uncertainty import object_of
from .objectives import require_positive
from .penalty import Penalty

#: Smallest error that counts, in scaled units: the logarithm of a perfect pixel is finite.
_LEAST = 1e-5


@dataclass(frozen=True, eq=False)
class ErrorBarFit(Penalty):
    r"""Fit the half-widths w of :class:`recon.networks.ErrorBars` to the error e of the image, pixel by pixel.

    The pinball loss of :math:`\log e - \log w` at the level ``coverage``: at its minimum, this part of the errors is
    below the half-width. Object and background count alike, however large they are: without the background its
    half-widths would be those of the object. The loss trains the error bars alone, and changes no image.

    Parameters
    ----------
    weight
        Weight of the loss. Adam is invariant to it; with other optimizers it is a step size.
    coverage
        Part of the errors that should be below the half-width, between 0 and 1. Calibration corrects it afterwards.

    References
    ----------
    .. [Q] Koenker and Bassett, Regression quantiles, Econometrica 46, 1978.
    """

    weight: float
    coverage: float = 0.9
    _recorded: list[Tensor] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        require_positive("ErrorBarFit", "weight", self.weight)
        if not 0 < self.coverage < 1:
            raise ValueError(f"ErrorBarFit: coverage is {self.coverage}, expected a number between 0 and 1")

    @contextmanager
    def watch(self, network: nn.Module) -> Iterator[None]:
        with recorded_half_widths(network) as found:
            object.__setattr__(self, "_recorded", found)
            yield

    def __call__(self, network: nn.Module, batch: Sample, image: Tensor) -> Tensor:
        if not self._recorded:
            raise ValueError("ErrorBarFit: no half-width was recorded, expected a call within `watch`")
        half_width = self._recorded[-1]
        self._recorded.clear()
        if batch.reference is None:
            advice = "train error bars on scans with a reference"
            raise DataError(f"{batch.meta[0].volume}: has no reference to fit error bars to; {advice}")
        found = batch.magnitude(image.detach())
        error = (found - batch.target()).abs()
        difference = error.clamp_min(_LEAST).log() - batch.magnitude(half_width).clamp_min(1e-12).log()
        loss = torch.maximum(self.coverage * difference, (self.coverage - 1) * difference)
        inside = object_of(found)
        regions = [loss[region] for region in (inside, ~inside) if bool(region.any())]
        return self.weight * torch.stack([region.mean() for region in regions]).mean()


def error_bar_misfit(network: nn.Module, samples: Samples, most: int) -> float | None:
    """Mean of :class:`ErrorBarFit` on ``most`` evenly spread slices, those with a reference; None: none has one."""
    network.eval()
    penalty, found = ErrorBarFit(1.0), list[float]()
    chosen = sorted({round((k + 0.5) * len(samples) / most - 0.5) for k in range(most)})
    with torch.no_grad(), penalty.watch(network):
        for index in chosen:
            batch = to_device_of(network, collate([samples[index]]))
            if batch.reference is not None:
                found.append(float(penalty(network, batch, apply(network, batch))))
    return math.fsum(found) / len(found) if found else None
