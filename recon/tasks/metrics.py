"""Metrics of segmentation and classification on arrays.

SciPy computes what is not a sum: libraries of metrics (MONAI, torchmetrics) take seconds to import and have no weights
for resampled people; the tests compare with them.
"""

import math
from collections.abc import Sequence

import numpy as np

from .people import Mask, Values

#: Specificity at which sensitivities are told.
SPECIFICITY = 0.9
#: Edges of the groups of probabilities whose observed frequency is compared.
EDGES: Values = np.linspace(0, 1, 11)


def dice(truth: Mask, predicted: Mask) -> float:
    r"""Dice coefficient :math:`2 |T \cap P| / (|T| + |P|)` of all slices of a person.

    NaN if the truth is empty: a person without the class has no overlap to measure, however good the prediction. What
    is marked there in error is counted by :func:`false_marks`.
    """
    return 2 * float((truth & predicted).sum()) / float(truth.sum() + predicted.sum()) if truth.any() else math.nan


def surface_distances(truth: Mask, predicted: Mask, spacing_mm: Sequence[float]) -> tuple[float, float]:
    """Average surface distance and 95 % Hausdorff distance of the contours within slices, means over slices, in mm.

    A contour are the pixels of a region with a neighbor (4-connected) outside, also beyond the border of the image. The
    average is over the distances from every pixel of either contour to the other contour; the 95 % Hausdorff distance
    is the larger of the 95th percentiles of both directions, as in MONAI.

    Parameters
    ----------
    truth, predicted
        Masks, ``(slices, height, width)``.
    spacing_mm
        Height and width of a pixel.

    Returns
    -------
        NaN if no slice has the class in truth and prediction; slices with one of them only have no distance.
    """
    from scipy.ndimage import binary_erosion, distance_transform_edt  # late: half a second

    averages, largest = [], []
    for true, found in zip(truth, predicted, strict=True):
        if not true.any() or not found.any():
            continue
        contours = [mask & ~binary_erosion(mask) for mask in (true, found)]
        to_true, to_found = (distance_transform_edt(~contour, sampling=tuple(spacing_mm)) for contour in contours)
        there, back = to_found[contours[0]], to_true[contours[1]]
        averages.append(np.concatenate([there, back]).mean())
        largest.append(max(np.percentile(there, 95), np.percentile(back, 95)))
    return (float(np.mean(averages)), float(np.mean(largest))) if averages else (math.nan, math.nan)


def detected(truth: Mask, predicted: Mask) -> float:
    """Part of the connected regions of the truth, slice by slice, that the prediction touches; NaN without a region."""
    hit = _touched(truth, predicted)
    return float(hit.mean()) if len(hit) else math.nan


def false_marks(truth: Mask, predicted: Mask) -> float:
    """Connected regions of the prediction that touch no pixel of the truth, in the mean of the slices."""
    return float((~_touched(predicted, truth)).sum()) / len(truth)


def _touched(regions: Mask, other: Mask) -> Mask:
    """Whether every connected region (8-connected, within slices) holds a pixel of the other mask."""
    from scipy.ndimage import label

    within = np.zeros((3, 3, 3), dtype=bool)
    within[1] = True
    numbers, count = label(regions, within)
    return np.isin(np.arange(1, count + 1), numbers[other])


def auc(there: Mask, probability: Values, weights: Values | None = None) -> Values:
    """Area under the ROC curve: how often a random positive has the larger probability than a negative, ties half.

    Parameters
    ----------
    there, probability
        Whether the class is there, and its probability, ``(n,)``.
    weights
        How often every entry counts, ``(draws, n)``; by default one draw, each once.

    Returns
    -------
        One value per draw; NaN where all that counts is positive, or negative.
    """
    positive, negative = _by_probability(there, probability, weights)
    below = np.cumsum(negative, axis=1) - negative
    wins = (positive * (below + negative / 2)).sum(1)
    with np.errstate(invalid="ignore"):
        found: Values = wins / (positive.sum(1) * negative.sum(1))
    return found


def sensitivity(there: Mask, probability: Values, weights: Values | None = None) -> Values:
    """Largest sensitivity of a threshold with a specificity of at least :data:`SPECIFICITY`, read off the ROC curve.

    Parameters and errors as in :func:`auc`. The threshold is from the same people: a new site needs one of its own.
    """
    positive, negative = _by_probability(there, probability, weights)
    caught, alarms = (np.cumsum(part[:, ::-1], axis=1) for part in (positive, negative))
    with np.errstate(invalid="ignore"):
        allowed = alarms / alarms[:, -1:] <= 1 - SPECIFICITY + 1e-12
        found: Values = np.where(allowed, caught / caught[:, -1:], 0).max(1)
    return np.where(alarms[:, -1] * caught[:, -1] > 0, found, math.nan)


def _by_probability(there: Mask, probability: Values, weights: Values | None) -> tuple[Values, Values]:
    """Weights of positives and negatives at every distinct probability, ascending, ``(draws, probabilities)``."""
    order = np.argsort(probability, kind="stable")
    ordered = probability[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    counted = np.ones((1, len(order))) if weights is None else weights[:, order]
    positive, negative = (np.add.reduceat(counted * side, starts, axis=1) for side in (there[order], ~there[order]))
    return positive, negative


def reliability(there: Mask, probability: Values) -> Values:
    """Sums by group of probabilities between :data:`EDGES`: count, probability, whether it is there; ``(3, 10)``."""
    group = np.clip(np.digitize(probability, EDGES[1:-1]), 0, len(EDGES) - 2)
    sums = (np.bincount(group, values, len(EDGES) - 1) for values in (np.ones(len(group)), probability, there))
    return np.stack(list(sums)).astype(np.float64)


def calibration_error(sums: Values) -> Values:
    r"""Expected calibration error :math:`\sum_g \frac{n_g}{n} |\bar p_g - f_g|` of the groups of :func:`reliability`.

    Mean probability :math:`\bar p_g` against observed frequency :math:`f_g`. Of few slices it is above zero for perfect
    probabilities, too: compare arms on the same people.

    Parameters
    ----------
    sums
        Sums over people, ``(..., 3, groups)``.

    Returns
    -------
        ``(...)``; NaN without any entry.
    """
    with np.errstate(invalid="ignore"):
        found: Values = np.abs(sums[..., 1, :] - sums[..., 2, :]).sum(-1) / sums[..., 0, :].sum(-1)
    return found
