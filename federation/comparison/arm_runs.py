"""One arm of a comparison, trained and scored: a job for a process of its own."""

import contextlib
import json
import logging
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Self

from torch import nn

from recon import DataError, ScoreRow, write_atomically, write_scores

from ..config import read_json
from ..experiment import (
    DEVICE_FAILED,
    ReconstructionTask,
    RunFolder,
    classical_method,
    score_methods,
    site_network,
    train_alone,
    train_run,
)
from ..methods import load_parameters, parameter_scope, parameters_of
from ..recipes import Recipe, TuningSection
from ..rounds import initial_network, read_rows
from ..sites import SiteManifest, load_federation
from .arms import Arm
from .centralized import CentralArm, Updates

#: Training seed of the trials; the tables count from 0.
TRIAL_SEED = 900
#: What is known of an arm, written last: with it the arm is done.
FACTS = "facts.json"


def known_of(arm: Path) -> dict[str, Any]:
    """What is known of the arm in a folder.

    Raises
    ------
    DataError
        If the file is damaged.
    """
    return read_json(arm / FACTS, "delete it, and the arm is run again")


@dataclass(frozen=True)
class Tuned:
    """What trials chose for an arm.

    ``rate`` is a factor on its learning rate, ``value`` one of its ``[tuning]`` by number, None is its own; the others
    say how often it was tried, and whether the best is an end of what was.
    """

    rate: float = 1.0
    value: int | None = None
    trials: int = 1
    rate_at_end: bool = False
    value_at_end: bool = False

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any], tuning: TuningSection) -> Self | None:
        """What was chosen for an arm that was run; None where other values of its own are tuned now."""
        if facts.get("tuning") != _described(tuning):
            return None
        return cls(*(facts[name] for name in ("rate", "value", "trials", "at_end", "value_at_end")))


def _described(tuning: TuningSection) -> dict[str, Any]:
    return tuning.model_dump(mode="json")


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
    tuned: Tuned = Tuned()
    #: What an arm of the federation is there to test.
    label: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of the arm; empty until it was run with this recipe."""
        found = known_of(self.folder) if (self.folder / FACTS).exists() else {}
        return found if found.get("recipe") == self.recipe.method_digest() else {}

    @property
    def is_done(self) -> bool:
        """Whether it was run, with this recipe. An arm that failed is tried again."""
        return bool(self.facts) and "failed" not in self.facts

    @property
    def told(self) -> dict[str, Any]:
        """What a reader is told of the arm that does not come from running it."""
        key = self.recipe.tuning.key
        chosen = {"learning_rate": self.recipe.training.learning_rate}
        told = {
            "rate": self.tuned.rate,
            "value": self.tuned.value,
            "tuning": _described(self.recipe.tuning),
            "trials": self.tuned.trials,
            "at_end": self.tuned.rate_at_end,
            "value_at_end": self.tuned.value_at_end,
            "chosen": chosen | ({key: self.recipe.tuned_value} if key else {}),
        }
        return told | ({"label": self.label} if self.arm.kind == "federated" else {})

    def tell_again(self) -> None:
        """Write what a reader is told where that has changed since the arm was run: more was tried, say."""
        known = self.facts
        if self.is_done and self.arm.kind != "classical" and known != known | self.told:
            self.finish(known | self.told)

    def start(self) -> None:
        """Drop what another recipe of the same name has left."""
        record, digest = self.folder / "recipe.txt", self.recipe.digest()
        if self.folder.exists() and (not record.exists() or record.read_text() != digest):
            shutil.rmtree(self.folder)
        write_atomically(record, digest.encode())

    def finish(self, facts: dict[str, Any]) -> str:
        """Write what is known; the reason if the arm failed."""
        write_atomically(
            self.folder / FACTS, json.dumps({**facts, "recipe": self.recipe.method_digest()}, indent=1).encode()
        )
        return f"failed: {facts['failed']}" if "failed" in facts else ""


def run_trial(job: ArmJob) -> tuple[float, str]:
    """Train one arm with one learning rate and score it on validation data alone; what was trained is dropped."""
    begin = time.monotonic()
    job.start()
    facts: dict[str, Any]
    try:
        with _said_before(), tempfile.TemporaryDirectory() as scratch:
            networks = _train(job, Path(scratch), tuple(load_federation(job.sites))).networks
            facts = {"validation": _validation(job, networks), "chosen": job.told["chosen"]}
    except DataError as error:
        facts = _failed(error)
    return time.monotonic() - begin, job.finish(facts)


def run_arm(job: ArmJob) -> tuple[float, str]:
    """Train and score one arm; seconds, and why it failed if it did."""
    begin = time.monotonic()
    _forget_peak()
    job.start()
    try:
        with _said_before():
            rows, facts = _scored(job, tuple(load_federation(job.sites)))
    except DataError as error:
        # One arm that cannot be run (a rule that needs more sites) is a result, not the end of the others.
        facts, rows = _failed(error), []
    if rows:
        write_scores(job.folder / "scores.csv", rows)
    return time.monotonic() - begin, job.finish(facts)


def _failed(error: DataError) -> dict[str, Any]:
    """What is known of an arm that failed; a device that did is no fault of the arm's, and ends the comparison."""
    if DEVICE_FAILED in str(error):
        raise error
    return {"failed": " ".join(str(error).split())}


