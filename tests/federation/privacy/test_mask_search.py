"""Searches for masks: over small secrets, over keys of 24 bits, over public values as keys; uniform masked vectors."""

import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from federation.privacy import Context, add_mask
from federation.privacy.masks import SECRET_BYTES, commitment, mask_key_pair, pair_key, self_key

from .protocol_run import RUN, ProtocolRun
from .randomness import p_values, smallest


@pytest.mark.parametrize("value", [0, 1, 2**31])
def test_a_masked_vector_is_uniform_whatever_it_holds(tmp_path, value):
    """With secrets of the operating system: a false alarm once in 10^9 runs."""
    run = ProtocolRun(tmp_path, n_sites=3, size=2**14)
    run.vector = lambda name: np.full(run.size, value, "<u4")
    least, name = smallest({"s000": p_values(run.masked(run.offers(), sites=["s000"])["s000"])})
    assert least > 1e-9, f"{name}: {least:.1e}"


@pytest.mark.parametrize("is_small", [False, True])
def test_a_search_over_small_secrets_finds_nothing(tmp_path, monkeypatch, is_small):
    """Offers and masked vectors are what the server sees; secrets of 10 bits, the control, are found from them."""
    run = ProtocolRun(tmp_path, n_sites=3, size=4)
    if is_small:
        monkeypatch.setattr(os, "urandom", lambda n: (2**10 - 7).to_bytes(2, "little") + bytes(n - 2))
    offers = run.offers()
    masked, context = run.masked(offers)["s000"], Context(RUN, 0, "a")
    found = set()
    for seed in range(2**10):
        secret = seed.to_bytes(SECRET_BYTES, "little")
        if commitment(secret, context, "s000").hex() == offers["s000"].committed:
            found.add("self")
        if mask_key_pair(secret, context).public.hex() == offers["s000"].public:
            found.add("pair")
        guess = run.vector("s000").copy()
        add_mask(guess, self_key(secret, context, "s000"))
        if np.array_equal(guess, masked):
            found.add("whole mask")
    assert found == ({"self", "pair"} if is_small else set())


def blocks(key, place):
    """First 64 bytes of ChaCha20 streams as 16 rows of words.

    ``key`` has 8 words and ``place`` 4, the counter and the nonce; each word is a number or one number per stream.
    """
    start = np.stack(np.broadcast_arrays(*np.frombuffer(b"expand 32-byte k", "<u4"), *key, *place))
    x = start.copy()
    for _ in range(10):
        for a, b, c, d in (
            (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
            (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
        ):  # fmt: skip
            for to, by, turned, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                x[to] += x[by]
                x[turned] ^= x[to]
                x[turned] = x[turned] << bits | x[turned] >> (32 - bits)
    return x + start


def masks_of(run, offers):
    """The masks of ``s000`` in the first round: its own, that towards each other site, and their sum."""
    record, context = run.site("s000").files.read(0), Context(RUN, 0, "a")
    pair = mask_key_pair(bytes.fromhex(record["pair_secret"]), context)
    keys = {"own": self_key(bytes.fromhex(record["self_secret"]), context, "s000")}
    for other in ("s001", "s002"):
        keys[other] = pair_key(pair, bytes.fromhex(offers[other].public), context, ("s000", other))
    masks = {name: np.zeros(run.size, "<u4") for name in keys}
    for name, key in keys.items():
        add_mask(masks[name], key)
    return masks | {"sum": np.sum(list(masks.values()), axis=0, dtype=np.uint32)}


def matches(found, wanted):
    """Streams whose first words are those of a mask. The first word alone is equal by chance once in 256 searches."""
    return np.flatnonzero((found[:4] == wanted[:4, None]).all(axis=0)).tolist()


@pytest.mark.slow
def test_a_search_over_all_keys_of_24_bits_finds_no_mask(tmp_path):
    """The searcher has the update, and so all masks together; the control has a key of 24 bits."""
    run = ProtocolRun(tmp_path, n_sites=3, size=16)
    offers = run.offers()
    masked = run.masked(offers)["s000"]
    wanted = masks_of(run, offers) | {"control": np.zeros(16, "<u4")}
    assert np.array_equal(masked - run.vector("s000"), wanted["sum"])
    add_mask(wanted["control"], (0xABCDEF).to_bytes(32, "little"))
    found = {name: [] for name in wanted}
    for begin in range(0, 2**24, 2**14):
        tried = blocks([np.arange(begin, begin + 2**14, dtype=np.uint32), *[np.uint32(0)] * 7], [np.uint32(0)] * 4)
        for name, mask in wanted.items():
            found[name] += [begin + number for number in matches(tried, mask)]
    assert found == {name: [0xABCDEF] if name == "control" else [] for name in wanted}


def public_values(run, offers):
    """What the server knows of ``s000``, as keys of 32 bytes."""
    context, offer = Context(RUN, 0, "a"), offers["s000"]
    public, committed = bytes.fromhex(offer.public), bytes.fromhex(offer.committed)
    return {
        "key in the roster": run.roster.public_key("s000"),
        "key in the roster of s001": run.roster.public_key("s001"),
        "key of the round": public,
        "key of the round of s001": bytes.fromhex(offers["s001"].public),
        "commitment": committed,
        "own key from the commitment": self_key(committed, context, "s000"),
        "own key from no secret": self_key(bytes(SECRET_BYTES), context, "s000"),
        "pair key from the key of the round": context.key(public, "pair", "s000", "s001"),
    }


@pytest.mark.slow
def test_a_search_over_public_values_with_all_nonces_finds_no_mask(tmp_path):
    """2^24 streams: 8 values that the server knows as keys, with 2^20 nonces and from 2^20 places of the stream.

    The searcher has the update, and knows when one mask of several is right. The control is one of the streams.
    """
    run = ProtocolRun(tmp_path, n_sites=3, size=16)
    offers = run.offers()
    run.masked(offers)
    values = public_values(run, offers)
    assert len(set(values.values())) == 8
    wanted = masks_of(run, offers)
    for name, place in (("nonce", (0, 0xABCDE)), ("counter", (0xABCDE, 0))):
        at = np.array([*place, 0, 0], "<u4").tobytes()
        stream = Cipher(ChaCha20(values["commitment"], at), mode=None).encryptor().update(bytes(64))
        wanted[name] = np.frombuffer(stream, "<u4")
    found = {name: [] for name in wanted}
    zero = np.uint32(0)
    for value, key in values.items():
        for begin in range(0, 2**20, 2**14):
            numbers = np.arange(begin, begin + 2**14, dtype=np.uint32)
            for what, place in (("nonce", (zero, numbers, zero, zero)), ("counter", (numbers, zero, zero, zero))):
                tried = blocks(np.frombuffer(key, "<u4"), place)
                for name, mask in wanted.items():
                    found[name] += [(value, what, begin + number) for number in matches(tried, mask)]
    controls = {name: [("commitment", name, 0xABCDE)] for name in ("nonce", "counter")}
    assert found == {name: controls.get(name, []) for name in wanted}


def test_flowers_masks_still_have_seeds_of_32_bits():
    """The reason for masks of our own; if this fails, Flower has changed and docs/privacy.md is to be corrected."""
    generate = pytest.importorskip("flwr.common.secure_aggregation.secaggplus_utils").pseudo_rand_gen
    seed = bytes(range(32))
    folded = 0
    for begin in range(0, 32, 4):
        folded ^= int.from_bytes(seed[begin : begin + 4], "little")
    short = folded.to_bytes(4, "little")
    (first,), (second,) = (generate(s, 2**24, [(1000,)]) for s in (seed, short))
    assert np.array_equal(first, second)
