"""Run a comparison: arms of a preset at its sites, scored volume by volume; an interrupted one goes on arm by arm."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recon import MIN_SEEDS, DataError, write_atomically

from ..config import ConfigError, config_error, read_json
from ..experiment import Say, initial_state
from ..progress import log_into
from ..recipes import classical_arms
from ..worker_pool import run_jobs
from .arm_runs import ArmJob, quiet, run_arm, run_trial
from .arms import Arm
from .plan import ModalityPlan
from .preparation import prepare
from .preset import Preset
from .published import read_published, without_seeds
from .tables import DAMAGED_PRESET, Key, small_effects, write_tables


def run_comparison(
    preset: Preset,
    out: Path | str,
    *,
    modalities: Sequence[str] | None = None,
    extra: Sequence[Arm] = (),
    seeds: int | None = None,
    only: Sequence[str] = (),
    published: Path | str | None = None,
    more_seeds: bool = True,
    jobs: int,
    say: Say,
) -> Path:
    """Run the arms that are missing in ``out`` and write the tables.

    Parameters
    ----------
    out
        Receives ``<modality>/<table>/`` with sites and arms, ``scores.csv``, ``hypotheses.json`` and the tables.
    modalities
        By default all of the preset.
    extra
        Arms beside those of the preset, in its first table, with one seed unless ``seeds`` says more.
    seeds
        Number of training seeds of every arm; None: as the preset says.
    only
        Names of the tables to run, by default all. Arms are tuned in the first table of the preset in any case.
    published
        Published tables of the same preset: their arms are copied and not run again.
    more_seeds
        Whether arms whose difference a claim needs get the preset's ``small_effect_seeds`` if it is small. Needs
        ``seeds=None``.
    jobs
        Arms at a time, each in a process with one thread; results do not depend on it.

    Returns
    -------
        The page.

    Raises
    ------
    DataError
        If the folder holds another comparison, two arms have one name, published tables cannot be used, or no arm of a
        table could be run.
    """
    out = Path(out).resolve()  # recipes hold the path of a frozen base
    modalities = tuple(preset.budgets) if modalities is None else modalities
    _require_tables(preset, only, modalities, extra)
    _require_names(preset, extra)
    _require_no_privacy(preset, extra, say)
    _require_networks(preset, extra, modalities, say)
    copied = None if published is None else read_published(Path(published), preset.described())
    _claim_folder(preset, out)
    log_into(out)
    plans = [ModalityPlan(preset, out, tuple(extra), seeds, modality, tuple(only)) for modality in modalities]
    if copied is not None:
        say(f"{copied.put(out, modalities)} arms from {published}")
        if stale := sorted({name for plan in plans for name in plan.arms_of_another_recipe()}):
            say(f"of another recipe than those that were published, so run again: {', '.join(stale)}")
    runner = _Runner(preset, out, jobs, say)
    runner.run_trials(plans)
    runner.run_missing(planned := _planned(plans, {}))
    if preset.small_effect_seeds and more_seeds and seeds is None:
        runner.run_small_effects(plans, planned)
    for plan in plans:
        for table in plan.tables:
            for job in plan.jobs_with_results(table):
                job.update_plan()
    return write_tables(out, say)


def _planned(plans: Sequence[ModalityPlan], more: Mapping[Key, set[str]]) -> list[ArmJob]:
    """Jobs of all tables; arms named in ``more`` by table get the seeds of small effects."""
    return [
        job
        for plan in plans
        for table in plan.tables
        for job in plan.jobs(table, more.get((plan.modality, table.name), ()))
    ]


@dataclass(frozen=True)
class _Runner:
    """Prepares and runs jobs in processes, and prints a line for each."""

    preset: Preset
    out: Path
    jobs: int
    say: Say

    def run_trials(self, plans: Sequence[ModalityPlan]) -> None:
        """Run the trials that are missing; their scores may ask for more trials."""
        while trials := [job for plan in plans for job in plan.trials()]:
            prepare(self.preset, self.out, trials, self.jobs, self.say)
            self._run("trial", trials, run_trial)

    def run_missing(self, work: Sequence[ArmJob]) -> None:
        """Run the jobs that are not done.

        Every table first gets the seeds that a verdict needs, so that an interrupted comparison has whole tables.
        """
        tables = [table.name for table in self.preset.tables]
        ordered = sorted(work, key=lambda job: (job.seed // MIN_SEEDS, tables.index(job.table), job.seed))
        missing = [job for job in ordered if not job.is_done]
        self.say(f"{len(work)} arms, {len(work) - len(missing)} of them done before")
        prepare(self.preset, self.out, missing, self.jobs, self.say)
        self._run("", missing, run_arm)

    def run_small_effects(self, plans: Sequence[ModalityPlan], tried: Sequence[ArmJob]) -> None:
        """Run more seeds of arms whose difference a claim needs while it is small; ``tried`` were run before."""
        folders = {job.folder for job in tried}  # a job that failed is not tried again
        while True:
            write_tables(self.out, quiet)  # readable while arms run, and after an interruption
            more = [
                job for job in _planned(plans, small_effects(self.out)) if job.folder not in folders and not job.is_done
            ]
            if not more:
                return
            self.say(f"arms of claims whose difference is small, with up to {self.preset.small_effect_seeds} seeds:")
            self.run_missing(more)
            folders |= {job.folder for job in more}

    def _run(self, kind: str, work: Sequence[ArmJob], function: Callable[[ArmJob], tuple[float, str]]) -> None:
        """Run jobs in processes; prints one line each with the time that is left."""
        begin = time.monotonic()
        results: Iterator[tuple[float, str]] = iter(run_jobs(function, work, self.jobs))
        for number, (job, (seconds, failure)) in enumerate(zip(work, results, strict=True), 1):
            left = (time.monotonic() - begin) / number * (len(work) - number)
            what = f"{kind} {job.modality} {job.table}: {job.arm.name}, seed {job.seed}".strip()
            self.say(f"[{number}/{len(work)}] {what}  {failure or f'{seconds:.0f} s'}   about {left / 60:.0f} min left")


def _require_tables(preset: Preset, only: Sequence[str], modalities: Sequence[str], extra: Sequence[Arm]) -> None:
    """Refuse names of tables that the preset lacks in these modalities, and recipes without their table."""
    first = preset.tables[0].name
    if only and extra and first not in only:
        raise ConfigError(f"--only: found recipes without their table {first!r}; add it or leave the recipes out")
    known = [table.name for table in preset.tables if set(table.modalities) & set(modalities)]
    if unknown := [name for name in only if name not in known]:
        raise ConfigError(
            f"--only: found {unknown[0]!r}, expected tables of the preset: {', '.join(known)}; correct it"
        )


def _require_names(preset: Preset, extra: Sequence[Arm]) -> None:
    """Refuse two arms of one name: it names the folder of an arm."""
    taken = {arm.name for arm in preset.arms} | classical_arms()
    for arm in extra:
        if arm.name in taken:
            raise DataError(
                f"{arm.path}: its name {arm.name!r} is that of another arm of the comparison; choose another"
            )
        taken.add(arm.name)


def _require_no_privacy(preset: Preset, extra: Sequence[Arm], say: Say) -> None:
    """Refuse differential privacy at sites with patients; elsewhere say that its epsilon does not hold."""
    private = [arm for arm in (*preset.arms, *extra) if preset.has_noise(arm)]
    if not private:
        return
    why = "a comparison trains on the same patients again, for tuning, seeds and arms without noise"
    if patients := preset.sites_with_patients():
        found = f"noise, and patients at {', '.join(patients)}"
        expected = f"none at sites that are not synthetic: {why}, so that no epsilon would hold"
        advice = "train it with `fedrecon train`, or compare at simulated sites"
        raise config_error(private[0].path, "privacy.noise_multiplier", found, expected, advice)
    say(f"note: no epsilon holds for {', '.join(arm.name for arm in private)}: {why}; scores show what noise costs")


def _require_networks(preset: Preset, extra: Sequence[Arm], modalities: Sequence[str], say: Say) -> None:
    """Refuse recipes that share no parameter, with any of the values that they tune, before anything is trained."""
    for arm in extra:
        if not preset.has_base and preset.needs_base(arm):
            raise ConfigError(
                f"{arm.path}: network.adapter: found an adapter, expected none: nobody trains its base at your sites; "
                "leave the recipe out"
            )
        for modality in set(modalities) & set(arm.modalities):
            budget = preset.budgets[modality]
            own = budget.recipe(arm, modality, 0)
            others = [budget.recipe(arm, modality, 0, value=value) for value in range(len(own.tuning.values))]
            try:
                for recipe in (own, *others):
                    initial_state(recipe)
            except ConfigError as error:
                raise ConfigError(f"{arm.path}: {error}") from None
            if others and {own.digest()} == {recipe.digest() for recipe in others}:
                raise ConfigError(
                    f"{arm.path}: tuning: {own.tuning.key} changes nothing: the comparison sets it, or all values are "
                    "the recipe's own; tune another key or leave [tuning] out"
                )
            if others and len(preset.rates) == 1:
                say(f"{arm.name}: {own.tuning.key} stays as it is, as the preset {preset.name!r} tunes nothing")


def _claim_folder(preset: Preset, out: Path) -> None:
    """Write the preset into the folder; refuse a folder that holds anything else."""
    described = preset.described()
    record = out / "preset.json"
    if record.exists() and without_seeds(read_json(record, DAMAGED_PRESET)) != without_seeds(described):
        raise DataError(f"{out}: holds a comparison of another preset; choose another --out")
    if not record.exists() and out.exists() and any(out.iterdir()):
        raise DataError(f"{out}: is not empty and holds no comparison; choose another --out")
    write_atomically(record, json.dumps(described, indent=1).encode())
