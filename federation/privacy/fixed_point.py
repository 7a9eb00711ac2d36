"""Real numbers as integers modulo 2^k, whose sum does not depend on the order of its terms."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon import DataError, State

Integers = NDArray[np.unsignedinteger[Any]]

#: Least number of bits after the point: numbers are then exact to 2e-6 at the site with the largest weight.
LEAST_FRACTION_BITS = 18
_CHANGE = "the change of"
_CHANGE_ADVICE = "lower the learning rate, add the transform clip, or raise privacy.largest_change"


@dataclass(frozen=True)
class FixedPoint:
    r"""Encoding of weighted numbers, so that a sum over the sites cannot leave the range.

    A number :math:`d` of a site with weight :math:`w \le 1` becomes
    :math:`\operatorname{round}(w\, d\, 2^f) \bmod 2^k`. The number of bits :math:`f` after the point is the largest for
    which the sum over all sites stays below :math:`2^{k-1}` in magnitude.
    The mean of sites with weights :math:`w_i` is exact to :math:`2^{-f-1}` over the mean of :math:`w_i`.

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
        if self.fraction_bits < LEAST_FRACTION_BITS:
            raise ValueError(
                f"privacy.largest_change: numbers up to {self.largest:g} of {self.n_sites} sites leave "
                f"{self.fraction_bits} of {self.bits} bits after the point, expected at least {LEAST_FRACTION_BITS}; "
                "choose privacy.modulus_bits = 64 or a smaller range"
            )

    @cached_property
    def fraction_bits(self) -> int:
        """Bits after the point, :math:`f`."""
        # Exact: as a float, 2^63 - 4 is 2^63. Each site rounds by at most 1/2, and its product in float64 by 2^-51.
        room = Fraction(2 ** (self.bits - 1) - 1 - self.n_sites)
        ratio = room / (Fraction(self.largest) * Fraction(self.total_weight) * (1 + Fraction(1, 2**50)))
        bits = ratio.numerator.bit_length() - ratio.denominator.bit_length()
        return bits if Fraction(2) ** bits <= ratio else bits - 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """Unsigned, little-endian."""
        return np.dtype(f"<u{self.bits // 8}")

    def encode(self, state: State, weight: float, *, what: str = _CHANGE, advice: str = _CHANGE_ADVICE) -> Integers:
        """One vector of the numbers of all tensors, sorted by name; ``what`` and ``advice`` are for the error.

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
                    f"secure sum: {what} {name} reaches {most:.3g}, expected at most {self.largest:g}; {advice}"
                )
            integers = np.rint(values * weight * 2.0**self.fraction_bits).astype(f"<i{self.bits // 8}")
            parts.append(integers.view(self.dtype))
        return np.concatenate(parts) if parts else np.zeros(0, self.dtype)

    def decode(self, total: Integers, weight: float) -> NDArray[np.float64]:
        """Weighted mean from a sum of encoded vectors; ``weight`` is the sum of the weights of its sites."""
        signed = total.view(f"<i{self.bits // 8}").astype(np.float64)
        mean: NDArray[np.float64] = signed * (2.0**-self.fraction_bits / weight)
        return mean
