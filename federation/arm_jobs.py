"""One arm of a comparison, trained and scored: a job for a process of its own."""

import contextlib
import json
import logging
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import nn

from recon import (
    DataError,
    ScoreRow,
    SiteScores,
    evaluate,
    write_atomically,
    write_scores,
)

from .arms import Arm
from .central import CentralArm, Updates
from .experiment import RunFolder, train_run
from .manifest import SiteManifest, load_federation
from .personal import site_network
from .recipe import Recipe
from .recipe_tables import SHARED
from .replies import read_rows
from .scope import load_parameters, parameter_scope, parameters_of
from .scoring import score_site
from .site import initial_network
from .task import ReconstructionTask

#: Training seed of the trials; the tables count from 0.
TRIAL_SEED = 900


@dataclass(frozen=True)
class ArmJob:
    """One arm of one table with one seed; everything that a process needs."""

    folder: Path
    sites: Path
    maps: Path
    modality: str
    table: str
    arm: Arm
    recipe: Recipe
    seed: int
    rate: float = 1.0
    trials: int = 1

    @property
    def is_done(self) -> bool:
        return (self.folder / "facts.json").exists()


def run_trial(job: ArmJob) -> tuple[float, str]:
    """Train one arm with one learning rate and score it on validation data alone; what was trained is dropped."""
    begin = time.monotonic()
    manifests = tuple(load_federation(job.sites))
    facts: dict[str, Any]
    try:
        with _said_before(), tempfile.TemporaryDirectory() as scratch:
            facts = {"validation": _trial_score(job, manifests, Path(scratch)), "rate": job.rate}
    except DataError as error:
        facts = {"failed": " ".join(str(error).split())}
    write_atomically(job.folder / "facts.json", json.dumps(facts, indent=1).encode())
    return time.monotonic() - begin, f"failed: {facts['failed']}" if "failed" in facts else ""


def _trial_score(job: ArmJob, manifests: tuple[SiteManifest, ...], scratch: Path) -> float | None:
    if job.arm.kind == "federated":
        evaluation = job.recipe.evaluation.model_copy(update={"arms": ()})
        recipe = job.recipe.model_copy(update={"evaluation": evaluation})
        return _validation(train_run(recipe, manifests, scratch, jobs=1, resume=True, say=quiet, maps=job.maps))
    networks = _central_networks(job, manifests, scratch)
    tasks = [ReconstructionTask(m, job.recipe, job.maps / m.name) for m in manifests if m.trains]
    scores = [score for task in tasks if (score := task.validate(networks[task.manifest.name])) is not None]
    return fmean(scores) if scores else None


def run_arm(job: ArmJob) -> tuple[float, str]:
    """Train and score one arm; seconds, and why it failed if it did."""
    begin = time.monotonic()
    _forget_peak()
    manifests = tuple(load_federation(job.sites))
    try:
        with _said_before():
            rows, facts = (_federated if job.arm.kind == "federated" else _central)(job, manifests)
    except DataError as error:
        # One arm that cannot be run (a rule that needs more sites) is a result, not the end of the others.
        facts, rows = {"failed": " ".join(str(error).split())}, []
    seconds = time.monotonic() - begin
    facts |= {"seconds": round(seconds, 1), "peak_memory_mb": _peak_mb()}
    if rows:
        write_scores(job.folder / "scores.csv", rows)
    write_atomically(job.folder / "facts.json", json.dumps(facts, indent=1).encode())
    return seconds, f"failed: {facts['failed']}" if "failed" in facts else ""


def _federated(job: ArmJob, manifests: tuple[SiteManifest, ...]) -> tuple[list[ScoreRow], dict[str, Any]]:
    out = job.folder / "run"
    run = train_run(job.recipe, manifests, out, jobs=1, resume=True, say=quiet, maps=job.maps)
    state = run.selected()
    rows: list[ScoreRow] = []
    quality: dict[str, Any] = {}
    sites: dict[str, Any] = {}
    for manifest in manifests:
        result = score_site((run, manifest.name, state))
        for arm, scores in result.arms.items():
            if arm != SHARED:
                rows += _rows(job, arm, manifest, scores["volumes"])
        quality[manifest.name] = {
            arm: {key: measured[key] for key in ("mtf50_lp_per_cm", "disc_cnr")}
            for arm, measured in result.quality.items()
        }
        sites[manifest.name] = result.facts
    table = read_rows(run.path)
    training = [row for row in table if row["n_samples"] is not None]
    return rows, {
        "parameters_shared": max(facts["parameters_shared"] for facts in sites.values()),
        "parameters_kept": max(facts["parameters_kept"] for facts in sites.values()),
        "bytes_up": sum(row["bytes_up"] for row in training),
        "bytes_down": sum(row["bytes_down"] for row in training),
        "bytes_base": _base_bytes(run),
        "steps": job.recipe.federation.rounds * job.recipe.training.steps_per_round + job.recipe.personal.steps,
        "trials": job.trials,
        "chosen": {"learning_rate": job.recipe.training.learning_rate},
        "label": "" if job.arm.overrides else job.recipe.evidence,
        "validation": _validation(run),
        "quality": quality,
        "sites": sites,
    }


