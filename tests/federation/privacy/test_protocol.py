import itertools
import os
import stat
from dataclasses import replace

import numpy as np
import pytest

from federation.privacy import (
    MASKED,
    OFFER,
    REVEAL,
    Envelope,
    Member,
    Offer,
    PrivateKey,
    Roster,
    RoundFiles,
    SiteProtocol,
)
from federation.privacy.masks import SECRET_BYTES
from federation.privacy.messages import CONFIRM
from federation.serialization import MessageError

from .protocol_run import ProtocolRun


@pytest.fixture
def run(tmp_path):
    return ProtocolRun(tmp_path)


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
def test_the_unmasked_sum_is_the_sum_bit_for_bit(tmp_path, dtype):
    run = ProtocolRun(tmp_path, dtype=dtype, size=50_001)
    offers = run.offers()
    masked = run.masked(offers)
    assert all(np.mean(masked[s] == run.vector(s)) < 1e-3 for s in masked)
    total, wrong = run.sum(offers, masked, run.reveals(masked))
    assert np.array_equal(total, run.expected(masked)) and wrong == []


def test_every_set_of_survivors_gives_their_sum(tmp_path):
    names = ProtocolRun(tmp_path).roster.names
    for count in (3, 4, 5):
        for number, survivors in enumerate(itertools.combinations(names, count)):
            run = ProtocolRun(tmp_path / f"{count}_{number}", size=50)
            offers = run.offers()
            # Every site masked; some vectors did not arrive. Only the first three of the others still answer.
            masked = {site: vector for site, vector in run.masked(offers).items() if site in survivors}
            total, _ = run.sum(offers, masked, run.reveals(masked, sites=survivors[-3:]))
            assert np.array_equal(total, run.expected(survivors))


def test_sites_that_made_no_offer_are_not_in_the_round(run):
    offers = run.offers(sites=run.roster.names[1:])
    masked = run.masked(offers)
    total, _ = run.sum(offers, masked, run.reveals(masked))
    assert np.array_equal(total, run.expected(run.roster.names[1:]))


def test_a_sum_with_too_few_answers_is_refused(run):
    offers = run.offers()
    masked = run.masked(offers)
    reveals = run.reveals(masked, sites=run.roster.names[:2])
    with pytest.raises(MessageError, match="2 sites revealed shares, expected at least 3"):
        run.sum(offers, masked, reveals)


def test_no_site_reveals_both_secrets_of_a_site(run):
    offers = run.offers()
    run.masked(offers)
    survivors = run.roster.names[:4]
    for reveal in run.reveals(survivors).values():
        assert sorted(reveal.self_masks) == survivors and sorted(reveal.pair_masks) == ["s004"]


def test_two_sets_of_survivors_in_one_round_are_refused(run):
    run.masked(run.offers())
    names = run.roster.names
    codes = run.codes(names)["s000"]
    first = run.site("s000").reveal(0, "a", names, codes)
    assert run.site("s000").reveal(0, "a", names, {}) == first  # the same question again
    for question in (lambda s: s.reveal(0, "a", names[:4], codes), lambda s: s.confirm(0, "a", names[:4])):
        with pytest.raises(MessageError, match="round 0 was unmasked for other sites; one sum per round"):
            question(run.site("s000"))
    with pytest.raises(MessageError, match="round 0 was unmasked already"):
        run.site("s000").offer(0, "b")
    run.site("s000").offer(1, "c")
    assert run.site("s000").reveal(0, "a", names, codes) == first
    assert run.codes(names)["s001"]["s000"]  # confirmed again, for a server that lost the code


def test_a_site_confirms_one_sum_of_an_attempt(run):
    offers = run.offers()
    run.masked(offers)
    names = run.roster.names
    codes = run.site("s000").confirm(0, "a", names)
    assert sorted(codes) == names[1:] and run.site("s000").confirm(0, "a", list(reversed(names))) == codes
    for question in (lambda s: s.confirm(0, "a", names[:4]), lambda s: s.reveal(0, "a", names[:4], codes)):
        with pytest.raises(MessageError, match="round 0 was confirmed for other sites; one sum per round"):
            question(run.site("s000"))
    # A server that lost all of it repeats the round: the secrets of this attempt are gone then.
    run.masked(run.offers(0, "b"), 0, "b")
    assert run.site("s000").confirm(0, "b", names[:4]) != codes


