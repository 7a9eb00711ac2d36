"""Train and score one arm of a comparison, in a process of its own."""

import contextlib
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Self

from torch import nn

from recon import MODALITIES, DataError, LearningCurve, ScoreRow, data_error, write_atomically, write_scores

from ..experiment import (
    DEVICE_FAILED,
    CentralArm,
    ReconstructionTask,
    RunFolder,
    Updates,
    classical_method,
    curves_of,
    local_curves,
    score_methods,
    site_network,
    steps_by_site,
    train_alone,
    train_run,
    training_slices,
)
from ..machine import peak_memory, reset_peak_memory
from ..methods import parameter_scope
from ..progress import within
from ..recipes import Recipe, TuningSection
from ..rounds import initial_network, read_rows
from ..sites import SiteManifest, load_federation
from .arm_result import ArmResult
from .arms import Arm

#: Training seed of the trials; seeds of the tables count from 0.
TRIAL_SEED = 900


@dataclass(frozen=True)
class Tuned:
    """Values that trials chose for an arm."""

    rate: float = 1.0  # factor on the learning rate
    value: int | None = None  # number of a value in the recipe's [tuning]; None: the recipe's own value
    trials: int = 1
    rate_at_end: bool = False  # whether the best rate is the smallest or largest tried
    value_at_end: bool = False

    @classmethod
    def of_result(cls, result: ArmResult, tuning: TuningSection) -> Self | None:
        """Values chosen for an arm that has run; None if its recipe tunes other values now."""
        if result.tuning != _described(tuning) or result.rate is None or result.trials is None:
            return None
        return cls(result.rate, result.value, result.trials, bool(result.at_end), bool(result.value_at_end))


def _described(tuning: TuningSection) -> dict[str, Any]:
    return tuning.model_dump(mode="json")


@dataclass(frozen=True)
class ArmJob:
    """One arm of one table with one seed: everything that a process needs to run it."""

    folder: Path
    sites: Path
    maps: Path
    modality: str
    table: str
    arm: Arm
    recipe: Recipe
    seed: int
    tuned: Tuned = Tuned()
    #: Purpose of a federated arm.
    label: str = ""

    @property
    def result(self) -> ArmResult | None:
        """Result of the arm; None until it has run with this recipe."""
        found = ArmResult.read(self.folder)
        return found if found is not None and found.recipe == self.recipe.method_digest() else None

    @property
    def is_done(self) -> bool:
        """Whether the arm has run with this recipe. An arm that failed is tried again."""
        return (found := self.result) is not None and found.failed is None

    @property
    def chosen(self) -> dict[str, Any]:
        """Learning rate and tuned value by key of the recipe."""
        key = self.recipe.tuning.key
        return {"learning_rate": self.recipe.training.learning_rate} | ({key: self.recipe.tuned_value} if key else {})

    def with_plan(self, result: ArmResult) -> ArmResult:
        """The result with metadata known before the arm runs: the values that trials chose, and the label."""
        return replace(
            result,
            rate=self.tuned.rate,
            value=self.tuned.value,
            tuning=_described(self.recipe.tuning),
            trials=self.tuned.trials,
            at_end=self.tuned.rate_at_end,
            value_at_end=self.tuned.value_at_end,
            chosen=self.chosen,
            label=self.label if self.arm.kind == "federated" else result.label,
        )

    def update_plan(self) -> None:
        """Rewrite the metadata of an arm that has run if it changed since, for example after more trials."""
        found = self.result
        if found is not None and found.failed is None and self.arm.kind != "classical":
            updated = self.with_plan(found)
            if updated != found:
                self.finish(updated)

    def progress(self, kind: str) -> contextlib.AbstractContextManager[None]:
        """Context whose steps belong to this arm."""
        words = (kind, self.modality, self.table, self.arm.name, f"seed {self.seed}")
        return within(job=" ".join(word for word in words if word))

    def start(self) -> None:
        """Delete the folder if another recipe of the same name has run in it."""
        record, digest = self.folder / "recipe.txt", self.recipe.digest()
        if self.folder.exists() and (not record.exists() or record.read_text() != digest):
            shutil.rmtree(self.folder)
        write_atomically(record, digest.encode())

    def finish(self, result: ArmResult) -> str:
        """Write the result; returns the reason if the arm failed."""
        replace(result, recipe=self.recipe.method_digest()).write(self.folder)
        return "" if result.failed is None else f"failed: {result.failed}"


