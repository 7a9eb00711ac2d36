"""Measure the sites of a run before its first round, choose the processes at a time, and say what the run will cost."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..config import ConfigError, config_error
from ..machine import cores, disk_free, memory_available, memory_total
from ..methods import CHECKPOINTS
from ..recipes import LOCAL, Recipe
from ..rounds import InProcessRuntime
from ..serialization import saved_rounds
from ..sites import SiteManifest
from .gpu_need import gpu_need
from .gpu_share import GpuShare, cards_of, free_memory
from .plan import SECONDS_WORTH_A_WORD, Plan, fitting, require_room
from .private_run import say_privacy
from .run_folder import RunFolder, Say
from .site_cost import SiteCost, measure_site
from .task import ReconstructionTask


@dataclass(frozen=True)
class Planning:
    """How a run is planned: ``fixed_jobs`` says that the user has chosen the number of processes."""

    fixed_jobs: bool
    always: bool = False


def plan_run(run: RunFolder, runtime: InProcessRuntime, jobs: int, planning: Planning, say: Say) -> Plan | None:
    """Measure the sites in the processes in which they will train, and say the cost of a run of more than a minute.

    Afterwards the runtime has as many processes as the memory allows, and on a GPU as many as its memory allows. None
    if a site cannot be measured.

    Raises
    ------
    ConfigError
        If the run cannot fit into memory or onto the disk, or a site on its GPU.
    DataError
        If a GPU fails.
    """
    if rounds_done(run)[""] >= run.recipe.federation.rounds:
        return None  # a run that is trained
    available, total = memory_available(), memory_total()
    tasks = {m.name: ReconstructionTask(m, run.recipe, run.maps_folder(m.name)) for m in run.learners}
    gpus: GpuShare | None = None
    if cards := cards_of(run.learners):
        # Before any of them is used: a step that does not fit would fail.
        if (gpus := _gpu_share(run, runtime, cards, tasks, say)) is None:
            return None
        runtime.queue = gpus.queue
    if jobs > 1 and not planning.fixed_jobs:
        # One process first: several at a time may be more than the memory holds.
        largest = max(run.learners, key=_values_of_a_slice)
        first = _measured(runtime, {largest.name: (tasks[largest.name], True)}, say)
        if first is None:
            return None
        jobs = fitting(jobs, first[0].memory, available)
        runtime.use(jobs)
    costs = _measured(runtime, {name: (task, False) for name, task in tasks.items()}, say)
    if costs is None:
        return None
    if not planning.fixed_jobs:
        jobs = fitting(jobs, max(cost.memory for cost in costs), available)
        runtime.use(jobs)
    plan = Plan(
        recipe=run.recipe,
        costs=costs,
        participants=frozenset(manifest.name for manifest in run.participants),
        jobs=min(jobs, len(run.learners)),
        rounds_done=rounds_done(run),
        available=available,
        total=total,
        disk=disk_free(run.path),
        maps_disk=disk_free(run.maps_folder(next(iter(tasks)))),
        threads=runtime.threads,
        gpus=gpus,
    )
    warnings = require_room(plan)
    if planning.always or plan.total_seconds >= SECONDS_WORTH_A_WORD:
        for line in plan.lines(cores()):
            say(line)
    for warning in warnings:
        say(warning)
    return plan


def _gpu_share(
    run: RunFolder,
    runtime: InProcessRuntime,
    cards: Mapping[str, str],
    tasks: Mapping[str, ReconstructionTask],
    say: Say,
) -> GpuShare | None:
    """What the sites need of their GPUs; None, with a line, if a site cannot be measured."""
    needs = {}
    for site in sorted(cards):  # one at a time: a step on the CPU takes memory, too
        need = runtime.call(gpu_need, {site: tasks[site]})[site]
        if isinstance(need, str):
            say(f"note: site {site}: the GPU memory that it needs cannot be told ({need})")
            return None
        needs[site] = need
    share = GpuShare(cards, needs, free_memory(cards.values()))
    share.require_room(run.learners)
    return share


def rounds_done(run: RunFolder) -> dict[str, int]:
    """Rounds that a run has made, in the federation under ``""`` and in local arms under their sites."""
    folders = {"": run.path}
    if LOCAL in run.recipe.evaluation.arms:
        folders |= {manifest.name: run.local_folder(manifest.name) for manifest in run.learners}
    return {name: max(saved_rounds(folder / CHECKPOINTS), default=0) for name, folder in folders.items()}


def say_fewer_cores(run: RunFolder, say: Say) -> None:
    """Say that a run computes with more threads than this machine has cores, if so."""
    if (threads := run.threads()) > (found := cores()):
        say(f"note: a site computes with {threads} threads, as the run began, on {found} cores: slower, same results")


def plan_recipe(
    recipe: Recipe,
    manifests: tuple[SiteManifest, ...],
    *,
    jobs: int,
    threads: int,
    planning: Planning,
    say: Say,
) -> None:
    """Say what a run of a recipe would cost, without starting it.

    Raises
    ------
    ConfigError
        If no site has training data, a site cannot be measured, the run cannot fit, or this folder cannot be written.
    """
    try:
        scratch = TemporaryDirectory(dir=".")  # its disk counts as that of the run
    except OSError as error:
        found, advice = error.strerror or str(error), "start it in the folder in which the run will be"
        raise config_error(
            str(Path.cwd()), "a temporary folder", found, "a folder that can be written", advice
        ) from None
    with scratch:
        run = RunFolder(Path(scratch.name), recipe, manifests)
        if not run.participants:
            raise ConfigError("no site takes part; at least one manifest needs files under data.train")
        say_privacy(run, say)
        specs = [run.spec(manifest) for manifest in run.participants]
        with InProcessRuntime(specs, jobs, threads) as runtime:
            if plan_run(run, runtime, jobs, planning, say) is None:
                raise ConfigError("the cost cannot be measured; see the line above, or `fedrecon sites check`")


def _measured(runtime: InProcessRuntime, jobs: Mapping[str, Any], say: Say) -> tuple[SiteCost, ...] | None:
    found = runtime.call(measure_site, jobs)
    for site, cost in found.items():
        if isinstance(cost, str):
            say(f"note: site {site}: its cost cannot be measured ({cost})")
            return None
    return tuple(cost for _, cost in sorted(found.items()) if isinstance(cost, SiteCost))


def _values_of_a_slice(manifest: SiteManifest) -> int:
    samples = manifest.dataset("train")
    # A sample of cine MRI holds all frames of its slice.
    return max(math.prod(volume.shape) // samples.n_slices(number) for number, volume in enumerate(samples.volumes))
