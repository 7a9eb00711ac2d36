"""A slow link whose connections are cut: the run ends with the bits of a run in process, and nobody waits in silence.

Scaled from 1 Mbit/s, cuts every 90 s and messages of 20 MB: the link is twice as fast, the cuts come 15 times as
often, the messages are a seventh. A message takes twice as long as a connection lasts.
"""

import os
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from federation import load_recipe, train_run
from federation.cli.main import main
from federation.flower import supernode_process
from federation.flower.processes import CHUNK_BYTES, environment
from federation.flower.supernode_process import is_cut, kept_up, patient
from federation.rounds.round_log import read_rows
from federation.sites import load_federation
from recon import DataError

from .running import RECIPE, HttpProxy, approve_run, bits, http_proxy, overrides, processes

CHOICES = ("network.cascades=1", "network.regularizer=cnn", "network.channels=280", "network.depth=3",
           "federation.rounds=1", "training.steps_per_round=4", "evaluation.arms=[]")  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what Flower imports
BYTES_PER_SECOND, SECONDS = 250_000.0, 6.0


@pytest.fixture(scope="module")
def way_out() -> Iterator[HttpProxy]:
    """The HTTP proxy that north goes through."""
    with http_proxy(cut_after=SECONDS, rate=BYTES_PER_SECOND) as proxy:
        yield proxy


