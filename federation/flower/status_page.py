"""The status page of a server, visible on this machine only: ``python -m federation.flower.status_page DIR PORT``."""

import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from ..deploy.server_folder import ServerFolder
from ..deploy.status import server_page


def page_app(folder: ServerFolder) -> Starlette:
    """One read-only page, written for each request.

    A request for another host than this machine is refused: in a browser it comes from a foreign page whose name leads
    to this address (DNS rebinding).
    """

    def page(request: Request) -> HTMLResponse:
        return HTMLResponse(server_page(folder), headers={"cache-control": "no-store"})

    own = Middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", folder.settings.host])
    return Starlette(routes=[Route("/", page, methods=["GET"])], middleware=[own])


def main() -> None:
    """Serve the page until this process ends."""
    folder, port = ServerFolder(Path(sys.argv[1])), int(sys.argv[2])
    uvicorn.run(page_app(folder), host="127.0.0.1", port=port, log_level="warning", server_header=False)


if __name__ == "__main__":
    main()