def test_shares_need_codes_of_a_majority_for_this_site_and_this_sum(run):
    names = run.roster.names
    run.masked(run.offers())
    right = run.codes(names)
    mine = right["s000"]
    run.masked(run.offers(1, "b", names), 1, "b", names)
    later = run.codes(names, 1, "b")["s000"]
    for codes, n_sites in [
        ({}, 1),
        ({"s001": mine["s001"]}, 2),
        (right["s001"], 1),  # by s000 itself, and by others for s001
        ({"s001": mine["s002"], "s002": mine["s001"]}, 1),
        (later, 1),
        (mine | {name: mine[name][:-2] for name in ("s002", "s003", "s004")}, 2),
    ]:
        with pytest.raises(MessageError, match=f"{n_sites} sites have confirmed the offers .* expected at least 3"):
            run.site("s000").reveal(0, "a", names, codes)
    assert run.site("s000").reveal(0, "a", names, {name: mine[name] for name in ("s001", "s004")})


def test_a_server_that_shows_different_sums_to_different_sites_learns_none(tmp_path):
    """Without confirmation the server had the exact update of s000, though all sites are honest."""
    run = ProtocolRun(tmp_path, n_sites=5, size=10)
    names = run.roster.names
    offers = run.offers()
    few = {name: offers[name] for name in names[:3]}
    run.masked(few, sites=["s000"])
    run.masked(offers, sites=names[1:])
    asked = {
        "s000": names[:3],
        "s001": [names[0], names[1], names[3]],
        "s002": [names[0], names[2], names[3]],
        "s003": [names[0], names[3], names[4]],
        "s004": [names[0], names[3], names[4]],
    }
    given = {name: run.site(name).confirm(0, "a", survivors) for name, survivors in asked.items()}
    for name, survivors in asked.items():
        codes = {other: codes[name] for other, codes in given.items() if name in codes}
        with pytest.raises(MessageError, match=r"[12] sites have confirmed the offers and the sites of this sum"):
            run.site(name).reveal(0, "a", survivors, codes)


@pytest.mark.parametrize("is_split", [False, True])
def test_survivors_or_offers_that_differ_are_not_confirmed_to_each_other(tmp_path, is_split):
    """One set of offers, two sets of survivors; or one set of survivors, one site with other offers."""
    run = ProtocolRun(tmp_path, n_sites=5, size=10)
    names = run.roster.names
    offers = run.offers()
    seen = {name: offers if is_split or name != "s000" else dict(list(offers.items())[:4]) for name in names}
    for name in names:
        run.masked(seen[name], sites=[name])
    asked = {name: names[:4] if not is_split or name in ("s000", "s002") else names[:3] for name in names[:4]}
    asked["s003"] = names[:4]
    codes = {name: run.site(name).confirm(0, "a", survivors) for name, survivors in asked.items()}

    def reveal(name):
        to_site = {other: given[name] for other, given in codes.items() if name in given}
        return run.site(name).reveal(0, "a", asked[name], to_site)

    if is_split:
        # s000, s002 and s003 agree; s001 does not, and can be shown no second sum.
        assert reveal("s000") and reveal("s002") and reveal("s003")
        refused = ["s001"]
    else:
        assert reveal("s001") and reveal("s002") and reveal("s003")
        refused = ["s000"]
    for name in refused:
        with pytest.raises(MessageError, match="1 sites have confirmed"):
            reveal(name)


def test_a_repeated_round_has_new_masks(run):
    first = run.masked(run.offers())["s000"]
    again = run.masked(run.offers(0, "b"), 0, "b")["s000"]
    assert np.mean(first == again) < 0.01
    # The attempt before is gone: its masks cannot be unmasked any more.
    with pytest.raises(MessageError, match="masked nothing in this attempt at round 0"):
        run.site("s000").reveal(0, "a", run.roster.names, {})


def test_one_mask_never_serves_two_vectors(run):
    offers = run.offers()
    run.masked(offers)
    to_us = {other: offer.to_site("s000") for other, offer in offers.items()}
    with pytest.raises(MessageError, match="one mask never serves twice"):
        run.site("s000").mask(0, "a", run.vector("s000") + np.uint32(1), to_us)
    fewer = {name: to_us[name] for name in list(to_us)[:4]}
    with pytest.raises(MessageError, match="one mask never serves twice"):
        run.site("s000").mask(0, "a", run.vector("s000"), fewer)
    assert np.array_equal(run.site("s000").mask(0, "a", run.vector("s000"), to_us), run.masked(offers)["s000"])