def measurement_scores(job: ArmJob) -> list[ScoreRow]:
    """Scores, at the hospitals of an arm, of the method that does no more than invert the measurement."""
    rows: list[ScoreRow] = []
    arm = {"mri": "zero_filled", "ct": "fbp"}[job.modality]
    with _said_before():
        for manifest in load_federation(job.sites):
            task = ReconstructionTask(manifest, job.recipe, job.maps / manifest.name)
            result = score_methods(task, {arm: classical_method(arm, task, {})})
            rows += _rows(job, arm, manifest, result.arms[arm]["volumes"])
    return rows


@dataclass(frozen=True)
class _Trained:
    """What an arm brought: a network per site, seconds of training, and what is told of it."""

    networks: dict[str, nn.Module]
    seconds: float
    facts: dict[str, Any]


def _scored(job: ArmJob, manifests: tuple[SiteManifest, ...]) -> tuple[list[ScoreRow], dict[str, Any]]:
    tasks = {m.name: ReconstructionTask(m, job.recipe, job.maps / m.name) for m in manifests}
    rows: list[ScoreRow] = []
    quality: dict[str, Any] = {}
    sites: dict[str, Any] = {}
    trained = _Trained({}, 0.0, {}) if job.arm.kind == "classical" else _train(job, job.folder / "run", manifests)
    peak = _peak_mb()  # of training: scoring is the same for all
    for name, task in tasks.items():
        tuned: dict[str, float] = {}
        methods = {arm: classical_method(arm, task, tuned) for arm in job.recipe.evaluation.arms}
        if name in trained.networks:
            methods[job.arm.name] = trained.networks[name]
        if not methods:
            continue
        result = score_methods(task, methods, tuned)
        for arm, scores in result.arms.items():
            rows += _rows(job, arm, task.manifest, scores["volumes"])
        quality[name] = {
            arm: {key: measured[key] for key in ("mtf50_lp_per_cm", "disc_cnr")}
            for arm, measured in result.quality.items()
        }
        sites[name] = result.facts | {"references": result.references, "crops": result.crops}
    if job.arm.kind == "classical":
        return rows, {"quality": quality, "sites": sites}
    return rows, {
        "parameters_shared": max(facts["parameters_shared"] for facts in sites.values()),
        "parameters_kept": max(facts["parameters_kept"] for facts in sites.values()),
        **trained.facts,
        "seconds": round(trained.seconds, 1),
        "peak_memory_mb": peak,
        **job.told,
        "validation": _validation(job, trained.networks),
        "quality": quality,
        "sites": sites,
    }


