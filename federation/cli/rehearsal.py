"""`fedrecon deploy rehearse`: a whole deployment on this machine, by the commands that engineers type."""

import argparse
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from recon import DataError

from .arguments import Commands, say
from .deploy_command import add_command, add_recipe, flower, recipe_of

#: Simulated sites that take part where the user has none.
SIMULATED = ("east", "north", "south")
_SERVER = "server"

#: Runs a command of `fedrecon` in this process and returns its exit code; raises its errors.
Execute = Callable[[Sequence[str]], int]


def add_rehearse(actions: Commands, execute: Execute) -> None:
    """Add the command; ``execute`` runs another one."""

    def run(arguments: argparse.Namespace) -> None:
        _rehearse(arguments, execute)

    about = "rehearse a deployment: server and sites on this machine, from init to the reports"
    rehearse = add_command(actions, "rehearse", about, run)
    add_recipe(rehearse, default="fedavg")
    text = f"folder of manifests; every site that trains takes part (default: simulated ones, {', '.join(SIMULATED)})"
    rehearse.add_argument("--sites", type=Path, help=text)
    rehearse.add_argument("--policy", type=Path, help="policy.toml of every site (default: that of `site init`)")
    text = "folder to write; the folders of server and sites stay in it (default: %(default)s)"
    rehearse.add_argument("--out", type=Path, default=Path("runs/rehearsal"), help=text)


@dataclass(frozen=True)
class Step:
    """A command: who types it, what for, and its words after `fedrecon`."""

    who: str
    about: str
    words: tuple[str, ...]

    @property
    def command(self) -> str:
        return shlex.join(("fedrecon", *self.words))


@dataclass(frozen=True)
class Rehearsal:
    """The commands of a rehearsal.

    Parameters
    ----------
    out
        Folder of everything: ``server``, ``sites/<name>``, ``reports/<name>``; ``data`` of simulated sites.
    recipe
        Words of the recipe and its options.
    run
        Name of the run.
    plugins
        Names of the plugins of the recipe, by content.
    manifests
        Manifest of every site by its name.
    policy
        Policy of every site; None: that of `site init`.
    port
        Port of the server.
    simulated
        Whether the sites are to be simulated.
    untested
        Sites without test data, which get no report.
    """

    out: Path
    recipe: tuple[str, ...]
    run: str
    plugins: tuple[str, ...]
    manifests: Mapping[str, Path]
    policy: Path | None
    port: int
    simulated: bool
    untested: frozenset[str] = frozenset()

    @property
    def server(self) -> Path:
        return self.out / "server"

    def folder(self, who: str) -> Path:
        """Folder of the server or of a site."""
        return self.server if who == _SERVER else self.out / "sites" / who

    def report(self, name: str) -> Path:
        """Run folder that a site exports."""
        return self.out / "reports" / name

    def opening(self) -> Iterator[Step]:
        """Steps until the run has ended."""
        data = next(iter(self.manifests.values())).parent
        if self.simulated:
            only = ("--size", "64", "--only", ",".join(self.manifests))
            yield _step("sites", "simulate scans", "sites", "make", "demo", "--out", data, *only)
        yield _step("sites", "check the data; each site its own", "sites", "check", data)
        host = ("--host", "localhost", "--port", self.port)
        yield _deploy(_SERVER, "make authority, certificate and keys", "init", self.server, *host)
        yield self.service(_SERVER, "start")
        for name, manifest in self.manifests.items():
            site = self.folder(name)
            trusted = ("--ca", self.server / "ca.crt", "--server-key", self.server / "signing.key.pub")
            allowed = () if self.policy is None else ("--policy", self.policy)
            words = ("init", site, "--server", f"localhost:{self.port}", *trusted, "--data", manifest, *allowed)
            yield _deploy(name, "make key and policy; ca.crt and signing.key.pub come from the server", "site", *words)
            key = ("--key", site / "site.key.pub")
            about = f"enroll {name}; site.key.pub comes from the site"
            yield _deploy(_SERVER, about, "enroll", self.server, "--site", name, *key)
        yield _deploy(_SERVER, "write the bundle of the recipe", "propose", self.server, *self.recipe)
        place = self.server / "runs" / self.run
        files = [place / "plugins" / f"{name.removeprefix('sha256:')}.py" for name in self.plugins]
        plugins = tuple(word for file in files for word in ("--plugin", file))
        for name in self.manifests:
            words = ("approve", self.folder(name), place / f"{self.run}.fab", "--yes", *plugins)
            yield _deploy(name, f"approve; {self.run}.fab comes from the server", "site", *words)
            yield self.service(name, "start")
        yield _deploy(_SERVER, "run the recipe at the sites", "run", self.server, *self.recipe)

    def closing(self, run: str) -> Iterator[Step]:
        """Steps after the run; ``run`` is the begin of its digest."""
        yield self.service(_SERVER, "status")
        for name in self.manifests:
            site, report = self.folder(name), self.report(name)
            yield self.service(name, "status")
            log = ("verify", site / "audit.jsonl", "--owner", name, "--key", f"server={site / 'server.pub'}")
            yield _deploy(name, "check the audit log", "audit", *log, "--seen", self.server / "audit.jsonl")
            yield _deploy(name, "export the trained network", "site", "export", site, run, "--out", report)
            if name not in self.untested:
                yield _step(name, "score it on the test data", "evaluate", report)

    def service(self, who: str, verb: str) -> Step:
        """Start or stop the server or a site, or show its status."""
        about = {"start": "start", "stop": "stop", "status": "show the status"}[verb]
        return _deploy(who, about, "server" if who == _SERVER else "site", verb, self.folder(who))


