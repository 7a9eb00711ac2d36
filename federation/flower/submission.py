"""A run at real sites: its bundle is proposed, it is handed to Flower, and followed to its end."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from recon import DataError, write_atomically

from ..config import store_plugins
from ..deploy.approval import Approval
from ..deploy.server_folder import ServerFolder
from ..experiment import initial_state
from ..recipes import Recipe, detach_base
from ..serialization import saved_rounds
from .bundle import base_beside, bundle_of, read_bundle, write_app
from .driver import DRIVER
from .processes import CONNECTION, STATE, held, is_held, running
from .run_server import ask_flower

Say = Callable[[str], None]
#: How often Flower is asked whether a run still lives.
_ASK_SECONDS = 20.0


def propose(folder: ServerFolder, name: str, recipe: Recipe) -> tuple[Path, Approval]:
    """Write the bundle of a run, which the sites look at and approve, and beside it the frozen base of adapters.

    Raises
    ------
    DataError
        If a run of this name has another recipe, or the recipe's base is missing.
    """
    place = folder.run_folder(name)
    bundle = bundle_of(place)
    kept = base_beside(bundle)
    advice = f"; the base of this run is kept: --set network.base={kept}" if kept.exists() else ""
    try:
        sent, base = detach_base(recipe)
        initial_state(recipe)  # a base of another network, a scope that shares nothing: said here, not at the hospitals
    except DataError as error:
        raise DataError(f"{error}{advice}") from None
    if bundle.exists() and read_bundle(bundle)[1].digest() != sent.digest():
        raise DataError(f"{place}: holds a run with another recipe or base; choose another --name{advice}")
    content = write_app(place / "app", sent)
    store_plugins(recipe.plugins, place)
    if base is not None:
        write_atomically(kept, base)
    write_atomically(bundle, content)
    return bundle, Approval.of(content, sent)


def run(
    folder: ServerFolder, name: str, recipe: Recipe, *, resume: bool, quorum: int | None, wait_seconds: float, say: Say
) -> Path:
    """Run a recipe at the sites and follow it to its end; the folder of what was trained.

    A run that is under way already, because who followed it was interrupted, is followed on with ``resume``.

    Raises
    ------
    DataError
        If it cannot be started, or ends without a result.
    """
    members = folder.members()
    if not members:
        raise DataError(f"{folder.path}: no site is enrolled; `fedrecon deploy enroll` them first")
    if quorum is not None and not 1 <= quorum <= len(members):
        raise DataError(f"--quorum {quorum}: expected 1 to {len(members)}, the number of sites")
    _, approval = propose(folder, name, recipe)
    place = folder.run_folder(name)
    if saved_rounds(place / "train" / "checkpoints") and not resume:
        raise DataError(f"{place}: holds a run already; --resume goes on with it, another --name begins anew")
    with held(place / "followed", "another command follows this run already"):
        number = _number(place) if is_held(place / DRIVER) else None
        if number is None:
            number = _submit(folder, place, approval, resume=resume, quorum=quorum, wait_seconds=wait_seconds)
            say(f"run {name} at {len(members)} sites: {', '.join(members)} (Flower's run {number})")
        else:
            say(f"run {name} is under way (Flower's run {number})")
        try:
            _follow(place, folder, number, say)
        except KeyboardInterrupt:
            say(f"run {name} goes on at the server; `fedrecon deploy server stop {folder.path}` would end it")
            raise
    result = json.loads((place / "outcome.json").read_bytes())
    folder.audit.append("run ended", name=name, **result)
    if not result["ok"]:
        raise DataError(f"run {name}: {result['error']}")
    return place / "train"


def _number(place: Path) -> str | None:
    """Flower's number of a run that was submitted."""
    path = place / "flower.json"
    return str(json.loads(path.read_bytes())["run"]) if path.exists() else None


def _submit(
    folder: ServerFolder, place: Path, approval: Approval, *, resume: bool, quorum: int | None, wait_seconds: float
) -> str:
    """Hand a run to Flower, which starts its driver; Flower's number of it."""
    job = {
        "server": str(folder.path.resolve()),
        "run": approval.run,
        "resume": resume,
        "quorum": quorum,
        "wait_seconds": wait_seconds,
    }
    (place / "outcome.json").unlink(missing_ok=True)
    write_atomically(place / "job.json", json.dumps(job, indent=1).encode())
    config = f"folder={json.dumps(str(place.resolve()))}"
    number = str(ask_flower(folder, "run", str(place / "app"), CONNECTION, "--run-config", config)["run-id"])
    write_atomically(place / "flower.json", json.dumps({"run": number}).encode())
    folder.audit.append("run started", name=place.name, run=approval.run, flower=number, resume=resume)
    return number


def _follow(place: Path, folder: ServerFolder, number: str, say: Say) -> None:
    """Say every round as it is done, until the run has ended.

    Raises
    ------
    DataError
        If the server was stopped, or the run ended without a word.
    """
    progress, outcome = place / "progress.jsonl", place / "outcome.json"
    told = len(progress.read_text().splitlines()) if progress.exists() else 0
    asked, ended = time.monotonic(), ""
    while not outcome.exists():
        told = _tell(progress, told, say)
        if running(folder.path / STATE) is None:
            raise DataError(f"{folder.path}: the server was stopped; start it, then the same command with --resume")
        if ended:
            raise DataError(f"{folder.path / 'logs'}: the run is {ended} without an outcome; then --resume goes on")
        if time.monotonic() - asked > _ASK_SECONDS:
            status = str(ask_flower(folder, "list", CONNECTION, "--run-id", number)["runs"][0]["status"])
            asked, ended = time.monotonic(), status if status.startswith("finished") else ""
        time.sleep(0.5)
    _tell(progress, told, say)


def _tell(progress: Path, told: int, say: Say) -> int:
    lines = progress.read_text().splitlines() if progress.exists() else []
    for line in lines[told:]:
        row = json.loads(line)
        scores = "  ".join(
            f"{site} {'no score' if score is None else f'{score:.2f}'}" for site, score in row["scores"].items()
        )
        say(f"round {row['round']:3d}/{row['rounds']}  {scores}")
    return len(lines)
