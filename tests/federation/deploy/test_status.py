"""What server and site say of themselves follows from their records."""

import json
from pathlib import Path

import pytest

from federation.deploy.keys import PublicKey, SigningKey
from federation.deploy.server_folder import WARN_DAYS, ServerFolder
from federation.deploy.status import runs_of, server_page, server_status, sites_of


@pytest.fixture
def server(tmp_path: Path) -> ServerFolder:
    folder = ServerFolder.create(tmp_path / "fed", host="localhost", port=9092)
    for number, name in enumerate(("north", "south")):
        SigningKey.create(tmp_path / name)
        folder.enroll(name, PublicKey.read(tmp_path / f"{name}.pub"), number)
    for round in range(3):
        folder.audit.append("request", site="north", round=round, bytes=1_000_000)
        folder.audit.append("reply", site="north", round=round, bytes=2_000_000, reason="")
    folder.audit.append("reply refused", site="south", round=1, reason="update: <b>NaN</b>")
    folder.audit.append("request", site="stranger", round=1, bytes=5)
    return folder


def started(folder: ServerFolder, name: str, rounds: list[int], outcome: dict[str, object] | None) -> None:
    place = folder.run_folder(name)
    place.mkdir(parents=True)
    (place / "job.json").write_text("{}")
    rows = [{"round": r, "rounds": 4, "time": 0, "scores": {"north": 30.0 + r, "south": None}} for r in rounds]
    (place / "progress.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if outcome is not None:
        (place / "outcome.json").write_text(json.dumps(outcome))


def test_sites_are_counted_from_the_log(server: ServerFolder) -> None:
    sites = sites_of(server)
    assert sites.keys() == {"north", "south"}
    assert (sites["north"].bytes_down, sites["north"].bytes_up) == (3_000_000, 6_000_000)
    assert sites["south"].last_answer == "never" and sites["south"].refused == ["round 1: update: <b>NaN</b>"]
    server.revoke("south")
    assert sites_of(server)["south"].state.startswith("revoked ")


def test_runs_say_how_far_they_are_and_how_they_ended(server: ServerFolder) -> None:
    assert runs_of(server) == []
    started(server, "a", [], None)
    started(server, "b", [0, 1, 1, 2], None)
    (server.run_folder("b") / "waiting.json").write_text(
        '{"text": "round 3: waits for the reply of south", "since": 0}'
    )
    started(server, "c", [0], {"ok": True})
    started(server, "d", [0], {"ok": False, "error": "round 1: site south: is not connected"})
    states = {run.name: run.state for run in runs_of(server)}
    assert states == {
        "a": "no round yet, running",
        "b": "round 2 of 4, running: round 3: waits for the reply of south",
        "c": "round 0 of 4, done",
        "d": "round 0 of 4, ended: round 1: site south: is not connected",
    }
    assert runs_of(server)[1].scores == {"north": [(0.0, 30.0), (1.0, 31.0), (2.0, 32.0)]}
    lines = list(server_status(server))
    assert any("north" in line and "6.00 MB up, 3.00 MB down; 0 refused" in line for line in lines)


def test_the_page_shows_the_same_and_loads_and_runs_nothing(server: ServerFolder) -> None:
    started(server, "fedavg", [0, 1], {"ok": True})
    page = server_page(server)
    for text in ("north", "6.00", "round 1 of 4, done", "fedavg: validation score", "update: &lt;b&gt;NaN&lt;/b&gt;"):
        assert text in page
    assert "<script" not in page and "http" not in page.split("<body>")[1]


def test_certificates_that_end_soon_are_warned_of(server: ServerFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server.warnings() == []
    monkeypatch.setattr("federation.deploy.server_folder.WARN_DAYS", 400)
    assert [line.split(":")[0] for line in server.warnings()] == [str(server.path / "server.crt")]
    assert WARN_DAYS >= 14