def _base_bytes(run: RunFolder) -> int:
    """The frozen base is sent to every site once."""
    task = ReconstructionTask(run.participants[0], run.recipe, Path())
    network = initial_network(task.network, run.recipe.federation.seed)
    frozen = set(parameter_scope(network, run.recipe.scope.rules()).frozen)
    size = sum(p.nbytes for name, p in network.named_parameters() if name in frozen)
    return size * len(run.participants)


def _validation(run: RunFolder) -> float | None:
    """Mean validation score of what the sites use; personalized arms are chosen among by it."""
    scores = []
    for manifest in run.participants:
        task = ReconstructionTask(manifest, run.recipe, run.maps_folder(manifest.name))
        score = task.validate(site_network(run, manifest))
        if score is not None:
            scores.append(score)
    return fmean(scores) if scores else None


def _central_networks(job: ArmJob, manifests: tuple[SiteManifest, ...], folder: Path) -> dict[str, nn.Module]:
    caches = {manifest.name: job.maps / manifest.name for manifest in manifests}
    trained = tuple(manifest for manifest in manifests if manifest.trains)
    kind: Updates = "sequential" if job.arm.kind == "sequential" else "joint"
    return CentralArm(job.recipe, trained, folder, caches, kind).train()


def _central(job: ArmJob, manifests: tuple[SiteManifest, ...]) -> tuple[list[ScoreRow], dict[str, Any]]:
    networks = _central_networks(job, manifests, job.folder / "state")
    first = next(iter(networks.values()))
    scope = parameter_scope(first, job.recipe.scope.rules())
    rows: list[ScoreRow] = []
    for manifest in manifests:
        task = ReconstructionTask(manifest, job.recipe, job.maps / manifest.name)
        network: nn.Module | None = networks.get(manifest.name)
        if network is None:
            network = initial_network(task.network, job.recipe.federation.seed)
            load_parameters(network, parameters_of(first, scope.shared))
        scores: SiteScores = evaluate(network, task.dataset("test"))
        rows += _rows(job, job.arm.name, manifest, scores.to_json()["volumes"])
    steps = job.recipe.federation.rounds * job.recipe.training.steps_per_round
    sizes = {name: parameter.numel() for name, parameter in first.named_parameters()}
    return rows, {
        "parameters_shared": sum(sizes[name] for name in scope.shared),
        "parameters_kept": sum(sizes[name] for name in scope.kept),
        "steps": steps * (len(networks) if job.arm.kind == "sequential" else 1),
        "trials": job.trials,
        "chosen": {"learning_rate": job.recipe.training.learning_rate},
        "label": "all data in one place",
    }


def _rows(job: ArmJob, arm: str, manifest: SiteManifest, volumes: Sequence[Mapping[str, Any]]) -> list[ScoreRow]:
    return [
        ScoreRow(
            job.modality,
            job.table,
            arm,
            job.seed,
            manifest.name,
            manifest.unseen,
            volume["volume"],
            volume["psnr"],
            volume["ssim"],
            volume["nmse"],
            volume.get("foreground_ssim"),
        )
        for volume in volumes
    ]


@contextlib.contextmanager
def _said_before() -> Iterator[None]:
    """What is remarkable about the scans was said when the hospitals were made, and is not said again by every arm."""
    logger = logging.getLogger("physics.fbp")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _forget_peak() -> None:
    """Let the peak of this process's memory begin anew, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> float:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    divisor = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / divisor, 1)


def quiet(text: str) -> None:
    """Progress of an arm is one line of the comparison's."""
