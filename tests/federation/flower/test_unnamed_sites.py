"""A recipe whose secure sum names no sites is refused on both sides of a deployment."""

import pytest

from federation import load_recipe
from recon import DataError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what Flower imports


def test_the_server_proposes_no_sum_of_sites_that_are_not_named(tmp_path):
    from federation.flower.bundle import write_app

    with pytest.raises(DataError, match=r"privacy\.sites: found none, expected keys and slices of all sites"):
        write_app(tmp_path / "app", load_recipe("fedavg_secure"))
    assert not (tmp_path / "app").exists()


def test_a_site_approves_no_sum_of_sites_that_are_not_named(tmp_path, monkeypatch):
    from federation.flower.bundle import read_bundle, write_app

    with monkeypatch.context() as before:
        before.setattr("federation.flower.bundle.masked_sum_of", lambda recipe, run: None)
        content = write_app(tmp_path / "app", load_recipe("fedavg_secure"))
    (tmp_path / "a.fab").write_bytes(content)
    with pytest.raises(DataError, match=r"privacy\.sites: found none"):
        read_bundle(tmp_path / "a.fab")
