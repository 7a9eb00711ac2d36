"""A masked sum of deployed sites, without Flower: signed messages between a server and its sites."""

import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from federation import train_run
from federation.cli import main
from federation.config import ConfigError
from federation.deploy.approval import Approval
from federation.deploy.audit_log import read_log
from federation.deploy.change_bounds import UpdateBounds
from federation.deploy.signed_message import SignedMessage
from federation.deploy.site_folder import SiteFolder
from federation.deploy.site_service import objection
from federation.deploy.summed_site import KEY, deployed_spec, roster_entry
from federation.methods import CHECKPOINTS, selected_state, state_of_checkpoint
from federation.privacy import CONFIRM, MASKED, OFFER, REVEAL, Envelope
from federation.recipes import PrivacySection, masked_sum_of
from federation.rounds import QuorumError, SiteFailure
from federation.serialization import MessageError, kind_of, load_newest
from federation.sites import load_federation

from .deployment import BUNDLE, NAMES, Deployed, deploy, with_sum

SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """A finished run."""
    deployed = with_sum(deploy(tmp_path_factory.mktemp("trained"), data))
    deployed.train(check=UpdateBounds(10.0, 100, 4), maximum_share=0.5)
    return deployed


@pytest.fixture(scope="module")
def undisturbed(trained: Deployed) -> str:
    """Digest of its last parameters."""
    newest = load_newest(trained.path / "run" / CHECKPOINTS)
    assert newest is not None
    return state_of_checkpoint(newest, trained.path).digest


@pytest.fixture
def summed(deployed: Deployed) -> Deployed:
    return with_sum(deployed)


def payload_of(message: bytes) -> bytes:
    return message[4 + int.from_bytes(message[:4], "big") :]


def meddling(deployed: Deployed, wanted: str, number: int, act: Callable[[str, bytes], bytes | Exception]) -> None:
    """Act on the reply of a kind that has a number; from 0, over all sites in their order."""
    seen = -1

    def meddle(site: str, answer: bytes) -> bytes | Exception:
        nonlocal seen
        seen += kind_of(payload_of(answer)) == wanted
        return act(site, answer) if seen == number and kind_of(payload_of(answer)) == wanted else answer

    deployed.channel.meddle = meddle


def lost(site: str, answer: bytes) -> SiteFailure:
    return SiteFailure("killed")


def killed(site: str, answer: bytes) -> bytes:
    raise KeyboardInterrupt


def test_the_bits_are_those_of_the_run_in_process(trained: Deployed, data: Path) -> None:
    train_run(trained.recipe, load_federation(data), trained.path / "here", jobs=1, resume=False, say=str)
    here, there = (selected_state(trained.path / name) for name in ("here", "run"))
    assert here.digest == there.digest and here.round == there.round > 0
    kinds = [kind_of(payload_of(message)) for message in trained.channel.travelled]
    counts = {OFFER: 6, MASKED: 12, CONFIRM: 12, REVEAL: 12, "broadcast": 3, "report": 3, "update": 0}
    assert {kind: kinds.count(kind) for kind in counts} == counts


def test_a_site_killed_between_the_trips_is_in_the_sum(summed: Deployed, undisturbed: str) -> None:
    meddling(summed, REVEAL, 3 + NAMES.index("south"), lost)
    assert summed.train(quorum=2) == undisturbed


@pytest.mark.fault("server killed")
@pytest.mark.parametrize(
    ("kind", "number"),
    [pytest.param(MASKED, 4, marks=SLOW), pytest.param(CONFIRM, 4, marks=SLOW), pytest.param(REVEAL, 4)],
)
def test_a_run_goes_on_after_a_kill_with_the_same_bits(
    summed: Deployed, undisturbed: str, kind: str, number: int
) -> None:
    meddling(summed, kind, number, killed)
    with pytest.raises(KeyboardInterrupt):
        summed.train()
    summed.channel.meddle = lambda site, answer: answer
    assert summed.train(resume=True) == undisturbed
    assert all("refused" not in event for name in NAMES for event in summed.events(name))


def test_the_log_holds_the_sites_of_each_sum_and_no_secret_is_left(trained: Deployed) -> None:
    for name, folder in trained.folders.items():
        sums = [entry.facts for entry in read_log(folder.audit.path) if entry.event == "sum unmasked"]
        assert [(fact["round"], fact["sites"]) for fact in sums] == [(0, list(NAMES)), (1, list(NAMES))]
        events = trained.events(name)
        assert events.index("sum unmasked") < len(events) - events[::-1].index("reply")
        secret = folder.state(trained.run) / "kept" / "secure"
        assert [path.name for path in secret.iterdir()] == ["round_000001.json"]
        assert "secret" not in (secret / "round_000001.json").read_text()
        assert stat.S_IMODE((folder.path / KEY).stat().st_mode) == 0o600