@pytest.mark.deployment
@pytest.mark.fault("slow link, connections cut")
def test_a_run_over_a_slow_link_that_is_cut_ends_with_the_same_bits(
    federation: Path, way_out: HttpProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    sites = load_federation(federation / "data")
    here = train_run(load_recipe(RECIPE, CHOICES), sites, federation / "here", jobs=1, resume=False, say=str).path
    capsys.readouterr()
    cuts, begin = way_out.cuts, time.monotonic()
    code = main(["deploy", "run", str(federation / "server"), str(RECIPE), *overrides(CHOICES)])
    said = capsys.readouterr()
    assert code == 0, said.err
    there = federation / "server" / "runs" / "fedavg" / "train"
    size = max(row["bytes_up"] for row in read_rows(there))
    print(f"messages of {size / 1e6:.1f} MB, {way_out.cuts - cuts} cuts, {time.monotonic() - begin:.0f} s")
    assert size / BYTES_PER_SECOND > 1.5 * SECONDS and way_out.cuts - cuts >= 4
    assert bits(there) == bits(here)
    assert "waits for Flower to start the driver" in said.out
    assert "round 0: waits for the reply of north, south" in said.out


@pytest.mark.deployment
@pytest.mark.fault("late site")
def test_a_round_closes_without_a_site_that_hangs(federation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server, table = federation / "server", federation / "server" / "server.toml"
    table.write_text(table.read_text().replace("late_minutes = 60.0", "late_minutes = 0.1"))
    approve_run(federation, "late", CHOICES)
    (hangs,) = (line for line in processes(federation / "north") if "data_process" in line)
    os.kill(int(hangs.split()[0]), signal.SIGSTOP)
    try:
        command = ["deploy", "run", str(server), str(RECIPE), *overrides((*CHOICES, "name='late'")), "--quorum", "1"]
        assert main(command) == 0
    finally:
        os.kill(int(hangs.split()[0]), signal.SIGCONT)
    assert {row["site"] for row in read_rows(server / "runs" / "late" / "train")} == {"south"}
    out = capsys.readouterr().out
    assert "round 0: waits for the reply of north\n" in out and out.count("without north") == 2


def test_every_cut_is_repeated_and_a_wrong_certificate_is_not() -> None:
    from flwr.supercore.retry import make_simple_http_retry_invoker

    class Cut(BaseException):
        """Raised by the wait between two attempts."""

    def attempt(error: Exception) -> type[BaseException]:
        def fail() -> None:
            raise error

        invoker = patient(make_simple_http_retry_invoker)()

        def stop(seconds: float) -> None:
            raise Cut

        invoker.wait_function = stop
        try:
            invoker.invoke(fail)
        except BaseException as raised:
            return type(raised)
        raise AssertionError

    for error in (
        httpx.ConnectError("[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol (_ssl.c:1006)"),
        httpx.ReadError("[SSL] record layer failure"),
        httpx.ProxyError("503 Service Unavailable"),
        httpx.ReadError("[Errno 104] Connection reset by peer"),
        httpx.WriteTimeout("The write operation timed out"),
        httpx.RemoteProtocolError("Server disconnected without sending a response."),
    ):
        assert is_cut(error) and attempt(error) is Cut, error
    wrong = httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate")
    assert not is_cut(wrong) and attempt(wrong) is httpx.ConnectError

    def answered(status: int, text: str = "") -> httpx.HTTPStatusError:
        request = httpx.Request("POST", "https://server/")
        return httpx.HTTPStatusError("", request=request, response=httpx.Response(status, text=text, request=request))

    for status in (408, 500, 502, 503, 504):
        assert attempt(answered(status)) is Cut, status
    assert attempt(answered(500, '{"detail": "Internal server error."}')) is Cut  # its database was locked
    assert attempt(answered(404)) is attempt(answered(500, '{"code": 1}')) is httpx.HTTPStatusError


def test_heartbeats_go_on_after_one_that_was_answered_with_an_error() -> None:
    from flwr.supercore.heartbeat import HeartbeatSender

    sent: list[bool] = []
    waited: list[float] = []

    def send() -> bool:
        sent.append(True)
        if len(sent) < 9:
            response = httpx.Response(500, request=httpx.Request("POST", "https://server/"))
            raise httpx.HTTPStatusError("", request=response.request, response=response)
        return True

    sender = kept_up(HeartbeatSender)(send)
    sender._retry_invoker.wait_function = waited.append
    sender._retry_invoker.invoke(sender._heartbeat)
    assert len(sent) == 9 and len(waited) == 8 and max(waited) <= 1.0


def test_a_run_is_followed_though_flower_does_not_answer_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from federation.flower import submission

    failures, asked = 0, 0

    def ask(*question: object, seconds: float) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        if asked <= failures:
            raise DataError("flwr list: database is locked")
        (tmp_path / "outcome.json").write_text("{}")
        return {"runs": [{"status": "running"}]}

    monkeypatch.setattr(submission, "ask_flower", ask)
    monkeypatch.setattr(submission, "running", lambda state: {})
    monkeypatch.setattr(submission, "_ASK_SECONDS", 0.0)
    monkeypatch.setattr(submission.time, "sleep", lambda seconds: None)
    folder: Any = SimpleNamespace(path=tmp_path)
    failures = 5
    submission._follow(tmp_path, folder, "1", lambda text: None)
    (tmp_path / "outcome.json").unlink()
    failures, asked = 6, 0
    with pytest.raises(DataError, match="database is locked"):
        submission._follow(tmp_path, folder, "1", lambda text: None)


def test_a_part_that_is_refused_is_sent_until_the_server_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of Flower refuses a part that it has stored already, and every part after 3 minutes of silence."""
    from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

    monkeypatch.setattr(supernode_process, "_PAUSE_SECONDS", 0.0)
    stored: set[str] = set()
    session = 0

    def send(message: str, tree: str, seconds: float) -> tuple[set[str], str]:
        nonlocal session
        session += 1
        return {"a", "b", "c"} - stored, str(session)

    def push(run: int, of: str, part: str, content: bytes) -> None:
        if of != str(session) or part in stored:
            raise ObjectPushError(part, run, of)
        stored.add(part)

    resent = supernode_process.Resent(send, push)
    missing, first = resent.send("message", "tree", 1.0)
    assert missing == {"a", "b", "c"}
    stored.add("a")  # its answer was cut
    resent.push_object(7, first, "a", b"")
    session += 1  # the server has forgotten the session
    resent.push_object(7, first, "b", b"")
    resent.push_object(7, first, "c", b"")
    assert stored == {"a", "b", "c"}


@pytest.mark.parametrize("is_read", [False, True])
@pytest.mark.parametrize("is_silent", [False, True])
def test_a_process_that_fails_without_a_reply_has_one(is_read: bool, is_silent: bool) -> None:
    """It ended, or its heartbeats did not come; Flower replies to the message only if it was read, and is silent."""
    from datetime import timedelta

    from flwr.app import Message, Metadata, RecordDict
    from flwr.common.constant import SubStatus
    from flwr.supercore.constant import TaskType
    from flwr.supercore.corestate import in_memory_corestate
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

    state: Any = supernode_process.always_replying(InMemoryNodeState)(ObjectStoreFactory().store())
    state.set_node_id(11)
    metadata = Metadata(7, "question", 1, 11, "", "", time.time(), 3600.0, "train")
    state.store_message(Message(metadata=metadata, content=RecordDict()))
    task = state.create_task(task_type=TaskType.CLIENT_APP, run_id=7, fab_hash="")
    assert state.claim_task(task) and state.activate_task(task)
    if is_read:
        assert state.get_messages_legacy(run_ids=[7], is_reply=False, limit=1)
    assert not state.get_messages_legacy(is_reply=True)
    if is_silent:
        (record,) = state.task_token_store.values()
        record.active_until = in_memory_corestate.now() - timedelta(seconds=1)
    else:
        assert state.finish_task(task, SubStatus.FAILED, "no message")
    (answer,) = state.get_messages_legacy(is_reply=True)
    assert answer.has_error() and answer.metadata.reply_to_message_id == "question"
    state.finish_task(task, SubStatus.FAILED, "again")
    assert not state.get_messages_legacy(is_reply=True)


def test_flower_still_cuts_messages_and_repeats_requests_so(tmp_path: Path) -> None:
    import inspect

    from flwr.common import constant
    from flwr.supernode import fleet_http_client, fleet_http_connection, start_client_internal
    from flwr.supernode.nodestate import nodestate_factory

    assert 'getenv("FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE"' in inspect.getsource(constant)
    assert environment(tmp_path)["FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE"] == str(CHUNK_BYTES)
    source = inspect.getsource(fleet_http_connection)
    assert "retry_invoker = make_simple_http_retry_invoker()" in source
    assert source.count("retry_invoker.invoke(") >= 8
    assert source.count("HeartbeatSender(send_node_heartbeat)") == 1
    assert "timeout=HEARTBEAT_CALL_TIMEOUT" in inspect.getsource(fleet_http_client)
    order = "node.node_id, receive, send, get_run, get_fab, pull_object, push_object, confirm_message_received,"
    assert order in " ".join(source.split())
    assert "self.state_instance = InMemoryNodeState(" in inspect.getsource(nodestate_factory)
    assert "with http_request_response(" in inspect.getsource(start_client_internal)


def test_a_run_says_what_it_waits_for_and_is_never_silent_for_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from federation.flower import submission
    from federation.flower.driver import Notice

    now, said = [0.0], []
    monkeypatch.setattr(submission.time, "monotonic", lambda: now[0])
    quiet = submission._Quiet(tmp_path / "waiting.json", lambda text: said.append((now[0], text)))
    notice = Notice(tmp_path / "waiting.json")
    events = {5: "waits for sites: 1 of 2 connected (north)", 20: "round 0: waits for the reply of north, south",
              400: "round 1: waits for the reply of south"}  # fmt: skip
    for second in range(1000):
        now[0] = float(second)
        if second in events:
            notice.write(events[second])
        quiet.look(new=second in (300, 700))
    times = [at for at, _ in said]
    assert said[0] == (0.0, "waits for Flower to start the driver of the run")
    assert (5.0, events[5]) in said and (20.0, events[20]) in said
    lines = sorted([*times, 300.0, 700.0, 999.0])
    assert max(b - a for a, b in pairwise(lines)) < 60
    assert all(text.startswith(events[400] + " since ") for at, text in said if at > 450)
    assert len(said) < 30
