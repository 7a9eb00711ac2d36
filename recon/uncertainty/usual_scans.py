"""Whether a scan is like those of its site: noise, acceleration, object, and how well held-out data are predicted."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..data import Sample, VolumeSlices, can_hold_out, collate, held_out_split
from ..evaluation import held_out_residual
from ..method import apply, to_device_of

#: Part of the measurement that is held out, as in the scores of scans without reference.
_HELD_OUT = 0.1
#: Slices of a scan that are looked at.
_SLICES = 3
#: Pixels of an image above this part of the brightest one show the object, and not noise or aliases.
_OBJECT = 0.1
#: Features, in words, with the least spread of their logarithm between the scans of a site (few scans seem too much
#: alike), and the spread expected of a site, which counts as one scan more: a single scan tells no spread.
FEATURES: Mapping[str, tuple[str, float, float]] = {
    "residual": ("residual of held-out measurements in units of the noise", 0.05, 0.25),
    "noise": ("noise in parts of the brightest pixel", 0.15, 0.15),
    "acceleration": ("acceleration", 0.05, 0.1),
    "object": ("part of the picture that shows the object", 0.05, 0.15),
    "shape": ("height of the object over its width", 0.05, 0.1),
}
#: Spreads from the middle of a site's scans from which on a scan counts as unusual.
LIMIT = 4.0


def measure_scan(network: nn.Module, samples: VolumeSlices, number: int = 0) -> dict[str, float]:
    """Features of a scan, those in :data:`FEATURES` that it has.

    Parameters
    ----------
    network
        The network of the site; it reconstructs a few slices, and the same without a tenth of their measurements.
    samples, number
        The slices of some files, and which of the files.
    """
    network.eval()
    count, first = samples.n_slices(number), samples.first(number)
    chosen = sorted({round((k + 0.5) * count / _SLICES - 0.5) for k in range(_SLICES)})
    found: dict[str, float] = {"acceleration": samples.acceleration(number)}
    noise, parts, objects = list[float](), [], list[tuple[float, float]]()
    for index in chosen:
        sample = samples[first + index]
        if bool(sample.measurement.any()):
            objects.append(_object(network, sample))
        if not (float(sample.noise_std) > 0 and bool(sample.measurement.any())):
            continue
        noise.append(float(sample.noise_std))
        if can_hold_out(sample):
            parts.append((sample, *held_out_split(sample, _HELD_OUT, torch.Generator().manual_seed(index))))
    if noise:
        found["noise"] = math.fsum(noise) / len(noise)
    for name, values in zip(("object", "shape"), zip(*objects, strict=True), strict=False):
        found[name] = math.fsum(values) / len(values)
    if (residual := held_out_residual(network, parts)) is not None:
        found["residual"] = residual
    return {name: value for name, value in found.items() if value > 0 and math.isfinite(value)}


@torch.no_grad()
def _object(network: nn.Module, sample: Sample) -> tuple[float, float]:
    """Part of the picture that shows the object, and the ratio of the standard deviations of its rows and columns."""
    batch = to_device_of(network, collate([sample]))
    image = batch.magnitude(apply(network, batch)).flatten(0, -3).cpu()
    shown = (image > _OBJECT * image.amax((-2, -1), keepdim=True)).double()
    rows, columns = shown.sum(-1), shown.sum(-2)
    ratio = (_variance(rows) / _variance(columns)).sqrt()
    return float(shown.mean()), float(ratio.mean())


def _variance(counts: Tensor) -> Tensor:
    """Variance of the position along the last axis, with that within a pixel, from the counts at each position."""
    place = torch.arange(counts.shape[-1], dtype=counts.dtype)
    part = counts / counts.sum(-1, keepdim=True)
    mean = (part * place).sum(-1, keepdim=True)
    return (part * (place - mean) ** 2).sum(-1) + 1 / 12


@dataclass(frozen=True)
class UsualScans:
    r"""The scans of a site: for each feature the lowest, middle and highest value, and the spread of the logarithm.

    The spread is that of a further scan around the middle of n scans with the standard deviation s, where the expected
    one is :math:`s_0`: :math:`\sqrt{(1 + 1/n) (s_0^2 + (n - 1) s^2) / n}`.

    Parameters
    ----------
    scans
        Number of scans.
    ranges
        By feature: lowest, median and highest value, and the spread.
    """

    scans: int
    ranges: Mapping[str, tuple[float, float, float, float]]

    @classmethod
    def of(cls, scans: Sequence[Mapping[str, float]]) -> "UsualScans":
        """From the features of a site's scans."""
        ranges = {}
        for name, (_, least, expected) in FEATURES.items():
            if values := [scan[name] for scan in scans if name in scan]:
                n, squares = len(values), float(len(values) * np.log(values).var())
                spread = max(least, math.sqrt((1 + 1 / n) * (expected**2 + squares) / n))
                ranges[name] = (min(values), float(np.median(values)), max(values), spread)
        return cls(len(scans), ranges)

    def distance(self, scan: Mapping[str, float]) -> float:
        """Largest distance of a feature from the middle, in spreads; 0 if no feature can be compared."""
        return max((far for _, far in self._distances(scan)), default=0.0)

    def unusual(self, scan: Mapping[str, float]) -> list[str]:
        """What is unusual in a scan, one line each; empty if nothing is. A small residual is none: the network fits."""
        lines = []
        for name, far in self._distances(scan):
            low, _, high, _ = self.ranges[name]
            if far > LIMIT and (scan[name] > high or (scan[name] < low and name != "residual")):
                lines.append(f"{FEATURES[name][0]} {scan[name]:.3g}, in the site's own scans {low:.3g} to {high:.3g}")
        return lines

    def _distances(self, scan: Mapping[str, float]) -> Iterable[tuple[str, float]]:
        for name, (_, middle, _, spread) in self.ranges.items():
            if name in scan:
                yield name, abs(math.log(scan[name] / middle)) / spread