@pytest.mark.slow
@pytest.mark.parametrize("end", ["last scores", "withdrawn"])
def test_secrets_of_a_round_without_shares_are_deleted_at_the_end(summed: Deployed, end: str) -> None:
    """West masks in round 1, is not asked for shares, and keeps its secrets until the run ends."""
    secret = summed.folders["west"].state(summed.run) / "kept" / "secure"
    answer, asked = summed.channel.answers["west"], 0

    def without_shares(message: bytes) -> bytes:
        nonlocal asked
        asked += kind_of(payload_of(message)) == REVEAL
        return answer(message) if asked < 2 else b""

    summed.channel.answers = {**summed.channel.answers, "west": without_shares}
    with pytest.raises(QuorumError):  # no last scores of west
        summed.train()
    assert "self_secret" in (secret / "round_000001.json").read_text()
    if end == "withdrawn":
        assert main(["deploy", "site", "withdraw", str(summed.folders["west"].path), summed.run[:9]]) == 0
    else:
        summed.channel.answers = {**summed.channel.answers, "west": answer}
        summed.train(resume=True)
    assert [path.name for path in secret.iterdir()] == ["round_000000.json"]
    assert "self_secret" not in (secret / "round_000000.json").read_text()


def asked(deployed: Deployed, site: str, envelope: Envelope, round: int | None = None) -> str:
    """The reason why a site refuses a request of the server; empty if it does not."""
    transport = deployed.transport()
    message = transport._request(site, envelope.to_bytes(), envelope.round if round is None else round, 3)
    folder = deployed.folders[site]
    reply = deployed.channel.answers[site](message)
    return SignedMessage.from_bytes(reply, folder.key.public, kind="reply", site=site, max_bytes=10**9).reason


def test_a_server_that_asks_for_a_second_sum_is_refused(trained: Deployed) -> None:
    record = json.loads((trained.path / "run" / "secure" / "round_000001" / "record.json").read_bytes())
    again = Envelope(REVEAL, 1, record["nonce"], survivors=tuple(NAMES))
    assert asked(trained, "north", again) == ""
    assert asked(trained, "north", replace(again, kind=CONFIRM)) == ""
    assert asked(trained, "north", replace(again, kind=CONFIRM, survivors=("north", "south"))) == "message"
    assert asked(trained, "north", replace(again, survivors=("north", "south"))) == "message"
    assert "round 1 was unmasked for other sites; one sum per round" in trained.refusals("north")[-1]
    assert asked(trained, "north", Envelope(OFFER, 1, "ab")) == "message"
    assert "round 1 was unmasked already" in trained.refusals("north")[-1]
    assert asked(trained, "north", Envelope(OFFER, 2, "ab")) == "message"
    assert "expected training in rounds 0 to 1" in trained.refusals("north")[-1]
    assert asked(trained, "north", Envelope(OFFER, 1, "ab"), round=0) == "message"


def test_a_threshold_below_the_least_number_of_sites_of_the_policy_is_refused(summed: Deployed) -> None:
    """Before it trains: later, the others would have revealed shares for a sum that this site never accepts."""
    text = "privacy.threshold: found 2, expected at least 3, the policy's minimum_participants"
    summed.set_policy("north", minimum_participants=3)
    assert objection(summed.folders["north"], summed.run, summed.recipe) == text
    with pytest.raises(QuorumError, match="policy forbids"):
        summed.train()
    assert text in summed.refusals("north")[-1] and "reply" not in summed.events("north")


@pytest.mark.slow
def test_a_second_run_with_the_same_seed_is_refused(summed: Deployed) -> None:
    """Both sums would subtract to the update of a site that drops out of one of them."""
    summed.train("first")
    for changes, is_refused in [({"name": "again"}, True), ({"name": "other", "seed": 1}, False)]:
        federation = summed.recipe.federation.model_copy(update={"seed": changes.get("seed", 0)})
        recipe = summed.recipe.model_copy(update={"name": changes["name"], "federation": federation})
        approval = Approval.of(BUNDLE, recipe)
        for folder in summed.folders.values():
            folder.approvals.add(approval, recipe)
        again = replace(summed, recipe=recipe, run=approval.run)
        text = objection(again.folders["north"], again.run, recipe)
        if not is_refused:
            assert text == ""
            continue
        assert f"federation.seed: found 0, expected another than that of run {summed.run[:12]}" in text
        with pytest.raises(QuorumError, match="policy forbids"):
            again.train("again")
        assert "federation.seed: found 0" in again.refusals("north")[-1]
        # Withdrawn or not: the sums exist.
        again.folders["north"].approvals.remove(summed.run)
        assert "federation.seed: found 0" in objection(again.folders["north"], again.run, recipe)
    assert objection(summed.folders["south"], summed.run, summed.recipe) == ""


