"""The same federation as real processes over TLS: weights as in process, and the holes of the engine closed."""

import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from skimage.io import imread

from federation import load_recipe, train_run
from federation.cli.deploy import STOPPED
from federation.cli.main import main
from federation.deploy.audit_log import read_log
from federation.deploy.site_folder import SiteFolder
from federation.flower.processes import free_port
from federation.rounds.round_log import read_rows
from federation.sites import load_federation
from recon import DataError

from .running import NAMES, RECIPE, HttpProxy, bits, deploy, make_site, overrides, processes

pytestmark = [pytest.mark.deployment, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
CHOICES = ("network.cascades=2", "network.regularizer=cnn", "network.channels=4", "network.depth=2",
           "federation.rounds=2", "training.steps_per_round=4", "evaluation.arms=[]")  # fmt: skip


@pytest.fixture(scope="module")
def here(federation: Path) -> Path:
    """The run in process."""
    sites, out = load_federation(federation / "data"), federation / "here"
    return train_run(load_recipe(RECIPE, CHOICES), sites, out, jobs=1, resume=False, say=str).path


def test_weights_are_those_of_the_run_in_process(federation: Path, here: Path, way_out: HttpProxy) -> None:
    begin = time.monotonic()
    deploy("run", federation / "server", RECIPE, *overrides(CHOICES))
    seconds = time.monotonic() - begin
    there = federation / "server" / "runs" / "fedavg" / "train"
    rows = bits(there)
    assert rows == bits(here) and {row[0] for row in rows} == {0, 1, 2}
    assert len({row[2] for row in rows}) == 3  # every round changed the shared parameters
    for name in NAMES:
        events = [entry.event for entry in read_log(federation / name / "audit.jsonl")]
        assert events.count("reply") == 3 and "refused" not in events
        deploy("audit", "verify", federation / name / "audit.jsonl", "--owner", name,
               "--key", f"server={federation / 'server' / 'signing.key.pub'}",
               "--seen", federation / "server" / "audit.jsonl")  # fmt: skip
    print(f"\n2 rounds and a last scoring of 2 sites: {seconds:.0f} s")
    # North has no other way than the proxy, which saw the server's address and nothing in the clear.
    assert set(way_out.seen) == {f"CONNECT localhost:{way_out.port} HTTP/1.1"}
    assert way_out.bytes > 2 * sum(row["bytes_up"] for row in read_rows(there) if row["site"] == "north") > 0


def test_all_files_are_for_their_owner_alone(federation: Path, here: Path) -> None:
    for name in ("server", *NAMES):
        files = [path for path in (federation / name, *(federation / name).rglob("*")) if not path.is_symlink()]
        assert [path for path in files if path.stat().st_mode & 0o077] == []
    assert {"link.db", "audit.jsonl"} <= {path.name for path in (federation / "server").rglob("*")}


def test_adapters_find_their_base_at_server_and_sites(federation: Path, here: Path) -> None:
    server, recipe = federation / "server", RECIPE.with_name("fed_scales.toml")
    choices = (*CHOICES, "federation.rounds=1", f"network.base='{here}'")
    deploy("propose", server, recipe, *overrides(choices))
    for name in NAMES:
        deploy("site", "approve", federation / name, server / "runs" / "fed_scales" / "fed_scales.fab", "--yes")
    deploy("run", server, recipe, *overrides(choices))
    sites, out = load_federation(federation / "data"), federation / "here_scales"
    alone = train_run(load_recipe(recipe, choices), sites, out, jobs=1, resume=False, say=str)
    assert bits(server / "runs" / "fed_scales" / "train") == bits(alone.path)


def test_the_status_page_in_a_browser(federation: Path, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if browser is None:
        pytest.skip("no browser is installed")
    port = json.loads((federation / "server" / "running.json").read_text())["page_port"]
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}",
               "--virtual-time-budget=3000"]  # fmt: skip
    url = f"http://127.0.0.1:{port}/"
    seen = subprocess.run([*command, "--dump-dom", url], capture_output=True, text=True, check=True, timeout=60).stdout
    for name in NAMES:
        assert name in seen
    assert "validation score" in seen and "<svg" in seen
    picture = tmp_path / "page.png"
    subprocess.run([*command, f"--screenshot={picture}", url], capture_output=True, check=True, timeout=60)
    assert imread(picture).std() > 5, "the page is blank"


@pytest.mark.fault("unapproved bundle")
def test_a_bundle_that_was_not_approved_is_refused_at_every_site(federation: Path) -> None:
    code = main(
        [
            "deploy",
            "run",
            str(federation / "server"),
            str(RECIPE),
            "--name",
            "other",
            *overrides(CHOICES),
            "--set",
            "federation.seed=1",
        ]
    )
    assert code == 2
    for name in NAMES:
        log, end = federation / name / "audit.jsonl", time.monotonic() + 60  # the first refusal has ended the run
        while "bundle refused" not in (events := [entry.event for entry in read_log(log)]) and time.monotonic() < end:
            time.sleep(0.5)
        assert "bundle refused" in events