def run_trial(job: ArmJob) -> tuple[float, str]:
    """Train an arm with one choice of values, score it on validation data only, and discard the networks.

    Returns
    -------
        Seconds, and the reason if the arm failed.
    """
    begin = time.monotonic()
    job.start()
    try:
        with job.progress("trial"), _without_scan_warnings(), tempfile.TemporaryDirectory() as scratch:
            networks = _train(job, Path(scratch), tuple(load_federation(job.sites))).networks
            result = ArmResult(validation=_validation(job, networks), chosen=job.chosen)
    except DataError as error:
        result = _failed(error)
    return time.monotonic() - begin, job.finish(result)


def run_arm(job: ArmJob) -> tuple[float, str]:
    """Train and score an arm.

    Returns
    -------
        Seconds, and the reason if the arm failed.
    """
    begin = time.monotonic()
    reset_peak_memory()
    job.start()
    try:
        with job.progress(""), _without_scan_warnings():
            rows, result = _scored(job, tuple(load_federation(job.sites)))
    except DataError as error:
        # An arm that cannot run (a rule that needs more sites) is a result; the other arms go on.
        result, rows = _failed(error), []
    if rows:
        write_scores(job.folder / "scores.csv", rows)
    return time.monotonic() - begin, job.finish(result)


def _failed(error: DataError) -> ArmResult:
    """Result of an arm that failed. A failed device is no fault of the arm: it ends the comparison."""
    if DEVICE_FAILED in str(error):
        raise error
    return ArmResult(failed=" ".join(str(error).split()))


def measurement_scores(job: ArmJob) -> list[ScoreRow]:
    """Scores, at the sites of an arm, of the method that only inverts the measurement."""
    rows: list[ScoreRow] = []
    arm = MODALITIES[job.modality].inversion
    with _without_scan_warnings():
        for manifest in load_federation(job.sites):
            task = ReconstructionTask(manifest, job.recipe, job.maps / manifest.name)
            result = score_methods(task, {arm: classical_method(arm, task, {})})
            rows += _rows(job, arm, manifest, result.arms[arm]["volumes"])
    return rows


@dataclass(frozen=True)
class _Trained:
    """Outcome of training an arm: a network per site, and its cost."""

    networks: dict[str, nn.Module]
    cost: ArmResult


def _scored(job: ArmJob, manifests: tuple[SiteManifest, ...]) -> tuple[list[ScoreRow], ArmResult]:
    """Train an arm and score it at every site."""
    tasks = {m.name: ReconstructionTask(m, job.recipe, job.maps / m.name) for m in manifests}
    rows: list[ScoreRow] = []
    quality: dict[str, dict[str, dict[str, float | None]]] = {}
    sites: dict[str, dict[str, Any]] = {}
    is_classical = job.arm.kind == "classical"
    trained = _Trained({}, ArmResult()) if is_classical else _train(job, job.folder / "run", manifests)
    peak = round(peak_memory() / 2**20, 1)  # of training: scoring is the same for all
    for name, task in tasks.items():
        tuned: dict[str, float] = {}
        with within(site=name):
            methods = {arm: classical_method(arm, task, tuned) for arm in job.recipe.evaluation.arms}
        if name in trained.networks:
            methods[job.arm.name] = trained.networks[name]
        if not methods:
            continue
        with within(site=name, part="tests"):
            result = score_methods(task, methods, tuned)
        for arm, scores in result.arms.items():
            rows += _rows(job, arm, task.manifest, scores["volumes"])
        quality[name] = {
            arm: {key: measured[key] for key in ("mtf50_lp_per_cm", "disc_cnr")}
            for arm, measured in result.quality.items()
        }
        sites[name] = result.facts | {"references": result.references, "crops": result.crops}
    if is_classical:
        return rows, ArmResult(quality=quality, sites=sites)
    return rows, replace(
        job.with_plan(trained.cost),
        parameters_shared=max(site["parameters_shared"] for site in sites.values()),
        parameters_kept=max(site["parameters_kept"] for site in sites.values()),
        peak_memory_mb=peak,
        validation=_validation(job, trained.networks),
        quality=quality,
        sites=sites,
    )


def _train(job: ArmJob, folder: Path, manifests: tuple[SiteManifest, ...]) -> _Trained:
    """Train an arm in ``folder``, or go on where it stopped."""
    if job.arm.kind in ("joint", "sequential"):
        return _centralized(job, folder, manifests)
    return (_local if job.arm.kind == "local" else _federated)(job, folder, manifests)


