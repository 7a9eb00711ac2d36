"""A TLS proxy on the only open port: forwards the calls that sites need to Flower's SuperLink, refuses all others.

The SuperLink serves sites, runs and administration on one port; administration needs no authentication.

The proxy is run by its path and imports neither torch nor fedrecon: little code is exposed to the network.
"""

import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

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
#: Answer to all other calls.
NOT_FOR_SITES = "not for sites\n"
#: Headers of one connection, which are not forwarded.
_HOP = {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailers", "transfer-encoding",
        "upgrade", "host"}  # fmt: skip
_SECONDS = 120.0


def proxy_app(
    upstream: str,
    *,
    max_bytes: int,
    authority: Path | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> ASGIApp:
    """Forward allowed calls to ``upstream``, e.g. ``https://127.0.0.1:9093`` with a certificate of ``authority``.

    The raw path must equal an entry of :data:`ALLOWED`, so that no encoding, doubled slash or ``..`` reaches another
    path. The method must be POST. A body of more than ``max_bytes`` is refused.
    """
    verify = ssl.create_default_context(cafile=str(authority)) if authority is not None else True
    client = httpx.AsyncClient(base_url=upstream, timeout=_SECONDS, transport=transport, verify=verify, trust_env=False)

    async def forward(request: Request) -> Response:
        path = request.scope["raw_path"].decode("ascii", "replace")
        if request.method != "POST" or path not in ALLOWED or request.url.query:
            return PlainTextResponse(NOT_FOR_SITES, 403)
        if int(request.headers.get("content-length", "0")) > max_bytes:
            return PlainTextResponse("too large\n", 413)
        body = _Limited(request, max_bytes)
        headers = [(name, value) for name, value in request.headers.items() if name not in _HOP]
        try:
            outgoing = client.build_request("POST", path, headers=headers, content=body.chunks())
            answer = await client.send(outgoing, stream=True)
        except httpx.HTTPError:
            if body.exceeded:
                return PlainTextResponse("too large\n", 413)
            return PlainTextResponse("the SuperLink does not answer\n", 502)
        passed = {name: value for name, value in answer.headers.items() if name not in _HOP}
        close = BackgroundTask(answer.aclose)
        return StreamingResponse(answer.aiter_raw(), answer.status_code, passed, background=close)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await client.aclose()

    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    return Starlette(routes=[Route("/{path:path}", forward, methods=methods)], lifespan=lifespan)


class _Limited:
    """The body of a request, cut once it is too long, whatever its header states."""

    def __init__(self, request: Request, most: int) -> None:
        self.request, self.most, self.exceeded = request, most, False

    async def chunks(self) -> AsyncIterator[bytes]:
        seen = 0
        async for chunk in self.request.stream():
            seen += len(chunk)
            if seen > self.most:
                self.exceeded = True
                raise httpx.WriteError("too large")
            yield chunk


def main() -> None:
    """``python -EP proxy.py DIR PORT LINK BYTES``: serve on a port, with the certificates of a server's folder.

    LINK is the SuperLink's port on this machine, BYTES the largest size of a body.
    """
    path, (port, link, max_bytes) = Path(sys.argv[1]), map(int, sys.argv[2:])
    uvicorn.run(
        proxy_app(f"https://127.0.0.1:{link}", max_bytes=max_bytes, authority=path / "ca.crt"),
        host="0.0.0.0",
        port=port,
        ssl_certfile=path / "server.crt",
        ssl_keyfile=str(path / "server.key"),
        log_level="warning",
        server_header=False,
    )


if __name__ == "__main__":
    main()
