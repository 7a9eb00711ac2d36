"""A recipe with a secure sum is refused on both sides of a deployment, so far."""

import pytest

from federation import load_recipe
from recon import DataError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what Flower imports


def test_the_server_proposes_no_run_with_a_secure_sum(tmp_path):
    from federation.flower.bundle import write_app

    with pytest.raises(DataError, match="secure_sum runs in process only so far"):
        write_app(tmp_path / "app", load_recipe("fedavg_secure"))
    assert not (tmp_path / "app").exists()


def test_a_site_approves_no_bundle_with_a_secure_sum(tmp_path, monkeypatch):
    from federation.flower.bundle import read_bundle, write_app

    with monkeypatch.context() as before:
        before.setattr("federation.flower.bundle.require_deployable", lambda recipe: None)
        content = write_app(tmp_path / "app", load_recipe("fedavg_secure"))
    (tmp_path / "a.fab").write_bytes(content)
    with pytest.raises(DataError, match="secure_sum runs in process only so far"):
        read_bundle(tmp_path / "a.fab")
