"""A run at deployed sites: write its bundle, submit it to Flower, print its progress until it ends."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from recon import DataError, epsilon_text, write_atomically

from ..config import store_plugins
from ..deploy.approval import Approval
from ..deploy.server_folder import ServerFolder
from ..deploy.status import WAITING
from ..experiment import initial_state, stated_epsilon
from ..recipes import Recipe, detach_base
from ..rounds import read_rows
from ..serialization import saved_rounds
from .bundle import base_beside, bundle_of, read_bundle, write_app
from .driver import DRIVER
from .processes import CONNECTION, STATE, held, is_held, running
from .run_server import ask_flower

Say = Callable[[str], None]
#: Time between two questions to Flower whether the run still exists.
_ASK_SECONDS = 20.0
#: Longest wait for its answer, in which nothing is printed.
_STATUS_SECONDS = 30.0
#: So many questions in a row may fail: Flower does not answer while it is busy with messages.
_ASK_ATTEMPTS = 6
#: Longest time without a printed line.
_SILENT_SECONDS = 45.0


def propose(folder: ServerFolder, name: str, recipe: Recipe) -> tuple[Path, Approval]:
    """Write the bundle of a run for the sites to approve, and beside it the frozen base of adapters.

    Raises
    ------
    DataError
        If a run of this name has another recipe, or the recipe's base is missing.
    """
    place = folder.run_folder(name)
    bundle = bundle_of(place)
    base_file = base_beside(bundle)
    advice = f"; use the copy of this run: --set network.base={base_file}" if base_file.exists() else ""
    try:
        sent, base = detach_base(recipe)
        initial_state(recipe)  # raises here, not at the hospitals, if the base or the scope does not fit the network
    except DataError as error:
        raise DataError(f"{error}{advice}") from None
    if bundle.exists() and read_bundle(bundle)[1].digest() != sent.digest():
        raise DataError(f"{place}: holds a run with another recipe or base; choose another --name{advice}")
    content = write_app(place / "app", sent)
    store_plugins(recipe.plugins, place)
    if base is not None:
        write_atomically(base_file, base)
    write_atomically(bundle, content)
    return bundle, Approval.of(content, sent)


def run(
    folder: ServerFolder, name: str, recipe: Recipe, *, resume: bool, quorum: int | None, wait_seconds: float, say: Say
) -> Path:
    """Run a recipe at the sites and print its progress. Returns the folder with the trained parameters.

    If this command was interrupted, the run continues at the server; ``resume`` prints its progress again.

    Raises
    ------
    DataError
        If the run cannot be started, or ends without a result.
    """
    members = folder.members()
    if not members:
        raise DataError(f"{folder.path}: no site is enrolled; enroll sites with `fedrecon deploy enroll`")
    if quorum is not None and not 1 <= quorum <= len(members):
        raise DataError(f"--quorum {quorum}: expected 1 to {len(members)}, the number of sites")
    if recipe.privacy.secure_sum and (unlike := sorted(members.keys() ^ recipe.privacy.sites.keys())):
        where = "enrolled, not in privacy.sites" if unlike[0] in members else "in privacy.sites, not enrolled"
        raise DataError(f"recipe {recipe.name}: site {unlike[0]} is {where}; both must be the same sites")
    _, approval = propose(folder, name, recipe)
    place = folder.run_folder(name)
    if saved_rounds(place / "train" / "checkpoints") and not resume:
        raise DataError(f"{place}: holds a run already; --resume continues it, another --name starts a new one")
    with held(place / "followed", "another command follows this run already; stop it first"):
        number = _number(place) if is_held(place / DRIVER) else None
        if number is None:
            number = _submit(folder, place, approval, resume=resume, quorum=quorum, wait_seconds=wait_seconds)
            say(f"run {name} at {len(members)} sites: {', '.join(members)} (Flower's run {number})")
        else:
            say(f"run {name} is already running (Flower's run {number})")
        try:
            _follow(place, folder, number, say)
        except KeyboardInterrupt:
            say(f"run {name} continues at the server; `fedrecon deploy server stop {folder.path}` would end it")
            raise
    result = json.loads((place / "outcome.json").read_bytes())
    folder.audit.append("run ended", name=name, **result)
    if not result["ok"]:
        raise DataError(f"run {name}: {result['error']}")
    say(f"ended: {result['ended']}")
    if spent := stated_epsilon(read_rows(place / "train")):
        each = ", ".join(f"{site} {epsilon_text(epsilon)}" for site, epsilon in spent.items())
        stated = f"epsilon of at least {each} at delta {recipe.privacy.delta:g}, as the sites last stated it"
        say(f"differential privacy of patients: {stated}")
    return place / "train"


def _number(place: Path) -> str | None:
    """Flower's number of a submitted run, None before its submission."""
    path = place / "flower.json"
    return str(json.loads(path.read_bytes())["run"]) if path.exists() else None


