"""A TLS proxy on the only open port: forwards the calls that sites need to Flower's SuperLink, refuses all others.

The SuperLink serves sites, runs and administration on one port; administration needs no authentication. It also reads
a request whole before it looks at the sender's key. So this proxy looks at the key first, which Flower's sites send in
the headers of each request, and bounds time, size and number of what it accepts (:class:`Limits`).

The proxy is run by its path and imports neither torch nor fedrecon: little code is exposed to the network.
"""

import asyncio
import json
import socket
import ssl
import sys
import time
from base64 import b64decode
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

#: Calls of sites in flwr 1.41 and 1.42, without registration: the server enrolls keys itself.
ALLOWED = frozenset(
    f"/v1/fleet/{name}"
    for name in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "get-fab",
        "push-object",
        "pull-object",
        "confirm-message-received",
    )
)
_PULL_MESSAGES = "/v1/fleet/pull-messages"
#: Calls that a site makes whether or not it has received a message.
_ANY_TIME = {f"/v1/fleet/{name}" for name in ("activate-node", "deactivate-node", "send-node-heartbeat")}
#: Answer to all other calls.
NOT_FOR_SITES = "not for sites\n"
#: Headers in which a site of flwr 1.41 and 1.42 signs the time of each request with its node key.
KEY_HEADER, TIME_HEADER, SIGNATURE_HEADER = "flwr-public-key", "flwr-timestamp", "flwr-signature"
#: Headers of one connection, which are not forwarded.
_HOP = {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailers", "transfer-encoding",
        "upgrade", "host"}  # fmt: skip
_SECONDS = 120.0
_CLOSE = {"connection": "close"}


@dataclass(frozen=True)
class Limits:
    """Limits of the open port; SECURITY.md states the defaults.

    ``strangers`` and ``strangers_per_address`` count the connections on which no enrolled key has been shown yet, from
    before the TLS handshake on; ``per_site`` counts those of one key. One connection more closes the oldest of the same
    kind, so that a site can always connect. ``silent_seconds`` is the longest pause within a body, ``body_seconds`` the
    time for a body beside one second for each ``slowest_rate`` bytes.
    """

    strangers: int = 512
    strangers_per_address: int = 64
    per_site: int = 16
    handshake_seconds: float = 10.0
    header_seconds: float = 20.0
    header_bytes: int = 16 * 1024
    body_bytes: int = 8 * 1024**2
    silent_seconds: float = 60.0
    body_seconds: float = 60.0
    slowest_rate: float = 2000.0
    clock_seconds: float = 600.0


class SiteKeys:
    """The keys of the enrolled sites in ``sites.json``, which is read again after each change."""

    def __init__(self, path: Path, clock_seconds: float) -> None:
        self.path, self.clock_seconds = path, clock_seconds
        self._read_at: tuple[int, int] | None = None
        self._names: dict[bytes, str] = {}

    def owner(self, headers: Mapping[str, str]) -> str | None:
        """Name of the site whose key signed the time in these headers; None for anyone else."""
        try:
            pem = b64decode(headers[KEY_HEADER], validate=True)
            name, signed = self._by_key()[pem], headers[TIME_HEADER]
            age = datetime.now(UTC) - datetime.fromisoformat(signed).astimezone(UTC)
            key = serialization.load_pem_public_key(pem)
            if abs(age.total_seconds()) > self.clock_seconds or not isinstance(key, ec.EllipticCurvePublicKey):
                return None
            key.verify(b64decode(headers[SIGNATURE_HEADER], validate=True), signed.encode(), ec.ECDSA(hashes.SHA256()))
        except (KeyError, ValueError, OverflowError, InvalidSignature):
            return None
        return name

    def _by_key(self) -> Mapping[bytes, str]:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # the last good list stays valid
            state = self.path.stat()
            if self._read_at != (state.st_mtime_ns, state.st_ino):
                sites = json.loads(self.path.read_bytes())
                self._names = {_pem(site["key"]): name for name, site in sites.items() if site["revoked"] is None}
                self._read_at = state.st_mtime_ns, state.st_ino
        return self._names


