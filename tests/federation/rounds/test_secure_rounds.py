"""Rounds of a secure sum: masked, unmasked and averaged; sites that fail; interrupted runs."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from federation import SERVER_RULES, WEIGHTINGS, FederatedAlgorithm
from federation.privacy import CONFIRM, MASKED, OFFER, REVEAL, Envelope, Member, Roster
from federation.rounds import InProcessRuntime, QuorumError, SiteFailure, StillWaiting, read_rows, run_rounds
from federation.rounds.summed_rounds import SummedRounds
from federation.serialization import MessageError, kind_of
from federation.serialization.packing import _bytes
from recon import DataError

from ..toy_federation import SEED, ToyTask, initial_shared, run_toy, secure_specs, toy_specs

SITES = 4  # threshold 3
SLOW = pytest.mark.slow


def run_secure(folder, *, transport=InProcessRuntime, rounds=2, n_sites=SITES, algorithm=None, settings=None, **kwargs):
    specs, secure = secure_specs(folder, n_sites, **(settings or {}))
    algorithm = algorithm or FederatedAlgorithm(seed=SEED)
    return run_rounds(algorithm, transport(specs), initial_shared(), folder, rounds=rounds, secure=secure, **kwargs)


def flat(state):
    return torch.cat([state[name].double().reshape(-1) for name in sorted(state)])


class Losing(InProcessRuntime):
    """Loses requests: ``lost(site, kind, number)`` says which, ``number`` counts those of a kind to a site."""

    lost = staticmethod(lambda site, kind, number: False)

    def __init__(self, specs):
        super().__init__(specs)
        self.counts = {}

    def exchange(self, requests):
        sent = {}
        for site in requests:
            request = requests[site]
            number = self.counts[site, kind_of(request)] = self.counts.get((site, kind_of(request)), -1) + 1
            if self.lost(site, kind_of(request), number):
                yield site, SiteFailure("killed")
            else:
                sent[site] = request
        yield from super().exchange(sent)


def losing(rule):
    return type("Losing", (Losing,), {"lost": staticmethod(rule)})


@pytest.mark.parametrize("bits", [32, 64])
def test_masked_and_unmasked_runs_are_equal_bit_for_bit_and_close_to_the_float_mean(tmp_path, bits):
    masked = run_secure(tmp_path / "masked", settings={"bits": bits}).state
    plain = run_secure(tmp_path / "plain", settings={"bits": bits, "masked": False}).state
    assert masked.digest == plain.digest and masked.history == plain.history
    mean = run_toy(tmp_path / "mean", toy_specs(tmp_path / "mean", SITES), rounds=2).state
    assert (flat(mean.shared) - flat(masked.shared)).abs().max() < 1e-6
    assert read_rows(tmp_path / "masked")[-1]["shared_digest_after"] == masked.digest


def test_a_round_costs_three_trips_and_few_bytes(tmp_path):
    sent = []

    class Counting(InProcessRuntime):
        def exchange(self, requests):
            sent.append({site: kind_of(request) for site, request in requests.items()})
            yield from super().exchange({site: requests[site] for site in requests})

    run_secure(tmp_path, transport=Counting, rounds=2)
    kinds = [next(iter(trip.values())) for trip in sent]
    assert kinds == [OFFER, *2 * (MASKED, CONFIRM, REVEAL), "broadcast"]
    row = read_rows(tmp_path)[4]
    n_bytes = sum(tensor.nbytes for tensor in initial_shared().values())
    assert n_bytes < row["bytes_up"] < n_bytes + 8192 and n_bytes < row["bytes_down"] < n_bytes + 8192


def test_weights_are_those_of_the_method(tmp_path):
    """Samples are those of all other tests."""
    weighting = WEIGHTINGS["uniform"]()
    known = {f"s{site}": weighting.known_weight(16 + 4 * site) for site in range(SITES)}
    algorithm = FederatedAlgorithm(seed=SEED, weighting=weighting)
    summed = run_secure(tmp_path / "sum", algorithm=algorithm, settings={"weights": known}).state
    mean = run_toy(tmp_path / "mean", toy_specs(tmp_path / "mean", SITES), rounds=2, algorithm=algorithm).state
    assert (flat(mean.shared) - flat(summed.shared)).abs().max() < 1e-6


@pytest.mark.parametrize("rule", [pytest.param("fedadam", marks=SLOW), "scaffold"])
def test_rules_that_need_the_mean_only_get_the_same_mean(tmp_path, rule):
    """With control variates that have a mean of their own."""

    class Drifting(ToyTask):
        def aux(self, network, shared):
            names = SERVER_RULES[rule]().aux_layout(shared)
            return {name: (tuple(t.shape), t.dtype) for name, t in names.items()}

        def train(self, network, *, context, **options):
            result = super().train(network, context=context, **options)
            sent = {name: 0.01 * len(self.data.x) + 0.1 * t for name, t in context.aux.items()}
            return replace(result, aux=sent)

    algorithm = FederatedAlgorithm(seed=SEED, rule=SERVER_RULES[rule]())
    gone = losing(lambda site, kind, number: site == "s1" and kind in ("broadcast", MASKED) and number == 1)
    summed = run_secure(
        tmp_path / "sum", algorithm=algorithm, settings={"task": Drifting, "bits": 64}, transport=gone, quorum=3
    ).state
    specs = toy_specs(tmp_path / "mean", SITES, task=Drifting)
    mean = run_rounds(algorithm, gone(specs), initial_shared(), tmp_path / "mean", rounds=2, quorum=3).state
    assert (flat(mean.shared) - flat(summed.shared)).abs().max() < 1e-6
    assert (flat(mean.memory) - flat(summed.memory)).abs().max() < 1e-6 if mean.memory else not summed.memory


def test_a_site_lost_between_the_trips_is_still_in_the_sum(tmp_path):
    whole = run_secure(tmp_path / "whole").state
    killed = losing(lambda site, kind, number: site == "s2" and kind == REVEAL and number == 1)
    assert run_secure(tmp_path / "killed", transport=killed, quorum=3).state.digest == whole.digest


def test_a_site_lost_before_the_first_trip_is_left_out_and_comes_back(tmp_path):
    gone = losing(lambda site, kind, number: site == "s2" and kind in ("broadcast", "secure masked") and number == 1)
    masked = run_secure(tmp_path / "masked", transport=gone, quorum=3, rounds=3).state
    plain = run_secure(tmp_path / "plain", transport=gone, quorum=3, rounds=3, settings={"masked": False}).state
    assert masked.digest == plain.digest
    assert [row["site"] for row in read_rows(tmp_path / "masked") if row["round"] == 1] == ["s0", "s1", "s3"]
    assert [row["site"] for row in read_rows(tmp_path / "masked") if row["round"] == 2] == ["s0", "s1", "s2", "s3"]


@pytest.mark.parametrize("settings", [{}, {"masked": False}])
def test_fewer_sites_than_the_threshold_end_the_round(tmp_path, settings):
    gone = losing(lambda site, kind, number: site in ("s1", "s2"))
    with pytest.raises(QuorumError, match=r"round 0: .*at least 3 of 4 sites must answer"):
        run_secure(tmp_path, transport=gone, quorum=1, settings=settings)


@pytest.mark.parametrize(
    "after", ["one reveal", *(pytest.param(when, marks=SLOW) for when in ("record", "all reveals", "checkpoint"))]
)
def test_an_interrupted_round_goes_on_with_the_same_bits(tmp_path, monkeypatch, after):
    """A second sum of a round with other sites would show the difference of both."""
    whole = run_secure(tmp_path / "whole").state

    class Stopped(RuntimeError):
        pass

    class Stopping(InProcessRuntime):
        reveals = 0

        def exchange(self, requests):
            for site in sorted(requests):
                request = requests[site]
                yield from super().exchange({site: request})
                if kind_of(request) == REVEAL:
                    Stopping.reveals += 1
                limits = {"record": 0, "one reveal": SITES + 1, "all reveals": 2 * SITES}
                if Stopping.reveals == limits.get(after) and kind_of(request) == REVEAL:
                    raise Stopped

        def stop(self, *arguments):
            raise Stopped

    if after in ("record", "all reveals"):
        name = "_ask_reveals" if after == "record" else "bytes_beside"
        monkeypatch.setattr(f"federation.rounds.masked_rounds.MaskedRounds.{name}", Stopping.stop)
        Stopping.reveals = 10**6
    if after == "checkpoint":
        monkeypatch.setattr("federation.rounds.loop.append_rows", Stopping.stop)
    with pytest.raises(Stopped):
        run_secure(tmp_path / "cut", transport=Stopping)
    monkeypatch.undo()
    again = run_secure(tmp_path / "cut", resume=True).state
    assert again.digest == whole.digest and again.history == whole.history


class Lying(Losing):
    """``s0`` reveals wrong shares, and ``s3`` none."""

    lost = staticmethod(lambda site, kind, number: site == "s3" and kind == REVEAL)

    def exchange(self, requests):
        for site, reply in super().exchange(requests):
            if site == "s0" and isinstance(reply, bytes) and kind_of(reply) == REVEAL:
                found = Envelope.from_bytes(reply, REVEAL)
                shares = found.reveal.self_masks
                wrong = {owner: shares[other] for owner, other in zip(shares, reversed(shares), strict=True)}
                reply = replace(found, reveal=replace(found.reveal, self_masks=wrong)).to_bytes()
            yield site, reply


def test_a_sum_with_wrong_shares_asks_the_site_that_comes_back(tmp_path, caplog):
    whole = run_secure(tmp_path / "whole").state
    with pytest.raises(QuorumError, match=r"3 of 4 sites revealed shares, expected at least 3 that fit .*site s3: kil"):
        run_secure(tmp_path / "cut", transport=Lying)
    # s3 is back, s1 has gone: its shares were stored.
    gone = losing(lambda site, kind, number: site == "s1" and kind == REVEAL and number == 0)
    again = run_secure(tmp_path / "cut", transport=gone, resume=True, quorum=3).state
    assert again.digest == whole.digest
    assert "the share of site s0 at site s0 does not fit" in caplog.text


def test_a_sum_with_wrong_shares_asks_the_other_sites_in_the_same_run(tmp_path):
    """The fourth site is late: the round waits for it no longer, but asks it when the shares do not fit."""

    class Late(Lying):
        def exchange(self, requests):
            for site, reply in super().exchange(requests):
                if site == "s3" and isinstance(reply, Exception):
                    yield "", StillWaiting()
                else:
                    yield site, reply

    Late.lost = staticmethod(lambda site, kind, number: (site, kind, number) == ("s3", REVEAL, 0))
    whole = run_secure(tmp_path / "whole").state
    assert run_secure(tmp_path / "late", transport=Late).state.digest == whole.digest


@pytest.mark.parametrize("damage", ["missing", "changed", "record"])
def test_a_damaged_record_of_a_round_is_refused(tmp_path, damage):
    with pytest.raises(QuorumError, match="0 of 4 sites revealed shares"):
        run_secure(tmp_path, transport=losing(lambda site, kind, number: kind == REVEAL))
    place = tmp_path / "secure" / "round_000000"
    path = place / ("record.json" if damage == "record" else "s1.update")
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"{}" if damage == "record" else path.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match=rf"{path.name}: is missing or damaged; .* with another seed$"):
        run_secure(tmp_path, resume=True)


def test_a_round_with_a_record_is_summed_for_no_other_sites(tmp_path):
    with pytest.raises(QuorumError, match="0 of 4 sites revealed shares"):
        run_secure(tmp_path, transport=losing(lambda site, kind, number: kind == REVEAL))

    def check(update, shared, aux):
        raise AssertionError("there is no sum")

    class Refusing(InProcessRuntime):
        def exchange(self, requests):
            raise AssertionError("no site is asked")
            yield

    original = SummedRounds.check

    def refuse(self, update):
        if update.site == "s3":
            raise MessageError("refused now")
        original(self, update)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SummedRounds, "check", refuse)
        text = "round 0 is a sum of s0, s1, s2, s3, and now of s0, s1, s2; a round has one sum"
        with pytest.raises(DataError, match=text):
            run_secure(tmp_path, transport=Refusing, resume=True, quorum=3, check=check)


def test_a_site_that_is_silent_about_its_offer_ends_no_round(tmp_path, monkeypatch):
    """Of four sites three are enough; the fourth never answers, and the transport has no deadline."""
    monkeypatch.setattr("federation.rounds.masked_rounds._LATE_SECONDS", 0.0)

    class Silent(InProcessRuntime):
        def exchange(self, requests):
            sent = {site: requests[site] for site in requests}
            is_offer = any(kind_of(request) == OFFER for request in sent.values())
            yield from super().exchange({site: sent[site] for site in sent if not (is_offer and site == "s3")})
            for _ in range(1000 if is_offer else 0):
                yield "", StillWaiting()
            assert not is_offer, "the round waits for s3 forever"

    run_secure(tmp_path, transport=Silent, rounds=1, quorum=3)
    assert [row["site"] for row in read_rows(tmp_path) if row["round"] == 0] == ["s0", "s1", "s2"]


class Offering(InProcessRuntime):
    """Changes what ``s3`` offers, by ``change(offer)``."""

    change = staticmethod(lambda offer: offer)

    def exchange(self, requests):
        for site, reply in super().exchange(requests):
            if site == "s3" and isinstance(reply, bytes) and kind_of(reply) in (OFFER, MASKED):
                found = Envelope.from_bytes(reply, kind_of(reply))
                offers = {name: self.change(offer) for name, offer in found.offers.items()}
                reply = replace(found, offers=offers).to_bytes()
            yield site, reply


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda o: replace(o, sealed={**o.sealed, "s1": o.sealed["s0"]}), "its offer .* is wrong, says site s1"),
        (lambda o: replace(o, sealed={"s0": o.sealed["s0"]}), "the offer of site s3 has not one share for each .*: s1"),
        (lambda o: replace(o, public="00" * 32), "found no public key of X25519"),
        (lambda o: replace(o, committed=""), "the offer of site s3 commits to no secret"),
    ],
)
def test_a_site_with_a_wrong_offer_is_left_out(tmp_path, caplog, change, text):
    offering = type("Changed", (Offering,), {"change": staticmethod(change)})
    gone = losing(lambda site, kind, number: site == "s3" and kind != "broadcast")
    expected = run_secure(tmp_path / "gone", transport=gone, quorum=3).state
    caplog.clear()
    assert run_secure(tmp_path / "wrong", transport=offering, quorum=3).state.digest == expected.digest
    assert re.search(f"site s3 refused: .*{text}", caplog.text)
    with pytest.raises(QuorumError, match=f"site s3: .*{text}"):
        run_secure(tmp_path / "all", transport=offering)


@pytest.mark.parametrize("named", [("s0", "s1"), ("s3",), ("nobody",)])
def test_a_site_that_names_too_many_or_no_other_site_is_left_out_itself(tmp_path, caplog, named):
    class Naming(InProcessRuntime):
        def exchange(self, requests):
            for site, reply in super().exchange(requests):
                if site == "s3" and isinstance(reply, bytes) and kind_of(reply) == MASKED:
                    reply = replace(Envelope.from_bytes(reply, MASKED), wrong=named).to_bytes()
                yield site, reply

    gone = losing(lambda site, kind, number: site == "s3" and kind != "broadcast")
    expected = run_secure(tmp_path / "gone", transport=gone, quorum=3).state
    assert run_secure(tmp_path / "naming", transport=Naming, quorum=3).state.digest == expected.digest
    assert f"it says that the offers of {', '.join(named)} are wrong; without them" in caplog.text


def test_a_round_interrupted_before_its_sum_takes_new_masks(tmp_path):
    class Stopped(RuntimeError):
        pass

    nonces = []

    class Stopping(InProcessRuntime):
        is_cut = True

        def exchange(self, requests):
            for number, site in enumerate(sorted(requests)):
                request = requests[site]
                if kind_of(request) == "secure masked":
                    nonces.append(request[: request.index(b"next_nonce")].rpartition(b"nonce")[0] or request[:40])
                yield from super().exchange({site: request})
                if self.is_cut and kind_of(request) == "secure masked" and number == 2:
                    raise Stopped

    with pytest.raises(Stopped):
        run_secure(tmp_path / "cut", transport=Stopping)
    Stopping.is_cut = False
    again = run_secure(tmp_path / "cut", transport=Stopping, resume=True).state
    assert again.digest == run_secure(tmp_path / "whole").state.digest


def test_a_site_with_other_slices_than_in_the_roster_is_refused(tmp_path):
    specs, secure = secure_specs(tmp_path, SITES, masked=False)
    members = {**secure.roster.members, "s1": Member(99)}
    other = replace(secure, roster=Roster(members))
    specs = [replace(spec, secure=other) for spec in specs]
    with pytest.raises(QuorumError, match="site s1: has 20 training slices, expected 99 as in the roster"):
        run_rounds(FederatedAlgorithm(), InProcessRuntime(specs), initial_shared(), tmp_path, rounds=1, secure=other)


def test_a_change_beyond_the_range_is_refused_before_it_is_masked(tmp_path):
    specs, secure = secure_specs(tmp_path, SITES)
    small = replace(secure, largest_change=1e-3)
    specs = [replace(spec, secure=small) for spec in specs]
    with pytest.raises(QuorumError, match=r"secure sum: the change of regularizer.* expected at most 0\.001"):
        run_rounds(FederatedAlgorithm(), InProcessRuntime(specs), initial_shared(), tmp_path, rounds=1, secure=small)
    for path in tmp_path.rglob("round_000000.json"):
        content = json.loads(path.read_bytes())
        assert content.get("masked") is None


def test_a_tensor_beside_the_parameters_beyond_the_range_is_named_as_such(tmp_path):
    _, secure = secure_specs(tmp_path, SITES)
    with pytest.raises(
        DataError, match=r"the tensor m\.w reaches 5, expected at most 4; raise privacy.largest_change$"
    ):
        secure.encode("s0", 16, {}, {"m.w": torch.tensor([5.0])})


def test_sites_that_are_not_in_the_roster_are_refused(tmp_path):
    _, secure = secure_specs(tmp_path, SITES)
    more, _ = secure_specs(tmp_path, SITES + 1)
    with pytest.raises(DataError, match="secure sum: site s4 is not both in the run and in the roster"):
        run_rounds(FederatedAlgorithm(), InProcessRuntime(more), initial_shared(), tmp_path, rounds=1, secure=secure)


def test_a_masked_site_answers_no_broadcast_without_masks(tmp_path):
    specs, _ = secure_specs(tmp_path, SITES)
    with pytest.raises(QuorumError, match="found a broadcast without masks, expected a masked round"):
        run_rounds(FederatedAlgorithm(), InProcessRuntime(specs), initial_shared(), tmp_path, rounds=1)


@pytest.mark.parametrize("seed", range(3))
def test_damaged_messages_are_one_line(tmp_path, seed):
    generator = np.random.default_rng(seed)

    class Damaging(InProcessRuntime):
        def exchange(self, requests):
            for site, reply in super().exchange({site: requests[site] for site in requests}):
                if site == "s3" and isinstance(reply, bytes):
                    changed = bytearray(reply)
                    changed[generator.integers(8, 400)] ^= 1 << generator.integers(8)
                    reply = bytes(changed)
                yield site, reply

    try:
        run_secure(tmp_path, transport=Damaging, quorum=3, rounds=2)
    except QuorumError as error:
        assert "\n" not in str(error)


def test_bytes_of_tensors_are_little_endian():
    assert bytes(_bytes(torch.tensor([1], dtype=torch.int32))) == b"\1\0\0\0"