def test_a_stranger_with_the_certificate_can_do_nothing(federation: Path, tmp_path: Path) -> None:
    port = json.loads((federation / "server" / "running.json").read_text())["link_port"]
    table = (federation / "server" / "server.toml").read_text()
    public = int(table.split("port = ")[1].split()[0])
    with httpx.Client(verify=str(federation / "server" / "ca.crt"), base_url=f"https://localhost:{public}") as client:
        for path in (
            "/v1/control/list-runs",
            "/v1/control/register-node",
            "/v1/fleet/register-node",
            "/docs",
            "/health",
        ):
            assert client.post(path).status_code == 403
        assert client.post("/v1/fleet/pull-messages").status_code in (400, 401, 403, 415, 422)
    assert port != public
    (facing,) = (line for line in processes(federation) if "proxy.py" in line)
    assert "torch" not in Path(f"/proc/{facing.split()[0]}/maps").read_text()


@pytest.mark.fault("open port held by stalled connections")
def test_a_run_ends_while_strangers_hold_connections_of_the_port(
    federation: Path, here: Path, way_out: HttpProxy
) -> None:
    """From the address of the sites: 75 without a header and 75 whose announced body never comes."""
    server = federation / "server"
    trust = ssl.create_default_context(cafile=str(server / "ca.crt"))
    stop = threading.Event()

    def hold(begin: bytes) -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), contextlib.ExitStack() as held:
                plain = held.enter_context(socket.create_connection(("127.0.0.1", way_out.port), timeout=5.0))
                connection = held.enter_context(trust.wrap_socket(plain, server_hostname="localhost"))
                connection.sendall(begin)
                while not stop.is_set() and connection.recv(2**12):
                    pass
            stop.wait(1.0)

    body = b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: localhost\r\ncontent-length: 19000000\r\n\r\n" + bytes(1000)
    threads = [threading.Thread(target=hold, args=(begin,), daemon=True) for begin in [b"", body] * 75]
    for thread in threads:
        thread.start()
    try:
        deploy("run", server, RECIPE, *overrides(CHOICES), "--name", "held")
    finally:
        stop.set()
    assert bits(server / "runs" / "held" / "train") == bits(here)


@pytest.mark.fault("unregistered key")
def test_a_site_whose_key_is_not_enrolled_is_not_taken(
    federation: Path, way_out: HttpProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    site = make_site(federation / "stranger", "south", federation / "server", way_out.port)
    assert main(["deploy", "site", "start", str(site)]) == 2
    assert "the server does not accept the site: its key is not enrolled" in capsys.readouterr().err
    assert main(["deploy", "site", "status", str(site)]) == STOPPED
    assert "stopped by itself: SuperNode ended" in capsys.readouterr().out


@pytest.mark.fault("duplicate key")
def test_a_second_site_with_the_same_key_is_not_taken(
    federation: Path, way_out: HttpProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    south, server, twin = federation / "south", federation / "server", federation / "twin"
    shutil.copytree(south, twin, ignore=shutil.ignore_patterns("running.*", "logs", "flower"))
    assert main(["deploy", "enroll", str(server), "--site", "twin", "--key", str(twin / "site.key.pub")]) == 2
    assert "this key belongs to site 'south'" in capsys.readouterr().err
    assert main(["deploy", "site", "start", str(twin)]) == 2
    assert "another site with the same key is connected" in capsys.readouterr().err
    deploy("site", "status", south)
    assert "site south runs" in capsys.readouterr().out


def test_what_is_between_site_and_server_is_told_in_one_line(
    federation: Path, way_out: HttpProxy, tmp_path: Path
) -> None:
    from federation.flower.run_site import reach

    server = federation / "server"
    reach(SiteFolder(federation / "north"))
    deploy("init", tmp_path / "other", "--host", "localhost")
    strange = make_site(tmp_path / "strange", "south", server, way_out.port)
    (strange / "ca.crt").write_bytes((tmp_path / "other" / "ca.crt").read_bytes())
    closed = make_site(tmp_path / "closed", "south", server, free_port())
    shut = make_site(tmp_path / "shut", "south", server, free_port(), "--proxy", way_out.url)
    page = json.loads((server / "running.json").read_text())["page_port"]
    plain = make_site(tmp_path / "plain", "south", server, page)
    for site, reason in (
        (strange, r"cannot be reached directly \(.*certificate verify failed"),
        (closed, r"cannot be reached directly \(.*refused"),
        (shut, rf"cannot be reached through {way_out.url} \(403 Forbidden"),
        (plain, "cannot be reached directly"),
    ):
        with pytest.raises(DataError, match=reason):
            reach(SiteFolder(site))


def test_the_self_test_fails_without_the_checks(federation: Path, tmp_path: Path) -> None:
    from federation.flower.run_site import _site_environment, self_test, wait_for_data_process

    folder, socket = SiteFolder(federation / "north"), tmp_path / "private" / "socket"
    socket.parent.mkdir()
    settings = _site_environment(folder, socket)
    with pytest.raises(DataError, match="does not start"):
        self_test(settings)  # no data process
    with subprocess.Popen(
        [sys.executable, "-m", "federation.deploy.data_process", str(folder.path), str(socket)]
    ) as process:
        try:
            wait_for_data_process(socket, process, tmp_path / "data.log")
            self_test(settings)
            with pytest.raises(DataError, match="does not start"):
                self_test(settings | {"PATH": str(Path(sys.executable).parent)})
        finally:
            process.terminate()
    assert not socket.parent.exists()
