"""What an engineer does with a server and with a site: start, stop, enroll, run."""

import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import httpx
import tomli_w

from recon import DataError, write_atomically

from ..deploy.approval import Approval
from ..deploy.audit import read_log
from ..deploy.keys import PublicKey
from ..deploy.server_folder import ServerFolder
from ..deploy.site_folder import SiteFolder
from ..recipe import Recipe
from ..store import saved_rounds
from . import client_process
from .bundle import read_bundle, write_app
from .processes import (
    CONNECTION,
    STATE,
    Child,
    Supervisor,
    environment,
    free_port,
    held,
    is_held,
    listens,
    program,
    running,
    start_detached,
)
from .processes import stop as stop_process
from .proxy import NOT_FOR_SITES
from .server import DRIVER

Say = Callable[[str], None]
_START_SECONDS = 90.0
_REACH_SECONDS = 20.0
#: What Flower's SuperNode says once the server has taken it.
_CONNECTED = b"SuperNode ID:"
#: How often Flower is asked whether a run still lives.
_ASK_SECONDS = 20.0


# The server


def serve(folder: ServerFolder) -> str:
    """Run SuperLink and proxy until asked to end; why, if one of them ended by itself."""
    table, path = folder.table, folder.path
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
    proxy = [sys.executable, "-m", "federation.flower.proxy", str(path), str(link)]
    page_port = table.page_port or free_port()
    page = [sys.executable, "-m", "federation.flower.page", str(path), str(page_port)]
    logs, settings = path / "logs", environment(home)
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
    """Start the server in the background and wait until sites can reach it; the port of its status page.

    Raises
    ------
    DataError
        If it runs already, its port is taken, or it does not start.
    """
    if running(folder.path / STATE) is not None:
        raise DataError(f"{folder.path}: the server is running already")
    if listens(folder.table.port):
        raise DataError(f"port {folder.table.port}: something listens there already; choose another in server.toml")
    command = [sys.executable, "-m", "federation.cli", "deploy", "server", "start", str(folder.path), "--foreground"]
    start_detached(command, folder.path / STATE, folder.path / "logs" / "server.log")
    state = running(folder.path / STATE) or {}
    end = time.monotonic() + _START_SECONDS
    while not (listens(int(str(state["link_port"]))) and listens(folder.table.port)):
        if running(folder.path / STATE) is None or time.monotonic() > end:
            raise DataError(f"{folder.path / 'logs'}: the server did not start; its logs say why")
        time.sleep(0.3)
    return int(str(state["page_port"]))


def page_port(folder: ServerFolder) -> int | None:
    """Where the status page is, if the server runs."""
    state = running(folder.path / STATE)
    return None if state is None else int(str(state["page_port"]))


def stop_server(folder: ServerFolder) -> bool:
    """Stop it; whether it ran."""
    return stop_process(folder.path / STATE)


def enroll(folder: ServerFolder, name: str, key_file: Path) -> int:
    """Bind the key of a site to its name, in Flower's list and in ours; Flower's number of it.

    Raises
    ------
    DataError
        If the key or the name cannot be used, or the server does not run.
    """
    key = PublicKey.read(key_file)
    folder.require_new(name, key)
    found = _flwr(folder, "supernode", "register", str(key_file.resolve()), CONNECTION, "--name", name)
    node = int(found["node-id"])
    folder.enroll(name, key, node)
    return node


def revoke(folder: ServerFolder, name: str) -> None:
    """Shut a site out at once: its key is taken off Flower's list and off ours.

    Raises
    ------
    DataError
        If it does not take part, or the server does not run.
    """
    site = folder.members().get(name)
    if site is not None:
        _flwr(folder, "supernode", "unregister", str(site.node_id), CONNECTION)
    folder.revoke(name)


