"""The path filter: what of Flower's server can be reached from outside, letter by letter."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from federation.flower import proxy
from federation.flower.proxy import ALLOWED, proxy_app

SEEN: list[tuple[str, str, bytes]] = []


async def behind(request: Request) -> Response:
    body = await request.body()
    SEEN.append((request.method, request.scope["raw_path"].decode(), body))
    return Response(b"answer to " + body, 200, {"x-flower": "yes", "content-type": "application/x-protobuf"})


class Client:
    """Calls an app without a network; ``path`` goes over the wire letter by letter."""

    def __init__(self, app: Any) -> None:
        self.transport = httpx.ASGITransport(app)

    def call(self, method: str, path: str, content: Any = b"", **headers: str) -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=self.transport, base_url="http://proxy") as client:
                request = client.build_request(method, "/", content=content, headers=headers)
                request.url = request.url.copy_with(raw_path=path.encode())
                return await client.send(request)

        return asyncio.run(send())


def test_what_faces_the_outside_loads_neither_torch_nor_fedrecon() -> None:
    path = str(Path(proxy.__file__).resolve())
    code = f"import runpy, sys; runpy.run_path({path!r}); print(sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-E", "-P", "-c", code], capture_output=True, text=True, check=True)
    assert "'starlette'" in done.stdout
    for name in ("torch", "numpy", "federation", "recon", "physics", "flwr"):
        assert f"'{name}'" not in done.stdout


@pytest.fixture
def client() -> Client:
    SEEN.clear()
    upstream = Starlette(routes=[Route("/{path:path}", behind, methods=["GET", "POST", "PUT", "DELETE"])])
    return Client(proxy_app("http://link", max_bytes=1000, transport=httpx.ASGITransport(upstream)))


@pytest.mark.parametrize("path", sorted(ALLOWED))
def test_what_sites_need_is_passed_on(client: Client, path: str) -> None:
    answer = client.call("POST", path, b"body", node="signature")
    assert (answer.status_code, answer.content, answer.headers["x-flower"]) == (200, b"answer to body", "yes")
    assert [("POST", path, b"body")] == SEEN


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/push-messages",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/",
        "/v1/fleet",
        "/v1/fleet/get-run/",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/get-run%2f..%2f..%2fcontrol",
        "//v1/fleet/get-run",
        "/v1//fleet/get-run",
        "/V1/fleet/get-run",
        "/v1/fleet/get-run?a=1",
        "/docs",
        "/openapi.json",
        "/health",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_nothing_else_is(client: Client, path: str, method: str) -> None:
    assert client.call(method, path).status_code == 403
    assert SEEN == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
def test_only_posts_are(client: Client, method: str) -> None:
    assert client.call(method, "/v1/fleet/get-run").status_code == 403
    assert SEEN == []


@pytest.mark.fault("oversized message")
def test_long_bodies_are_refused_whatever_they_say_of_their_length(client: Client) -> None:
    assert client.call("POST", "/v1/fleet/push-object", bytes(1001)).status_code == 413

    async def unannounced() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield bytes(500)

    assert client.call("POST", "/v1/fleet/push-object", unannounced()).status_code == 413
    assert SEEN == []
    assert client.call("POST", "/v1/fleet/push-object", bytes(1000)).status_code == 200


def test_a_message_whose_delivery_was_cut_is_handed_out_again() -> None:
    """Flower hands out a message once; the site that received it then asks for its parts."""
    messages = {"north": [b"message 1", b"message 2"], "south": [b"message 3"]}

    async def link(request: Request) -> Response:
        waiting = messages[request.headers["site"]]
        return Response(waiting.pop(0) if request.url.path.endswith("pull-messages") and waiting else b"")

    upstream = Starlette(routes=[Route("/{path:path}", link, methods=["POST"])])
    transport = httpx.ASGITransport(upstream)
    client = Client(proxy_app("http://link", max_bytes=10, transport=transport, owner=lambda headers: headers["site"]))

    def call(name: str, site: str) -> bytes:
        return client.call("POST", f"/v1/fleet/{name}", b"x", site=site).content

    assert [call("pull-messages", "north") for _ in range(3)] == [b"message 1"] * 3
    assert call("send-node-heartbeat", "north") == b"" and call("pull-messages", "north") == b"message 1"
    assert call("pull-messages", "south") == b"message 3" and call("pull-object", "south") == b""
    assert call("pull-messages", "north") == b"message 1" and call("pull-object", "north") == b""
    assert [call("pull-messages", "north") for _ in range(2)] == [b"message 2"] * 2
    assert call("pull-messages", "south") == b""


def test_a_server_that_is_not_there_is_a_bad_gateway() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    client = Client(proxy_app("http://link", max_bytes=10, transport=httpx.MockTransport(refuse)))
    assert client.call("POST", "/v1/fleet/get-run", b"x").status_code == 502


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what Flower imports
def test_flower_still_names_its_paths_so() -> None:
    """A path that Flower no longer has, or a new one that sites need, would show here."""
    from flwr.superlink.routers.fleet.router import router

    names = {route.path for route in router.routes}  # type: ignore[attr-defined]
    assert names == ALLOWED | {"/v1/fleet/register-node", "/v1/fleet/unregister-node"}
