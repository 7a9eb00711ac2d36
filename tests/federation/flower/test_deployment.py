"""The same federation as real processes over TLS: weights as in process, and the holes of the engine closed."""

import json
import sys
import time
from pathlib import Path

import httpx
import pytest

from federation import load_recipe, train_run
from federation.cli import main
from federation.deploy.audit import read_log
from federation.manifest import load_federation

from .running import NAMES, RECIPE, bits, deploy, overrides

pytestmark = [pytest.mark.deployment, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
CHOICES = ("network.cascades=2", "network.regularizer=cnn", "network.channels=4", "network.depth=2",
           "federation.rounds=2", "training.steps_per_round=4", "evaluation.arms=[]")  # fmt: skip


def test_weights_are_those_of_the_run_in_process(federation: Path) -> None:
    begin = time.monotonic()
    deploy("run", federation / "server", RECIPE, *overrides(CHOICES))
    seconds = time.monotonic() - begin
    here = train_run(
        load_recipe(RECIPE, CHOICES),
        load_federation(federation / "data"),
        federation / "here",
        jobs=1,
        resume=False,
        say=str,
    )
    there = federation / "server" / "runs" / "fedavg" / "train"
    rows = bits(there)
    assert rows == bits(here.path) and {row[0] for row in rows} == {0, 1, 2}
    assert len({row[2] for row in rows}) == 3  # every round changed the shared parameters
    for name in NAMES:
        events = [entry.event for entry in read_log(federation / name / "audit.jsonl")]
        assert events.count("reply") == 3 and "refused" not in events
        deploy("audit", "verify", federation / name / "audit.jsonl", "--owner", name,
               "--key", f"server={federation / 'server' / 'signing.key.pub'}",
               "--seen", federation / "server" / "audit.jsonl")  # fmt: skip
    print(f"\n2 rounds and a last scoring of 2 sites: {seconds:.0f} s")


def test_a_bundle_that_was_not_approved_is_refused_at_every_site(federation: Path) -> None:
    code = main(
        [
            "deploy",
            "run",
            str(federation / "server"),
            str(RECIPE),
            "--name",
            "other",
            *overrides(CHOICES),
            "--set",
            "federation.seed=1",
        ]
    )
    assert code == 2
    for name in NAMES:
        assert "bundle refused" in [entry.event for entry in read_log(federation / name / "audit.jsonl")]


def test_a_stranger_with_the_certificate_can_do_nothing(federation: Path, tmp_path: Path) -> None:
    port = json.loads((federation / "server" / "running.json").read_text())["link_port"]
    table = (federation / "server" / "server.toml").read_text()
    public = int(table.split("port = ")[1].split()[0])
    with httpx.Client(verify=str(federation / "server" / "ca.crt"), base_url=f"https://localhost:{public}") as client:
        for path in (
            "/v1/control/list-runs",
            "/v1/control/register-node",
            "/v1/fleet/register-node",
            "/docs",
            "/health",
        ):
            assert client.post(path).status_code == 403
        assert client.post("/v1/fleet/pull-messages").status_code in (400, 401, 403, 415, 422)
    assert port != public


def test_the_self_test_fails_where_the_guard_is_not_in_the_way(federation: Path, tmp_path: Path) -> None:
    from federation.deploy.site_folder import SiteFolder
    from federation.flower.operate import _site_environment, self_test
    from recon import DataError

    settings = _site_environment(SiteFolder(federation / "north"))
    self_test(settings)
    with pytest.raises(DataError, match="does not start"):
        self_test(settings | {"PATH": str(Path(sys.executable).parent)})