def propose(folder: ServerFolder, name: str, recipe: Recipe) -> tuple[Path, Approval]:
    """Write the bundle of a run, which the sites look at and approve.

    Raises
    ------
    DataError
        If a run of this name has another recipe.
    """
    place = folder.run_folder(name)
    bundle = place / f"{name}.fab"
    if bundle.exists() and read_bundle(bundle)[1].digest() != recipe.digest():
        raise DataError(f"{place}: holds a run with another recipe; choose another --name")
    content = write_app(place / "app", recipe)
    write_atomically(bundle, content)
    return bundle, Approval.of(content, recipe)


def run(
    folder: ServerFolder, name: str, recipe: Recipe, *, resume: bool, quorum: int | None, wait_seconds: float, say: Say
) -> Path:
    """Run a recipe at the sites and follow it to its end; the folder of what was trained.

    A run that is under way already, because who followed it was interrupted, is followed on with ``resume``.

    Raises
    ------
    DataError
        If it cannot be started, or ends without a result.
    """
    members = folder.members()
    if not members:
        raise DataError(f"{folder.path}: no site is enrolled; `fedrecon deploy enroll` them first")
    if quorum is not None and not 1 <= quorum <= len(members):
        raise DataError(f"--quorum {quorum}: expected 1 to {len(members)}, the number of sites")
    _, approval = propose(folder, name, recipe)
    place = folder.run_folder(name)
    if saved_rounds(place / "train" / "checkpoints") and not resume:
        raise DataError(f"{place}: holds a run already; --resume goes on with it, another --name begins anew")
    with held(place / "followed"):
        number = _number(place) if is_held(place / DRIVER) else None
        if number is None:
            number = _submit(folder, place, approval, resume=resume, quorum=quorum, wait_seconds=wait_seconds)
            say(f"run {name} at {len(members)} sites: {', '.join(members)} (Flower's run {number})")
        else:
            say(f"run {name} is under way (Flower's run {number})")
        try:
            _follow(place, folder, number, say)
        except KeyboardInterrupt:
            say(f"run {name} goes on at the server; `fedrecon deploy server stop {folder.path}` would end it")
            raise
    result = json.loads((place / "outcome.json").read_bytes())
    folder.audit.append("run ended", name=name, **result)
    if not result["ok"]:
        raise DataError(f"run {name}: {result['error']}")
    return place / "train"


def _number(place: Path) -> str | None:
    """Flower's number of a run that was submitted."""
    path = place / "flower.json"
    return str(json.loads(path.read_bytes())["run"]) if path.exists() else None


def _submit(
    folder: ServerFolder, place: Path, approval: Approval, *, resume: bool, quorum: int | None, wait_seconds: float
) -> str:
    """Hand a run to Flower, which starts its driver; Flower's number of it."""
    job = {
        "server": str(folder.path.resolve()),
        "run": approval.run,
        "resume": resume,
        "quorum": quorum,
        "wait_seconds": wait_seconds,
    }
    (place / "outcome.json").unlink(missing_ok=True)
    write_atomically(place / "job.json", json.dumps(job, indent=1).encode())
    config = f"folder={json.dumps(str(place.resolve()))}"
    number = str(_flwr(folder, "run", str(place / "app"), CONNECTION, "--run-config", config)["run-id"])
    write_atomically(place / "flower.json", json.dumps({"run": number}).encode())
    folder.audit.append("run started", name=place.name, run=approval.run, flower=number, resume=resume)
    return number


def _follow(place: Path, folder: ServerFolder, number: str, say: Say) -> None:
    """Say every round as it is done, until the run has ended.

    Raises
    ------
    DataError
        If the server was stopped, or the run ended without a word.
    """
    progress, outcome = place / "progress.jsonl", place / "outcome.json"
    told = len(progress.read_text().splitlines()) if progress.exists() else 0
    asked, ended = time.monotonic(), ""
    while not outcome.exists():
        told = _tell(progress, told, say)
        if running(folder.path / STATE) is None:
            raise DataError(f"{folder.path}: the server was stopped; start it, then the same command with --resume")
        if ended:
            raise DataError(f"{folder.path / 'logs'}: the run is {ended} without an outcome; then --resume goes on")
        if time.monotonic() - asked > _ASK_SECONDS:
            status = str(_flwr(folder, "list", CONNECTION, "--run-id", number)["runs"][0]["status"])
            asked, ended = time.monotonic(), status if status.startswith("finished") else ""
        time.sleep(0.5)
    _tell(progress, told, say)


