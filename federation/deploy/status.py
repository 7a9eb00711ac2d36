"""What server and site can say of themselves, from their own records."""

import json
from collections.abc import Iterator
from pathlib import Path

from .audit import read_log
from .server_folder import ServerFolder
from .site_folder import SiteFolder


def server_status(folder: ServerFolder) -> Iterator[str]:
    """Sites with their last answer and bytes, and how far each run is."""
    last: dict[str, str] = {}
    up: dict[str, int] = {}
    down: dict[str, int] = {}
    refused: dict[str, int] = {}
    for entry in read_log(folder.audit.path):
        site = str(entry.facts.get("site"))
        if entry.event == "request":
            down[site] = down.get(site, 0) + entry.facts["bytes"]
        elif entry.event == "reply":
            up[site] = up.get(site, 0) + entry.facts["bytes"]
            last[site] = entry.time
        elif entry.event == "reply refused":
            refused[site] = refused.get(site, 0) + 1
    for name, site_facts in folder.enrolled().items():
        state = "takes part" if site_facts.revoked is None else f"revoked {site_facts.revoked}"
        yield (
            f"site {name:20s} {state}; last answer {last.get(name, 'never')}; {up.get(name, 0) / 1e6:.2f} MB up, "
            f"{down.get(name, 0) / 1e6:.2f} MB down; {refused.get(name, 0)} refused"
        )
    for place in sorted((folder.path / "runs").glob("*/job.json")):
        yield f"run  {place.parent.name:20s} {_run_state(place.parent)}"


def _run_state(place: Path) -> str:
    lines = (place / "progress.jsonl").read_text().splitlines() if (place / "progress.jsonl").exists() else []
    done = f"round {json.loads(lines[-1])['round']} of {json.loads(lines[-1])['rounds']}" if lines else "no round yet"
    if not (place / "outcome.json").exists():
        return f"{done}, running"
    outcome = json.loads((place / "outcome.json").read_bytes())
    return f"{done}, done" if outcome["ok"] else f"{done}, ended: {outcome['error']}"


def site_status(folder: SiteFolder) -> Iterator[str]:
    """What is approved, what left, what was refused."""
    for approval in folder.approvals.all():
        yield f"approved run {approval.run[:16]}  bundle {approval.bundle[:16]}"
    sent = refused = size = 0
    last = "never"
    for entry in read_log(folder.audit.path):
        if entry.event == "reply":
            sent, size, last = sent + 1, size + entry.facts["bytes"], entry.time
        refused += entry.event in ("refused", "request refused", "bundle refused")
    yield f"{sent} replies left, {size / 1e6:.2f} MB; the last {last}; {refused} requests refused"