def _pem(line: str) -> bytes:
    """A public key as in :data:`KEY_HEADER`, from its line of OpenSSH."""
    key = serialization.load_ssh_public_key(line.encode())
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def proxy_app(
    upstream: str,
    *,
    max_bytes: int,
    authority: Path | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    owner: Callable[[Mapping[str, str]], str | None] | None = None,
    limits: Limits | None = None,
) -> ASGIApp:
    """Forward allowed calls to ``upstream``, e.g. ``https://127.0.0.1:9093`` with a certificate of ``authority``.

    The raw path must equal an entry of :data:`ALLOWED`, so that no encoding, doubled slash or ``..`` reaches another
    path. The method must be POST. A request whose headers have no ``owner`` is refused before its body is read (None:
    the SuperLink alone looks at the key). A body of more than ``max_bytes``, or one that does not come, is refused.

    Flower hands out a message once. If the connection is cut then, this proxy hands it out again at the next call.
    """
    limits = limits or Limits()
    verify = ssl.create_default_context(cafile=str(authority)) if authority is not None else True
    client = httpx.AsyncClient(
        base_url=upstream,
        timeout=_SECONDS,
        transport=transport,
        verify=verify,
        trust_env=False,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),  # the open port bounds their number
    )

    handed_out: dict[str, Response] = {}  # by site, until the site asks for the parts of the message

    async def forward(request: Request) -> Response:
        path = request.scope["raw_path"].decode("ascii", "replace")
        if request.method != "POST" or path not in ALLOWED or request.url.query:
            return PlainTextResponse(NOT_FOR_SITES, 403, _CLOSE)
        site = None
        if owner is not None:
            site = owner(request.headers)
            if site is None:
                return PlainTextResponse("no key of an enrolled site signed this request\n", 401, _CLOSE)
            connection: Connection | None = request.scope.get("state", {}).get("connection")
            if connection is not None:
                connection.show(site)
        if int(request.headers.get("content-length", "0")) > max_bytes:
            return PlainTextResponse("too large\n", 413, _CLOSE)
        if path == _PULL_MESSAGES and site in handed_out:
            return handed_out[site]
        if path != _PULL_MESSAGES and path not in _ANY_TIME:
            handed_out.pop(site or "", None)
        body = _Body(request, max_bytes, limits)
        headers = [(name, value) for name, value in request.headers.items() if name not in _HOP]
        try:
            outgoing = client.build_request("POST", path, headers=headers, content=body.chunks())
            answer = await client.send(outgoing, stream=True)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except httpx.HTTPError:
            return body.refusal or PlainTextResponse("the SuperLink does not answer\n", 502, _CLOSE)
        passed = {name: value for name, value in answer.headers.items() if name not in _HOP}
        if path == _PULL_MESSAGES and site is not None and answer.is_success:
            message = Response(b"".join([part async for part in answer.aiter_raw()]), answer.status_code, passed)
            await answer.aclose()
            if message.body:
                handed_out[site] = message
            return message
        close = BackgroundTask(answer.aclose)
        return StreamingResponse(answer.aiter_raw(), answer.status_code, passed, background=close)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await client.aclose()

    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    return Starlette(routes=[Route("/{path:path}", forward, methods=methods)], lifespan=lifespan)


class _Body:
    """The body of a request, cut once it is too long or too slow, whatever its header states."""

    def __init__(self, request: Request, most: int, limits: Limits) -> None:
        self.request, self.most, self.limits = request, most, limits
        self.refusal: Response | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        limits, seen, begin = self.limits, 0, time.monotonic()
        stream = aiter(self.request.stream())
        while True:
            left = begin + limits.body_seconds + seen / limits.slowest_rate - time.monotonic()
            try:
                chunk = await asyncio.wait_for(anext(stream), max(0.0, min(left, limits.silent_seconds)))
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise self._cut("the body did not come in time\n", 408) from None
            seen += len(chunk)
            if seen > self.most:
                raise self._cut("too large\n", 413)
            yield chunk

    def _cut(self, text: str, status: int) -> httpx.WriteError:
        self.refusal = PlainTextResponse(text, status, _CLOSE)
        return httpx.WriteError(text)


