"""The driver of a run, started by Flower: the round loop over its grid."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from recon import DataError, write_atomically

from ..config import load_stored
from ..deploy.change_bounds import UpdateGuard
from ..deploy.keys import PublicKey
from ..deploy.server_folder import ServerFolder
from ..deploy.signed_transport import Hub
from ..experiment import algorithm_of, initial_state
from ..recipes import attach_base, load_recipe
from ..rounds import Row, run_rounds
from .bundle import base_beside, bundle_of
from .grid_channel import GridChannel
from .processes import STATE, end_with, held

app = ServerApp()
#: Its lock is held by the process that drives the run.
DRIVER = "driver"
_POLL_SECONDS = 1.0


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the job of the folder that the run's configuration names."""
    run_job(Path(str(context.run_config["folder"])), grid)


def run_job(folder: Path, grid: Grid) -> None:
    """Run or resume; ``outcome.json`` says how it ended, ``progress.jsonl`` what has been done.

    The folder holds ``job.json`` (server, approval, quorum, seconds to wait for sites), the app with its recipe, and
    receives ``train/``.
    """
    with held(folder / DRIVER):  # a second driver ends here and leaves no outcome
        _run_alone(folder, grid)


def _run_alone(folder: Path, grid: Grid) -> None:
    try:
        write_atomically(folder / "outcome.json", json.dumps({"ok": True, **_run(folder, grid)}).encode())
    except DataError as error:
        text = " ".join(str(error).split())
        write_atomically(folder / "outcome.json", json.dumps({"ok": False, "error": text}).encode())
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        write_atomically(folder / "outcome.json", json.dumps({"ok": False, "error": text}).encode())
        raise


def _run(folder: Path, grid: Grid) -> dict[str, Any]:
    job = json.loads((folder / "job.json").read_bytes())
    server = ServerFolder(Path(job["server"]))
    load_stored(folder)
    recipe = attach_base(load_recipe(folder / "app" / "recipe.toml"), base_beside(bundle_of(folder)))
    end_with(server.path / STATE)  # a second driver of the same run must never be left
    members = server.members()
    max_bytes = int(server.table.megabytes_per_message * 1e6)
    channel = GridChannel(grid, {name: site.node_id for name, site in members.items()}, server.table.round_hours * 3600)
    hub = Hub(
        job["run"],
        server.key,
        {name: PublicKey.parse(site.key) for name, site in members.items()},
        channel,
        server.audit,
        max_bytes,
    )
    quorum = job["quorum"] or len(members)
    _wait_for(channel, quorum, job["wait_seconds"])
    shared, aux = initial_state(recipe)

    def progress(round: int, rounds: int, rows: Sequence[Row]) -> None:
        with (folder / "progress.jsonl").open("a") as file:
            scores = {row["site"]: row["score_before"] for row in rows}
            file.write(json.dumps({"round": round, "rounds": rounds, "time": time.time(), "scores": scores}) + "\n")

    result = run_rounds(
        algorithm_of(recipe),
        hub,
        shared,
        folder / "train",
        rounds=recipe.federation.rounds,
        aux=aux,
        quorum=quorum,
        resume=job["resume"],
        progress=progress,
        check=UpdateGuard(server.table.maximum_change, server.table.maximum_weight),
    )
    return {"round": result.state.round, "digest": result.state.digest}


def _wait_for(channel: GridChannel, count: int, seconds: float) -> None:
    """Wait until enough sites are connected.

    Raises
    ------
    DataError
        Naming those that are.
    """
    end = time.monotonic() + seconds
    while len(found := channel.reachable()) < count:
        if time.monotonic() > end:
            there = ", ".join(found) or "none"
            found_text = f"{len(found)} sites are connected ({there}), expected at least {count}"
            raise DataError(f"{found_text}; start them, then --resume")
        time.sleep(_POLL_SECONDS)
