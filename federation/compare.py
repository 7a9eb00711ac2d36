"""A comparison of methods: the arms of a preset on its hospitals, scored volume by volume, resumable arm by arm."""

import contextlib
import json
import logging
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel
from torch import nn

from recon import (
    ComparedTable,
    DataError,
    Hypothesis,
    ScoreRow,
    SiteScores,
    compare_arms,
    comparison_text,
    evaluate,
    metric_card,
    paired_difference,
    read_scores,
    select_table,
    write_atomically,
    write_comparison,
    write_scores,
)

from .arms import Arm
from .central import CentralArm, Updates
from .config import LOCAL, SHARED, Recipe
from .experiment import RunFolder, Say, train_run
from .hypotheses import BEST_PERSONAL, CLAIMS, Claim
from .manifest import SiteManifest, load_federation, read_federation
from .manifest_tables import SPLITS
from .parallel import run_jobs
from .personal import site_network
from .presets import PERSONAL_ARMS, VARIANTS, Preset, TableSpec
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


def run_comparison(
    preset: Preset,
    out: Path,
    *,
    modalities: Sequence[str] = ("mri", "ct"),
    extra: Sequence[Arm] = (),
    seeds: int | None = None,
    jobs: int,
    say: Say,
) -> Path:
    """Run what is missing of a comparison in ``out`` and write its tables.

    Parameters
    ----------
    out
        Receives ``<modality>/<table>/`` with hospitals and arms, ``scores.csv``, ``hypotheses.json`` and the tables.
    extra
        Arms beside those of the preset, in the table ``together`` with one seed.
    seeds
        Training seeds per table instead of the preset's.
    jobs
        Arms at a time, each in a process with one thread; results do not depend on it.

    Returns
    -------
        The page.

    Raises
    ------
    DataError
        If the folder holds another comparison, or no arm of a table could be run.
    """
    _claim_folder(preset, out)
    plan = _Plan(preset, out, tuple(extra), seeds)
    bases = {modality: _prepare(preset, out, modality, jobs, say) for modality in modalities}
    if len(preset.rates) > 1:
        trials = [job for modality in modalities for job in plan.trials(modality, bases[modality])]
        _run("trial", [job for job in trials if not job.is_done], jobs, say, _run_trial)
    work = [
        job
        for modality in modalities
        for table in preset.tables
        if modality in table.modalities
        for job in plan.jobs(modality, table, bases[modality])
    ]
    # Seed by seed, so that a comparison that is cut short has whole tables with fewer seeds.
    work.sort(key=lambda job: (job.seed, preset_order(preset, job.table)))
    missing = [job for job in work if not job.is_done]
    say(f"{len(work)} arms, {len(work) - len(missing)} of them done before")
    _run("", missing, jobs, say, _run_arm)
    return write_tables(out, say)


def _run(
    kind: str, work: Sequence[ArmJob], jobs: int, say: Say, function: Callable[[ArmJob], tuple[float, str]]
) -> None:
    """Run jobs in processes, one line each with the time that is left."""
    begin = time.monotonic()
    for number, (job, (seconds, failure)) in enumerate(zip(work, run_jobs(function, work, jobs), strict=True), 1):
        left = (time.monotonic() - begin) / number * (len(work) - number)
        what = f"{kind} {job.modality} {job.table}: {job.arm.name}, seed {job.seed}".strip()
        say(f"[{number}/{len(work)}] {what}  {failure or f'{seconds:.0f} s'}   about {left / 60:.0f} min left")


def preset_order(preset: Preset, table: str) -> int:
    """Place of a table in its preset."""
    return [spec.name for spec in preset.tables].index(table)


def _claim_folder(preset: Preset, out: Path) -> None:
    described = json.loads(json.dumps(asdict(preset), default=_plain))
    record = out / "preset.json"
    if record.exists() and json.loads(record.read_text()) != described:
        raise DataError(f"{out}: holds a comparison of another preset; choose another --out")
    if not record.exists() and out.exists() and any(out.iterdir()):
        raise DataError(f"{out}: is not empty and holds no comparison; choose another --out")
    write_atomically(record, json.dumps(described, indent=1).encode())


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


def _sites(preset: Preset, folder: Path, modality: str, table: TableSpec, base: bool, jobs: int) -> Path:
    """The hospitals of a table, simulated once."""
    done = folder / "made"
    if not done.exists():
        preset.make_sites(folder / "sites", modality, table, base=base, jobs=jobs)
        write_atomically(done, b"")
    return folder / "sites"


