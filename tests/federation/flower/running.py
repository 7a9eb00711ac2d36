"""A federation of real processes: made, run, ended with nothing left, and what of it is compared."""

import select
import socket
import socketserver
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from federation import make_demo_sites
from federation.cli.main import main
from federation.flower.processes import free_port, listens
from federation.recipes.recipe_library import LIBRARY
from federation.rounds.round_log import read_rows
from federation.sites import SimulatedSite
from recon import Simulation

RECIPE = LIBRARY / "fedavg.toml"
NAMES = ("north", "south")


def deploy(*arguments: object) -> None:
    assert main(["deploy", *map(str, arguments)]) == 0


def overrides(choices: tuple[str, ...]) -> list[str]:
    return [word for choice in choices for word in ("--set", choice)]


class HttpProxy(socketserver.ThreadingTCPServer):
    """An HTTP proxy of a hospital: CONNECT to one address and nothing else, which it cannot look into.

    With ``cut_after`` it cuts each connection after so many seconds; all connections share ``rate`` bytes per second.
    """

    daemon_threads = True

    def __init__(self, port: int, cut_after: float | None = None, rate: float | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.port, self.allowed = port, f"localhost:{port}"
        self.cut_after, self.rate = cut_after, rate
        self.seen: list[str] = []
        self.bytes = self.cuts = 0
        self._turn, self._free = threading.Lock(), 0.0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def carry(self, size: int) -> None:
        """Wait until a line of this rate has carried so many bytes more."""
        with self._turn:
            self.bytes += size
            now = time.monotonic()
            self._free = max(self._free, now) + (size / self.rate if self.rate else 0.0)
            wait = self._free - now
        time.sleep(wait)


class _Tunnel(socketserver.StreamRequestHandler):
    server: HttpProxy

    def handle(self) -> None:
        asked = self.rfile.readline().decode()
        while self.rfile.readline().strip():
            pass
        self.server.seen.append(asked.strip())
        method, target, _ = asked.split()
        if (method, target) != ("CONNECT", self.server.allowed):
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            return
        host, port = target.split(":")
        with suppress(ConnectionError), socket.create_connection((host, int(port))) as outside:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            ends = {self.connection: outside, outside: self.connection}
            end_of_line = time.monotonic() + (self.server.cut_after or 1e9)
            while time.monotonic() < end_of_line:
                for end in select.select(list(ends), [], [], 0.1)[0]:
                    data = end.recv(2**14)
                    if not data:
                        return
                    self.server.carry(len(data))
                    ends[end].sendall(data)
            self.server.cuts += 1
            for end in ends:
                end.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )  # a reset, as of a cut line
                end.close()


@contextmanager
def http_proxy(**options: float) -> Iterator[HttpProxy]:
    """One that runs, and leads to a port that is free."""
    with HttpProxy(free_port(), **options) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()


def make_site(path: Path, name: str, server: Path, port: int, *arguments: object) -> Path:
    """The folder of a site with the data of ``name``, not enrolled."""
    deploy("site", "init", path, "--server", f"localhost:{port}", "--ca", server / "ca.crt",
           "--server-key", server / "signing.key.pub", "--data", server.parent / "data" / f"{name}.toml",
           *arguments)  # fmt: skip
    policy = path / "policy.toml"
    policy.write_text(policy.read_text().replace("minimum_slices = 16", "minimum_slices = 2"))
    return path


@contextmanager
def running_federation(path: Path, choices: tuple[str, ...], port: int, proxy: str) -> Iterator[Path]:
    """A server and two sites that run and have approved, north through a proxy; nothing is left of them afterwards."""
    sites = [SimulatedSite(name, 2, "t1", Simulation("random", 2, 0.2, noise_std=0.01)) for name in NAMES]
    make_demo_sites(path / "data", size=24, train=1, validation=1, test=1, slices=2, sites=sites)
    server = path / "server"
    deploy("init", server, "--host", "localhost", "--port", port)
    try:
        deploy("server", "start", server)
        deploy("propose", server, RECIPE, *overrides(choices))
        for name in NAMES:
            site = make_site(path / name, name, server, port, *(("--proxy", proxy) if name == "north" else ()))
            deploy("enroll", server, "--site", name, "--key", site / "site.key.pub")
            deploy("site", "approve", site, server / "runs" / "fedavg" / "fedavg.fab", "--yes")
            deploy("site", "start", site)
        yield path
    finally:
        for name in NAMES:
            main(["deploy", "site", "stop", str(path / name)])
        main(["deploy", "server", "stop", str(server)])
        assert not listens(port)
        end = time.monotonic() + 30  # Flower's apps look every second whether their supervisor lives
        while (left := processes(path)) and time.monotonic() < end:
            time.sleep(0.5)
        assert left == []


def approve_run(federation: Path, name: str, choices: Sequence[str]) -> None:
    """Propose a run under a name of its own, as a run starts once only; both sites approve it."""
    server = federation / "server"
    deploy("propose", server, RECIPE, *overrides((*choices, f"name='{name}'")))
    for site in NAMES:
        deploy("site", "approve", federation / site, server / "runs" / name / f"{name}.fab", "--yes")


def processes(path: Path) -> list[str]:
    """Number and command of the processes that name this folder in their command."""
    command = ["ps", "-ww", "-eo", "pid,args"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in listed if str(path) in line]


def bits(run: Path) -> list[tuple[int, str, str, str, str]]:
    """Digests of all parameters by round and site: loaded, kept, aggregated."""
    names = ("round", "site", "loaded_digest", "kept_digest", "shared_digest_after")
    return [tuple(row[name] for name in names) for row in read_rows(run)]
