"""A federation of real processes: made, run, ended with nothing left, and what of it is compared."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from federation import SimulatedSite, make_demo_sites
from federation.cli import main
from federation.flower.processes import free_port, listens
from federation.replies import read_rows
from recon import Simulation

RECIPE = Path(__file__).parents[3] / "scripts" / "recipes" / "fedavg.toml"
NAMES = ("north", "south")


def deploy(*arguments: object) -> None:
    assert main(["deploy", *map(str, arguments)]) == 0


def overrides(choices: tuple[str, ...]) -> list[str]:
    return [word for choice in choices for word in ("--set", choice)]


@contextmanager
def running_federation(path: Path, choices: tuple[str, ...]) -> Iterator[Path]:
    """A server and two sites that run and have approved; nothing is left of them afterwards."""
    sites = [SimulatedSite(name, 2, "t1", Simulation("random", 2, 0.2, noise_std=0.01)) for name in NAMES]
    make_demo_sites(path / "data", size=24, train=1, validation=1, test=1, slices=2, sites=sites)
    port, server = free_port(), path / "server"
    deploy("init", server, "--host", "localhost", "--port", port)
    try:
        deploy("server", "start", server)
        deploy("propose", server, RECIPE, *overrides(choices))
        for name in NAMES:
            site = path / name
            deploy("site", "init", site, "--server", f"localhost:{port}", "--ca", server / "ca.crt",
                   "--server-key", server / "signing.key.pub", "--data", path / "data" / f"{name}.toml")  # fmt: skip
            policy = site / "policy.toml"
            policy.write_text(policy.read_text().replace("minimum_slices = 16", "minimum_slices = 2"))
            deploy("enroll", server, "--site", name, "--key", site / "site.key.pub")
            deploy("site", "approve", site, server / "runs" / "fedavg" / "fedavg.fab", "--yes")
            deploy("site", "start", site)
        yield path
    finally:
        for name in NAMES:
            main(["deploy", "site", "stop", str(path / name)])
        main(["deploy", "server", "stop", str(server)])
        assert not listens(port)
        assert processes(path) == []


def processes(path: Path) -> list[str]:
    """Processes that name this folder in their command."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in listed if str(path) in line and "pytest" not in line]


def bits(run: Path) -> list[tuple[int, str, str, str, str]]:
    """Digests of all parameters by round and site: loaded, kept, aggregated."""
    names = ("round", "site", "loaded_digest", "kept_digest", "shared_digest_after")
    return [tuple(row[name] for name in names) for row in read_rows(run)]
