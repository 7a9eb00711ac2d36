"""What breaks in a deployed federation, broken once each: nothing is lost, the bits are those of an undisturbed run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from federation import load_recipe, train_run
from federation.cli.main import main
from federation.rounds.round_log import read_rows
from federation.sites import load_federation

from .running import NAMES, RECIPE, approve_run, bits, deploy, overrides, processes

pytestmark = [pytest.mark.deployment, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
CHOICES = ("network.cascades=2", "network.regularizer=cnn", "network.channels=4", "network.depth=2",
           "federation.rounds=3", "training.steps_per_round=4", "evaluation.arms=[]")  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(federation: Path) -> list[tuple[int, str, str, str, str]]:
    sites = load_federation(federation / "data")
    return bits(train_run(load_recipe(RECIPE, CHOICES), sites, federation / "here", jobs=1, resume=False, say=str).path)


def chosen(name: str) -> list[str]:
    """The choices of one test: under its own name, as a run starts once only."""
    return overrides((*CHOICES, f"name='{name}'"))


@contextmanager
def run_of(federation: Path, name: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """`fedrecon deploy run` as a process of its own, which is gone afterwards; both sites approve the run before."""
    server = federation / "server"
    approve_run(federation, name, CHOICES)
    command = [sys.executable, "-m", "federation.cli", "deploy", "run", str(server), str(RECIPE)]
    command += [*chosen(name), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        try:
            yield run
        finally:
            run.kill()


def wait_until(holds: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)


def rounds_done(federation: Path, name: str) -> int:
    path = federation / "server" / "runs" / name / "train"
    return len({row["round"] for row in read_rows(path)}) if (path / "rounds.jsonl").exists() else 0


@pytest.mark.fault("server killed")
def test_a_server_that_was_killed_goes_on_with_the_same_bits(
    federation: Path, undisturbed: list[tuple[int, str, str, str, str]]
) -> None:
    server = federation / "server"
    with run_of(federation, "fedavg") as run:
        wait_until(lambda: rounds_done(federation, "fedavg") >= 1)
        kill(server)
        text = run.communicate(timeout=60)[0]
    assert run.returncode == 2 and "the server was stopped; start it, then the same command with --resume" in text
    done = rounds_done(federation, "fedavg")
    assert 1 <= done < 4
    deploy("server", "start", server)
    deploy("run", server, RECIPE, *chosen("fedavg"), "--resume")
    assert bits(server / "runs" / "fedavg" / "train") == undisturbed


@pytest.mark.fault("driver killed")
def test_a_run_whose_driver_was_killed_says_so_and_goes_on(
    federation: Path, undisturbed: list[tuple[int, str, str, str, str]]
) -> None:
    server = federation / "server"
    with run_of(federation, "driver") as run:
        wait_until(lambda: rounds_done(federation, "driver") >= 1)
        drivers = [line for line in processes(server) if "flwr-serverapp" in line]
        assert len(drivers) == 1, processes(server)
        assert "--token-file /dev/fd/" in drivers[0] and "--token " not in drivers[0]
        os.kill(int(drivers[0].split()[0]), signal.SIGKILL)
        text = run.communicate(timeout=300)[0]
    assert run.returncode == 2 and "without an outcome; read the logs, then add --resume" in text
    deploy("run", server, RECIPE, *chosen("driver"), "--resume")
    assert bits(server / "runs" / "driver" / "train") == undisturbed


@pytest.mark.fault("site killed in a round")
def test_a_round_closes_without_a_site_that_was_killed_and_has_it_back_later(federation: Path) -> None:
    with run_of(federation, "without", "--quorum", "1") as run:
        wait_until(lambda: rounds_done(federation, "without") >= 1)
        kill(federation / "south")
        wait_until(lambda: rounds_done(federation, "without") >= 2, 240)
        start_again(federation / "south")
        text = run.communicate(timeout=400)[0]
    assert run.returncode == 0, text
    rows = read_rows(federation / "server" / "runs" / "without" / "train")
    assert {row["site"] for row in rows if row["round"] == 0} == set(NAMES)
    assert [row["round"] for row in rows if row["site"] == "north"] == [0, 1, 2, 3]
    assert len([row for row in rows if row["site"] == "south"]) < 4


@pytest.mark.fault("site killed in a round")
def test_a_run_that_needs_a_site_that_was_killed_goes_on_with_the_same_bits(
    federation: Path, undisturbed: list[tuple[int, str, str, str, str]]
) -> None:
    server, south = federation / "server", federation / "south"
    with run_of(federation, "needed") as run:
        wait_until(lambda: rounds_done(federation, "needed") >= 1)
        kill(south)
        text = run.communicate(timeout=400)[0]
    assert run.returncode == 2 and "site south: is not connected" in text and "--resume" in text
    start_again(south)
    deploy("run", server, RECIPE, *chosen("needed"), "--resume")
    assert bits(server / "runs" / "needed" / "train") == undisturbed


@pytest.mark.fault("who follows a run is interrupted")
def test_a_run_goes_on_without_who_follows_it_and_is_followed_again(
    federation: Path, undisturbed: list[tuple[int, str, str, str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    server = federation / "server"
    with run_of(federation, "followed") as run:
        wait_until(lambda: rounds_done(federation, "followed") >= 1)
        run.send_signal(signal.SIGINT)
        text = run.communicate(timeout=60)[0]
    assert run.returncode == 130 and "run followed continues at the server" in text
    capsys.readouterr()
    again = ["deploy", "run", str(server), str(RECIPE), *chosen("followed")]
    assert main(again) == 2 and "holds a run already; --resume continues it" in capsys.readouterr().err
    assert main([*again, "--resume"]) == 0 and "run followed is already running" in capsys.readouterr().out
    assert bits(server / "runs" / "followed" / "train") == undisturbed


def start_again(site: Path) -> None:
    """Until Flower has missed the heartbeat of the one that was killed, it takes no other with the same key."""
    wait_until(lambda: main(["deploy", "site", "start", str(site)]) == 0, 240)


def kill(folder: Path) -> None:
    """Kill the supervisor of a server or a site, and wait until all that it has started is gone."""
    os.kill(json.loads((folder / "running.json").read_text())["pid"], signal.SIGKILL)
    wait_until(lambda: all("deploy run" in line for line in processes(folder)), 60)
