"""The driver of a run, started by Flower: the round loop over Flower's grid."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from recon import DataError, write_atomically

from ..config import load_stored
from ..deploy.change_bounds import UpdateBounds
from ..deploy.keys import PublicKey
from ..deploy.server_folder import ServerFolder
from ..deploy.signed_transport import SignedTransport
from ..deploy.status import WAITING
from ..experiment import algorithm_of, initial_state
from ..recipes import attach_base, load_recipe, masked_sum_of
from ..rounds import Row, run_rounds
from .bundle import base_beside, bundle_of
from .grid_channel import GridChannel
from .processes import STATE, end_with, held

app = ServerApp()
#: Name of the lock that the driving process holds.
DRIVER = "driver"
_POLL_SECONDS = 1.0


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the job in the folder named by the run's configuration."""
    run_job(Path(str(context.run_config["folder"])), grid)


def run_job(folder: Path, grid: Grid) -> None:
    """Run or resume; writes ``progress.jsonl`` (finished rounds) and ``outcome.json`` (result or error).

    The folder holds ``job.json`` (server, approval, quorum, seconds to wait for sites) and the app with its recipe. The
    trained parameters are written to ``train/``.
    """
    with held(folder / DRIVER):  # a second driver fails here and writes no outcome
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
    end_with(server.path / STATE)  # or a second driver of the same run could start beside this one
    members = server.members()
    settings = server.settings
    channel = GridChannel(grid, {name: site.node_id for name, site in members.items()}, settings.round_hours * 3600)
    transport = SignedTransport(
        job["run"],
        server.key,
        {name: PublicKey.parse(site.key) for name, site in members.items()},
        channel,
        server.audit,
        int(settings.megabytes_per_message * 1e6),
    )
    quorum = job["quorum"] or len(members)
    notice = Notice(folder / WAITING)
    _wait_for(channel, quorum, job["wait_seconds"], notice)
    shared, aux = initial_state(recipe)

    def progress(round: int, rounds: int, rows: Sequence[Row]) -> None:
        with (folder / "progress.jsonl").open("a") as file:
            scores = {row["site"]: row["score_before"] for row in rows}
            # The last trip of a secure sum asks only the sites in it.
            asked = sorted(members) if recipe.privacy.secure_sum else channel.asked
            line = {"round": round, "rounds": rounds, "time": time.time(), "scores": scores, "sites": asked}
            file.write(json.dumps(line) + "\n")

    def waiting(round: int, sites: Sequence[str]) -> None:
        notice.write(f"round {round}: waits for the reply of {', '.join(sites)}")

    result = run_rounds(
        algorithm_of(recipe),
        transport,
        shared,
        folder / "train",
        rounds=recipe.federation.rounds,
        patience=recipe.training.patience,
        aux=aux,
        quorum=quorum,
        late_seconds=settings.late_minutes * 60,
        resume=job["resume"],
        progress=progress,
        waiting=waiting,
        check=UpdateBounds(settings.maximum_change, settings.maximum_weight, recipe.training.steps_per_round),
        maximum_share=settings.maximum_share,
        secure=masked_sum_of(recipe, job["run"]),
    )
    return {"round": result.state.round, "digest": result.state.digest, "ended": result.ended}


class Notice:
    """What a run waits for, in a file: the text and the time at which it began."""

    def __init__(self, path: Path) -> None:
        self.path, self.text = path, ""

    def write(self, text: str) -> None:
        if text != self.text:
            self.text = text
            write_atomically(self.path, json.dumps({"text": text, "since": time.time()}).encode())


def _wait_for(channel: GridChannel, count: int, seconds: float, notice: Notice) -> None:
    """Wait until ``count`` sites are connected.

    Raises
    ------
    DataError
        After ``seconds``, with the names of the connected sites.
    """
    end = time.monotonic() + seconds
    while len(found := channel.reachable()) < count:
        if time.monotonic() > end:
            there = ", ".join(found) or "none"
            found_text = f"{len(found)} sites are connected ({there}), expected at least {count}"
            raise DataError(f"{found_text}; start the others, then add --resume")
        notice.write(f"waits for sites: {len(found)} of {count} connected ({', '.join(found) or 'none'})")
        time.sleep(_POLL_SECONDS)
