"""Real numbers as integers modulo 2^k, whose sum does not depend on the order of its terms."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon import DataError, State

Integers = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class FixedPoint:
    r"""Encoding of weighted numbers, so that a sum over the sites cannot leave the range.

    A number :math:`d` of a site with weight :math:`w \le 1` becomes
    :math:`\operatorname{round}(w\, d\, 2^f) \bmod 2^k`. The number of bits :math:`f` after the point is the largest for
    which the sum over all sites stays below :math:`2^{k-1}` in magnitude.

    Parameters
    ----------
    bits
        :math:`k`, 32 or 64.
    largest
        Largest magnitude of a number :math:`d`.
    total_weight, n_sites
        Sum of the weights of all sites, and their number.
    """

    bits: int
    largest: float
    total_weight: float
    n_sites: int

    def __post_init__(self) -> None:
        if self.bits not in (32, 64):
            raise ValueError(f"FixedPoint: bits is {self.bits}, expected 32 or 64")
        if self.fraction_bits < 1:
            raise ValueError(
                f"FixedPoint: numbers up to {self.largest:g} of {self.n_sites} sites leave no bit of {self.bits} after "
                "the point, expected at least 1; choose 64 bits or a smaller range"
            )

    @property
    def fraction_bits(self) -> int:
        """Bits after the point, :math:`f`."""
        # Each site rounds by at most 1/2.
        return math.floor(math.log2((2 ** (self.bits - 1) - self.n_sites) / (self.largest * self.total_weight)))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Unsigned, little-endian."""
        return np.dtype(f"<u{self.bits // 8}")

    def encode(self, state: State, weight: float) -> Integers:
        """One vector of the numbers of all tensors, sorted by name.

        Raises
        ------
        DataError
            If a number is not finite or beyond the range. Nothing of it has been masked or sent then.
        """
        parts = []
        for name in sorted(state):
            values = state[name].detach().cpu().double().numpy().reshape(-1)
            most = float(np.abs(values).max(initial=0.0))
            if not most <= self.largest:  # also NaN
                raise DataError(
                    f"secure sum: the change of {name} reaches {most:.3g}, expected at most {self.largest:g}; lower "
                    "the learning rate, add the transform clip, or raise privacy.largest_change"
                )
            integers = np.rint(values * weight * 2.0**self.fraction_bits).astype(f"<i{self.bits // 8}")
            parts.append(integers.view(self.dtype))
        return np.concatenate(parts) if parts else np.zeros(0, self.dtype)

    def decode(self, total: Integers, weight: float) -> NDArray[np.float64]:
        """Weighted mean from a sum of encoded vectors; ``weight`` is the sum of the weights of its sites."""
        signed = total.view(f"<i{self.bits // 8}").astype(np.float64)
        mean: NDArray[np.float64] = signed * (2.0**-self.fraction_bits / weight)
        return mean
