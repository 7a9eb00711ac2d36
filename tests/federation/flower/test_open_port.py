"""The open port under load: strangers and a hostile site hold connections, an honest site is answered all the same."""

import asyncio
import contextlib
import datetime
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from federation.deploy.keys import PublicKey
from federation.deploy.server_folder import ServerFolder
from federation.flower.proxy import Limits, OpenPort, SiteKeys, proxy_app

#: As deployed, with deadlines of a second.
LIMITS = replace(Limits(), handshake_seconds=1.0, header_seconds=1.0, silent_seconds=1.0, body_seconds=1.0)
PATH = "/v1/fleet/push-object"


class Site:
    """A node key, and requests signed with it as Flower's sites sign them."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP384R1())
        line = self.key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        self.public = PublicKey.parse(line.decode())

    def headers(self, at: datetime.datetime | None = None) -> dict[str, str]:
        pem = self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        signed = (at or datetime.datetime.now(datetime.UTC)).isoformat()
        signature = self.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256()))
        return {
            "flwr-public-key": b64encode(pem).decode(),
            "flwr-timestamp": signed,
            "flwr-signature": b64encode(signature).decode(),
        }


class Running:
    """The open port of a server with sites north and south, before a SuperLink that counts what reaches it."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.folder = ServerFolder.create(path / "server", host="localhost", port=9092)
        self.north, self.south = Site(), Site()
        self.folder.enroll("north", self.north.public, 1)
        self.folder.enroll("south", self.south.public, 2)
        self.reached: list[int] = []
        link = Starlette(routes=[Route("/{path:path}", self._link, methods=["POST"])])
        self.keys = SiteKeys(self.folder.path / "sites.json", limits.clock_seconds)
        app = proxy_app("http://link", max_bytes=limits.body_bytes, transport=httpx.ASGITransport(link),
                        owner=self.keys.owner, limits=limits)  # fmt: skip
        self.open = OpenPort(app, self.folder.path / "server.crt", self.folder.path / "server.key", limits)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self.listener.getsockname()[1]
        self.trust = ssl.create_default_context(cafile=str(self.folder.path / "ca.crt"))

    async def _link(self, request: Request) -> Response:
        self.reached.append(len(await request.body()))
        return Response(b"answer")

    def post(self, headers: dict[str, str], content: bytes = b"body") -> httpx.Response:
        with httpx.Client(verify=self.trust, timeout=10.0) as client:
            return client.post(f"https://localhost:{self.port}{PATH}", content=content, headers=headers)

    def connect(self, *, tls: bool = True) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=10.0)
        return self.trust.wrap_socket(plain, server_hostname="localhost") if tls else plain

    def begin(self, headers: dict[str, str], announced: int, sent: bytes) -> socket.socket:
        """A request whose body does not come."""
        connection = self.connect()
        lines = [f"POST {PATH} HTTP/1.1", "host: localhost", f"content-length: {announced}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + sent)
        return connection


@contextlib.contextmanager
def serving(path: Path, limits: Limits = LIMITS) -> Iterator[Running]:
    running = Running(path, limits)
    loop = asyncio.new_event_loop()
    task = loop.create_task(running.open.serve(running.listener))

    def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        for left in asyncio.all_tasks(loop):
            left.cancel()
        loop.run_until_complete(asyncio.sleep(0.1))
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield running
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(20)
        running.listener.close()
        assert not thread.is_alive()


def is_closed(connection: socket.socket, seconds: float = 10.0) -> bool:
    """Whether the other side closes, after whatever it answers."""
    connection.settimeout(seconds)
    with contextlib.suppress(TimeoutError):
        try:
            while connection.recv(2**16):
                pass
        except OSError as error:
            return not isinstance(error, TimeoutError)
        return True
    return False


def wait_until(holds: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


def part_of_a_header(running: Running) -> socket.socket:
    connection = running.connect()
    connection.sendall(f"POST {PATH} HTTP/1.1\r\nx: ".encode())
    return connection


def forged(running: Running) -> dict[str, str]:
    """The public key of north, which is no secret, with another key's signature."""
    return running.north.headers() | {"flwr-signature": Site().headers()["flwr-signature"]}


STALLS: dict[str, Callable[[Running], socket.socket]] = {
    "no TLS": lambda running: running.connect(tls=False),
    "no header": lambda running: running.connect(),
    "part of a header": part_of_a_header,
    "a body, no key": lambda running: running.begin({}, 19_000_000, b"x" * 1000),
    "a body, a key that is not enrolled": lambda running: running.begin(Site().headers(), 1_000_000, b"x"),
    "a body, north's public key": lambda running: running.begin(forged(running), 1_000_000, b"x"),
    "a body, south's key": lambda running: running.begin(running.south.headers(), 1_000_000, b"x"),
}


@pytest.mark.fault("open port held by stalled connections")
@pytest.mark.parametrize("name", STALLS)
def test_150_stalled_connections_do_not_stop_a_site(tmp_path: Path, name: str) -> None:
    limits = replace(LIMITS, handshake_seconds=60.0, header_seconds=60.0, silent_seconds=60.0, body_seconds=60.0)
    with serving(tmp_path, limits) as running, contextlib.ExitStack() as held:
        for _ in range(150):
            held.enter_context(STALLS[name](running))
        begin = time.monotonic()
        assert running.post(running.north.headers()).content == b"answer"
        assert time.monotonic() - begin < 5.0
        assert wait_until(lambda: len(running.open.strangers) <= limits.strangers_per_address)
        assert list(running.open.sites.values()).count("south") <= limits.per_site
        assert running.reached == [4]  # no other body, nor a part of one, arrived behind the proxy


def test_a_stalled_connection_is_closed_in_time(tmp_path: Path) -> None:
    with serving(tmp_path) as running, contextlib.ExitStack() as held:
        connections = {name: held.enter_context(stall(running)) for name, stall in STALLS.items()}
        assert {name for name, connection in connections.items() if not is_closed(connection, 5.0)} == set()
        assert wait_until(lambda: not running.open.strangers and not running.open.sites)


def test_a_header_that_comes_slowly_is_closed(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        with running.connect() as slow, pytest.raises(OSError):
            for letter in f"POST {PATH} HTTP/1.1\r\nhost: " + "x" * 200:
                slow.sendall(letter.encode())
                time.sleep(0.1)
        assert running.post(running.north.headers()).status_code == 200


def test_a_header_that_never_ends_is_closed(tmp_path: Path) -> None:
    with serving(tmp_path, replace(LIMITS, header_seconds=60.0)) as running:
        with running.connect() as endless:
            endless.settimeout(5.0)
            endless.sendall(f"POST {PATH} HTTP/1.1\r\n".encode())
            with contextlib.suppress(OSError):
                for number in range(LIMITS.header_bytes // 100 + 10):
                    endless.sendall(f"x-{number}: {'y' * 100}\r\n".encode())
            assert is_closed(endless)
        assert running.post(running.north.headers()).status_code == 200


def test_a_body_that_comes_slowly_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path, replace(LIMITS, slowest_rate=1e6)) as running:
        connection = running.begin(running.north.headers(), 1_000_000, b"x")
        with connection, contextlib.suppress(OSError):
            for _ in range(30):
                connection.sendall(b"x")
                time.sleep(0.1)
            assert is_closed(connection)
        assert running.reached == []


@pytest.mark.fault("request without an enrolled key")
def test_the_key_is_looked_at_before_the_body(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        old = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=LIMITS.clock_seconds + 60)
        right = running.north.headers()
        wrong: list[dict[str, str]] = [{}, forged(running), Site().headers(), running.north.headers(old)]
        wrong += [right | {name: "?"} for name in right]
        wrong += [{name: value for name, value in right.items() if name != left_out} for left_out in right]
        for headers in wrong:
            assert running.post(headers).status_code == 401
        assert running.reached == []
        assert running.post(running.north.headers()).status_code == 200
        running.folder.revoke("north")
        assert running.post(running.north.headers()).status_code == 401
        assert running.post(running.south.headers()).status_code == 200


def test_a_new_connection_of_a_site_replaces_its_oldest(tmp_path: Path) -> None:
    """A link that is cut leaves connections behind that look open; they must not use up the site's own limit."""
    limits = replace(LIMITS, silent_seconds=60.0, body_seconds=60.0, per_site=4)
    with serving(tmp_path, limits) as running, contextlib.ExitStack() as held:
        lost = [held.enter_context(running.begin(running.north.headers(), 100, b"")) for _ in range(8)]
        assert wait_until(lambda: running.open.closed["too many of north"] >= 4)
        assert [is_closed(connection, 0.3) for connection in lost] == [True] * 4 + [False] * 4
        assert running.post(running.north.headers()).status_code == 200


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what Flower imports
def test_the_headers_are_those_of_flower(tmp_path: Path) -> None:
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    running = Running(tmp_path, LIMITS)
    running.listener.close()
    key = running.south.key
    request = httpx.Request("POST", "https://server/")
    context: Any = type("Context", (), {"request": request})
    NodeAuthHttpInterceptor(key, key.public_key()).intercept(context, lambda _: httpx.Response(200))
    assert running.keys.owner(request.headers) == "south"
