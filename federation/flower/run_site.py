"""Inspect and approve bundles, start a site."""

import ssl
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing.connection import Client
from pathlib import Path

import httpx

from recon import DataError, write_atomically

from ..deploy.approval import Approval
from ..deploy.audit_log import read_log
from ..deploy.site_folder import SiteFolder, without_password
from ..recipes import Recipe, attach_base
from . import client_process
from .bundle import base_beside, read_bundle
from .processes import (
    STATE,
    SUPERNODE,
    TASK_LAUNCHER,
    Child,
    Supervisor,
    environment,
    free_port,
    running,
    start_detached,
    with_programs,
)
from .proxy import NOT_FOR_SITES

_START_SECONDS = 90.0
_REACH_SECONDS = 20.0
#: Flower's SuperNode logs this once the server has accepted it.
_CONNECTED = b"SuperNode ID:"


def look_at(folder: SiteFolder, bundle: Path) -> tuple[Recipe, Recipe, Approval]:
    """Read a bundle and compute the approval that would accept it at a site.

    Returns
    -------
        The recipe of the bundle, the same recipe with the path of the base beside the bundle, and the approval.

    Raises
    ------
    DataError
        If the file is no bundle of fedrecon, its base is missing, or its network is larger than the policy allows.
    """
    _, recipe, approval = read_bundle(bundle, folder.policy.maximum_parameters)
    return recipe, attach_base(recipe, base_beside(bundle)), approval


def approve(folder: SiteFolder, bundle: Path) -> Approval:
    """Approve a bundle with its recipe, its base and the installed software.

    Raises
    ------
    DataError
        As for :func:`look_at`.
    """
    content, recipe, approval = read_bundle(bundle, folder.policy.maximum_parameters)
    base = attach_base(recipe, base_beside(bundle)).network.base
    folder.approvals.add(approval, recipe, None if base is None else Path(base).read_bytes())
    write_atomically(folder.path / "approvals" / approval.run / "bundle.fab", content)
    folder.audit.append(
        "approved", run=approval.run, method=recipe.name, bundle=approval.bundle, software=approval.software
    )
    return approval


def serve_site(folder: SiteFolder) -> str:
    """Run data process and SuperNode until a signal. Returns which of them ended by itself, or an empty text.

    Raises
    ------
    DataError
        If the server cannot be reached, or a process that the SuperNode would start accepts an unapproved bundle.
    """
    for _ in read_log(folder.audit.path):
        pass  # raises if the log was altered
    _ = folder.policy, folder.key, folder.server_key  # raise if one cannot be used
    folder.manifest.torch_device()
    reach(folder)
    path, port = folder.path, free_port()
    # Not in the site's folder: the path of a socket may have at most 100 characters.
    with tempfile.TemporaryDirectory(prefix="fedrecon-", ignore_cleanup_errors=True) as private:
        socket = Path(private) / "socket"
        settings = _site_environment(folder, socket)
        data_process = [sys.executable, "-m", "federation.deploy.data_process", str(path.resolve()), str(socket)]
        supernode = [
            sys.executable, str(SUPERNODE), "--superlink", folder.settings.server,
            "--root-certificates", str(path / "ca.crt"), "--auth-supernode-private-key", str(path / "site.key"),
            "--host", "127.0.0.1", "--port", str(port),
        ]  # fmt: skip

        log = path / "logs" / "data.log"

        def test(process: subprocess.Popen[bytes]) -> None:
            wait_for_data_process(socket, process, log)
            self_test(settings)
            folder.audit.append("self-test passed")

        folder.audit.append("site started", server=folder.settings.server)
        ended = Supervisor(path / STATE, {}).run(
            [
                Child("data process", data_process, environment(path / "flower"), log, test),
                Child("SuperNode", supernode, settings, path / "logs" / "supernode.log"),
            ]
        )
    folder.audit.append("site stopped", reason=ended)
    return ended


def reach(folder: SiteFolder) -> None:
    """Check that the server of the federation answers at the address in ``site.toml``.

    Raises
    ------
    DataError
        With the reason and what to check, if it does not.
    """
    table = folder.settings
    trust = ssl.create_default_context(cafile=str(folder.path / "ca.crt"))
    way = f"through {without_password(table.proxy)}" if table.proxy else "directly"
    try:
        with httpx.Client(verify=trust, proxy=table.proxy or None, trust_env=False, timeout=_REACH_SECONDS) as client:
            answer = client.get(f"https://{table.server}/")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        text = without_password(" ".join(str(error).split())) or type(error).__name__
        raise DataError(
            f"{table.server}: cannot be reached {way} ({text}); check that the server runs, address and proxy in "
            f"{folder.path / 'site.toml'}, the firewall, and {folder.path / 'ca.crt'}"
        ) from None
    if (answer.status_code, answer.text) != (403, NOT_FOR_SITES):
        raise DataError(f"{table.server}: another program answers {way}, not a server of fedrecon; correct the address")


def wait_for_data_process(socket: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the data process accepts connections.

    Raises
    ------
    DataError
        If it ends or does not answer in time.
    """
    end = time.monotonic() + _START_SECONDS
    while True:
        with suppress(OSError):
            Client(str(socket), family="AF_UNIX").close()
            return
        if process.poll() is not None or time.monotonic() > end:
            raise DataError(f"{log}: the data process did not start; the log gives the reason")
        time.sleep(0.1)


def _site_environment(folder: SiteFolder, socket: Path) -> dict[str, str]:
    """Environment in which `flwr-clientapp` is our program, which knows the socket of the data process."""
    programs = {"flwr-clientapp": Path(client_process.__file__).resolve(), **TASK_LAUNCHER}
    settings = environment(folder.path / "flower", **{client_process.SOCKET_VARIABLE: str(socket)})
    settings = with_programs(settings, folder.path / "bin", programs)
    if folder.settings.proxy:
        settings |= {"HTTPS_PROXY": folder.settings.proxy, "NO_PROXY": "127.0.0.1"}
    return settings


def self_test(settings: dict[str, str]) -> None:
    """Run the program that the SuperNode runs with an unapproved bundle, which it must refuse.

    Raises
    ------
    DataError
        If it did not refuse the bundle, or failed.
    """
    command = ["flwr-clientapp", "--self-test"]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0 or done.stdout.strip() != "refused":
        said = " ".join((done.stderr or done.stdout).split())[-300:]
        raise DataError(f"self-test: an unapproved bundle was not refused; the site does not start ({said})")


def start_site(folder: SiteFolder) -> bool:
    """Start the site in the background. Returns whether it is connected to the server.

    Raises
    ------
    DataError
        If it runs already, the server cannot be reached or does not accept it, or the self-test fails.
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
                f"{log}: the server does not accept the site: its key is not enrolled or revoked, or another site with "
                "the same key is connected (also one just killed: try again); ask the server's engineer"
            )
        time.sleep(0.3)
    return False
