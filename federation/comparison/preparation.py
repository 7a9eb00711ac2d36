"""Preparation of a comparison: sites, coil maps and frozen bases, made once before the first arm needs them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from recon import DataError, doing, made, read_scores, write_atomically

from ..experiment import Say, train_run
from ..progress import within
from ..sites import SPLITS, SiteManifest, load_federation, read_federation
from ..worker_pool import run_jobs
from .arm_runs import ArmJob, measurement_scores, quiet
from .arms import Arm
from .hospitals import HOSPITALS
from .plan import table_folder
from .preset import Preset, TableSpec
from .presets import WRONG_OPERATOR
from .published import CLASSICAL_RUN

#: PSNR of the same data differs far less between processors, PSNR of other data far more.
_SAME_DATA_DB = 1e-3


def prepare(preset: Preset, out: Path, work: Sequence[ArmJob], jobs: int, say: Say) -> None:
    """Make the sites of these arms, their coil maps, and the frozen bases that they need, if they are missing.

    Raises
    ------
    DataError
        If published arms of a table were scored on other data.
    """
    needed = {(job.modality, job.table) for job in work}
    # Sites with wrong operators use the data of the first table.
    needed |= {(modality, preset.tables[0].name) for modality, table in needed if table == WRONG_OPERATOR}
    for modality in sorted({modality for modality, _ in needed}):
        like = next(job for job in work if job.modality == modality)
        for table in preset.tables:
            if (modality, table.name) in needed:
                _prepare_table(preset, out / modality / table_folder(table.name), like, table, jobs, say)
    for modality in sorted({job.modality for job in work if job.recipe.network.base is not None}):
        _train_base(preset, out / modality / "base", modality, jobs, say)


def _prepare_table(preset: Preset, folder: Path, like: ArmJob, table: TableSpec, jobs: int, say: Say) -> None:
    """Make sites and coil maps of a table in its folder; ``like`` is any arm of its modality."""
    preset.refresh(folder / "sites")
    if (folder / "prepared").exists():
        return
    say(f"{like.modality}: sites of the table '{table.name}' ...")
    sites = _sites(preset, folder, like.modality, table, False, jobs)
    list(run_jobs(_estimate_maps, [(m, folder / "maps" / m.name) for m in read_federation(sites)], jobs))
    _require_published_data(replace(like, sites=sites, maps=folder / "maps"), folder)
    write_atomically(folder / "prepared", b"")


def _train_base(preset: Preset, folder: Path, modality: str, jobs: int, say: Say) -> None:
    """Train the frozen base of adapters at sites drawn with another seed."""
    if (folder / "trained").exists():
        return
    say(f"{modality}: a base for the adapters, trained at sites of another draw ...")
    sites = _sites(preset, folder, modality, preset.tables[0], True, jobs)
    recipe = preset.budgets[modality].recipe(Arm("base"), modality, preset.base_seed)
    train_run(recipe, load_federation(sites), folder / "run", jobs=jobs, resume=True, say=quiet)
    write_atomically(folder / "trained", b"")


def _sites(preset: Preset, folder: Path, modality: str, table: TableSpec, base: bool, jobs: int) -> Path:
    """Folder of the manifests of a table, written once."""
    done = folder / "made"
    if not done.exists():
        if table.name == WRONG_OPERATOR:
            right = folder.parent / table_folder(preset.tables[0].name) / "sites"
            HOSPITALS[modality].write_wrong(folder / "sites", right, preset.size)
        else:
            preset.make_sites(folder / "sites", modality, table, base=base, jobs=jobs)
        write_atomically(done, b"")
    preset.refresh(folder / "sites")
    return folder / "sites"


def _estimate_maps(job: tuple[SiteManifest, Path]) -> None:
    """Estimate and store coil maps for all arms: reads every slice of a site once."""
    manifest, maps = job
    for split in SPLITS:
        if getattr(manifest.data, split):
            samples = manifest.dataset(split, maps)
            with within(site=manifest.name), doing(f"coil maps, {split},", len(samples)):
                for index in range(len(samples)):
                    samples[index]
                    made(index + 1)


def _require_published_data(job: ArmJob, folder: Path) -> None:
    """Refuse published tables whose sites had other data: their arms cannot be compared with new ones."""
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