def _federated(job: ArmJob, folder: Path, manifests: tuple[SiteManifest, ...]) -> _Trained:
    run = train_run(job.recipe, manifests, folder, jobs=1, resume=True, say=quiet, maps=job.maps)
    training = [row for row in read_rows(run.path) if row["n_samples"] is not None]
    steps = steps_by_site(run.path, [m.name for m in run.participants])
    personal = job.recipe.personal.steps
    cost = ArmResult(
        **_learning(curves_of(run)[job.recipe.name], personal),
        bytes_up=sum(row["bytes_up"] for row in training),
        bytes_down=sum(row["bytes_down"] for row in training),
        bytes_base=_base_bytes(run),
        steps=max(steps.values()) + personal,
        least_steps=min(steps.values()) + personal,
        seconds=round(sum(run.seconds().values()), 1),
    )
    return _Trained({m.name: site_network(run, m) for m in manifests}, cost)


def _local(job: ArmJob, folder: Path, manifests: tuple[SiteManifest, ...]) -> _Trained:
    """Train every site alone, with the rounds and patience of the federation; unseen sites too."""
    run = RunFolder.create(folder, job.recipe, manifests, resume=True, maps=job.maps)
    begin = time.monotonic()
    for manifest in run.learners:
        train_alone((run, manifest.name))
    seconds = round(time.monotonic() - begin, 1)
    steps = [sum(steps_by_site(run.local_folder(m.name), [m.name]).values()) for m in run.learners]
    curves = local_curves(run, {m.name: training_slices(job.recipe, m, run.maps_folder(m.name)) for m in run.learners})
    cost = ArmResult(
        **_learning(curves), steps=max(steps), least_steps=min(steps), label="every site on its own", seconds=seconds
    )
    return _Trained({m.name: site_network(run, m, local=True) for m in run.learners}, cost)


def _centralized(job: ArmJob, folder: Path, manifests: tuple[SiteManifest, ...]) -> _Trained:
    """Train with all data in one place. Unseen sites get the shared parameters, and their own as initialized."""
    trained = tuple(manifest for manifest in manifests if manifest.trains)
    kind: Updates = "sequential" if job.arm.kind == "sequential" else "joint"
    begin = time.monotonic()
    maps = {manifest.name: job.maps / manifest.name for manifest in manifests}
    arm = CentralArm(job.recipe, trained, folder, maps, kind)
    networks = arm.train()
    seconds = round(time.monotonic() - begin, 1)
    steps = arm.rounds_made * arm.steps_per_round
    cost = ArmResult(
        **_learning(arm.curves),
        steps=steps,
        least_steps=steps,
        label="all data in one place",
        seconds=seconds,
    )
    return _Trained({m.name: arm.network_at(m, networks) for m in manifests}, cost)


def _learning(curves: Sequence[LearningCurve], personal: int = 0) -> dict[str, Any]:
    """Fields of the result about learning curves; ``personal``: steps of the personal stage, added to the selected."""
    scores = [
        replace(each, scores=[(round_, None if score is None else round(score, 4)) for round_, score in each.scores])
        for each in curves
    ]
    steps = max((each.steps + personal for each in curves), default=None)
    return {"curves": [each.to_json() for each in scores] or None, "selected_steps": steps}


def _validation(job: ArmJob, networks: Mapping[str, nn.Module]) -> float | None:
    """Mean validation score over the sites that train; it selects learning rates and personalized arms."""
    trained = [manifest for manifest in load_federation(job.sites) if manifest.trains]
    scores = [ReconstructionTask(m, job.recipe, job.maps / m.name).validate(networks[m.name]) for m in trained]
    known = [score for score in scores if score is not None]
    return fmean(known) if known else None


def _base_bytes(run: RunFolder) -> int:
    """Bytes of the frozen base, sent to every site once."""
    task = ReconstructionTask(run.participants[0], run.recipe, Path())
    network = initial_network(task.network, run.recipe.federation.seed)
    frozen = set(parameter_scope(network, run.recipe.scope.rules()).frozen)
    size = sum(p.nbytes for name, p in network.named_parameters() if name in frozen)
    return size * len(run.participants)


def _rows(job: ArmJob, arm: str, manifest: SiteManifest, volumes: Sequence[Mapping[str, Any]]) -> list[ScoreRow]:
    key = (job.modality, job.table, arm, job.seed, manifest.name, manifest.unseen)
    for volume in volumes:
        if "psnr" not in volume or "ssim" not in volume:
            found, expected = "a volume without PSNR or SSIM", "a reference of at least 7x7 pixels that is not empty"
            raise data_error(manifest.path, volume["volume"], found, expected, "leave it out of data.test")
    return [ScoreRow(*key, v["volume"], v["psnr"], v["ssim"], v["nmse"], v.get("foreground_ssim")) for v in volumes]


@contextlib.contextmanager
def _without_scan_warnings() -> Iterator[None]:
    """Silence scan warnings: they were logged when the sites were created."""
    logger = logging.getLogger("physics.ct.fbp")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def quiet(text: str) -> None:
    """Discard an arm's progress: the comparison prints one line per arm."""