def _step(who: str, about: str, *words: object) -> Step:
    return Step(who, about, tuple(map(str, words)))


def _deploy(who: str, about: str, *words: object) -> Step:
    return _step(who, about, "deploy", *words)


def _rehearse(arguments: argparse.Namespace, execute: Execute) -> None:
    rehearsal = _rehearsal(arguments)
    rehearsal.out.mkdir(parents=True, exist_ok=True)
    say(f"rehearsal of {rehearsal.run}: a server and the sites {', '.join(rehearsal.manifests)} on this machine")
    say(f"all their folders lie in {rehearsal.out}; Ctrl-C ends all processes")
    begin = time.monotonic()
    try:
        perform(rehearsal, execute)
    except KeyboardInterrupt:
        text = f"all processes of the rehearsal have ended. Remove {rehearsal.out} before another one"
        raise KeyboardInterrupt(text) from None
    say(f"\nthe rehearsal has ended after {time.monotonic() - begin:.0f} s, and so have all its processes")
    for name in rehearsal.manifests:
        if name in rehearsal.untested:
            say(f"no report of {name}, which has no test data")
        else:
            say(f"report of {name}: {rehearsal.report(name) / 'report.html'}")


def _rehearsal(arguments: argparse.Namespace) -> Rehearsal:
    """The rehearsal that the arguments describe; everything that can be refused early is."""
    from ..config import config_error
    from ..deploy.policy import Policy
    from ..sites import read_federation

    out: Path = arguments.out
    recipe, run = recipe_of(arguments)
    if recipe.privacy.secure_sum:
        found, expected = "true", "false: the sites' keys, which the recipe must name, are made in the rehearsal"
        raise config_error("rehearsal", "privacy.secure_sum", found, expected, "rehearse without it")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: is not empty; remove it, or choose another --out")
    if arguments.policy is not None:
        Policy.read(arguments.policy)
    if arguments.sites is None:
        manifests, untested = {name: out / "data" / f"{name}.toml" for name in SIMULATED}, frozenset[str]()
    else:
        sites = [site for site in read_federation(arguments.sites) if site.trains]
        manifests = {site.name: site.path for site in sites}
        untested = frozenset(site.name for site in sites if not site.data.test)
        if "server" in manifests:
            raise DataError(f"{arguments.sites}: found a site with the name 'server', which is that of another folder")
        if not manifests:
            raise DataError(f"{arguments.sites}: no site trains; at least one manifest needs files under data.train")
    words = [arguments.recipe]
    words += [word for value in arguments.set for word in ("--set", value)]
    words += [] if arguments.name is None else ["--name", arguments.name]
    words += [word for file in arguments.plugin for word in ("--plugin", file)]
    port, simulated = flower("processes").free_port(), arguments.sites is None
    return Rehearsal(out, tuple(words), run, recipe.plugins, manifests, arguments.policy, port, simulated, untested)


def perform(rehearsal: Rehearsal, execute: Execute) -> None:
    """Run all steps and print each with its output. Whatever happens, server and sites are stopped afterwards.

    Raises
    ------
    DataError
        If a step fails, with its number and the folder of its logs.
    """
    opening, closing = list(rehearsal.opening()), list(rehearsal.closing(""))
    starts = {step: rehearsal.service(step.who, "stop") for step in opening if step.words[-2] == "start"}
    count = len(opening) + len(closing) + len(starts)
    begun: list[Step] = []
    number = 0

    def work(step: Step) -> None:
        nonlocal number
        number += 1
        _say(step, f"[{number}/{count}] ")
        if step in starts:
            begun.append(starts[step])
        try:
            code = execute(step.words)
        except (DataError, OSError) as error:
            raise DataError(_failed(rehearsal, step, f"step {number} of {count}", str(error))) from error.__cause__
        if code:
            raise DataError(_failed(rehearsal, step, f"step {number} of {count}", f"it ended with exit code {code}"))

    with _ended_by_signals():
        try:
            for step in opening:
                work(step)
            for step in rehearsal.closing(_digest(rehearsal)):
                work(step)
            while begun:
                work(begun[-1])
                begun.pop()  # afterwards: an interrupted stop is repeated
        except DataError:
            if number == len(opening):  # the run has failed: sites tell their reasons to their own engineers alone
                for stop in begun:
                    _try(rehearsal.service(stop.who, "status"), execute)
            raise
        finally:
            with _uninterrupted():
                while begun:
                    _try(begun.pop(), execute)


def _failed(rehearsal: Rehearsal, step: Step, number: str, reason: str) -> str:
    logs = rehearsal.folder(step.who) / "logs"
    place = f"; logs: {logs}" if logs.is_dir() else ""
    return f"{number}, {step.who}: {step.about}: {reason}{place}"


def _say(step: Step, number: str = "") -> None:
    say(f"\n{number}{step.who}: {step.about}\n$ {step.command}")


def _try(step: Step, execute: Execute) -> None:
    """Run a step after a failure; its own failure is a line, if there is still somebody who reads it."""
    with suppress(OSError):
        _say(step)
    try:
        execute(step.words)
    except Exception as error:
        with suppress(OSError):
            say(f"warning: {error}")


def _digest(rehearsal: Rehearsal) -> str:
    """First letters of the digest of the run that the sites have approved."""
    from ..deploy.site_folder import SiteFolder

    (approval,) = SiteFolder(rehearsal.folder(next(iter(rehearsal.manifests)))).approvals.all()
    return approval.run[:12]


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and the end of the terminal interrupt like Ctrl-C, so that processes are stopped."""
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Further signals wait until server and sites are stopped: they are ignored."""
    before = {n: signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