def _train(job: ArmJob, folder: Path, manifests: tuple[SiteManifest, ...]) -> _Trained:
    """Train an arm in ``folder``, or go on where it stopped."""
    if job.arm.kind in ("joint", "sequential"):
        return _central(job, folder, manifests)
    return (_local if job.arm.kind == "local" else _federated)(job, folder, manifests)


def _federated(job: ArmJob, folder: Path, manifests: tuple[SiteManifest, ...]) -> _Trained:
    run = train_run(job.recipe, manifests, folder, jobs=1, resume=True, say=quiet, maps=job.maps)
    training = [row for row in read_rows(run.path) if row["n_samples"] is not None]
    steps = {name: 0 for name in (m.name for m in run.participants)}
    for row in training:
        steps[row["site"]] += row["n_steps"]
    personal = job.recipe.personal.steps
    facts = {
        "bytes_up": sum(row["bytes_up"] for row in training),
        "bytes_down": sum(row["bytes_down"] for row in training),
        "bytes_base": _base_bytes(run),
        "steps": max(steps.values()) + personal,
        "least_steps": min(steps.values()) + personal,
    }
    return _Trained({m.name: site_network(run, m) for m in manifests}, sum(run.seconds().values()), facts)


def _local(job: ArmJob, folder: Path, manifests: tuple[SiteManifest, ...]) -> _Trained:
    """Every site on its own, as many rounds and steps as in the federation; one that took part in nothing too."""
    run = RunFolder.create(folder, job.recipe, manifests, resume=True, maps=job.maps)
    begin = time.monotonic()
    for manifest in run.learners:
        train_alone((run, manifest.name))
    networks = {m.name: site_network(run, m, local=True) for m in run.learners}
    steps = job.recipe.federation.rounds * job.recipe.training.steps_per_round
    facts = {"steps": steps, "least_steps": steps, "label": "every site on its own"}
    return _Trained(networks, time.monotonic() - begin, facts)


def _central(job: ArmJob, folder: Path, manifests: tuple[SiteManifest, ...]) -> _Trained:
    trained = tuple(manifest for manifest in manifests if manifest.trains)
    kind: Updates = "sequential" if job.arm.kind == "sequential" else "joint"
    begin = time.monotonic()
    maps = {manifest.name: job.maps / manifest.name for manifest in manifests}
    networks = CentralArm(job.recipe, trained, folder, maps, kind).train()
    seconds = time.monotonic() - begin
    first = next(iter(networks.values()))
    shared = parameters_of(first, parameter_scope(first, job.recipe.scope.rules()).shared)
    for manifest in manifests:
        if manifest.name not in networks:
            task = ReconstructionTask(manifest, job.recipe, job.maps / manifest.name)
            networks[manifest.name] = initial_network(task.network, job.recipe.federation.seed)
            load_parameters(networks[manifest.name], shared)
    steps = job.recipe.federation.rounds * job.recipe.training.steps_per_round
    steps *= len(trained) if kind == "sequential" else 1
    return _Trained(networks, seconds, {"steps": steps, "least_steps": steps, "label": "all data in one place"})


def _validation(job: ArmJob, networks: Mapping[str, nn.Module]) -> float | None:
    """Mean validation score over the sites that train; learning rates and personalized arms are chosen by it."""
    scores = []
    for manifest in load_federation(job.sites):
        if manifest.trains:
            score = ReconstructionTask(manifest, job.recipe, job.maps / manifest.name).validate(networks[manifest.name])
            if score is not None:
                scores.append(score)
    return fmean(scores) if scores else None


def _base_bytes(run: RunFolder) -> int:
    """The frozen base is sent to every site once."""
    task = ReconstructionTask(run.participants[0], run.recipe, Path())
    network = initial_network(task.network, run.recipe.federation.seed)
    frozen = set(parameter_scope(network, run.recipe.scope.rules()).frozen)
    size = sum(p.nbytes for name, p in network.named_parameters() if name in frozen)
    return size * len(run.participants)


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
    logger = logging.getLogger("physics.ct.fbp")
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
