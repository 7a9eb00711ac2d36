"""Unrolled reconstruction networks, called as ``network(y, A)``."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from physics import LinearOperator, per_sample

from .consistency import SiteDataConsistency
from .regularizers import Regularizer


class UnrolledNetwork(nn.Module):
    r"""``cascades`` times data consistency, then regularizer, from the start image ``A.start(y)``.

    The network normalizes: it divides by a robust maximum of the start image and multiplies the result back, so
    :math:`f(a y) = a f(y)` whatever the units of the scanner.

    Parameters
    ----------
    cascades
        Number of iterations.
    consistency, regularizer
        Functions that make one layer, called once per cascade (the regularizer once if shared).
    share_regularizer
        One regularizer for all cascades, registered and therefore sent once.
    ends_in
        ``"regularizer"``, or ``"consistency"``: one more data-consistency layer at the end, which restores the
        measured samples and, with them, the noise of the background.
    """

    def __init__(
        self,
        cascades: int,
        consistency: Callable[[], SiteDataConsistency],
        regularizer: Callable[[], Regularizer],
        *,
        share_regularizer: bool = False,
        ends_in: Literal["regularizer", "consistency"] = "regularizer",
    ) -> None:
        super().__init__()
        if cascades < 1:
            raise ValueError(f"UnrolledNetwork: cascades is {cascades}, expected at least 1")
        if ends_in not in ("regularizer", "consistency"):
            raise ValueError(f"UnrolledNetwork: ends_in is {ends_in!r}, expected 'regularizer' or 'consistency'")
        self.cascades = cascades
        n_consistency = cascades + (ends_in == "consistency")
        self.consistency = nn.ModuleList(consistency() for _ in range(n_consistency))
        self.regularizers = nn.ModuleList(regularizer() for _ in range(1 if share_regularizer else cascades))

    def forward(self, y: Tensor, A: LinearOperator, condition: Tensor | None = None) -> Tensor:
        """Reconstruct, ``(*batch, *A.range_shape) -> (*batch, *A.domain_shape)``, in the units of ``y``."""
        start = A.start(y)
        scale = image_scale(start, len(A.domain_shape))
        y = y / per_sample(scale, len(A.range_shape))
        x = start / per_sample(scale, len(A.domain_shape))
        backprojection = A.adjoint(y)
        for index, consistency in enumerate(self.consistency):
            x = consistency(x, y, A, backprojection)
            if index < self.cascades:
                x = self.regularizers[index % len(self.regularizers)](x, condition)
        return x * per_sample(scale, len(A.domain_shape))


def image_scale(image: Tensor, n_axes: int = 2) -> Tensor:
    """Robust maximum per sample, shape ``(*batch,)``: the 99.5 % quantile of the magnitude, 1 for an empty image."""
    magnitude = image.abs().flatten(image.ndim - n_axes)
    quantile = magnitude.kthvalue(max(1, round(0.995 * magnitude.shape[-1])), dim=-1).values
    return torch.where(quantile > 0, quantile, 1.0)