def _prepare(preset: Preset, out: Path, modality: str, jobs: int, say: Say) -> Path | None:
    """Simulate all hospitals, and train the base of the adapters on hospitals of another draw."""
    for table in preset.tables:
        if modality in table.modalities:
            say(f"{modality}: hospitals of the table '{table.name}' ...")
            folder = out / modality / _slug(table.name)
            sites = _sites(preset, folder, modality, table, False, jobs)
            list(run_jobs(_estimate_maps, [(m, folder / "maps" / m.name) for m in read_federation(sites)], jobs))
    if not any(arm.recipe in ("fed_scales", "fedpr", "med_lora", "med_dual_lora") for arm in preset.arms):
        return None
    folder = out / modality / "base"
    if not (folder / "trained").exists():
        say(f"{modality}: a base for the adapters, trained at hospitals of another draw ...")
        sites = _sites(preset, folder, modality, preset.tables[0], True, jobs)
        recipe = preset.budgets[modality].recipe(Arm("base"), modality, preset.base_seed)
        train_run(recipe, load_federation(sites), folder / "run", jobs=jobs, resume=True, say=_quiet)
        write_atomically(folder / "trained", b"")
    return folder / "run"


def _quiet(text: str) -> None:
    """Progress of an arm is one line of the comparison's."""


def _estimate_maps(job: tuple[SiteManifest, Path]) -> None:
    """Read every slice once: coil maps are estimated and stored for all arms."""
    manifest, cache = job
    for split in SPLITS:
        if getattr(manifest.data, split):
            samples = manifest.dataset(split, cache)
            for index in range(len(samples)):
                samples[index]


