"""A comparison of methods: the arms of a preset on its hospitals, scored volume by volume, resumable arm by arm."""

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from recon import (
    MIN_SEEDS,
    DataError,
    write_atomically,
)

from .arm_jobs import TRIAL_SEED, ArmJob, quiet, run_arm, run_trial
from .arms import Arm
from .comparison_tables import write_tables
from .experiment import Say, train_run
from .manifest import SiteManifest, load_federation, read_federation
from .manifest_tables import SPLITS
from .parallel import run_jobs
from .presets import WRONG_OPERATOR, Preset, TableSpec, write_wrong_operators


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
    bases = {modality: _prepare(preset, out, modality, extra, jobs, say) for modality in modalities}
    if len(preset.rates) > 1:
        trials = [job for modality in modalities for job in plan.trials(modality, bases[modality])]
        _run("trial", [job for job in trials if not job.is_done], jobs, say, run_trial)
    work = [
        job
        for modality in modalities
        for table in preset.tables
        if modality in table.modalities
        for job in plan.jobs(modality, table, bases[modality])
    ]
    # A comparison that is cut short has whole tables: first all with the seeds that a verdict needs at least.
    work.sort(key=lambda job: (job.seed // MIN_SEEDS, preset_order(preset, job.table), job.seed))
    missing = [job for job in work if not job.is_done]
    say(f"{len(work)} arms, {len(work) - len(missing)} of them done before")
    _run("", missing, jobs, say, run_arm)
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
        if table.name == WRONG_OPERATOR:
            write_wrong_operators(folder / "sites", folder.parent / _slug(preset.tables[0].name) / "sites", preset.size)
        else:
            preset.make_sites(folder / "sites", modality, table, base=base, jobs=jobs)
        write_atomically(done, b"")
    return folder / "sites"


def _prepare(preset: Preset, out: Path, modality: str, extra: Sequence[Arm], jobs: int, say: Say) -> Path | None:
    """Simulate all hospitals, and train the base of the adapters on hospitals of another draw."""
    for table in preset.tables:
        if modality in table.modalities:
            folder = out / modality / _slug(table.name)
            if (folder / "prepared").exists():
                continue
            say(f"{modality}: hospitals of the table '{table.name}' ...")
            sites = _sites(preset, folder, modality, table, False, jobs)
            list(run_jobs(_estimate_maps, [(m, folder / "maps" / m.name) for m in read_federation(sites)], jobs))
            write_atomically(folder / "prepared", b"")
    budget = preset.budgets[modality]
    arms = [arm for arm in (*preset.arms, *extra) if modality in arm.modalities]
    if all(budget.recipe(arm, modality, 0).network.adapter == "none" for arm in arms):
        return None
    folder = out / modality / "base"
    if not (folder / "trained").exists():
        say(f"{modality}: a base for the adapters, trained at hospitals of another draw ...")
        sites = _sites(preset, folder, modality, preset.tables[0], True, jobs)
        recipe = budget.recipe(Arm("base"), modality, preset.base_seed)
        train_run(recipe, load_federation(sites), folder / "run", jobs=jobs, resume=True, say=quiet)
        write_atomically(folder / "trained", b"")
    return folder / "run"


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
