"""Errors of the gain of single detector elements, which draw rings."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..operator import require_tensor

#: Elements whose line integrals are fitted around each, and the degree of the polynomial.
RING_WINDOW, _DEGREE = 11, 2


def without_rings(lines: Tensor) -> Tensor:
    """Line integrals less what is constant over the views and not smooth along the detector.

    An error of an element's gain adds the same number to its line integrals in all views. This number is the median
    over the views of the difference to a parabola, fitted to the eleven elements around (Savitzky-Golay). The median
    ignores edges, which are elsewhere in every view; the mean of [BH]_ does not. Errors that neighboring elements share
    are smooth and stay.

    Parameters
    ----------
    lines
        ``(..., views, detectors)``.

    Raises
    ------
    ValueError
        If there are fewer than eleven elements.

    References
    ----------
    .. [BH] Boin and Haibel, Compensation of ring artefacts in synchrotron tomographic images, Opt. Express 14, 2006.
    """
    require_tensor("without_rings", lines, "lines")
    if lines.shape[-1] < RING_WINDOW:
        raise ValueError(f"without_rings: found {lines.shape[-1]} detector elements, expected at least {RING_WINDOW}")
    rough = lines @ torch.from_numpy(_roughness(lines.shape[-1])).to(lines).T
    return lines - rough.median(-2, keepdim=True).values


@lru_cache(maxsize=8)
def _roughness(elements: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Matrix whose rows subtract from an element the parabola around it, at the ends the parabola of the end."""
    matrix = np.eye(elements)
    for element in range(elements):
        first = min(max(element - RING_WINDOW // 2, 0), elements - RING_WINDOW)
        powers = (np.arange(first, first + RING_WINDOW) - element)[:, None] ** np.arange(_DEGREE + 1)
        matrix[element, first : first + RING_WINDOW] -= np.linalg.pinv(powers)[0]
    return matrix
