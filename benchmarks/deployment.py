"""Time and bytes of a round over TLS with 3 site processes on this machine, and the time until a site refuses.

The times come from the audit logs of server and sites, which every deployment has:

- *to the site*: signing, polling and the start of a process with torch, until the site opens the request;
- *at the site*: everything at the site, including training and validation;
- *back*: until the server opens the reply;
- *at the server*: checks, aggregation and checkpoint, until the next request is sent.

    OMP_NUM_THREADS=1 python benchmarks/deployment.py
"""

import tempfile
import time
from datetime import datetime
from pathlib import Path

import httpx

from federation import load_recipe, make_demo_sites
from federation.cli.main import main as fedrecon
from federation.deploy.audit_log import Entry, read_log
from federation.experiment.train import initial_state
from federation.flower.processes import free_port
from federation.recipes.recipe_library import LIBRARY
from federation.rounds.round_log import read_rows
from federation.sites import SimulatedSite
from recon import Simulation

RECIPE = LIBRARY / "fedavg.toml"
#: Options that differ from the recipe.
CHOICES = ("federation.rounds=4", "training.steps_per_round=4", "evaluation.arms=[]")
NAMES = ("east", "north", "south")
PARTS = ("to the site", "at the site", "back", "at the server")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, port = Path(folder), free_port()
        server = path / "server"
        try:
            set_up(path, server, port)
            begin = time.monotonic()
            deploy("run", server, RECIPE, *overrides(CHOICES))
            print(f"\nrun of 4 rounds and a last scoring: {time.monotonic() - begin:.1f} s")
            print_rounds(path, server)
            print_bytes(server)
            print_refusals(path, server, port)
        finally:
            for name in NAMES:
                fedrecon(["deploy", "site", "stop", str(path / name)])
            fedrecon(["deploy", "server", "stop", str(server)])


def set_up(path: Path, server: Path, port: int) -> None:
    sites = [SimulatedSite(name, 2, "t1", Simulation("random", 2, 0.2, noise_std=0.01)) for name in NAMES]
    make_demo_sites(path / "data", size=24, train=1, validation=1, test=1, slices=2, sites=sites)
    deploy("init", server, "--host", "localhost", "--port", port)
    deploy("server", "start", server)
    deploy("propose", server, RECIPE, *overrides(CHOICES))
    for name in NAMES:
        site = path / name
        deploy("site", "init", site, "--server", f"localhost:{port}", "--ca", server / "ca.crt",
               "--server-key", server / "signing.key.pub", "--data", path / "data" / f"{name}.toml")  # fmt: skip
        policy = site / "policy.toml"
        text = policy.read_text().replace("minimum_slices = 16", "minimum_slices = 2")
        policy.write_text(text.replace("minimum_steps = 4", "minimum_steps = 1"))
        deploy("enroll", server, "--site", name, "--key", site / "site.key.pub")
        deploy("site", "approve", site, server / "runs" / "fedavg" / "fedavg.fab", "--yes")
        deploy("site", "start", site)


def print_rounds(path: Path, server: Path) -> None:
    """Print the seconds of every round by part, for the slowest site."""
    here = list(read_log(server / "audit.jsonl"))
    there = {name: list(read_log(path / name / "audit.jsonl")) for name in NAMES}
    rounds = sorted({entry.facts["round"] for entry in here if entry.event == "request"})
    print(f"{'round':>5} " + "".join(f"{part:>15}" for part in PARTS) + f"{'whole':>10}")
    for round in rounds[:-1]:
        begin = min(times(here, "request", round))
        opened, answered = (
            max(max(times(log, event, round)) for log in there.values()) for event in ("request", "reply")
        )
        back, after = max(times(here, "reply", round)), min(times(here, "request", round + 1))
        parts = (opened - begin, answered - opened, back - answered, after - back)
        print(f"{round:5d} " + "".join(f"{part:14.1f}s" for part in parts) + f"{after - begin:9.1f}s (bar 20 s)")


def print_bytes(server: Path) -> None:
    """Print the bytes of the messages relative to the bytes of the shared parameters."""
    run = server / "runs" / "fedavg"
    shared, _ = initial_state(load_recipe(run / "app" / "recipe.toml"))
    raw = sum(tensor.nbytes for tensor in shared.values())
    log = list(read_log(server / "audit.jsonl"))
    up, down = (max(entry.facts["bytes"] for entry in log if entry.event == event) for event in ("reply", "request"))
    print(f"sealed reply {up / raw:.4f}, broadcast {down / raw:.4f} of the {raw} bytes of the weights (bar 1.02)")
    assert read_rows(run / "train")


def print_refusals(path: Path, server: Path, port: int) -> None:
    """Refusal of a bundle that no site approved, and of a client that has only the certificate of the server."""
    begin = time.time()
    fedrecon(
        ["deploy", "run", str(server), str(RECIPE), "--name", "other", *overrides((*CHOICES, "federation.seed=1"))]
    )
    sent = min(since(server, "request", begin))
    refused: list[float] = []
    while len(refused) < len(NAMES):  # the first refusal ends the run, before the other sites have refused
        refused = [time - sent for name in NAMES for time in since(path / name, "bundle refused", begin)[:1]]
    print("unapproved bundle refused after " + ", ".join(f"{seconds:.1f} s" for seconds in refused) + " (bar 10 s)")
    with httpx.Client(verify=str(server / "ca.crt"), base_url=f"https://localhost:{port}") as client:
        for what in ("/v1/control/register-node", "/v1/control/start-run", "/v1/control/list-runs"):
            print(f"stranger, POST {what}: {client.post(what).status_code}")


def since(folder: Path, event: str, begin: float) -> list[float]:
    return [time_of(e) for e in read_log(folder / "audit.jsonl") if e.event == event and time_of(e) > begin]


def times(log: list[Entry], event: str, round: int) -> list[float]:
    return [time_of(entry) for entry in log if entry.event == event and entry.facts["round"] == round]


def time_of(entry: Entry) -> float:
    return datetime.fromisoformat(entry.time).timestamp()


def deploy(*arguments: object) -> None:
    if fedrecon(["deploy", *map(str, arguments)]) != 0:
        raise SystemExit(1)


def overrides(choices: tuple[str, ...]) -> list[str]:
    return [word for choice in choices for word in ("--set", choice)]


if __name__ == "__main__":
    main()
