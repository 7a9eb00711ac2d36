"""Data of three sites, and a federation that approved a recipe."""

from pathlib import Path

import pytest

from federation import make_demo_sites
from federation.deploy import approval, site_service
from federation.sites import SimulatedSite
from recon import Simulation

from .deployment import NAMES, Deployed, deploy


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data")
    sites = [SimulatedSite(name, 2, "t1", Simulation("random", 2, 0.2, noise_std=0.01)) for name in NAMES]
    make_demo_sites(out, size=24, train=1, validation=1, test=1, slices=2, sites=sites)
    return out


@pytest.fixture(scope="session")
def software() -> str:
    return approval.software_digest()


@pytest.fixture(autouse=True)
def software_is_read_once(software: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sites read all of our files twice for every message; here they stay as they are."""
    for module in (approval, site_service):
        monkeypatch.setattr(module, "software_digest", lambda: software)


@pytest.fixture
def deployed(tmp_path: Path, data: Path) -> Deployed:
    return deploy(tmp_path, data)