def _tell(progress: Path, told: int, say: Say) -> int:
    lines = progress.read_text().splitlines() if progress.exists() else []
    for line in lines[told:]:
        row = json.loads(line)
        scores = "  ".join(
            f"{site} {'no score' if score is None else f'{score:.2f}'}" for site, score in row["scores"].items()
        )
        say(f"round {row['round']:3d}/{row['rounds']}  {scores}")
    return len(lines)


def _flwr(folder: ServerFolder, *arguments: str) -> dict[str, Any]:
    """Call Flower's command line on the running server.

    Raises
    ------
    DataError
        If the server does not run, or with what the command says.
    """
    if running(folder.path / STATE) is None:
        raise DataError(f"{folder.path}: the server does not run; `fedrecon deploy server start {folder.path}`")
    command = [program("flwr"), *arguments, "--format", "json"]
    settings = environment(folder.path / "flower" / "home")
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False, timeout=120)
    begin = done.stdout.find("{")
    try:
        found: dict[str, Any] = json.loads(done.stdout[begin:]) if begin >= 0 else {}
    except ValueError:
        found = {}
    if done.returncode != 0 or not found.get("success", True) or not found:
        said = found.get("error-message") or f"{done.stdout} {done.stderr}"
        raise DataError(f"flwr {' '.join(arguments[:2])}: {' '.join(str(said).split())[:500]}")
    return found


# A site


def look_at(bundle: Path) -> tuple[Recipe, Approval]:
    """What approving a bundle would mean."""
    return read_bundle(bundle)[1:]


def approve(folder: SiteFolder, bundle: Path) -> Approval:
    """Approve a bundle with its recipe and the software that is installed now.

    Raises
    ------
    DataError
        If it is no bundle of fedrecon.
    """
    content, recipe, approval = read_bundle(bundle)
    folder.approvals.add(approval, recipe)
    write_atomically(folder.path / "approvals" / approval.run / "bundle.fab", content)
    folder.audit.append(
        "approved", run=approval.run, method=recipe.name, bundle=approval.bundle, software=approval.software
    )
    return approval


def serve_site(folder: SiteFolder) -> str:
    """Run the SuperNode until asked to end; why, if it ended by itself.

    Raises
    ------
    DataError
        If the server is not there, or the guards do not hold in the processes that it would start.
    """
    for _ in read_log(folder.audit.path):
        pass  # one that was altered stops the site here
    _ = folder.policy, folder.manifest, folder.key, folder.server_key  # each is read, and refused in one line
    reach(folder)
    path, port = folder.path, free_port()
    # Not in the site's folder: the path of a socket may have 100 characters.
    with tempfile.TemporaryDirectory(prefix="fedrecon-", ignore_cleanup_errors=True) as private:
        socket = Path(private) / "door"
        settings = _site_environment(folder, socket)
        door = [sys.executable, "-m", "federation.deploy.door", str(path.resolve()), str(socket)]
        supernode = [
            program("flower-supernode"), "--superlink", folder.table.server,
            "--root-certificates", str(path / "ca.crt"), "--auth-supernode-private-key", str(path / "site.key"),
            "--host", "127.0.0.1", "--port", str(port),
        ]  # fmt: skip

        def opened(process: subprocess.Popen[bytes]) -> None:
            wait_for_door(socket, process, path / "logs" / "door.log")
            self_test(settings)
            folder.audit.append("self-test passed")

        folder.audit.append("site started", server=folder.table.server)
        ended = Supervisor(path / STATE, {}).run(
            [
                Child("door", door, environment(path / "flower"), path / "logs" / "door.log", opened),
                Child("SuperNode", supernode, settings, path / "logs" / "supernode.log"),
            ]
        )
    folder.audit.append("site stopped", reason=ended)
    return ended