def _submit(
    folder: ServerFolder, place: Path, approval: Approval, *, resume: bool, quorum: int | None, wait_seconds: float
) -> str:
    """Submit a run to Flower, which starts its driver. Returns Flower's number of the run."""
    job = {
        "server": str(folder.path.resolve()),
        "run": approval.run,
        "resume": resume,
        "quorum": quorum,
        "wait_seconds": wait_seconds,
    }
    for old in ("outcome.json", WAITING):
        (place / old).unlink(missing_ok=True)
    write_atomically(place / "job.json", json.dumps(job, indent=1).encode())
    config = f"folder={json.dumps(str(place.resolve()))}"
    number = str(ask_flower(folder, "run", str(place / "app"), CONNECTION, "--run-config", config)["run-id"])
    write_atomically(place / "flower.json", json.dumps({"run": number}).encode())
    folder.audit.append("run started", name=place.name, run=approval.run, flower=number, resume=resume)
    return number


def _follow(place: Path, folder: ServerFolder, number: str, say: Say) -> None:
    """Print each finished round until the run has ended, and what it waits for.

    Raises
    ------
    DataError
        If the server was stopped, or the run ended without an outcome.
    """
    progress, outcome = place / "progress.jsonl", place / "outcome.json"
    printed = len(progress.read_text().splitlines()) if progress.exists() else 0
    asked, failed, ended, quiet = time.monotonic(), 0, "", _Quiet(place / WAITING, say)
    while not outcome.exists():
        before, printed = printed, _print_new(progress, printed, say)
        quiet.look(new=printed > before)
        if running(folder.path / STATE) is None:
            raise DataError(f"{folder.path}: the server was stopped; start it, then the same command with --resume")
        if ended:
            raise DataError(
                f"{folder.path / 'logs'}: the run is {ended} without an outcome; read the logs, then add --resume"
            )
        if time.monotonic() - asked > _ASK_SECONDS:
            try:
                found = ask_flower(folder, "list", CONNECTION, "--run-id", number, seconds=_STATUS_SECONDS)
                status = str(found["runs"][0]["status"])
            except DataError:
                failed += 1
                if failed == _ASK_ATTEMPTS:
                    raise
            else:
                failed, ended = 0, status if status.startswith("finished") else ""
            asked = time.monotonic()
        time.sleep(0.5)
    _print_new(progress, printed, say)


class _Quiet:
    """Prints what a run waits for: every change before its first round, later once nothing was printed for a while."""

    def __init__(self, path: Path, say: Say) -> None:
        self.path, self.say = path, say
        self.text, self.last, self.begun = "", time.monotonic(), False

    def look(self, *, new: bool) -> None:
        """Print a line if one is due; ``new``: another line was just printed."""
        text, since = "waits for Flower to start the driver of the run", ""
        if self.path.exists():
            notice = json.loads(self.path.read_bytes())
            text, since = notice["text"], time.strftime(" since %H:%M:%S", time.localtime(notice["since"]))
        now, self.begun = time.monotonic(), self.begun or new
        if now - self.last > _SILENT_SECONDS and not new:
            self.say(text + since)
        elif text != self.text and not self.begun:
            self.say(text)
        elif not new:
            return
        self.text, self.last = text, now


def _print_new(progress: Path, printed: int, say: Say) -> int:
    """Print the rounds after the first ``printed``. Returns the number of rounds so far."""
    lines = progress.read_text().splitlines() if progress.exists() else []
    for line in lines[printed:]:
        row = json.loads(line)
        scores = "  ".join(
            f"{site} {'no score' if score is None else f'{score:.2f}'}" for site, score in row["scores"].items()
        )
        missing = [site for site in row.get("sites", ()) if site not in row["scores"]]
        without = f"  without {', '.join(missing)}" if missing else ""
        say(f"round {row['round']:3d}/{row['rounds']}  {scores}{without}")
    return len(lines)
