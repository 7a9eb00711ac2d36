"""Shamir's secret sharing over a prime field: any ``threshold`` shares give the secret, fewer say nothing about it.

The library that does this, ``Crypto.Protocol.SecretSharing``, works bit by bit and is too slow here: a round of
100 sites shares 200 secrets.

References
----------
.. [S] Shamir, How to Share a Secret, Communications of the ACM 22, 1979.
"""

import secrets
from collections.abc import Mapping, Sequence

#: A prime above all secrets of 16 bytes.
PRIME = 2**130 - 5
_BYTES = 17


def split(secret: int, threshold: int, count: int, prime: int = PRIME) -> list[int]:
    """Shares 1 to ``count``: values of a polynomial of degree ``threshold - 1`` whose value at 0 is the secret."""
    coefficients = [secret, *(secrets.randbelow(prime) for _ in range(threshold - 1))]
    shares = []
    for x in range(1, count + 1):
        value = 0
        for coefficient in reversed(coefficients):
            value = value * x + coefficient  # a remainder of each would cost more than the longer number
        shares.append(value % prime)
    return shares


def coefficients_at_zero(places: Sequence[int], prime: int = PRIME) -> dict[int, int]:
    """Weights of the shares at ``places`` whose weighted sum is the secret (Lagrange)."""
    weights = {}
    for place in places:
        top = bottom = 1
        for other in places:
            if other != place:
                top = top * other % prime
                bottom = bottom * (other - place) % prime
        weights[place] = top * pow(bottom, -1, prime) % prime
    return weights


def combine(shares: Mapping[int, int], weights: Mapping[int, int], prime: int = PRIME) -> int:
    """The secret, from shares by their places and :func:`coefficients_at_zero` of these places."""
    return sum(share * weights[place] for place, share in shares.items()) % prime


def share_to_bytes(share: int) -> bytes:
    """A share as 17 bytes."""
    return share.to_bytes(_BYTES, "little")


def share_from_bytes(data: bytes) -> int:
    """The inverse of :func:`share_to_bytes`."""
    return int.from_bytes(data, "little")
