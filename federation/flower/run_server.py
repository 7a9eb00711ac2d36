"""Start the server, enroll and revoke sites."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import tomli_w

from recon import DataError, write_atomically

from ..deploy.keys import PublicKey
from ..deploy.server_folder import ServerFolder
from .processes import (
    CONNECTION,
    STATE,
    TASK_LAUNCHER,
    Child,
    Supervisor,
    environment,
    free_port,
    listens,
    program,
    running,
    start_detached,
    with_programs,
)

_START_SECONDS = 90.0
_ANSWER_SECONDS = 120.0
_PROXY = Path(__file__).resolve().with_name("proxy.py")


def serve(folder: ServerFolder) -> str:
    """Run SuperLink, proxy and status page until a signal. Returns which of them ended by itself, or an empty text."""
    table, path = folder.settings, folder.path
    link = table.link_port or free_port()
    home = path / "flower" / "home"
    connection = {"address": f"127.0.0.1:{link}", "root-certificates": str((path / "ca.crt").resolve())}
    write_atomically(
        home / "config.toml", tomli_w.dumps({"superlink": {"default": CONNECTION, CONNECTION: connection}}).encode()
    )
    superlink = [
        program("flower-superlink"), "--host", "127.0.0.1", "--port", str(link),
        "--ssl-certfile", str(path / "server.crt"), "--ssl-keyfile", str(path / "server.key"),
        "--ssl-ca-certfile", str(path / "ca.crt"), "--database", str(path / "flower" / "link.db"),
        "--enable-supernode-auth", "--disable-runtime-dependency-installation",
    ]  # fmt: skip
    limit = int(table.megabytes_per_message * 1e6)
    proxy = [sys.executable, "-E", "-P", "-u", str(_PROXY), *map(str, (path, table.port, link, limit))]
    page_port = table.page_port or free_port()
    page = [sys.executable, "-m", "federation.flower.status_page", str(path), str(page_port)]
    logs, settings = path / "logs", with_programs(environment(home), path / "bin", TASK_LAUNCHER)
    folder.audit.append("server started", port=table.port)
    ended = Supervisor(path / STATE, {"link_port": link, "page_port": page_port}).run(
        [
            Child("SuperLink", superlink, settings, logs / "superlink.log"),
            Child("proxy", proxy, settings, logs / "proxy.log"),
            Child("status page", page, settings, logs / "page.log"),
        ]
    )
    folder.audit.append("server stopped", reason=ended)
    return ended


def start_server(folder: ServerFolder) -> int:
    """Start the server in the background and wait until sites can reach it. Returns the port of its status page.

    Raises
    ------
    DataError
        If it runs already, another program uses its port, or it does not start.
    """
    if running(folder.path / STATE) is not None:
        raise DataError(f"{folder.path}: the server is running already")
    if listens(folder.settings.port):
        raise DataError(f"port {folder.settings.port}: another program listens there; choose another in server.toml")
    command = [sys.executable, "-m", "federation.cli", "deploy", "server", "start", str(folder.path), "--foreground"]
    start_detached(command, folder.path / STATE, folder.path / "logs" / "server.log")
    state = running(folder.path / STATE) or {}
    end = time.monotonic() + _START_SECONDS
    while not (listens(int(str(state["link_port"]))) and listens(folder.settings.port)):
        if running(folder.path / STATE) is None or time.monotonic() > end:
            raise DataError(f"{folder.path / 'logs'}: the server did not start; read its logs there")
        time.sleep(0.3)
    return int(str(state["page_port"]))


def page_port(folder: ServerFolder) -> int | None:
    """Port of the status page; None if the server does not run."""
    state = running(folder.path / STATE)
    return None if state is None else int(str(state["page_port"]))


def enroll(folder: ServerFolder, name: str, key_file: Path) -> int:
    """Bind the key of a site to its name, in Flower's list and in ours. Returns Flower's number for the key.

    Raises
    ------
    DataError
        If the key or the name cannot be used, or the server does not run.
    """
    key = PublicKey.read(key_file)
    folder.require_new(name, key)
    found = ask_flower(folder, "supernode", "register", str(key_file.resolve()), CONNECTION, "--name", name)
    node = int(found["node-id"])
    folder.enroll(name, key, node)
    return node


def revoke(folder: ServerFolder, name: str) -> None:
    """Exclude a site at once: remove its key from Flower's list and from ours.

    Raises
    ------
    DataError
        If the site does not take part, or the server does not run.
    """
    site = folder.members().get(name)
    if site is not None:
        ask_flower(folder, "supernode", "unregister", str(site.node_id), CONNECTION)
    folder.revoke(name)


def ask_flower(folder: ServerFolder, *arguments: str, seconds: float = _ANSWER_SECONDS) -> dict[str, Any]:
    """Call Flower's command line on the running server. Returns its JSON output.

    Raises
    ------
    DataError
        If the server does not run, does not answer within ``seconds``, or the command fails (with its message).
    """
    if running(folder.path / STATE) is None:
        raise DataError(f"{folder.path}: the server does not run; `fedrecon deploy server start {folder.path}`")
    command = [program("flwr"), *arguments, "--format", "json"]
    settings = environment(folder.path / "flower" / "home")
    try:
        done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        asked = f"flwr {' '.join(arguments[:2])}"
        logs = folder.path / "logs"
        raise DataError(f"{asked}: no answer in {seconds:.0f} s; read {logs}, then try again") from None
    begin = done.stdout.find("{")
    try:
        found: dict[str, Any] = json.loads(done.stdout[begin:]) if begin >= 0 else {}
    except ValueError:
        found = {}
    if done.returncode != 0 or not found.get("success", True) or not found:
        said = found.get("error-message") or f"{done.stdout} {done.stderr}"
        raise DataError(f"flwr {' '.join(arguments[:2])}: {' '.join(str(said).split())[:500]}")
    return found
