"""Status of a server or site, from its own records."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recon import epsilon_text

from .audit_log import PRIVATE_TRAINING, read_log
from .server_folder import ServerFolder
from .site_folder import SiteFolder

#: File in the folder of a run with what it waits for.
WAITING = "waiting.json"


@dataclass
class SiteStatus:
    """One site as recorded at the server; bytes of signed messages up and of broadcasts down."""

    state: str
    last_answer: str = "never"
    bytes_up: int = 0
    bytes_down: int = 0
    refused: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RunStatus:
    """One run: finished rounds, outcome, validation scores by site and round."""

    name: str
    state: str
    scores: Mapping[str, Sequence[tuple[float, float]]]


def sites_of(folder: ServerFolder) -> dict[str, SiteStatus]:
    """Status of each enrolled site, by name."""
    sites = {
        name: SiteStatus("enrolled" if site.revoked is None else f"revoked {site.revoked}")
        for name, site in folder.enrolled().items()
    }
    for entry in read_log(folder.audit.path):
        site = sites.get(str(entry.facts.get("site")))
        if site is None:
            continue
        if entry.event == "request":
            site.bytes_down += entry.facts["bytes"]
        elif entry.event == "reply":
            site.bytes_up += entry.facts["bytes"]
            site.last_answer = entry.time[:19] + "Z"
        elif entry.event == "reply refused":
            site.refused.append(f"round {entry.facts['round']}: {entry.facts['reason']}")
    return sites


def runs_of(folder: ServerFolder) -> list[RunStatus]:
    """Status of each run that was started, sorted by name."""
    return [_run(job.parent) for job in sorted((folder.path / "runs").glob("*/job.json"))]


def _run(place: Path) -> RunStatus:
    path, outcome = place / "progress.jsonl", place / "outcome.json"
    rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = f"round {rows[-1]['round']} of {rows[-1]['rounds']}" if rows else "no round yet"
    if outcome.exists():
        found = json.loads(outcome.read_bytes())
        state = f"{done}, done" if found["ok"] else f"{done}, ended: {found['error']}"
    else:
        notice = place / WAITING
        state = f"{done}, running" + (f": {json.loads(notice.read_bytes())['text']}" if notice.exists() else "")
    by_round = {row["round"]: row["scores"] for row in rows}  # a repeated round counts once
    names = sorted({site for scores in by_round.values() for site in scores})
    lines = {
        site: [(float(r), float(s[site])) for r, s in sorted(by_round.items()) if s.get(site) is not None]
        for site in names
    }
    return RunStatus(place.name, state, {site: line for site, line in lines.items() if line})


def server_status(folder: ServerFolder) -> Iterator[str]:
    """One line per site, per recent refusal and per run."""
    for name, site in sites_of(folder).items():
        yield (
            f"site {name:20s} {site.state}; last answer {site.last_answer}; {site.bytes_up / 1e6:.2f} MB up, "
            f"{site.bytes_down / 1e6:.2f} MB down; {len(site.refused)} refused"
        )
        for reason in site.refused[-3:]:
            yield f"     refused {reason}"
    for run in runs_of(folder):
        yield f"run  {run.name:20s} {run.state}"


def server_page(folder: ServerFolder) -> str:
    """The status as a self-contained HTML page: sites, runs with their scores, refused updates."""
    from recon import html_page, html_table, line_panel

    sites, runs = sites_of(folder), runs_of(folder)
    columns = ("site", "state", "last answer", "MB up", "MB down", "refused")
    rows = [
        (name, (s.state, s.last_answer, f"{s.bytes_up / 1e6:.2f}", f"{s.bytes_down / 1e6:.2f}", str(len(s.refused))))
        for name, s in sites.items()
    ]
    sections = ["<h2>Sites</h2>" + html_table("By the server's audit log; bytes of all runs.", columns, rows)]
    table = html_table("Newest state of each run.", ("run", "state"), [(run.name, (run.state,)) for run in runs])
    sections += ["<h2>Runs</h2>" + table] if runs else ["<h2>Runs</h2><p>None yet.</p>"]
    sections += [line_panel(f"{run.name}: validation score", run.scores, "score") for run in runs if run.scores]
    refused = [(name, (reason,)) for name, site in sites.items() for reason in site.refused[-20:]]
    if refused:
        caption = "The last refusals of each site."
        sections.append("<h2>Refused</h2>" + html_table(caption, ("site", "round and reason"), refused))
    return html_page(f"fedrecon server {folder.settings.host}", "Read only; reload for the newest state.", sections)


def site_status(folder: SiteFolder) -> Iterator[str]:
    """Lines with approvals, number and size of replies, and refused requests."""
    for approval in folder.approvals.all():
        yield f"approved run {approval.run[:16]}  bundle {approval.bundle[:16]}"
    sent = size = 0
    last, ended, private = "never", "", ""
    refused: list[str] = []
    for entry in read_log(folder.audit.path):
        if entry.event in ("site started", "site stopped"):
            ended = entry.facts.get("reason", "")
        if entry.event == "reply":
            sent, size, last = sent + 1, size + entry.facts["bytes"], entry.time[:19] + "Z"
        if entry.event == PRIVATE_TRAINING:
            spent = epsilon_text(entry.facts["epsilon"])
            private = f"epsilon {spent} at delta {entry.facts['delta']:g} in all private runs"
        if entry.event == "bundle refused":
            refused.append(f"{entry.time[:19]}Z bundle {entry.facts['bundle'][:16]}: is not approved")
        elif entry.event == "self-test passed":
            refused.pop()  # the bundle of the self-test
        elif entry.event in ("refused", "request refused"):
            refused.append(f"{entry.time[:19]}Z {entry.facts['reason']}: {entry.facts['detail']}")
    if private:
        yield f"{private}, of epsilon_budget {folder.policy.epsilon_budget:g}"
    if ended:
        yield f"stopped by itself: {ended}"
    yield f"{sent} replies sent, {size / 1e6:.2f} MB; the last {last}; {len(refused)} requests refused"
    yield from (f"     refused {line}" for line in refused[-5:])
