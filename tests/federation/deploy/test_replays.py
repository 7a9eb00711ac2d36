"""A server that repeats itself, probes a site with many models, or skips and turns back rounds."""

import random
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from federation.deploy import answered_rounds
from federation.deploy.answered_rounds import AnsweredRounds, RepeatError
from federation.deploy.audit_log import read_log
from federation.deploy.signed_message import REASONS, SignedMessage
from federation.deploy.site_service import SiteService
from federation.experiment.train import initial_state
from federation.rounds.loop import QuorumError
from federation.serialization import Broadcast, digest
from recon import DataError

from .deployment import NAMES, Deployed, deploy

REPEATED = REASONS["repeated"]


def ask(deployed: Deployed, round: int, shared: Mapping[str, Tensor], **fields: object) -> bytes | Exception:
    """The reply of north where all sites get the same broadcast."""
    fields.setdefault("evaluate_only", round == deployed.recipe.federation.rounds)
    requests = {name: Broadcast(round, name, shared, digest(shared), **fields).to_bytes() for name in NAMES}  # type: ignore[arg-type]
    return dict(deployed.transport().exchange(requests))["north"]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def moved(shared: Mapping[str, Tensor], by: float) -> dict[str, Tensor]:
    """Each tensor changed by this part of its norm, as the bound measures it."""
    floors = {name: max(float(t.norm()), 0.1 * t.numel() ** 0.5) for name, t in shared.items()}
    return {name: t + by * floors[name] / t.numel() ** 0.5 for name, t in shared.items()}