def reach(folder: SiteFolder) -> None:
    """Look whether the federation's server answers where the site expects it.

    Raises
    ------
    DataError
        Saying what is in the way.
    """
    table = folder.table
    trust = ssl.create_default_context(cafile=str(folder.path / "ca.crt"))
    way = f"through {table.proxy}" if table.proxy else "directly"
    try:
        with httpx.Client(verify=trust, proxy=table.proxy or None, trust_env=False, timeout=_REACH_SECONDS) as client:
            answer = client.get(f"https://{table.server}/")
    except httpx.HTTPError as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{table.server}: cannot be reached {way} ({text}); see whether the server runs, the address and proxy in "
            f"{folder.path / 'site.toml'}, the firewall, and {folder.path / 'ca.crt'}"
        ) from None
    if (answer.status_code, answer.text) != (403, NOT_FOR_SITES):
        raise DataError(f"{table.server}: something answers {way}, but no server of a federation")


def wait_for_door(socket: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the site's door answers.

    Raises
    ------
    DataError
        If it does not.
    """
    end = time.monotonic() + _START_SECONDS
    while True:
        with suppress(OSError):
            Client(str(socket), family="AF_UNIX").close()
            return
        if process.poll() is not None or time.monotonic() > end:
            raise DataError(f"{log}: the process that reads the data did not start")
        time.sleep(0.1)


def _site_environment(folder: SiteFolder, socket: Path) -> dict[str, str]:
    """With a `flwr-clientapp` of our own before Flower's, which knows the socket of the site's door and no more."""
    own = folder.path / "bin"
    shim = own / "flwr-clientapp"
    file = str(Path(client_process.__file__).resolve())
    text = f"#!{sys.executable}\nimport runpy\n\nrunpy.run_path({file!r}, run_name='__main__')\n"
    write_atomically(shim, text.encode())
    shim.chmod(0o755)
    settings = environment(folder.path / "flower", **{client_process.DOOR_VARIABLE: str(socket)})
    settings["PATH"] = os.pathsep.join([str(own.resolve()), settings["PATH"]])
    if folder.table.proxy:
        settings |= {"HTTPS_PROXY": folder.table.proxy, "NO_PROXY": "127.0.0.1"}
    return settings


def self_test(settings: dict[str, str]) -> None:
    """Run what the SuperNode would run, with a bundle that nobody approved; it must be refused.

    Raises
    ------
    DataError
        If it was not, or the test could not be made.
    """
    command = ["flwr-clientapp", "--self-test"]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0 or done.stdout.strip() != "refused":
        said = " ".join((done.stderr or done.stdout).split())[-300:]
        raise DataError(f"self-test: an unapproved bundle was not refused; the site does not start ({said})")


def start_site(folder: SiteFolder) -> bool:
    """Start the site in the background; whether it is connected to the server by now.

    Raises
    ------
    DataError
        If it runs already, the server is not there or does not take it, or the self-test fails.
    """
    command = [sys.executable, "-m", "federation.cli", "deploy", "site", "start", str(folder.path), "--foreground"]
    log = folder.path / "logs" / "supernode.log"
    before = log.stat().st_size if log.exists() else 0
    start_detached(command, folder.path / STATE, folder.path / "logs" / "site.log")
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if log.exists() and _CONNECTED in log.read_bytes()[before:]:
            return True
        if running(folder.path / STATE) is None:
            raise DataError(
                f"{log}: the server does not take the site: its key is not enrolled or revoked, or another site with "
                "the same key is connected (one just killed counts: try again); ask the server's engineer"
            )
        time.sleep(0.3)
    return False


def stop_site(folder: SiteFolder) -> bool:
    """Stop it; whether it ran."""
    return stop_process(folder.path / STATE)


def is_running(path: Path) -> bool:
    """Whether a server or site of this folder runs."""
    return running(path / STATE) is not None
