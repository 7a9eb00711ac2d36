"""Detector elements that stand out in nearly every view: they are hot, dead or wrongly corrected, and draw rings."""

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from ..errors import data_error
from .ct_checks import evenly_chosen

#: Least difference of the mean line integral from those of the neighbors, also in standard deviations of noise.
_LEAST, _NOISE_STD = 0.05, 6.0
#: Ratio to the difference that only a tenth of the elements exceed, part of the views that agree, and part of the
#: largest difference nearby.
_STANDS_OUT, _VIEWS, _PART = 5.0, 0.9, 0.4
#: Neighbors on each side whose median is the expected value: those next to an element may be hit with it.
_REACH = 3
#: Views that are looked at, evenly chosen, the least number, and elements that are named.
_VIEWS_LOOKED_AT, _FEWEST_VIEWS, _NAMED = 90, 8, 5


def element_warnings(path: Path, slices: Iterable[tuple[int, Tensor]]) -> list[str]:
    """A line if elements stand out in a slice, for the first such slice.

    Parameters
    ----------
    slices
        Numbers of slices and their line integrals ``(views, detectors)``.
    """
    for index, lines in slices:
        if elements := standing_out(lines):
            worst = max(elements.values())
            names = ", ".join(map(str, list(elements)[:_NAMED])) + (", ..." if len(elements) > _NAMED else "")
            found = f"elements {names}, {len(elements)} in all, up to {worst:.2g} off their neighbors in slice {index}"
            advice = (
                "they draw rings: repair the flat and dark fields, from three images or more, or name the elements in "
                "[data] dead_elements; a thin object on the rotation axis looks alike"
            )
            return [str(data_error(path, "detector", found, "agreement in most views", advice))]
    return []


def standing_out(lines: Tensor) -> dict[int, float]:
    """Elements whose line integrals are above or below those of their neighbors in nearly every view, and how far.

    A scan of fewer than eight views or elements has none.
    """
    views, elements = lines.shape
    if views < _FEWEST_VIEWS or elements < 2 * _REACH + 2:
        return {}
    chosen = lines[evenly_chosen(views, _VIEWS_LOOKED_AT)].double()
    mean, each = _off_neighbors(chosen.mean(0)), _off_neighbors(chosen)
    off, agree = mean.abs(), (each.sign() == mean.sign()).double().mean(0)
    noise = 1.48 * (each - each.median(0).values).abs().median(0).values / math.sqrt(len(chosen))
    least = max(_LEAST, _STANDS_OUT * float(off.quantile(0.9)))
    # The median of the neighbors is moved by the element itself.
    largest = torch.nn.functional.max_pool1d(off[None], 2 * _REACH + 1, 1, _REACH)[0]
    found = (off > least) & (off > _NOISE_STD * noise) & (agree > _VIEWS) & (off > _PART * largest)
    return {int(number) + _REACH: float(off[number]) for number in found.nonzero().flatten()}


def _off_neighbors(lines: Tensor) -> Tensor:
    """Lines minus their running median, without the elements at both ends."""
    windows = lines.unfold(-1, 2 * _REACH + 1, 1)
    return lines[..., _REACH : lines.shape[-1] - _REACH] - windows.median(-1).values
