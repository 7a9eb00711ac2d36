import itertools
import secrets
from collections import Counter

import pytest

from federation.privacy.secret_sharing import (
    PRIME,
    coefficients_at_zero,
    combine,
    share_from_bytes,
    share_to_bytes,
    split,
)


def recovered(shares, places, prime=PRIME):
    return combine({place: shares[place - 1] for place in places}, coefficients_at_zero(places, prime), prime)


@pytest.mark.parametrize(("threshold", "count"), [(2, 3), (6, 10), (51, 100)])
def test_any_threshold_of_shares_gives_the_secret_and_one_fewer_does_not(threshold, count):
    secret = secrets.randbits(128)
    shares = [share_from_bytes(share_to_bytes(share)) for share in split(secret, threshold, count)]
    for first in (1, count - threshold + 1):
        places = range(first, first + threshold)
        assert recovered(shares, list(places)) == secret
        assert recovered(shares, list(places)[:-1]) != secret


def test_all_sets_of_a_small_roster_recover():
    shares = split(12345, 3, 6)
    assert {recovered(shares, places) for places in itertools.combinations(range(1, 7), 3)} == {12345}


def test_fewer_shares_say_nothing_about_the_secret(monkeypatch):
    """Over the field of 5 elements, every pair of shares comes from every secret equally often."""
    seen = {}
    for secret in range(5):
        counts = Counter()
        for coefficients in itertools.product(range(5), repeat=2):
            drawn = iter(coefficients)
            monkeypatch.setattr(secrets, "randbelow", lambda _, drawn=drawn: next(drawn))
            counts[tuple(split(secret, 3, 4, prime=5)[1:3])] += 1
        seen[secret] = counts
    assert all(counts == seen[0] and set(counts.values()) == {1} for counts in seen.values())
