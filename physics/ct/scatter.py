"""Scattered photons: a smooth signal that is added to the counts, and its estimate from the counts themselves."""

import torch
from torch import Tensor

from ..operator import require_tensor
from .transmission import running_means

#: Standard deviation of the spread of scatter along the detector, in parts of its length.
_SPREAD = 0.2
#: Part of the rays where the fraction is stated, chosen from means of so many neighbors on each side, and the least
#: transmission that is looked at.
_DARKEST, _REACH, _FAINTEST = 0.05, 4, 1e-6
#: Iterations of the estimate, and the least part of the counts that is left as primary photons in these.
_ITERATIONS, _LEAST = 12, 0.05


def expected_scatter(primary: Tensor, photons: float | Tensor, fraction: float) -> Tensor:
    r"""Mean scattered counts of every ray from the primary ones.

    Forward scatter is made along a ray in proportion to :math:`I p` with the primary counts I and the line integral p
    [O]_; it spreads along the detector as a Gaussian of a fifth of its length.

    Parameters
    ----------
    primary
        Mean counts without scatter, ``(..., views, detectors)``.
    photons
        Photons per ray before the object, broadcastable to `primary`.
    fraction
        Part of scatter in all counts of the darkest twentieth of the rays; less than 1.

    Returns
    -------
        Shape of `primary`.

    References
    ----------
    .. [O] Ohnesorge, Flohr and Klingenbeck-Regn, Efficient object scatter correction algorithm for third and fourth
       generation CT scanners, Eur. Radiol. 9, 1999.
    """
    require_tensor("expected_scatter", primary, "primary")
    _require_fraction("expected_scatter", fraction)
    part = (primary / photons).clamp(_FAINTEST, 1)
    n = primary.shape[-1]
    place = torch.arange(n, device=primary.device, dtype=primary.dtype)
    kernel = (-0.5 * ((place[:, None] - place) / (_SPREAD * n)).square()).exp()
    spread = (primary.clamp_min(0) * -part.log()) @ kernel
    smooth = running_means(part, _REACH)
    darkest = (smooth <= smooth.flatten(-2).quantile(_DARKEST, -1)[..., None, None]).to(primary)
    scale = (darkest * primary).sum((-2, -1)) / (darkest * spread).sum((-2, -1)).clamp_min(1e-30)
    return fraction / (1 - fraction) * scale.clamp_min(0)[..., None, None] * spread


def estimated_scatter(counts: Tensor, photons: float | Tensor, fraction: float) -> Tensor:
    """Mean scattered counts from all counts: the fixed point of :func:`expected_scatter`; parameters as there.

    Smooth, so its own noise is much less than that of the counts.
    """
    require_tensor("estimated_scatter", counts, "counts")
    counts = counts.clamp_min(0)
    scatter = torch.zeros_like(counts)
    for _ in range(_ITERATIONS):
        scatter = expected_scatter((counts - scatter).maximum(_LEAST * counts), photons, fraction)
    return scatter


def _require_fraction(who: str, fraction: float) -> None:
    if not 0 <= fraction < 1:
        raise ValueError(f"{who}: fraction is {fraction}, expected from 0 to less than 1")
