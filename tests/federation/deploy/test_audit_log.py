"""The audit log: chain, torn lines, several writers, signatures, an end that was cut off."""

import json
import multiprocessing
from pathlib import Path

import pytest

from federation.deploy.audit_log import COUNTERSIGNED, START, AuditLog, Head, heads_seen, read_log, verify_log
from federation.deploy.keys import SigningKey
from recon import DataError


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    log = AuditLog(tmp_path / "audit.jsonl", "north")
    for round in range(4):
        log.append("reply", round=round, bytes=100 + round)
    return log


def lines(log: AuditLog) -> list[bytes]:
    return log.path.read_bytes().splitlines()


def test_every_line_follows_from_the_one_before(log: AuditLog) -> None:
    entries = list(read_log(log.path))
    assert [(entry.number, entry.event, entry.facts["round"]) for entry in entries] == [
        (i, "reply", i) for i in range(4)
    ]
    assert [entry.previous for entry in entries] == [START, *(entry.hash for entry in entries[:-1])]
    assert log.head() == Head(4, entries[-1].hash) == verify_log(log.path, "north", {}).head
    assert AuditLog(log.path.with_name("none.jsonl"), "north").head() == Head(0, START)


@pytest.mark.parametrize("tamper", ["value", "removed", "swapped", "inserted", "first removed"])
def test_an_altered_log_is_found_out(log: AuditLog, tamper: str) -> None:
    found = lines(log)
    if tamper == "value":
        found[1] = found[1].replace(b": 101", b": 999")
    elif tamper == "removed":
        del found[2]
    elif tamper == "swapped":
        found[1], found[2] = found[2], found[1]
    elif tamper == "inserted":
        found.insert(2, found[1])
    else:
        del found[0]
    log.path.write_bytes(b"\n".join(found) + b"\n")
    with pytest.raises(DataError, match=r"line \d: is entry"):
        list(read_log(log.path))


def test_an_altered_last_line_shows_in_what_others_saw(log: AuditLog) -> None:
    head = log.head()
    found = lines(log)
    log.path.write_bytes(b"\n".join([*found[:-1], found[-1].replace(b": 103", b": 999")]) + b"\n")
    verify_log(log.path, "north", {})
    with pytest.raises(DataError, match="had another head: other logs recorded 4 entries"):
        verify_log(log.path, "north", {}, {head.count: head.hash})
    log.path.write_bytes(b"\n".join(found[:-2]) + b"\n")
    with pytest.raises(DataError, match="has fewer entries: other logs recorded 4"):
        verify_log(log.path, "north", {}, {head.count: head.hash})


def test_a_torn_line_is_dropped_and_told(log: AuditLog) -> None:
    with log.path.open("ab") as file:
        file.write(b'{"n": 4, "time"')
    assert len(list(read_log(log.path))) == 4
    log.append("reply", round=4)
    entries = list(read_log(log.path))
    assert [entry.event for entry in entries[-2:]] == ["torn line dropped", "reply"] and entries[-2].facts == {
        "bytes": 15
    }
    verify_log(log.path, "north", {})


def test_a_foreign_file_is_not_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text("something else\n")
    with pytest.raises(DataError, match="last line: is no entry"):
        AuditLog(path, "north").append("reply")
    assert path.read_text() == "something else\n"


def append_many(path: Path) -> None:
    log = AuditLog(path, "north")
    for _ in range(20):
        log.append("reply")


def test_several_processes_write_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=append_many, args=(path,)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert verify_log(path, "north", {}).head.count == 60


def test_heads_that_others_signed_are_checked(log: AuditLog, tmp_path: Path) -> None:
    key, stranger = (SigningKey.create(tmp_path / name) for name in ("server", "stranger"))
    signers = {"server": [stranger.public, key.public]}

    def countersign(head: Head, signer: SigningKey = key, by: str = "server") -> None:
        signature = signer.sign(head.statement("north"))
        log.append(COUNTERSIGNED, by=by, count=head.count, hash=head.hash, signature=signature)

    countersign(log.head())
    verified = verify_log(log.path, "north", signers)
    assert (verified.head.count, verified.countersigned, verified.last_countersigned) == (5, 1, 4)
    with pytest.raises(DataError, match="signature of 'server' is invalid"):
        verify_log(log.path, "north", {"server": [stranger.public]})
    with pytest.raises(DataError, match="is the log of 'north', expected the log of 'south'; correct --owner"):
        verify_log(log.path, "south", signers)
    with pytest.raises(DataError, match="given no key; add --key server=FILE"):
        verify_log(log.path, "north", {})

    good = log.path.read_bytes()
    for arguments, message in (
        ({"signer": SigningKey.create(tmp_path / "third")}, "is invalid"),
        ({"by": "stranger"}, "given server; add --key stranger=FILE"),
    ):
        countersign(log.head(), **arguments)  # type: ignore[arg-type]
        with pytest.raises(DataError, match=message):
            verify_log(log.path, "north", signers)
        log.path.write_bytes(good)
    countersign(Head(2, "0" * 64))
    with pytest.raises(DataError, match="is none of this log"):
        verify_log(log.path, "north", signers)


def test_a_log_that_was_written_anew_is_found_out_by_the_signatures(log: AuditLog, tmp_path: Path) -> None:
    """Whoever owns the file can make a new chain, but not the other side's signature of its heads."""
    key = SigningKey.create(tmp_path / "server")
    head = log.head()
    log.append(
        COUNTERSIGNED, by="server", count=head.count, hash=head.hash, signature=key.sign(head.statement("north"))
    )
    anew = AuditLog(tmp_path / "anew.jsonl", "north")
    for entry in read_log(log.path):
        anew.append(entry.event, **(dict(entry.facts) | ({"bytes": 0} if entry.event == "reply" else {})))
    with pytest.raises(DataError, match="is none of this log"):
        verify_log(anew.path, "north", {"server": [key.public]})


def test_heads_of_others_are_read_back(log: AuditLog) -> None:
    log.append("request", heads={"server": [7, "ab" * 32]})
    assert heads_seen(log.path, "server") == {7: "ab" * 32} and heads_seen(log.path, "south") == {}


def test_a_line_is_what_json_can_say(log: AuditLog) -> None:
    before = log.path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        log.append("reply", loss=float("nan"))
    with pytest.raises(DataError, match="at most"):
        log.append("reply", text="x" * 2**20)
    assert log.path.read_bytes() == before
    assert all(json.loads(line)["owner"] == "north" for line in lines(log))