@pytest.mark.parametrize("fault", ["stale nonce", "wrong offers", "no masks"])
def test_a_request_that_cannot_be_masked_is_refused_before_training(
    summed: Deployed, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[bytes] = []
    answer = summed.channel.answers["north"]

    def listening(message: bytes) -> bytes:
        if kind_of(payload_of(message)) == MASKED:
            requests.append(payload_of(message))
            raise KeyboardInterrupt
        return answer(message)

    summed.channel.answers = {**summed.channel.answers, "north": listening}
    with pytest.raises(KeyboardInterrupt):
        summed.train()
    summed.channel.answers = {**summed.channel.answers, "north": answer}
    envelope = Envelope.from_bytes(requests[0], MASKED)
    offers = dict(envelope.offers)
    offers["south"] = replace(offers["south"], sealed=offers["west"].sealed)
    payload = {
        "stale nonce": replace(envelope, nonce="ab").to_bytes(),
        "wrong offers": replace(envelope, offers=offers).to_bytes(),
        "no masks": envelope.body,
    }[fault]

    def trained(*arguments: object) -> None:
        raise AssertionError("it trains")

    monkeypatch.setattr("federation.rounds.site.Site.answer", trained)
    message = summed.transport()._request("north", payload, 0, 3)
    reply = answer(message)
    spec = deployed_spec(SiteFolder(summed.folders["north"].path), summed.run, summed.recipe)
    if fault == "wrong offers":
        for said in (payload_of(reply), spec.build().handle(payload)):
            assert Envelope.from_bytes(said, MASKED).wrong == ("south",)
        return
    text = {"stale nonce": "made no offer", "no masks": "without masks"}[fault]
    assert text in summed.refusals("north")[-1] and summed.refusals("north")[-1].startswith("message: ")
    # A site in process refuses it, too.
    with pytest.raises(MessageError, match=text):
        spec.build().handle(payload)


def test_an_update_without_masks_does_not_leave(summed: Deployed) -> None:
    plain = replace(summed, recipe=summed.recipe.model_copy(update={"privacy": PrivacySection()}))
    with pytest.raises(QuorumError):
        plain.train()
    assert "found a broadcast without masks, expected a masked round" in summed.refusals("north")[-1]
    assert "reply" not in summed.events("north")


def test_rosters_that_are_not_those_of_the_sites_are_refused(deployed: Deployed) -> None:
    summed = with_sum(deployed)
    folder, listed = summed.folders["north"], summed.recipe.privacy.sites
    assert objection(folder, summed.run, summed.recipe) == ""
    for sites, text in [
        ({**listed, "north": listed["south"]}, "north is in the roster with another key"),
        ({name: listed[name] for name in ("south", "west")}, "north is not in the roster"),
        ({**listed, "north": listed["north"].model_copy(update={"slices": 9})}, "has 2 training slices, expected 9"),
    ]:
        wrong = with_sum(deployed, sites={name: site.model_dump() for name, site in sites.items()})
        assert text in objection(folder, wrong.run, wrong.recipe)
        with pytest.raises((QuorumError, ConfigError), match=r"policy forbids|not both in the run|site's data"):
            wrong.train(text.replace(" ", "_"))


def test_each_approved_roster_is_another_run(deployed: Deployed) -> None:
    runs = {with_sum(deployed).run, with_sum(deployed, threshold=3).run, deployed.run}
    assert len(runs) == 3


def test_a_recipe_that_names_no_sites_cannot_be_deployed(deployed: Deployed) -> None:
    recipe = deployed.recipe.model_copy(update={"privacy": PrivacySection(secure_sum=True)})
    with pytest.raises(ConfigError, match=r"privacy\.sites: found none, .*fedrecon deploy site roster"):
        masked_sum_of(recipe, "")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in the import of Flower
def test_approve_prints_the_weight_of_each_site(
    deployed: Deployed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    summed = with_sum(deployed)
    listed = summed.recipe.privacy.sites
    large = listed["west"].model_copy(update={"slices": 6})
    privacy = summed.recipe.privacy.model_copy(update={"sites": {**listed, "west": large}})
    recipe = summed.recipe.model_copy(update={"privacy": privacy})
    seen = (recipe, recipe, Approval.of(BUNDLE, recipe))
    monkeypatch.setattr("federation.flower.run_site.look_at", lambda folder, bundle: seen)
    assert main(["deploy", "site", "approve", str(summed.folders["north"].path), "a.fab"]) == 0
    printed = capsys.readouterr().out
    assert "secure sum of 3 sites, each with this part of the mean: north 20%, south 20%, west 60%" in printed


def test_the_roster_command_prints_the_entry(deployed: Deployed, capsys: pytest.CaptureFixture[str]) -> None:
    folder = deployed.folders["north"]
    assert main(["deploy", "site", "roster", str(folder.path)]) == 0
    printed = capsys.readouterr().out
    assert printed.strip() == roster_entry(folder).strip() and "slices = 2" in printed
