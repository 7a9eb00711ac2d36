"""One federation of real processes per file of tests, with the recipe's choices that the file names."""

from collections.abc import Generator, Iterator
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the ends of the logs of the processes to the report of a test that failed."""
    report = yield
    path = getattr(item, "funcargs", {}).get("federation")
    if report.failed and isinstance(path, Path):
        for log in sorted(path.glob("*/logs/*.log")):
            report.sections.append((f"{log.relative_to(path)}", "\n".join(log.read_text().splitlines()[-30:])))
    return report
