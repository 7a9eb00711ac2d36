"""`fedrecon deploy ...`; each command imports its work when it is called."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recon import DataError

from .arguments import Commands, add_plugins, say
from .deploy_command import add_command, add_recipe, flower, recipe_of
from .rehearsal import add_rehearse

#: Exit code of `status` if nothing runs, as for systemctl.
STOPPED = 3
_STOPPED_SO = f"; exit code {STOPPED} if it does not run"


def add_deploy(commands: Commands, execute: Callable[[Sequence[str]], int]) -> None:
    """Add the commands of server and site; ``execute`` runs a command of `fedrecon`, for the rehearsal."""
    deploy = commands.add_parser("deploy", help="the same federation across real machines, with Flower")
    actions = deploy.add_subparsers(required=True, metavar="ACTION")
    _add_server(actions)
    _add_runs(actions)
    _add_site(actions)
    _add_audit(actions)
    add_rehearse(actions, execute)


def _add_server(actions: Commands) -> None:
    init = add_command(actions, "init", "create a server's folder: authority, certificate, keys", _init)
    init.add_argument("folder", type=Path, metavar="DIR")
    init.add_argument("--host", required=True, help="name or address at which sites reach this machine")
    init.add_argument("--port", type=int, default=9092, help="the only port open to sites (default: %(default)s)")

    enroll = add_command(actions, "enroll", "bind a site's key to its name", _enroll)
    enroll.add_argument("folder", type=Path, metavar="DIR")
    enroll.add_argument("--site", required=True, help="name of the site")
    enroll.add_argument("--key", type=Path, required=True, help="the site.key.pub of the site")

    revoke = add_command(actions, "revoke", "exclude a site", _revoke)
    revoke.add_argument("folder", type=Path, metavar="DIR")
    revoke.add_argument("--site", required=True, help="name of the site")

    rotate = add_command(actions, "rotate", "renew the server's certificate; restart the server afterwards", _rotate)
    rotate.add_argument("folder", type=Path, metavar="DIR")
    rotate.add_argument(
        "--signing",
        action="store_true",
        help="instead, replace a stolen signing.key; each site must then trust the new one (site trust)",
    )

    server = actions.add_parser("server", help="start and stop the server, show its status")
    _add_service(server, {"start": _server_start, "stop": _server_stop, "status": _server_status})


def _add_service(parser: argparse.ArgumentParser, runs: dict[str, Callable[[argparse.Namespace], int | None]]) -> None:
    verbs = parser.add_subparsers(required=True, metavar="ACTION")
    abouts = {"start": "start it in the background", "stop": "stop it", "status": f"show its status{_STOPPED_SO}"}
    for verb, about in abouts.items():
        command = add_command(verbs, verb, about, runs[verb])
        command.add_argument("folder", type=Path, metavar="DIR")
        if verb == "start":
            command.add_argument("--foreground", action="store_true", help="stay, as systemd and containers expect")


def _add_runs(actions: Commands) -> None:
    propose = add_command(actions, "propose", "write the bundle of a recipe for the sites to approve", _propose)
    run = add_command(actions, "run", "run a recipe at the sites that approved it", _run)
    for command in (propose, run):
        command.add_argument("folder", type=Path, metavar="DIR")
        add_recipe(command)
    run.add_argument("--resume", action="store_true", help="continue an interrupted run")
    run.add_argument("--quorum", type=int, help="least number of sites that must answer a round (default: all)")
    run.add_argument("--wait", type=float, default=120, help="seconds to wait for sites (default: %(default)s)")


def _add_site(actions: Commands) -> None:
    site = actions.add_parser("site", help="commands for a hospital")
    verbs = site.add_subparsers(required=True, metavar="ACTION")
    init = add_command(verbs, "init", "create a site's folder: key, policy, trusted server", _site_init)
    init.add_argument("folder", type=Path, metavar="DIR")
    init.add_argument("--server", required=True, metavar="HOST:PORT")
    init.add_argument("--ca", type=Path, required=True, help="the federation's ca.crt")
    init.add_argument("--server-key", type=Path, required=True, help="the server's signing.key.pub")
    init.add_argument("--data", type=Path, required=True, help="manifest of the site's data")
    proxy = "HTTP proxy to the outside, e.g. http://proxy:3128; write user and password into site.toml, not here"
    init.add_argument("--proxy", default="", help=proxy)
    init.add_argument("--policy", type=Path, help="policy.toml to copy (default: the default values, explained)")
    approve = add_command(verbs, "approve", "show a bundle and approve it", _site_approve)
    approve.add_argument("folder", type=Path, metavar="DIR")
    approve.add_argument("bundle", type=Path, help="the .fab of a run")
    approve.add_argument("--yes", action="store_true", help="approve; without it, only show the bundle")
    add_plugins(approve)
    roster = add_command(verbs, "roster", "print this site's entry in the recipe of a secure sum", _site_roster)
    roster.add_argument("folder", type=Path, metavar="DIR")
    trust = add_command(
        verbs, "trust", "show a new signing key of the server and trust it instead of the old one", _trust
    )
    trust.add_argument("folder", type=Path, metavar="DIR")
    trust.add_argument("--server-key", type=Path, required=True, help="the server's new signing.key.pub")
    trust.add_argument("--yes", action="store_true", help="trust it; without it, only show the keys")
    withdraw = add_command(verbs, "withdraw", "withdraw an approval", _site_withdraw)
    withdraw.add_argument("folder", type=Path, metavar="DIR")
    withdraw.add_argument("run_id", metavar="RUN", help="the run, or its first letters")
    export = add_command(
        verbs, "export", "write a run folder for `fedrecon evaluate` and `fedrecon reconstruct`", _site_export
    )
    export.add_argument("folder", type=Path, metavar="DIR")
    export.add_argument("run_id", metavar="RUN", help="the run, or its first letters")
    export.add_argument("--out", type=Path, required=True, help="folder to write")
    for verb, about, run in (
        ("start", "start the site in the background, after a self-test", _site_start),
        ("stop", "stop it", _site_stop),
        ("status", f"show its status, approvals and sent replies{_STOPPED_SO}", _site_status),
    ):
        command = add_command(verbs, verb, about, run)
        command.add_argument("folder", type=Path, metavar="DIR")
        if verb == "start":
            command.add_argument("--foreground", action="store_true", help="stay, as systemd and containers expect")


def _add_audit(actions: Commands) -> None:
    audit = actions.add_parser("audit", help="check audit logs, offline")
    verbs = audit.add_subparsers(required=True, metavar="ACTION")
    verify = add_command(verbs, "verify", "check a log's hashes, signatures, and heads in other logs", _audit_verify)
    verify.add_argument("log", type=Path, help="audit.jsonl")
    verify.add_argument("--owner", required=True, help="owner of the log: name of a site, or server")
    verify.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="public key of a signer; repeat for several signers or keys",
    )
    verify.add_argument("--seen", type=Path, action="append", default=[], help="log of another party; repeat")


def _server(arguments: argparse.Namespace) -> Any:
    from ..deploy.server_folder import ServerFolder

    folder = ServerFolder(arguments.folder)
    for line in folder.warnings():
        say(f"warning: {line}")
    return folder


def _site(arguments: argparse.Namespace) -> Any:
    from ..deploy.site_folder import SiteFolder

    return SiteFolder(arguments.folder)


def _init(arguments: argparse.Namespace) -> None:
    from ..deploy.server_folder import ServerFolder

    folder = ServerFolder.create(arguments.folder, host=arguments.host, port=arguments.port)
    say(f"server: {folder.path}; sites need {folder.path / 'ca.crt'} and {folder.path / 'signing.key.pub'}")
    say(f"next: fedrecon deploy server start {folder.path}")


def _enroll(arguments: argparse.Namespace) -> None:
    node = flower("run_server").enroll(_server(arguments), arguments.site, arguments.key)
    say(f"enrolled {arguments.site} (Flower's node {node})")


def _revoke(arguments: argparse.Namespace) -> None:
    flower("run_server").revoke(_server(arguments), arguments.site)
    say(f"revoked {arguments.site}")


def _rotate(arguments: argparse.Namespace) -> None:
    if arguments.signing:
        key = _server(arguments).rotate_signing()
        file = arguments.folder / "signing.key.pub"
        say(f"{file}: a new key, {key.fingerprint}; send the file to the sites, and the fingerprint by another way")
        say(f"each site: fedrecon deploy site trust DIR --server-key {file.name}")
        say("a run in progress ends, as the sites refuse the old key; then `fedrecon deploy run --resume` continues it")
        return
    _server(arguments).rotate()
    say(f"{arguments.folder / 'server.crt'}: renewed; restart the server")


def _server_start(arguments: argparse.Namespace) -> None:
    folder = _server(arguments)
    if arguments.foreground:
        if ended := flower("run_server").serve(folder):
            raise DataError(ended)
        return
    say("server: starts, up to 90 s ...")
    page = flower("run_server").start_server(folder)
    say(f"server: open to sites at {folder.settings.host}:{folder.settings.port}; logs in {folder.path / 'logs'}")
    say(f"status: http://127.0.0.1:{page}/ on this machine")


def _server_stop(arguments: argparse.Namespace) -> None:
    _stop(_server(arguments))


def _stop(folder: Any) -> None:
    processes = flower("processes")
    say("stopped" if processes.stop(folder.path / processes.STATE) else "did not run")


def _server_status(arguments: argparse.Namespace) -> int:
    folder = _server(arguments)
    from ..deploy.status import server_status

    page = flower("run_server").page_port(folder)
    say(f"server {'does not run' if page is None else 'runs'}: {folder.path}")
    if page is not None:
        say(f"open to sites at {folder.settings.host}:{folder.settings.port}; this status: http://127.0.0.1:{page}/")
    for line in server_status(folder):
        say(line)
    return STOPPED if page is None else 0


def _propose(arguments: argparse.Namespace) -> None:
    recipe, name = recipe_of(arguments)
    bundle, approval = flower("submission").propose(_server(arguments), name, recipe)
    say(f"bundle: {bundle}\nrun:    {approval.run}")
    base = flower("bundle").base_beside(bundle)
    what = f"the bundle and, beside it, {base.name}" if recipe.network.base is not None else "the bundle"
    if recipe.plugins:
        what += ", and by another way the plugins of the recipe (Python files; each site reads and approves them)"
    say(f"send {what} to the sites, and the run's digest by another way; they show and approve it with:")
    say(f"  fedrecon deploy site approve DIR {bundle.name}{' --plugin FILE' * len(recipe.plugins)}")


def _run(arguments: argparse.Namespace) -> None:
    recipe, name = recipe_of(arguments)
    out = flower("submission").run(
        _server(arguments),
        name,
        recipe,
        resume=arguments.resume,
        quorum=arguments.quorum,
        wait_seconds=arguments.wait,
        say=say,
    )
    say(f"trained: {out}")
    say("sites export it with: fedrecon deploy site export DIR RUN --out FOLDER")


def _site_init(arguments: argparse.Namespace) -> None:
    from ..deploy.site_folder import SiteFolder

    folder = SiteFolder.create(
        arguments.folder,
        server=arguments.server,
        authority=arguments.ca,
        server_key=arguments.server_key,
        data=arguments.data,
        proxy=arguments.proxy,
        policy=arguments.policy,
    )
    say(f"site {folder.name}: {folder.path}")
    say(f"read {folder.path / 'policy.toml'}, then send {folder.path / 'site.key.pub'} to the server's engineer")


def _site_approve(arguments: argparse.Namespace) -> None:
    folder = _site(arguments)
    recipe, ready, approval = flower("run_site").look_at(folder, arguments.bundle)
    from ..deploy.private_site import forecast
    from ..deploy.site_service import objection
    from ..experiment import ReconstructionTask
    from ..recipes import secure_sum_of

    say(recipe.to_toml())
    say(f"method {recipe.name} ({recipe.paper or 'no paper'}), run {approval.run}")
    say(f"bundle {approval.bundle}\narchitecture {approval.architecture}\nsoftware here {approval.software}")
    if ready.network.base is not None:
        say(f"frozen base {ready.network.base}: its SHA-256 agrees with the recipe")
    if (secure := secure_sum_of(recipe, {})) is not None:
        shares = ", ".join(f"{site} {share:.0%}" for site, share in secure.shares().items())
        say(f"secure sum of {len(secure.weights)} sites, each with this part of the mean: {shares}")
        say("ask each site for its key by telephone")
    for name in recipe.plugins:
        say(f"plugin {name}: the file that you gave; its code runs at this site")
    for line in forecast(ReconstructionTask(folder.manifest, ready, folder.maps), folder, ready, approval.run):
        say(line)
    if reason := objection(folder, approval.run, ready):
        say(f"warning: {folder.path / 'policy.toml'} would refuse each round of this run: {reason}")
    if not arguments.yes:
        say("not approved yet; the same command with --yes approves it")
        return
    flower("run_site").approve(folder, arguments.bundle)
    say("approved")


def _site_roster(arguments: argparse.Namespace) -> None:
    folder = _site(arguments)
    from ..deploy.summed_site import roster_entry

    say(roster_entry(folder))


def _trust(arguments: argparse.Namespace) -> None:
    folder = _site(arguments)
    from ..deploy.keys import PublicKey

    key = PublicKey.read(arguments.server_key)
    folder.require_new_server_key(key)
    say(f"trusted now: {folder.server_key.fingerprint}\nnew key:     {key.fingerprint}")
    if not arguments.yes:
        say("not trusted yet; ask the server's engineer for the fingerprint by telephone, then add --yes")
        return
    folder.trust(key)
    say("the new key is trusted from now on, the old one no longer")


def _site_withdraw(arguments: argparse.Namespace) -> None:
    folder = _site(arguments)
    run = _approved(folder, arguments.run_id)
    from ..privacy import RoundFiles

    folder.approvals.remove(run)
    folder.audit.append("approval withdrawn", run=run)
    RoundFiles(folder.sums(run)).forget()  # no sum of this run can be unmasked any more
    say(f"withdrawn: {run}")


def _site_export(arguments: argparse.Namespace) -> None:
    folder = _site(arguments)
    from ..deploy.export import export_run

    run = export_run(folder, _approved(folder, arguments.run_id), arguments.out, say=say)
    say(f"round {run.selected().round}: {run.path}")
    say(f"next: fedrecon evaluate {run.path}, or fedrecon reconstruct {run.path} --site {folder.name} SCAN --out FILE")


def _approved(folder: Any, begin: str) -> str:
    """The only approved run whose digest starts with these letters."""
    matching = [approval.run for approval in folder.approvals.all() if approval.run.startswith(begin)]
    if len(matching) != 1:
        raise DataError(f"{folder.path}: {len(matching)} approved runs begin with {begin!r}, expected one")
    run: str = matching[0]
    return run


def _site_start(arguments: argparse.Namespace) -> None:
    from ..sites import check_new

    folder = _site(arguments)
    check_new([folder.manifest], say)
    if arguments.foreground:
        if ended := flower("run_site").serve_site(folder):
            raise DataError(ended)
        return
    say(f"site {folder.name}: starts its self-test and waits for {folder.settings.server}, up to 90 s ...")
    connected = flower("run_site").start_site(folder)
    state = f"{'connected' if connected else 'runs, but is not connected yet'}, after a self-test"
    say(f"site {folder.name}: {state}; logs in {folder.path / 'logs'}")


def _site_stop(arguments: argparse.Namespace) -> None:
    _stop(_site(arguments))


def _site_status(arguments: argparse.Namespace) -> int:
    folder = _site(arguments)
    from ..deploy.status import site_status

    runs = flower("processes").is_running(folder.path)
    say(f"site {folder.name} {'runs' if runs else 'does not run'}: {folder.path}")
    for line in site_status(folder):
        say(line)
    return 0 if runs else STOPPED


def _audit_verify(arguments: argparse.Namespace) -> None:
    from ..deploy.audit_log import heads_seen, verify_log
    from ..deploy.keys import PublicKey

    signers: dict[str, list[PublicKey]] = {}
    for text in arguments.key:
        name, found, file = text.partition("=")
        if not found:
            raise DataError(f"--key {text!r}: expected NAME=FILE")
        signers.setdefault(name, []).append(PublicKey.read(Path(file)))
    seen: dict[int, str] = {}
    for other in arguments.seen:
        seen |= heads_seen(other, arguments.owner)
    verified = verify_log(arguments.log, arguments.owner, signers, seen)
    say(f"{arguments.log}: unaltered, {verified.head.count} entries, head {verified.head.hash}")
    say(f"countersigned {verified.countersigned} times, the last time at {verified.last_countersigned} entries")
    others = f"agrees with {len(seen)} heads in other logs" if seen else "only --seen shows a removed end"
    say(others)
