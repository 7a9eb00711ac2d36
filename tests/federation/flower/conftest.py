"""One federation of real processes per file of tests, with the recipe's choices that the file names."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .running import running_federation


@pytest.fixture(scope="module")
def federation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Runs, with ``CHOICES`` of the module approved; nothing is left of it afterwards."""
    with running_federation(tmp_path_factory.mktemp("deployed"), request.module.CHOICES) as path:
        yield path
