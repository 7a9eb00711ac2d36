"""One federation of real processes per file of tests, with the recipe's choices that the file names."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .running import HttpProxy, http_proxy, running_federation


@pytest.fixture(scope="module")
def way_out() -> Iterator[HttpProxy]:
    """The HTTP proxy that north goes through."""
    with http_proxy() as proxy:
        yield proxy


@pytest.fixture(scope="module")
def federation(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, way_out: HttpProxy
) -> Iterator[Path]:
    """Runs, with ``CHOICES`` of the module approved; nothing is left of it afterwards."""
    path = tmp_path_factory.mktemp("deployed")
    with running_federation(path, request.module.CHOICES, way_out.port, way_out.url) as running:
        yield running
