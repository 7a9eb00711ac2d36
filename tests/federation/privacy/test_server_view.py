"""All messages and files of the server in a masked run: no statistic tells the update of a site from random numbers."""

import hashlib
import itertools
import os
import secrets
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
from torch import nn

from federation import FederatedAlgorithm
from federation.methods import parameter_scope, parameters_of
from federation.privacy import Context, SecureSum, SiteProtocol, add_mask
from federation.privacy.masks import self_key
from federation.rounds import initial_network, run_rounds
from federation.serialization import State

from ..toy_federation import SEED, ToyNetwork, ToyTask, secure_specs, toy_specs
from .randomness import p_values, p_values_with, smallest
from .server_view import Recording, peeled, seen_rounds

SITES, ROUNDS = 5, 3  # threshold 3
WIDTH = 2**10
#: The update of this site in this round arrives too late: masked, and not in the sum.
LATE = ("s3", 1)
#: False alarms of all tests of a run together. Secrets are fixed, so that a result never changes by chance.
ALPHA = 1e-6


class WideNetwork(ToyNetwork):
    """With enough numbers for statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.regularizer = nn.Sequential(nn.Linear(4, WIDTH), nn.Linear(WIDTH, 4))


class WideTask(ToyTask):
    trained: ClassVar[list[np.ndarray]] = []

    def network(self) -> nn.Module:
        return WideNetwork()

    def train(self, network, **how):
        result = super().train(network, **how)
        WideTask.trained.append(network.regularizer[0].weight.detach().numpy().reshape(-1).copy())
        return result


def wide_shared() -> State:
    network = initial_network(WideNetwork, SEED)
    return parameters_of(network, parameter_scope(network).shared)


@dataclass
class Watched:
    """A run: what the server has, and what it must not know."""

    view: Recording
    secure: SecureSum
    updates: dict[tuple[int, str], np.ndarray] = field(default_factory=dict)
    secrets: dict[tuple[int, str], bytes] = field(default_factory=dict)
    trained: list[np.ndarray] = field(default_factory=list)

    @property
    def rounds(self):
        return seen_rounds(self.view)

    def peeled(self, round):
        return peeled(self.rounds[round], self.secure.roster, self.secure.run)


def drawn_from(counter):
    """Bytes in place of those of the operating system."""
    return lambda n: hashlib.shake_256(str(next(counter)).encode()).digest(n)


def watch(folder, urandom=None, **settings) -> Watched:
    """A run whose secrets are the same at every call."""
    late = settings.pop("late", {LATE})
    specs, secure = secure_specs(folder, SITES, task=WideTask, **settings)
    watched, mask = Watched(Recording(specs, folder, late), secure), SiteProtocol.mask
    WideTask.trained = watched.trained

    def spied(self, round, nonce, vector, offers):
        masked = mask(self, round, nonce, vector, offers)
        watched.updates[round, self.name] = vector.copy()
        watched.secrets[round, self.name] = bytes.fromhex(self.files.read(round)["self_secret"])
        return masked

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SiteProtocol, "mask", spied)
        patch.setattr(os, "urandom", urandom or drawn_from(itertools.count()))
        numbers = itertools.count()
        patch.setattr(secrets, "token_hex", lambda n: drawn_from(numbers)(n).hex())
        algorithm = FederatedAlgorithm(seed=SEED)
        run_rounds(algorithm, watched.view, wide_shared(), folder, rounds=ROUNDS, quorum=SITES - 1, secure=secure)
    return watched


@pytest.fixture(scope="module")
def masked(tmp_path_factory) -> Watched:
    return watch(tmp_path_factory.mktemp("masked"))


@pytest.fixture(scope="module")
def unmasked(tmp_path_factory) -> Watched:
    """The same run with the same fixed point, without masks."""
    return watch(tmp_path_factory.mktemp("unmasked"), masked=False)


def raw(watched):
    """The vectors as they arrived, by round and site."""
    return {(round, site): v for round, seen in watched.rounds.items() for site, v in seen.vectors.items()}


def differences_of_rounds(vectors):
    return {
        (first, second, site): vectors[first, site] - vectors[second, site]
        for first, second in itertools.combinations(range(ROUNDS), 2)
        for site in (f"s{number}" for number in range(SITES))
    }


def differences_of_sites(vectors):
    return {
        (round, one, other): vectors[round, one] - vectors[round, other]
        for round in range(ROUNDS)
        for one, other in itertools.combinations([f"s{number}" for number in range(SITES)], 2)
    }


def sums_of_some(watched):
    """Sums over some and not all sites in the sum, of vectors without every mask that the server can subtract."""
    found = {}
    for round, seen in watched.rounds.items():
        vectors = watched.peeled(round)
        for count in range(1, len(seen.survivors)):
            for sites in itertools.combinations(seen.survivors, count):
                found[round, sites] = np.sum([vectors[site] for site in sites], axis=0, dtype=np.uint32)
        found |= {(round, (site,)): vectors[site] for site in vectors.keys() - set(seen.survivors)}
    return found


def test_the_view_holds_every_vector_and_the_late_one_is_in_no_sum(masked):
    assert raw(masked).keys() == masked.updates.keys() == set(itertools.product(range(ROUNDS), masked.secure.weights))
    others = [site for site in sorted(masked.secure.weights) if site != LATE[0]]
    assert [seen.survivors for _, seen in sorted(masked.rounds.items())] == [
        sorted(masked.secure.weights), others, sorted(masked.secure.weights),
    ]  # fmt: skip
    stored = [versions for place, versions in masked.view.files.items() if place.endswith(".update")]
    kept = set().union(*stored)
    vectors = [vector.tobytes() for (round, site), vector in raw(masked).items() if (site, round) != LATE]
    assert len(kept) == len(vectors) and all(any(vector in content for content in kept) for vector in vectors)


def test_all_that_the_server_can_subtract_leaves_the_sum(masked):
    """The server of the tests below lacks nothing that this one has: with one secret more it has the late update."""
    for round, seen in masked.rounds.items():
        vectors = masked.peeled(round)
        total = np.sum([vectors[site] for site in seen.survivors], axis=0, dtype=np.uint32)
        wanted = np.sum([masked.updates[round, site] for site in seen.survivors], axis=0, dtype=np.uint32)
        assert np.array_equal(total, wanted)
    late, round = LATE
    found = masked.peeled(round)[late]
    context = Context(masked.secure.run, round, masked.rounds[round].nonce)
    add_mask(found, self_key(masked.secrets[round, late], context, late), subtract=True)
    assert np.array_equal(found, masked.updates[round, late])


def test_nothing_at_the_server_can_be_told_from_random_numbers(masked):
    vectors = raw(masked)
    for found in (vectors, differences_of_rounds(vectors), differences_of_sites(vectors), sums_of_some(masked)):
        least, name = smallest({str(key): p_values(vector) for key, vector in found.items()})
        assert least > ALPHA, f"{name}: {least:.1e}"


def test_nothing_at_the_server_depends_on_an_update(masked):
    vectors, some, found = raw(masked), sums_of_some(masked), {}
    for (round, site), update in masked.updates.items():
        for seen in masked.secure.weights:
            found[f"{seen} in round {round} and the update of {site}"] = p_values_with(vectors[round, seen], update)
            found[f"{seen} in round {round}, peeled, and {site}"] = p_values_with(some[round, (seen,)], update)
    for differences in (differences_of_rounds, differences_of_sites):
        hidden = differences(masked.updates)
        found |= {str(key): p_values_with(vector, hidden[key]) for key, vector in differences(vectors).items()}
    least, name = smallest(found)
    assert least > ALPHA, f"{name}: {least:.1e}"


def test_the_same_statistics_find_updates_without_masks(masked, unmasked):
    """The control: each vector and each difference fails, by uniformity and by its correlation with the update."""
    vectors = masked.updates
    found = [*vectors.values(), *differences_of_rounds(vectors).values(), *differences_of_sites(vectors).values()]
    assert all(smallest({"": p_values(vector)})[0] < 1e-100 for vector in found)
    assert all(smallest({"": p_values_with(vector, vector)})[0] < 1e-100 for vector in found)
    # They are what an unmasked run sends; of the first round, as the late update changes the others.
    everything = b"".join(unmasked.view.everything())
    assert all(masked.updates[0, site].tobytes() in everything for site in masked.secure.weights)


def test_the_same_statistics_find_masks_that_are_used_twice(tmp_path):
    """One vector alone is uniform then, the difference of two rounds is that of the updates."""
    key = Context.key
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Context, "key", lambda self, *how: key(Context(self.run, 0, ""), *how))
        watched = watch(tmp_path, urandom=lambda n: bytes(range(n)))
    vectors = raw(watched)
    assert smallest({str(key): p_values(vector) for key, vector in vectors.items()})[0] > ALPHA
    found, hidden = differences_of_rounds(vectors), differences_of_rounds(watched.updates)
    assert all(smallest({"": p_values(vector)})[0] < 1e-100 for vector in found.values())
    assert all(smallest({"": p_values_with(vector, hidden[key])})[0] < 1e-100 for key, vector in found.items())


@pytest.mark.parametrize("defect", ["biased bit", "words without a mask", "a block twice", "one mask for two words"])
def test_the_statistics_find_small_defects(masked, defect):
    rng = np.random.default_rng(1)
    update = masked.updates[0, "s0"]
    words = rng.integers(0, 2**32, len(update), dtype=np.uint32)
    assert smallest({"": p_values(words + update)})[0] > ALPHA
    if defect == "biased bit":  # 1 in 54 % of the words
        words[rng.random(len(words)) < 0.08] |= np.uint32(1 << 9)
    elif defect == "words without a mask":
        words[rng.random(len(words)) < 0.03] = 0
    elif defect == "a block twice":  # one of ten
        for begin in range(0, len(words) - 32, 160):
            words[begin + 16 : begin + 32] = words[begin : begin + 16]
    else:
        words[1::2] = words[: len(words) // 2 * 2 : 2][: len(words[1::2])]
    # The low bits of an update are nearly random, so that a sum with them hides a biased bit.
    assert smallest({"": p_values(words if defect == "biased bit" else words + update)})[0] < ALPHA


def test_no_piece_of_an_update_is_in_a_message_or_file_of_the_server(tmp_path, masked, unmasked):
    """Four numbers in a row as they are sent without masks, or four trained parameters; by chance once in 2^128."""

    def pieces(arrays):
        rng = np.random.default_rng(0)
        starts = [(array, rng.integers(len(array) - 4)) for array in arrays for _ in range(4)]
        return [array[begin : begin + 4].tobytes() for array, begin in starts]

    def found(watched, pieces):
        everything = b"".join(watched.view.everything())
        return [piece in everything for piece in pieces]

    assert len(masked.trained) == SITES * ROUNDS
    assert not any(found(masked, pieces([*masked.updates.values(), *masked.trained])))
    first = [masked.updates[0, site] for site in masked.secure.weights]
    assert all(found(unmasked, pieces(first))) and not any(found(unmasked, pieces(unmasked.trained)))
    plain = Watched(Recording(toy_specs(tmp_path, SITES, task=WideTask), tmp_path), masked.secure)
    WideTask.trained = plain.trained
    run_rounds(FederatedAlgorithm(seed=SEED), plain.view, wide_shared(), tmp_path, rounds=1)
    assert all(found(plain, pieces(plain.trained)))