@pytest.mark.slow
@pytest.mark.fault("request sent again")
def test_a_request_sent_again_after_the_run_gets_its_first_reply_and_trains_nothing(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed.train()
    folder = deployed.folders["north"]
    requests, replies = deployed.channel.travelled[::6], deployed.channel.travelled[1::6]
    before = content(folder.state(deployed.run))

    def none(*arguments: object, **more: object) -> None:
        raise AssertionError("trains or validates")

    monkeypatch.setattr("federation.experiment.task.train_locally", none)
    monkeypatch.setattr("federation.experiment.task.evaluate", none)

    def payload(reply: bytes) -> bytes:
        return SignedMessage.from_bytes(reply, folder.key.public, kind="reply", site="north", max_bytes=10**6).payload

    for request, reply in zip(requests, replies, strict=True):
        assert payload(SiteService(folder).answer(request)) == payload(reply) != b""
    assert len(requests) == 3 and content(folder.state(deployed.run)) == before
    assert [entry.event for entry in read_log(folder.audit.path)].count("reply repeated") == 3


@pytest.mark.fault("many models for one round")
def test_a_round_has_one_model(deployed: Deployed) -> None:
    """Six models for one round would be six answers about the same images."""
    shared, _ = initial_state(deployed.recipe)
    assert isinstance(ask(deployed, 1, shared), bytes)
    before = content(deployed.folders["north"].state(deployed.run))
    for step in range(1, 6):
        assert REPEATED in str(ask(deployed, 1, moved(shared, step * 1e-3)))
    assert REPEATED in str(ask(deployed, 1, shared, best_round=0))
    assert content(deployed.folders["north"].state(deployed.run)) == before
    assert isinstance(ask(deployed, 1, shared), bytes)


@pytest.mark.slow
@pytest.mark.fault("rounds that go back")
def test_rounds_never_go_back(data: Path, tmp_path: Path) -> None:
    deployed = deploy(tmp_path, data, "federation.rounds=5")
    shared, _ = initial_state(deployed.recipe)
    assert isinstance(ask(deployed, 3, shared), bytes)
    for round in (0, 1, 2):
        assert REPEATED in str(ask(deployed, round, shared))
    assert f"repeated: round {round} after round 3" in deployed.refusals("north")[-1]
    assert isinstance(ask(deployed, 4, shared, accepted_round=3), bytes)
    # The server cannot take back that it used a reply: the site would drop what it kept since.
    versions = content(deployed.folders["north"].state(deployed.run) / "kept").keys()
    for accepted in (None, 2):
        assert "not what the site expects" in str(ask(deployed, 5, shared, accepted_round=accepted))
    assert "the last used reply is of round 2, expected 3 or later" in deployed.refusals("north")[-1]
    assert content(deployed.folders["north"].state(deployed.run) / "kept").keys() == versions


@pytest.mark.fault("broadcast beyond bounds")
@pytest.mark.parametrize("round", [1, 40, 99])
def test_the_bound_does_not_grow_with_the_round_that_a_message_claims(data: Path, tmp_path: Path, round: int) -> None:
    deployed = deploy(tmp_path, data, "federation.rounds=100")
    shared, _ = initial_state(deployed.recipe)
    for by in (1.1, 50.0):
        assert REASONS["change"] in str(ask(deployed, round, moved(shared, by)))
    assert isinstance(ask(deployed, round, near := moved(shared, 0.9)), bytes)
    assert REASONS["change"] in str(ask(deployed, 100, moved(near, 1.1)))


def test_a_round_only_scores_after_the_last_one(deployed: Deployed) -> None:
    shared, _ = initial_state(deployed.recipe)
    assert "not what the site expects" in str(ask(deployed, 0, shared, evaluate_only=True))
    assert "round 0 only scores, expected training in rounds 0 to 1" in deployed.refusals("north")[-1]
    assert "not what the site expects" in str(ask(deployed, 2, shared, evaluate_only=False))
    assert "round 2 trains" in deployed.refusals("north")[-1]
    assert isinstance(ask(deployed, 2, shared), bytes)


@pytest.mark.fault("server killed")
@pytest.mark.parametrize("damaged", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_resumed_server_gets_the_lost_replies_again(
    deployed: Deployed, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    """The server dies with two of three replies of the last round; its newest checkpoint may be damaged, too."""
    undisturbed = deploy(tmp_path / "other", data).train()
    count = 0

    def dies(site: str, answer: bytes) -> bytes:
        nonlocal count
        if (count := count + 1) == 6:
            raise KeyboardInterrupt
        return answer

    deployed.channel.meddle = dies
    with pytest.raises(KeyboardInterrupt):
        deployed.train()
    if damaged:
        newest = deployed.path / "run" / "checkpoints" / "round_000001.safetensors"
        newest.write_bytes(newest.read_bytes()[:-1])
    for name, folder in deployed.folders.items():  # the sites were restarted as well
        deployed.channel.answers = {**deployed.channel.answers, name: SiteService(folder).answer}

    def none(*arguments: object, **more: object) -> None:
        raise AssertionError("trains again")

    monkeypatch.setattr("federation.experiment.task.train_locally", none)
    assert deployed.train(resume=True) == undisturbed


def test_a_run_from_the_start_is_refused_with_what_to_do(data: Path, tmp_path: Path) -> None:
    deployed = deploy(tmp_path, data)
    shared, _ = initial_state(deployed.recipe)
    assert isinstance(ask(deployed, 1, moved(shared, 0.1)), bytes)
    with pytest.raises(QuorumError, match="answered this or a later round; resume it, or propose it with another name"):
        deployed.train("again")


def test_whatever_comes_in_whatever_order_a_round_has_one_answer_and_rounds_ascend(tmp_path: Path) -> None:
    """Fuzz: requests of any rounds with any bytes, and restarts between them."""
    draw, shared = random.Random(0), {"w": torch.zeros(2)}
    for case in range(20):
        first: dict[int, tuple[bytes, bytes]] = {}
        for step in range(40):
            answered = AnsweredRounds(tmp_path / str(case))
            round, request = draw.randrange(12), draw.choice((b"honest", b"crafted", b"other"))
            try:
                reply = answered.reply_to(round, request)
            except RepeatError:
                assert round <= max(first) and first.get(round, (b"",))[0] != request
                continue
            if reply is None:
                assert round > max(first, default=-1)
                first[round] = (request, str(step).encode())
                answered.add(Broadcast(round, "north", shared, digest(shared)), *first[round])
            else:
                assert first[round] == (request, reply)


def test_old_replies_are_removed_before_they_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answered_rounds, "_STORED_BYTES", 250)
    answered, shared = AnsweredRounds(tmp_path / "answers"), {"w": torch.zeros(2)}
    for round in range(5):
        assert answered.reply_to(round, b"request") is None
        answered.add(Broadcast(round, "north", shared, digest(shared)), b"request", bytes([round]) * 100)
    assert [answered.reply_to(round, b"request") for round in (3, 4)] == [b"\3" * 100, b"\4" * 100]
    with pytest.raises(RepeatError, match="no longer stored"):
        answered.reply_to(2, b"request")
    with pytest.raises(RepeatError, match="another broadcast"):
        answered.reply_to(2, b"Request")
    monkeypatch.setattr(answered_rounds, "_STORED_BYTES", 0)
    answered.add(Broadcast(5, "north", shared, digest(shared)), b"request", b"reply")
    assert answered.reply_to(4, b"request") == b"\4" * 100  # a resumed server may ask for it
    reply = next((tmp_path / "answers").glob("*5.reply"))
    reply.write_bytes(b"Reply")
    with pytest.raises(DataError, match="truncated or altered"):
        answered.reply_to(5, b"request")
    reply.with_suffix(".json").write_text("{}")
    with pytest.raises(DataError, match="no record of an answer"):
        answered.reply_to(5, b"request")
