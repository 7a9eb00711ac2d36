"""The process that has the data: what it answers at its socket, and that what it loaded is what was approved."""

import hashlib
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Client, Listener
from pathlib import Path

import pytest
import torch

from federation.deploy.audit_log import read_log
from federation.deploy.data_process import APPROVED, BUNDLE, REFUSED, REQUEST, DataProcess
from federation.worker_pool import computing_with

from .deployment import BUNDLE as APPROVED_BUNDLE
from .deployment import Deployed


@pytest.fixture
def socket(deployed: Deployed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Socket of the data process of north."""
    path = tmp_path_factory.mktemp("socket") / "s"
    threads = torch.get_num_threads()
    threading.Thread(target=DataProcess(deployed.folders["north"].path, path).serve, daemon=True).start()
    while not _answers(path):
        time.sleep(0.01)
    torch.set_num_threads(threads)
    return path


def _answers(path: Path) -> bool:
    """The socket's file is there a moment before anybody listens."""
    with suppress(OSError):
        Client(str(path), family="AF_UNIX").close()
        return True
    return False


def ask(socket: Path, message: bytes) -> bytes:
    with Client(str(socket), family="AF_UNIX") as connection:
        connection.send_bytes(message)
        return connection.recv_bytes()


@pytest.mark.slow
def test_a_round_through_the_data_process_is_the_round_without_it(deployed: Deployed, socket: Path) -> None:
    expected = deployed.train("without")
    shutil.rmtree(deployed.folders["north"].state(deployed.run))  # else it would repeat its replies
    deployed.channel.answers["north"] = lambda data: ask(socket, REQUEST + data)
    assert deployed.train("with") == expected
    assert deployed.events("north").count("reply") == 6


def test_bundles_are_approved_by_their_hash_and_refusals_are_on_record(deployed: Deployed, socket: Path) -> None:
    digest = hashlib.sha256(APPROVED_BUNDLE).hexdigest()
    assert ask(socket, BUNDLE + f"{digest} 10".encode()) == APPROVED
    for wrong in (b"0" * 64 + b" 10", b"", b"\xff\xfe", digest[:-1].encode()):
        assert ask(socket, BUNDLE + wrong) == REFUSED
    assert ask(socket, b"x" + digest.encode()) == REFUSED
    refused = [e.facts["bundle"] for e in read_log(deployed.folders["north"].audit.path) if e.event == "bundle refused"]
    assert len(refused) == 5 and refused[0] == "0" * 64


def test_an_approval_that_was_taken_back_counts_at_once(deployed: Deployed, socket: Path) -> None:
    question = BUNDLE + f"{hashlib.sha256(APPROVED_BUNDLE).hexdigest()} 10".encode()
    assert ask(socket, question) == APPROVED
    deployed.folders["north"].approvals.remove(deployed.run)
    assert ask(socket, question) == REFUSED


def test_software_that_changed_since_the_start_is_refused_though_it_is_approved(
    deployed: Deployed, socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("approval", "site_service"):
        monkeypatch.setattr(f"federation.deploy.{module}.software_digest", lambda: "0" * 64)
    deployed.channel.answers["north"] = lambda data: ask(socket, REQUEST + data)
    with pytest.raises(Exception, match="has not approved"):
        deployed.train()
    assert "not approved: the installed software changed since the start of the site" in deployed.refusals("north")[0]


def test_a_site_trains_with_the_threads_of_its_settings(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, found = deployed.folders["north"], list[int]()
    settings = folder.path / "site.toml"
    assert "threads = 1\n" in settings.read_text()

    def listen(path: str, family: str) -> Listener:
        found.append(torch.get_num_threads())
        raise KeyboardInterrupt

    monkeypatch.setattr("federation.deploy.data_process.Listener", listen)
    for threads in (1, 3):
        settings.write_text(settings.read_text().replace("threads = 1", f"threads = {threads}"))
        with computing_with(2), pytest.raises(KeyboardInterrupt):
            DataProcess(folder.path, folder.path / "socket").serve()
    assert found == [1, 3]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what Flower imports
def test_the_process_that_flower_starts_uses_the_same_words(deployed: Deployed, socket: Path) -> None:
    """It imports nothing of fedrecon, so it defines the words of the data process a second time."""
    from federation.flower import client_process

    def unused(*arguments: object) -> None: ...

    assert (client_process.REQUEST, client_process.BUNDLE, client_process.APPROVED) == (REQUEST, BUNDLE, APPROVED)
    with Client(str(socket), family="AF_UNIX") as connection:
        look = client_process._replacements(connection, unused, unused)["install_from_fab"]
        look(APPROVED_BUNDLE, skip_prompt=True)
        with pytest.raises(client_process.RefusedError):
            look(APPROVED_BUNDLE + b"x", skip_prompt=True)


def test_the_process_that_flower_starts_imports_neither_torch_nor_fedrecon() -> None:
    file = Path(__file__).parents[3] / "federation" / "flower" / "client_process.py"
    found = "{'torch', 'federation', 'recon'} & {*sys.modules}"
    code = f"import runpy, sys; runpy.run_path({str(file)!r}); print({found})"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