@dataclass(frozen=True)
class _Plan:
    """What is to be run: arms by table and seed, and the trials that choose their learning rates."""

    preset: Preset
    out: Path
    extra: tuple[Arm, ...]
    seeds: int | None

    def jobs(self, modality: str, table: TableSpec, base: Path | None) -> list[ArmJob]:
        count = table.seeds if self.seeds is None else self.seeds
        arms = [(arm, count) for arm in self.preset.arms if arm.name in table.arms and modality in arm.modalities]
        if table is self.preset.tables[0]:
            arms += [(arm, 1) for arm in self.extra if modality in arm.modalities]
        return [
            self._job(f"seed{seed}", modality, table, arm, seed, base, self._rate(modality, arm))
            for arm, count in arms
            for seed in range(count)
        ]

    def trials(self, modality: str, base: Path | None) -> list[ArmJob]:
        """Every arm with every learning rate, in the first table, with a seed that no table has."""
        table, arms = self.preset.tables[0], (*self.preset.arms, *self.extra)
        return [
            self._job(f"trial{number}", modality, table, arm, TRIAL_SEED, base, rate)
            for arm in arms
            if modality in arm.modalities
            for number, rate in enumerate(self.preset.rates)
        ]

    def _rate(self, modality: str, arm: Arm) -> float:
        """The factor with the best mean validation score; the middle one where there were no trials."""
        folder = self.out / modality / _slug(self.preset.tables[0].name)
        scores = []
        for number, rate in enumerate(self.preset.rates):
            path = folder / f"trial{number}" / arm.name / "facts.json"
            score = json.loads(path.read_text()).get("validation") if path.exists() else None
            if score is not None:
                scores.append((score, -number, rate))
        return max(scores)[-1] if scores else self.preset.rates[len(self.preset.rates) // 2]

    def _job(
        self, part: str, modality: str, table: TableSpec, arm: Arm, seed: int, base: Path | None, rate: float
    ) -> ArmJob:
        folder = self.out / modality / _slug(table.name)
        budget = self.preset.budgets[modality].times(table.steps)
        return ArmJob(
            folder / part / arm.name,
            folder / "sites",
            folder / "maps",
            modality,
            table.name,
            arm,
            budget.recipe(arm, modality, seed, base=base, rate=rate),
            seed,
            rate,
            len(self.preset.rates),
        )


def _run_trial(job: ArmJob) -> tuple[float, str]:
    """Train one arm with one learning rate and score it on validation data alone; what was trained is dropped."""
    logging.disable(logging.WARNING)
    begin = time.monotonic()
    manifests = tuple(load_federation(job.sites))
    facts: dict[str, Any]
    try:
        with tempfile.TemporaryDirectory() as scratch:
            facts = {"validation": _trial_score(job, manifests, Path(scratch)), "rate": job.rate}
    except DataError as error:
        facts = {"failed": " ".join(str(error).split())}
    finally:
        logging.disable(logging.NOTSET)
    write_atomically(job.folder / "facts.json", json.dumps(facts, indent=1).encode())
    return time.monotonic() - begin, f"failed: {facts['failed']}" if "failed" in facts else ""


def _trial_score(job: ArmJob, manifests: tuple[SiteManifest, ...], scratch: Path) -> float | None:
    if job.arm.kind == "federated":
        evaluation = job.recipe.evaluation.model_copy(update={"arms": ()})
        recipe = job.recipe.model_copy(update={"evaluation": evaluation})
        return _validation(train_run(recipe, manifests, scratch, jobs=1, resume=True, say=_quiet, maps=job.maps))
    networks = _central_networks(job, manifests, scratch)
    tasks = [ReconstructionTask(m, job.recipe, job.maps / m.name) for m in manifests if m.trains]
    scores = [score for task in tasks if (score := task.validate(networks[task.manifest.name])) is not None]
    return fmean(scores) if scores else None


def _run_arm(job: ArmJob) -> tuple[float, str]:
    """Train and score one arm; seconds, and why it failed if it did."""
    # What is remarkable about the hospitals was said when they were made.
    logging.disable(logging.WARNING)
    begin = time.monotonic()
    _forget_peak()
    manifests = tuple(load_federation(job.sites))
    try:
        rows, facts = (_federated if job.arm.kind == "federated" else _central)(job, manifests)
    except DataError as error:
        # One arm that cannot be run (a rule that needs more sites) is a result, not the end of the others.
        facts, rows = {"failed": " ".join(str(error).split())}, []
    finally:
        logging.disable(logging.NOTSET)
    seconds = time.monotonic() - begin
    facts |= {"seconds": round(seconds, 1), "peak_memory_mb": _peak_mb()}
    if rows:
        write_scores(job.folder / "scores.csv", rows)
    write_atomically(job.folder / "facts.json", json.dumps(facts, indent=1).encode())
    return seconds, f"failed: {facts['failed']}" if "failed" in facts else ""


def _federated(job: ArmJob, manifests: tuple[SiteManifest, ...]) -> tuple[list[ScoreRow], dict[str, Any]]:
    out = job.folder / "run"
    run = train_run(job.recipe, manifests, out, jobs=1, resume=True, say=_quiet, maps=job.maps)
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
        "label": job.recipe.evidence,
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


def write_tables(out: Path, say: Say) -> Path:
    """Write the tables of all arms that were run: ``scores.csv``, ``hypotheses.json``, ``comparison.*``.

    Raises
    ------
    DataError
        If the folder holds no comparison, or no arm was scored.
    """
    if not (out / "preset.json").exists():
        raise DataError(f"{out}: holds no comparison; run one with --out")
    rows: list[ScoreRow] = []
    facts: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for path in sorted(out.glob("*/*/seed*/*/facts.json")):
        known = json.loads(path.read_text())
        scores = path.parent / "scores.csv"
        if not scores.exists():
            say(f"left out: {path.parent.relative_to(out)} ({known.get('failed', 'no scores')})")
            continue
        found = read_scores(scores)
        rows += found
        key = (found[0].modality, found[0].table)
        facts.setdefault(key, {}).setdefault(path.parent.name, []).append(known)
    if not rows:
        raise DataError(f"{out}: no arm was scored; run the comparison first")
    write_scores(out / "scores.csv", rows)
    preset = json.loads((out / "preset.json").read_text())
    compared = [_table(key, select_table(rows, *key), known, preset) for key, known in sorted(facts.items())]
    best = {key: _best_personal(known) for key, known in facts.items()}
    named = {"/".join(key): arm for key, arm in best.items() if arm is not None}
    write_atomically(out / "best_personal.json", json.dumps(named, indent=1).encode())
    hypotheses = judge(rows, best)
    write_atomically(out / "hypotheses.json", json.dumps(hypotheses, indent=1).encode())
    statements = {claim.key: claim.text for claim in CLAIMS}
    page = write_comparison(out, compared, hypotheses=hypotheses, statements=statements)
    say(comparison_text(compared))
    return page


def judge(rows: Sequence[ScoreRow], best: Mapping[tuple[str, str], str | None]) -> dict[str, dict[str, Any]]:
    """Every claim whose arms were run, by hypothesis and modality.

    Parameters
    ----------
    rows
        Scores of all tables.
    best
        By modality and table the personalized arm with the best validation score.
    """
    found: dict[str, dict[str, Any]] = {}
    for claim in CLAIMS:
        for modality in claim.modalities:
            table = select_table(rows, modality, claim.table)
            arm, reference = (_named(name, best.get((modality, claim.table))) for name in (claim.arm, claim.reference))
            if arm is None or reference is None or not {arm, reference} <= {row.arm for row in table}:
                continue
            found.setdefault(claim.key, {})[modality] = _judged(claim, table, arm, reference)
    return found


def _named(name: str, best: str | None) -> str | None:
    return best if name == BEST_PERSONAL else name


def _judged(claim: Claim, table: Sequence[ScoreRow], arm: str, reference: str) -> dict[str, Any]:
    sites = sorted({row.site for row in table if row.unseen}) if claim.unseen else None
    interval = paired_difference(table, arm, reference, sites=sites)
    note = f"{arm} less {reference}" if BEST_PERSONAL in (claim.arm, claim.reference) else ""
    return Hypothesis(claim.aim, interval, note).to_json()


def _best_personal(known: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | None:
    """The personalized arm with the best mean validation score."""
    scores = {
        arm: fmean([facts["validation"] for facts in known[arm]])
        for arm in PERSONAL_ARMS
        if arm in known and all(facts.get("validation") is not None for facts in known[arm])
    }
    return max(scores, key=lambda arm: scores[arm]) if scores else None


_SUMMED = ("chosen", "parameters_shared", "parameters_kept", "bytes_up", "bytes_down", "bytes_base", "steps", "trials")


def _table(
    key: tuple[str, str],
    rows: Sequence[ScoreRow],
    known: Mapping[str, Sequence[Mapping[str, Any]]],
    preset: Mapping[str, Any],
) -> ComparedTable:
    """One table with what is known of its arms."""
    facts: dict[str, dict[str, Any]] = {arm: {} for arm in ("zero_filled", "fbp", "tv", LOCAL)}
    facts = {arm: {} for arm in facts if arm in {row.arm for row in rows}}
    order = [arm["name"] for arm in preset["arms"]]
    for arm in sorted(known, key=lambda arm: (order.index(arm) if arm in order else len(order), arm)):
        runs = known[arm]
        entry: dict[str, Any] = {name: runs[0][name] for name in _SUMMED if name in runs[0]}
        entry |= {name: fmean([run[name] for run in runs]) for name in ("seconds", "peak_memory_mb")}
        if runs[0].get("label"):
            entry["label"] = runs[0]["label"]
        if flags := _flags(arm, runs):
            entry["flags"] = flags
        facts[arm] = entry
    against = [arm for arm in ("fedavg", LOCAL) if arm in {row.arm for row in rows}]
    try:
        return compare_arms(rows, facts, _card(key, rows, preset), against=against)
    except ValueError as error:
        raise DataError(f"{key[0]}, table '{key[1]}': {error}; run what is missing with the same --out") from None


def _flags(arm: str, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sharpness or contrast that a CT arm lost against TV while PSNR rose: by a tenth, in the mean over its sites."""
    flags = []
    for name, text in (("mtf50_lp_per_cm", "MTF"), ("disc_cnr", "contrast to noise")):
        own, tv = [], []
        for run in runs:
            for measured in run.get("quality", {}).values():
                if arm in measured and "tv" in measured and None not in (measured[arm][name], measured["tv"][name]):
                    own.append(measured[arm][name])
                    tv.append(measured["tv"][name])
        if own and fmean(own) < 0.9 * fmean(tv):
            flags.append(f"{text} below TV")
    return flags


def _card(key: tuple[str, str], rows: Sequence[ScoreRow], preset: Mapping[str, Any]) -> dict[str, str]:
    modality, table = key
    budget, size = preset["budgets"][modality], preset["size"]
    spec = next(entry for entry in preset["tables"] if entry["name"] == table)
    kind = "coil_combined" if modality == "mri" else "attenuation"
    origin = (
        "phantoms; k-space of the full grid times coil maps, masked, noise added; maps estimated from the kept samples"
        if modality == "mri"
        else "phantoms; projected on a grid twice as fine, three rays per element, counts with electronic noise"
    )
    rounds, steps = budget["rounds"] * spec["steps"], budget["steps_per_round"]
    network = budget["network"]
    return metric_card([kind], [(size, size)], ["espirit"] if modality == "mri" else []) | {
        "measurement": origin,
        "size": f"{size}x{size}, {spec['train']} training volumes of {preset['slices']} slices per site"
        + (f"; sites differ: {table}" if table in VARIANTS else ""),
        "network": f"{network['cascades']} cascades, {network['regularizer']} {network['channels']}x{network['depth']}",
        "steps": f"{rounds * steps} of batch 1 at every site in every federated and local arm, fine-tuning included; "
        "joint: as many, each on a batch of every site; sequential: as many per site",
        "learning_rate": f"{budget['learning_rate']:g}, cosine, "
        + (
            f"times the best of {preset['rates']} by validation at seed {TRIAL_SEED}, each arm its own"
            if len(preset["rates"]) > 1
            else "the same for all arms; one trial each"
        ),
        "selection": "best round by mean validation PSNR; test data used once",
        "seeds": f"{len({row.seed for row in rows})} of training; data drawn once",
    }
