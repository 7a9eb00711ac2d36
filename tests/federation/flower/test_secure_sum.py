"""A masked sum over TLS with node keys: the bits of the run in process, though a site is killed between the trips."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation import load_recipe, make_demo_sites, train_run
from federation.cli.main import main
from federation.deploy.audit_log import read_log
from federation.deploy.site_folder import SiteFolder
from federation.deploy.summed_site import roster_entry
from federation.flower.processes import free_port
from federation.rounds import read_rows
from federation.sites import SimulatedSite, load_federation
from recon import Simulation

from .running import RECIPE, deploy, make_site, overrides, processes

pytestmark = [pytest.mark.deployment, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
CHOICES = ("network.cascades=2", "network.regularizer=cnn", "network.channels=4", "network.depth=2",
           "federation.rounds=2", "training.steps_per_round=4", "evaluation.arms=[]",
           "privacy.secure_sum=true")  # fmt: skip
NAMES = ("north", "south", "west")


@pytest.fixture(scope="module")
def summed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """A server and three sites that run, and the choices of the recipe with their roster."""
    path, port = tmp_path_factory.mktemp("summed"), free_port()
    sites = [SimulatedSite(name, 2, "t1", Simulation("random", 2, 0.2, noise_std=0.01)) for name in NAMES]
    make_demo_sites(path / "data", size=24, train=1, validation=1, test=1, slices=2, sites=sites)
    server, choices = path / "server", list(CHOICES)
    deploy("init", server, "--host", "localhost", "--port", port)
    try:
        deploy("server", "start", server)
        for name in NAMES:
            site = make_site(path / name, name, server, port)
            deploy("enroll", server, "--site", name, "--key", site / "site.key.pub")
            entry = roster_entry(SiteFolder(site)).splitlines()[1:]
            choices.append(f"privacy.sites.{name}={{{', '.join(entry)}}}")
            deploy("site", "start", site)
        yield path, tuple(choices)
    finally:
        for name in NAMES:
            main(["deploy", "site", "stop", str(path / name)])
        main(["deploy", "server", "stop", str(server)])


def answered(path: Path, name: str, round: int) -> bool:
    """Whether the server has the masked update of a site in a round, its first reply there except in round 0."""
    log = path / "server" / "audit.jsonl"
    return any(
        entry.event == "reply" and (entry.facts["site"], entry.facts["round"]) == (name, round)
        for entry in read_log(log)
    )


def kill(folder: Path) -> None:
    """Kill all processes of a site at once."""
    for line in processes(folder):
        os.kill(int(line.split()[0]), signal.SIGKILL)


@pytest.mark.fault("site killed between masked update and shares")
def test_bits_are_those_in_process_though_a_site_is_killed_between_the_trips(
    summed: tuple[Path, tuple[str, ...]],
) -> None:
    path, choices = summed
    server = path / "server"
    deploy("propose", server, RECIPE, *overrides(choices))
    for name in NAMES:
        deploy("site", "approve", path / name, server / "runs" / "fedavg" / "fedavg.fab", "--yes")
    command = [sys.executable, "-m", "federation.cli", "deploy", "run", str(server), str(RECIPE), *overrides(choices)]
    command += ["--quorum", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        try:
            end = time.monotonic() + 400
            while not answered(path, "south", 1):
                assert time.monotonic() < end and run.poll() is None, "south masked nothing in round 1"
                time.sleep(0.05)
            kill(path / "south")
            text = run.communicate(timeout=500)[0]
        finally:
            run.kill()
    assert run.returncode == 0, text
    sums = {
        name: [e.facts["sites"] for e in read_log(path / name / "audit.jsonl") if e.event == "sum unmasked"]
        for name in NAMES
    }
    assert sums["north"] == sums["west"] == [list(NAMES), list(NAMES)]
    assert len(sums["south"]) == 1, "south was killed too late, run the test again"
    here, there = path / "here", server / "runs" / "fedavg" / "train"
    sites = load_federation(path / "data")
    train_run(load_recipe(RECIPE, choices), sites, here, jobs=1, resume=False, say=str)
    assert digests(here) == digests(there) and len(set(digests(here))) == 2


def digests(run: Path) -> list[str]:
    """Digests of the shared parameters after rounds 0, 1 and the last scores, which change nothing."""
    return [row["shared_digest_after"] for row in read_rows(run) if row["site"] == "north"]