def test_offers_that_are_wrong_missing_or_foreign_are_refused(run):
    offers = run.offers()

    def mask(changed, nonce="a"):
        to_us = {other: offer.to_site("s000") for other, offer in (offers | changed).items() if offer is not None}
        run.site("s000").mask(0, nonce, run.vector("s000"), to_us)

    other = PrivateKey().public.hex()
    swapped = replace(offers["s001"], sealed={"s000": offers["s002"].sealed["s000"]})
    for changed, text in [
        ({"s001": replace(offers["s001"], public=other)}, "share of site s001 for site s000 is not by that site"),
        ({"s001": swapped}, "share of site s001 for site s000 is not by that site"),
        ({"s001": replace(offers["s001"], sealed={})}, "offer of site s001 holds no share for site s000"),
        ({"s000": offers["s001"]}, "offer of site s000 is missing or not its own"),
        ({"s000": None}, "offer of site s000 is missing or not its own"),
        ({"eve": offers["s001"]}, "site 'eve' is not in the roster of s000, s001, s002, s003, s004"),
        ({"s001": None, "s002": None, "s003": None}, "2 sites in a round, expected at least 3"),
    ]:
        with pytest.raises(MessageError, match=text):
            mask(changed)
    with pytest.raises(MessageError, match="site s000 made no offer for this attempt at round 0"):
        mask({}, nonce="b")


def test_sums_that_are_too_small_or_without_the_site_are_refused(run):
    run.masked(run.offers())
    names = run.roster.names
    for survivors, text in [
        (names[:2], "2 sites in the sum, expected at least 3"),
        (names[1:], "asked to unmask a sum without it"),
        ([*names[:3], names[2]], "a site stands twice in the sum"),
        ([*names, "eve"], "site 'eve' is not in the roster"),
    ]:
        for question in (
            lambda s, asked=survivors: s.reveal(0, "a", asked, {}),
            lambda s, asked=survivors: s.confirm(0, "a", asked),
        ):
            with pytest.raises(MessageError, match=text):
                question(run.site("s000"))


def test_a_wrong_share_is_found_and_left_out(run):
    offers = run.offers()
    masked = {site: v for site, v in run.masked(offers).items() if site != "s004"}
    reveals = run.reveals(masked)
    changed = {site: f"{int(text[:2], 16) ^ 1:02x}{text[2:]}" for site, text in reveals["s001"].self_masks.items()}
    lying = reveals | {"s001": replace(reveals["s001"], self_masks=changed)}
    total, wrong = run.sum(offers, masked, lying)
    assert np.array_equal(total, run.expected(masked)) and wrong == [("s000", "s001")]
    few = {site: lying[site] for site in ("s000", "s001", "s002")}
    with pytest.raises(MessageError, match="shares of the secret of site s000 do not fit together"):
        run.sum(offers, masked, few)


def test_two_sites_with_wrong_shares_are_left_out(tmp_path):
    run = ProtocolRun(tmp_path, n_sites=7, size=10)
    offers = run.offers()
    masked = run.masked(offers)
    reveals = run.reveals(masked)
    for site in ("s000", "s003"):
        changed = {owner: f"{int(text[:2], 16) ^ 1:02x}{text[2:]}" for owner, text in reveals[site].self_masks.items()}
        reveals[site] = replace(reveals[site], self_masks=changed)
    total, wrong = run.sum(offers, masked, reveals)
    assert np.array_equal(total, run.expected(masked)) and {holder for _, holder in wrong} == {"s000", "s003"}
    three = reveals | {"s001": replace(reveals["s001"], self_masks=reveals["s000"].self_masks)}
    five = {site: three[site] for site in ("s000", "s001", "s002", "s004", "s005", "s006")}
    with pytest.raises(MessageError, match="do not fit together"):
        run.sum(offers, masked, dict(list(five.items())[:5]))
    assert np.array_equal(run.sum(offers, masked, five)[0], run.expected(masked))


def test_a_site_that_deals_a_wrong_share_is_named_and_its_holder_stays(tmp_path, monkeypatch):
    """s004 gives s001 a share off its polynomial; the shares of the others at s001 are needed."""
    run = ProtocolRun(tmp_path, n_sites=5, size=10)
    offers = run.offers(sites=["s000", "s001", "s002", "s003"])
    split = SiteProtocol._split

    def dealt(self, secret):
        shares = split(self, secret)
        shares[1] += 1
        return shares

    monkeypatch.setattr(SiteProtocol, "_split", dealt)
    offers |= run.offers(sites=["s004"])
    masked = run.masked(offers)
    reveals = run.reveals(masked, sites=["s000", "s001", "s002", "s003"])
    total, wrong = run.sum(offers, masked, reveals)
    assert np.array_equal(total, run.expected(masked)) and wrong == [("s004", "s001")]
    # s002 lies about s000, so that this secret needs the share at s001.
    changed = reveals["s002"].self_masks | {"s000": reveals["s002"].self_masks["s001"]}
    lying = reveals | {"s002": replace(reveals["s002"], self_masks=changed)}
    total, wrong = run.sum(offers, masked, lying)
    assert np.array_equal(total, run.expected(masked)) and wrong == [("s000", "s002"), ("s004", "s001")]


