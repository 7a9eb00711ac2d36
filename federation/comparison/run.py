"""A comparison of methods: the arms of a preset on its hospitals, scored volume by volume, resumable arm by arm."""

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from recon import MIN_SEEDS, DataError, read_scores, write_atomically

from ..config import ConfigError, read_json
from ..experiment import Say, initial_state, train_run
from ..recipes import CLASSICAL_ARMS
from ..sites import SPLITS, SiteManifest, load_federation, read_federation
from ..worker_pool import run_jobs
from .arm_runs import ArmJob, measurement_scores, quiet, run_arm, run_trial
from .arms import Arm
from .plan import Plan, slug
from .presets import WRONG_OPERATOR, Preset, TableSpec, write_wrong_operators
from .published import CLASSICAL_RUN, read_published, without_seeds
from .tables import DAMAGED_PRESET, small_effects, write_tables


def run_comparison(
    preset: Preset,
    out: Path | str,
    *,
    modalities: Sequence[str] | None = None,
    extra: Sequence[Arm] = (),
    seeds: int | None = None,
    published: Path | str | None = None,
    more_seeds: bool = True,
    jobs: int,
    say: Say,
) -> Path:
    """Run what is missing of a comparison in ``out`` and write its tables.

    Parameters
    ----------
    out
        Receives ``<modality>/<table>/`` with hospitals and arms, ``scores.csv``, ``hypotheses.json`` and the tables.
    modalities
        Which of the preset's; all by default.
    extra
        Arms beside those of the preset, in its first table, with one seed unless ``seeds`` says more.
    seeds
        Training seeds of every arm instead of the preset's.
    published
        Tables of the same preset that were published, to go on from: their arms are not run again.
    more_seeds
        Whether arms whose difference a claim needs get the preset's ``small_effect_seeds`` where it is small; not with
        ``seeds``.
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
    out = Path(out).resolve()  # a frozen base is named in recipes by its path
    modalities = tuple(preset.budgets) if modalities is None else modalities
    _require_names(preset, extra)
    _require_networks(preset, extra, modalities, say)
    came = None if published is None else read_published(Path(published), preset.described())
    _claim_folder(preset, out)
    if came is not None:
        say(f"{came.put(out, modalities)} arms from {published}")
    plan = Plan(preset, out, tuple(extra), seeds)
    bases = {modality: plan.base(modality) for modality in modalities}
    tables = [(modality, table) for modality in modalities for table in preset.tables if modality in table.modalities]
    if came is not None and (stale := plan.of_another_recipe(modalities)):
        say(f"of another recipe than those that were published, so run again: {', '.join(stale)}")
    while trials := [job for modality in modalities for job in plan.trials(modality, bases[modality])]:
        _prepare(preset, out, trials, jobs, say)
        _run("trial", trials, jobs, say, run_trial)

    def planned(more: Mapping[tuple[str, str], Collection[str]]) -> list[ArmJob]:
        return [
            job
            for modality, table in tables
            for job in plan.jobs(modality, table, bases[modality], more.get((modality, table.name), ()))
        ]

    tried = planned({})
    _run_missing(preset, out, tried, jobs, say)
    while preset.small_effect_seeds and more_seeds and seeds is None:
        write_tables(out, quiet)  # for who looks, or stops, meanwhile
        folders = {job.folder for job in tried}  # one that failed is not tried for ever
        more = [job for job in planned(small_effects(out)) if job.folder not in folders and not job.is_done]
        if not more:
            break
        say(f"arms of claims whose difference is small, with up to {preset.small_effect_seeds} seeds:")
        _run_missing(preset, out, more, jobs, say)
        tried += more
    for modality, table in tables:
        for job in plan.run_before(modality, table, bases[modality]):
            job.update_plan()
    return write_tables(out, say)


def _run_missing(preset: Preset, out: Path, work: list[ArmJob], jobs: int, say: Say) -> None:
    # A comparison that is cut short has whole tables: first all with the seeds that a verdict needs at least.
    work.sort(key=lambda job: (job.seed // MIN_SEEDS, preset_order(preset, job.table), job.seed))
    missing = [job for job in work if not job.is_done]
    say(f"{len(work)} arms, {len(work) - len(missing)} of them done before")
    _prepare(preset, out, missing, jobs, say)
    _run("", missing, jobs, say, run_arm)


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


def _require_names(preset: Preset, extra: Sequence[Arm]) -> None:
    """Every arm has a folder of its own by its name."""
    taken = {arm.name for arm in preset.arms} | CLASSICAL_ARMS
    for arm in extra:
        if arm.name in taken:
            raise DataError(
                f"{arm.path}: its name {arm.name!r} is that of another arm of the comparison; choose another"
            )
        taken.add(arm.name)


def _require_networks(preset: Preset, extra: Sequence[Arm], modalities: Sequence[str], say: Say) -> None:
    """Every recipe shares something, with every value that is tuned, before hours are spent."""
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
    described = preset.described()
    record = out / "preset.json"
    if record.exists() and without_seeds(read_json(record, DAMAGED_PRESET)) != without_seeds(described):
        raise DataError(f"{out}: holds a comparison of another preset; choose another --out")
    if not record.exists() and out.exists() and any(out.iterdir()):
        raise DataError(f"{out}: is not empty and holds no comparison; choose another --out")
    write_atomically(record, json.dumps(described, indent=1).encode())


def _sites(preset: Preset, folder: Path, modality: str, table: TableSpec, base: bool, jobs: int) -> Path:
    """The hospitals of a table, simulated once."""
    done = folder / "made"
    if not done.exists():
        if table.name == WRONG_OPERATOR:
            write_wrong_operators(folder / "sites", folder.parent / slug(preset.tables[0].name) / "sites", preset.size)
        else:
            preset.make_sites(folder / "sites", modality, table, base=base, jobs=jobs)
        write_atomically(done, b"")
    return folder / "sites"


def _prepare(preset: Preset, out: Path, work: Sequence[ArmJob], jobs: int, say: Say) -> None:
    """Simulate the hospitals of these arms, and train the base of adapters on hospitals of another draw."""
    needed = {(job.modality, job.table) for job in work}
    # Those with wrong operators have the data of the first table.
    needed |= {(modality, preset.tables[0].name) for modality, table in needed if table == WRONG_OPERATOR}
    for modality, table in sorted(needed, key=lambda key: (key[0], preset_order(preset, key[1]))):
        folder = out / modality / slug(table)
        preset.refresh(folder / "sites")
        if not (folder / "prepared").exists():
            say(f"{modality}: hospitals of the table '{table}' ...")
            spec = preset.tables[preset_order(preset, table)]
            sites = _sites(preset, folder, modality, spec, False, jobs)
            list(run_jobs(_estimate_maps, [(m, folder / "maps" / m.name) for m in read_federation(sites)], jobs))
            like = next(job for job in work if job.modality == modality)
            _require_published_data(replace(like, sites=sites, maps=folder / "maps"), folder)
            write_atomically(folder / "prepared", b"")
    for modality in sorted({job.modality for job in work if job.recipe.network.base is not None}):
        folder = out / modality / "base"
        if not (folder / "trained").exists():
            say(f"{modality}: a base for the adapters, trained at hospitals of another draw ...")
            sites = _sites(preset, folder, modality, preset.tables[0], True, jobs)
            recipe = preset.budgets[modality].recipe(Arm("base"), modality, preset.base_seed)
            train_run(recipe, load_federation(sites), folder / "run", jobs=jobs, resume=True, say=quiet)
            write_atomically(folder / "trained", b"")


#: Scores on other processors differ far less, those on other data far more.
_SAME_DATA_DB = 1e-3


def _require_published_data(job: ArmJob, folder: Path) -> None:
    """Refuse to go on from tables whose hospitals had other data: their arms would be compared with those of today."""
    published = folder / "seed0" / CLASSICAL_RUN / "scores.csv"
    if not published.exists():
        return
    now = measurement_scores(job)
    before = {(row.site, row.volume): row.psnr for row in read_scores(published) if row.arm == now[0].arm}
    for row in now:
        found = before.get((row.site, row.volume))
        if found is None or abs(found - row.psnr) > _SAME_DATA_DB:
            there = "nothing" if found is None else f"{found:.3f}"
            raise DataError(
                f"{folder}: {row.volume} at {row.site}: found other data than that of the published tables ({row.arm} "
                f"scores {row.psnr:.3f} dB, there {there}), expected the same; use the version of fedrecon that "
                "made them, or leave --from out and choose another --out"
            )


def _estimate_maps(job: tuple[SiteManifest, Path]) -> None:
    """Read every slice once: coil maps are estimated and stored for all arms."""
    manifest, cache = job
    for split in SPLITS:
        if getattr(manifest.data, split):
            samples = manifest.dataset(split, cache)
            for index in range(len(samples)):
                samples[index]
