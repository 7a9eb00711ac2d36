"""Fixtures of the attacks: sites and a run of them."""

from pathlib import Path

import pytest

from federation import RunFolder

from .tiny_run import make_sites, train


@pytest.fixture(scope="session")
def ct_sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sites(tmp_path_factory.mktemp("attacks") / "sites")


@pytest.fixture(scope="session")
def trained(ct_sites: Path) -> RunFolder:
    return train(ct_sites, ct_sites.parent / "run")