def test_an_unfinished_file_of_secrets_is_deleted(run):
    run.masked(run.offers())
    place = run.folder / "s000"
    place.joinpath(".round_000000.json").write_text("secret")
    run.reveals(run.roster.names)
    assert [file.name for file in place.iterdir()] == ["round_000000.json"]
    place.joinpath("round_000001.json").write_bytes(place.joinpath("round_000000.json").read_bytes())
    place.joinpath("round_000000.json").write_text("{}")
    run.site("s000").reveal(1, "a", run.roster.names, {})  # again: the earlier record goes now
    assert [file.name for file in place.iterdir()] == ["round_000001.json"]


def test_the_name_of_a_record_is_on_disk_too(run, monkeypatch):
    synced = []
    original = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(stat.S_ISDIR(os.fstat(fd).st_mode)) or original(fd))
    run.site("s000").offer(0, "a")
    assert synced == [False, True]


def test_a_missing_share_names_the_sites(run):
    offers = run.offers()
    masked = run.masked(offers)
    reveals = run.reveals(masked)
    without = {site: share for site, share in reveals["s001"].self_masks.items() if site != "s003"}
    with pytest.raises(MessageError, match="site s001 sent no share of site s003"):
        run.sum(offers, masked, reveals | {"s001": replace(reveals["s001"], self_masks=without)})
    with pytest.raises(MessageError, match="site s001 sent a share of site s003, which was not asked"):
        run.sum(offers, masked, reveals | {"s001": replace(reveals["s001"], pair_masks={"s003": "00"})})


def test_secrets_are_private_files_and_deleted_after_unmasking(run):
    offers = run.offers()
    run.masked(offers)
    path = run.folder / "s000" / "round_000000.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and "secret" in path.read_text()
    run.reveals(run.roster.names)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and "secret" not in path.read_text()
    run.masked(run.offers(1, "b"), 1, "b")
    run.reveals(run.roster.names, 1, "b")
    assert [file.name for file in (run.folder / "s000").iterdir()] == ["round_000001.json"]


def test_a_site_with_another_key_than_the_roster_is_refused(run):
    run.keys["s000"] = PrivateKey()
    with pytest.raises(MessageError, match="the roster has another key of site s000"):
        run.site("s000")


def test_rosters_without_a_majority_are_refused():
    members = {f"s{i}": Member(10) for i in range(10)}
    assert Roster(members).least == 6
    for threshold in (5, 11):
        with pytest.raises(ValueError, match=f"privacy.threshold: found {threshold}, expected 6 to 10 of the 10 sites"):
            Roster(members, threshold)
    with pytest.raises(ValueError, match="1 sites, expected at least 2"):
        Roster({"s0": Member(10)})


def test_secrets_of_long_term_keys_are_computed_once(run, monkeypatch):
    """A site makes a new object with its key for each message."""
    counted, agree = [], PrivateKey.agree
    monkeypatch.setattr(PrivateKey, "agree", lambda self, other: counted.append(other) or agree(self, other))
    offers = run.offers()
    assert len(counted) == 5 * 4
    run.keys = {name: PrivateKey(key.content) for name, key in run.keys.items()}
    run.masked(offers)
    run.reveals(run.roster.names)
    assert len(counted) == 2 * 5 * 4  # and those of the round
    assert PrivateKey(bytes(32)) != PrivateKey(bytes(31) + b"1")


def test_secrets_are_from_the_operating_system(run, monkeypatch):
    drawn = []
    original = os.urandom
    monkeypatch.setattr(os, "urandom", lambda n: drawn.append(n) or original(n))
    run.site("s000").offer(0, "a")
    assert drawn.count(SECRET_BYTES) == 2


def test_a_message_has_the_fields_of_its_kind_alone():
    for kind, fields in (
        (OFFER, {"survivors": ("s0",)}), (CONFIRM, {"body": b"model"}), (REVEAL, {"offers": {"s0": Offer("", "")}}),
        (MASKED, {"codes": {"s0": "aa"}}),
    ):  # fmt: skip
        with pytest.raises(MessageError, match="fields that no message of a secure sum has"):
            Envelope.from_bytes(Envelope(kind, 0, "aa", **fields).to_bytes(), kind)


def test_a_damaged_record_counts_as_revealed_and_stays(tmp_path):
    files = RoundFiles(tmp_path)
    files.write(0, {"revealed": None})
    assert not files.has_revealed()
    files.write(1, {"revealed": None})
    (tmp_path / "round_000001.json").write_text("{")
    assert files.has_revealed()
    files.forget()
    assert files.rounds() == [1]