class OpenPort:
    """Accepts connections within :class:`Limits` and serves an app on them.

    Each connection belongs to an account: an address, or the site whose key it has shown.
    """

    def __init__(self, app: ASGIApp, certificate: Path, key: Path, limits: Limits) -> None:
        self.limits = limits
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(certificate, key)
        self.config = uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            log_level="error",
            proxy_headers=False,
            server_header=False,
            h11_max_incomplete_event_size=limits.header_bytes,
            timeout_keep_alive=round(limits.header_seconds),
        )
        self.config.load()
        self.state = ServerState()
        #: Open connections, the oldest first.
        self.strangers: dict[Connection, str] = {}
        self.sites: dict[Connection, str] = {}
        #: What was closed or refused since the last line of the log.
        self.closed: Counter[str] = Counter()

    async def serve(self, listener: socket.socket) -> None:
        """Accept connections until this task is cancelled."""
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        report = loop.create_task(self._report())
        try:
            while True:
                try:
                    accepted, address = await loop.sock_accept(listener)
                except OSError:  # out of file descriptors
                    await asyncio.sleep(0.1)
                    continue
                Connection(self, str(address[0])).begin(loop, accepted)
                await asyncio.sleep(0)  # or a full queue of connections would keep all others waiting
        finally:
            report.cancel()

    def count(self, connection: "Connection", address: str) -> None:
        """Add a stranger, and close the oldest ones beyond the limits."""
        self.strangers[connection] = address
        _make_room(self.strangers, address, self.limits.strangers_per_address)
        if len(self.strangers) > self.limits.strangers:
            next(iter(self.strangers)).abort("strangers")

    def recognize(self, connection: "Connection", site: str) -> None:
        """Add a connection to the account of a site, as its newest."""
        if self.strangers.pop(connection, None) or self.sites.pop(connection, None):
            self.sites[connection] = site
            _make_room(self.sites, site, self.limits.per_site)

    def forget(self, connection: "Connection") -> None:
        self.strangers.pop(connection, None)
        self.sites.pop(connection, None)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(60.0)
            if self.closed:
                said = ", ".join(f"{count} {what}" for what, count in sorted(self.closed.items()))
                open_now = f"{len(self.strangers)} of strangers and {len(self.sites)} of sites are open"
                print(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} connections closed: {said}; {open_now}", flush=True)
                self.closed.clear()


def _make_room(accounts: "dict[Connection, str]", account: str, most: int) -> None:
    """Close the oldest connection of an account that has more than ``most``."""
    own = [connection for connection, holder in accounts.items() if holder == account]
    if len(own) > most:
        own[0].abort(f"too many of {account}")


class Connection(H11Protocol):
    """One connection, counted from its acceptance to its end, with a deadline for each header."""

    def __init__(self, port: OpenPort, address: str) -> None:
        super().__init__(port.config, port.state, {})
        self.app_state = {"connection": self}
        self.port, self.address = port, address
        self._opening: asyncio.Task[Any] | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def begin(self, loop: asyncio.AbstractEventLoop, accepted: socket.socket) -> None:
        """Count the connection and start its TLS handshake."""
        self.port.count(self, self.address)
        self._opening = loop.create_task(self._open(loop, accepted))
        self._opening.add_done_callback(lambda opening: accepted.close() if opening.cancelled() else None)

    async def _open(self, loop: asyncio.AbstractEventLoop, accepted: socket.socket) -> None:
        seconds, tls = self.port.limits.handshake_seconds, self.port.context
        try:
            await loop.connect_accepted_socket(
                lambda: self, accepted, ssl=tls, ssl_handshake_timeout=seconds, ssl_shutdown_timeout=seconds
            )
        except OSError:  # also an error of TLS and the timeout
            self.port.forget(self)

    def show(self, site: str) -> None:
        """A request on this connection was signed by the key of a site."""
        self.port.recognize(self, site)

    def abort(self, why: str) -> None:
        """Close the connection without waiting for the other side."""
        self.port.closed[why] += 1
        self.port.forget(self)
        if self.transport is not None:
            self.transport.abort()
        elif self._opening is not None:
            self._opening.cancel()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_header()

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:  # a header is complete
            self._stop_clock()

    def on_response_complete(self) -> None:
        before = self.cycle
        super().on_response_complete()
        if self.cycle is before:  # else the next request had arrived already
            self._expect_header()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        self.port.forget(self)
        super().connection_lost(exc)

    def _expect_header(self) -> None:
        self._stop_clock()
        self._deadline = self.loop.call_later(self.port.limits.header_seconds, self.abort, "without a header")

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def main() -> None:
    """``python -EP proxy.py DIR PORT LINK BYTES``: serve on a port, with the certificates of a server's folder.

    LINK is the SuperLink's port on this machine, BYTES the largest size of a body.
    """
    path, (port, link, max_bytes) = Path(sys.argv[1]), map(int, sys.argv[2:])
    limits = Limits()
    app = proxy_app(
        f"https://127.0.0.1:{link}",
        max_bytes=min(max_bytes, limits.body_bytes),
        authority=path / "ca.crt",
        owner=SiteKeys(path / "sites.json", limits.clock_seconds).owner,
        limits=limits,
    )
    open_port = OpenPort(app, path / "server.crt", path / "server.key", limits)
    with socket.create_server(("0.0.0.0", port), backlog=1024) as listener, suppress(KeyboardInterrupt):
        asyncio.run(open_port.serve(listener))


if __name__ == "__main__":
    main()
