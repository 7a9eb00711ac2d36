"""Train a run: the rounds, the local arm and the personal stage."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from recon import DataError, data_error

from ..config import config_error
from ..machine import memory_available
from ..methods import FederatedAlgorithm, parameter_scope, parameters_of, require_nothing_kept
from ..privacy import SecureSum
from ..progress import Part, advanced, begin_parts, log_into, refresh_with
from ..recipes import CENTRALIZED, LOCAL, Recipe, made_head, network_of, require_base, secure_sum_of, source_of_head
from ..rounds import InProcessRuntime, Row, initial_network, run_rounds
from ..serialization import State
from ..sites import SiteManifest, refuse
from ..worker_pool import run_jobs
from .centralized import train_centrally
from .curve_log import CurveLog, require_curve_writers
from .follower import Follower
from .head_labels import require_labels
from .live_report import LiveReport
from .personal_stage import personalize
from .plan import Plan, fitting
from .planning import Planning, plan_run, rounds_done, say_fewer_cores
from .private_run import privacy_of, privacy_text, say_privacy
from .run_folder import RunFolder, Say, fewer_rounds, local_recipe
from .score_text import score_text
from .task import aux_layout


def train_run(
    recipe: Recipe,
    manifests: Sequence[SiteManifest],
    out: Path | str,
    *,
    jobs: int,
    resume: bool,
    say: Say,
    maps: Path | str | None = None,
    planning: Planning | None = None,
    logs: Sequence[str] = (),
    threads: int | None = None,
) -> RunFolder:
    """Train a recipe at the sites; with the local arm and the personal stage if the recipe has them.

    Parameters
    ----------
    jobs
        The most processes at a time.
    planning
        Measure the cost first and say it, and keep a report up to date; None: neither. Results do not depend on it.
    logs
        Write curves for these programs, any of ``"tensorboard"`` and ``"mlflow"``.
    threads
        Threads of PyTorch at every site, whatever ``jobs`` is; None: as the run began, 1 in a new run. The last bits of
        the results depend on it.

    Raises
    ------
    DataError
        If the recipe cannot be trained at these sites, the folder holds another run, a site fails, or a package for
        ``logs`` is not installed.
    """
    require_curve_writers(logs)
    _require_trainable(recipe, manifests, out)
    secure = secure_sum_at(recipe, manifests)
    say_privacy(RunFolder(Path(out), recipe, tuple(manifests), None if maps is None else Path(maps)), say)
    shared, aux = initial_state(recipe)  # before a folder is written, which a corrected recipe could not use
    extended, is_new = resume and fewer_rounds(out, recipe) is not None, not (Path(out) / "run.json").exists()
    run = RunFolder.create(out, recipe, manifests, resume=resume, maps=maps, threads=threads)
    if extended:
        _say_more_rounds(run, say)
        (run.path / "report.json").unlink(missing_ok=True)  # scores of the shorter run
    log_into(run.path)
    say_fewer_cores(run, say)
    _say_unused_consistency(run, say)
    specs = [replace(run.spec(manifest), secure=secure) for manifest in run.participants]
    with InProcessRuntime(specs, jobs, run.threads()) as runtime:
        runtime.queue = run.queue(runtime.sites())
        try:
            plan, jobs = (None, jobs) if planning is None else _planned(run, runtime, jobs, planning, say)
            followers: list[Follower] = [CurveLog(run, logs, say)] if logs else []
        except DataError:
            if is_new:  # a run that cannot fit, or cannot be followed as it should, does not claim the folder
                (run.path / "run.json").unlink()
            raise
        scored = (run.path / "report.json").exists()  # its report stays
        followers += [] if planning is None or scored else [LiveReport(run)]
        stages = {"federated": partial(_train_together, run, runtime, shared, aux, secure, resume, say, followers)}
        if LOCAL in recipe.evaluation.arms:
            stages["local"] = partial(_train_at_each, run, jobs, say)
        if CENTRALIZED in recipe.evaluation.arms:
            stages["centralized"] = partial(_train_in_one_place, run, say)
        if recipe.personal.steps:
            stages["personal"] = partial(_train_personally, run, jobs, say)
        parts = _parts(run, [None] * len(stages) if plan is None else list(plan.seconds.values()))
        _run_stages(run, runtime, stages, parts, followers, resume)
    return run


def secure_sum_at(recipe: Recipe, manifests: Sequence[SiteManifest]) -> SecureSum | None:
    """The secure sum of a run at these sites; None if its recipe has none."""
    slices = {m.name: len(m.dataset("train")) for m in manifests if m.trains} if recipe.privacy.secure_sum else {}
    return secure_sum_of(recipe, slices)


def _require_trainable(recipe: Recipe, manifests: Sequence[SiteManifest], out: Path | str) -> None:
    """Refuse sites that cannot train the recipe."""
    count, quorum = sum(manifest.trains for manifest in manifests), recipe.federation.quorum
    if not count:
        raise DataError(f"{out}: no site takes part; at least one manifest needs files under data.train")
    if quorum is not None and quorum > count:
        advice = "lower it, or add sites"
        raise config_error("recipe", "federation.quorum", str(quorum), f"at most {count}, the number of sites", advice)
    require_base(recipe, manifests)
    require_labels(recipe, [manifest for manifest in manifests if manifest.data.train])
    _require_references(recipe, manifests)


def _run_stages(
    run: RunFolder,
    runtime: InProcessRuntime,
    stages: Mapping[str, Callable[[], None]],
    parts: Sequence[Part],
    followers: Sequence[Follower],
    resume: bool,
) -> None:
    """Run the stages of a training in order; display and followers are told, and times are recorded."""
    with ExitStack() as stack:
        for follower in followers:
            stack.enter_context(follower)
        stack.callback(refresh_with, None)
        for number, (name, stage) in enumerate(stages.items()):
            begin = time.monotonic()
            begin_parts(parts[number:], at_most=run.recipe.training.patience is not None)
            for follower in followers:
                follower.begin(_NOW[name])
            refresh_with(partial(_refresh, followers))
            stage()
            runtime.close()
            run.record_seconds(name, time.monotonic() - begin, resumed=resume)
    begin_parts(())


def _refresh(followers: Sequence[Follower]) -> None:
    for follower in followers:
        follower.write()


def _planned(
    run: RunFolder, runtime: InProcessRuntime, jobs: int, planning: Planning, say: Say
) -> tuple[Plan | None, int]:
    """The cost of a run, None if it is not measured, and the number of processes that the memory allows."""
    plan = plan_run(run, runtime, jobs, planning, say)
    if plan is not None:
        run.record_memory(plan.memory)
        if plan.gpus is not None:
            run.record_gpus(plan.gpus)
        return plan, plan.jobs
    if not planning.fixed_jobs:
        jobs = fitting(jobs, run.memory() or 0, memory_available())
        runtime.use(jobs)
    return None, jobs


#: What a part of a run does, for its report.
_NOW = {
    "federated": "The sites train together.",
    "local": "Every site trains on its own, the local arm.",
    "centralized": "One network trains on the data of all sites, the centralized arm.",
    "personal": "Every site trains a little further on its own data.",
}


def _parts(run: RunFolder, seconds: Sequence[float | None]) -> list[Part]:
    """Parts of a training for the display, with their jobs."""
    recipe, done, learners = run.recipe, rounds_done(run), [manifest.name for manifest in run.learners]
    rounds = recipe.federation.rounds + 0.5
    parts = [Part([manifest.name for manifest in run.participants], done[""] / rounds)]
    if LOCAL in recipe.evaluation.arms:
        parts.append(Part(learners, sum(done[name] for name in learners) / rounds / len(learners)))
    if CENTRALIZED in recipe.evaluation.arms:
        parts.append(Part([CENTRALIZED]))
    if recipe.personal.steps:
        parts.append(Part([f"{name} {local}" for name, local in _personal_jobs(run)]))
    return [replace(part, seconds=each) for part, each in zip(parts, seconds, strict=True)]


def _say_unused_consistency(run: RunFolder, say: Say) -> None:
    """Say at which sites the data consistency of the manifest does not apply."""
    architecture = run.recipe.network.architecture
    sites = [manifest.name for manifest in run.manifests if manifest.consistency is not None]
    if architecture != "unrolled" and sites:
        what = f"the data consistency in the manifests of {', '.join(sites)} does not apply"
        say(f"note: {what}: the network {architecture!r} has parts of its own")


def _train_at_each(run: RunFolder, jobs: int, say: Say) -> None:
    say(f"training {len(run.learners)} sites on their own, the local arm ...")
    names = [manifest.name for manifest in run.learners]
    queue = run.queue(names).in_order(names)
    done = run_jobs(train_alone, [(run, name) for name in names], jobs, threads=run.threads(), queue=queue)
    for manifest, (score, ended) in zip(run.learners, done, strict=True):
        advanced([manifest.name], 1.0)
        say(f"local   {manifest.name:20s} {score_text(score, run.recipe)}  {ended}")


def _train_in_one_place(run: RunFolder, say: Say) -> None:
    say(f"training on the data of {len(run.participants)} sites in one place, the centralized arm ...")
    (best,) = run_jobs(train_centrally, [run], 1, threads=run.threads())
    advanced([CENTRALIZED], 1.0)
    say(f"centralized {score_text(None if best is None else best.mean, run.recipe)}")


def _say_more_rounds(run: RunFolder, say: Say) -> None:
    recipe, made = run.recipe, rounds_done(run)[""]
    say(f"going on from {made} to {recipe.federation.rounds} rounds")
    if recipe.training.schedule == "cosine":
        say(
            f"note: the learning rate from round {made} on is that of a run of {recipe.federation.rounds} rounds, "
            "whose first rounds had a higher one: results differ from those of such a run; with "
            "training.schedule=constant they do not"
        )


def _require_references(recipe: Recipe, manifests: Sequence[SiteManifest]) -> None:
    """Refuse training files without a reference, all together, if the objective needs one."""
    if not getattr(recipe.build_objective(), "needs_reference", False):
        return
    faults = []
    for manifest in (manifest for manifest in manifests if manifest.data.train):
        dataset = manifest.dataset("train")
        for volume, kind in zip(dataset.volumes, dataset.reference_kinds, strict=True):
            if kind == "none":
                advice = "leave it out, train on fully sampled MRI or CT with a ground truth, or use the recipe ssdu"
                faults.append(data_error(volume.path, "reference", "nothing", "one to train on", advice))
    refuse(faults, skip_bad=False, advice="remove them from data.train, or use the recipe ssdu")


def _train_personally(run: RunFolder, jobs: int, say: Say) -> None:
    work = [(run, name, local) for name, local in _personal_jobs(run)]
    say(f"{run.recipe.personal.steps} personal steps at every site ...")
    names = [name for _, name, _ in work]
    done = run_jobs(personalize, work, jobs, threads=run.threads(), queue=run.queue(names).in_order(names))
    for (_, name, local), (before, after) in zip(work, done, strict=True):
        advanced([f"{name} {local}"], 1.0)
        scores = f"{score_text(before, run.recipe)} -> {score_text(after, run.recipe)}"
        say(f"personal {'local   ' if local else ''}{name:20s} {scores}")


def _personal_jobs(run: RunFolder) -> list[tuple[str, bool]]:
    """Site, and True for its local arm, of every personal stage."""
    local = [False, True] if LOCAL in run.recipe.evaluation.arms else [False]
    return [(manifest.name, alone) for alone in local for manifest in run.learners]


def algorithm_of(recipe: Recipe) -> FederatedAlgorithm:
    """The algorithm of a recipe at the server."""
    federation = recipe.federation
    return FederatedAlgorithm(
        federation.seed,
        federation.participation,
        federation.schedule,
        federation.weighting(),
        federation.rule(),
        recipe.transform.build(),
        recipe.transform.both_ways,
    )


def initial_state(recipe: Recipe) -> tuple[State, State]:
    """Initial shared parameters, and zeros for the tensors of penalties; the same at every site and machine.

    Raises
    ------
    ConfigError
        If the scope does not fit the network, or the sites share noise and a parameter stays at a site and trains.
    """
    network = initial_network(partial(network_of, recipe), recipe.federation.seed)
    scope = parameter_scope(network, recipe.scope.rules())
    if recipe.privacy.shared_noise:
        require_nothing_kept(network, scope)
    shared = parameters_of(network, scope.shared)
    entries = aux_layout(recipe, network, shared).items()
    own = recipe.federation.rule().aux_layout(shared)  # the rule starts its own
    aux = {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in entries if name not in own}
    return shared, aux


def _train_together(
    run: RunFolder,
    runtime: InProcessRuntime,
    shared: State,
    aux: State,
    secure: SecureSum | None,
    resume: bool,
    say: Say,
    followers: Sequence[Follower],
) -> None:
    names = ", ".join(manifest.name for manifest in run.participants)
    if run.recipe.task is not None and (begun := made_head(run.recipe.task)[1]) is not None:
        say(f"head: of {source_of_head(run.recipe.task)} {begun}")
    say(f"training {run.recipe.name} at {len(run.participants)} sites: {names}")
    if secure is not None:
        say(f"secure sum: {_sum_text(secure)}")

    def progress(round: int, rounds: int, rows: Sequence[Row]) -> None:
        scores = "  ".join(f"{row['site']} {score_text(row['score_before'], run.recipe)}" for row in rows)
        say(f"round {round:3d}/{rounds}  {scores}")
        advanced([manifest.name for manifest in run.participants], (round + 1) / (rounds + 0.5))
        for follower in followers:
            follower.round_made(round + 1)

    result = run_rounds(
        algorithm_of(run.recipe),
        runtime,
        shared,
        run.path,
        rounds=run.recipe.federation.rounds,
        patience=run.recipe.training.patience,
        aux=aux,
        quorum=run.recipe.federation.quorum,
        resume=resume,
        progress=progress,
        secure=secure,
    )
    say(f"ended: {result.ended}")
    if spent := privacy_of(run):
        say(f"differential privacy of patients: {privacy_text(spent, run.recipe.privacy.delta)}")


def _sum_text(secure: SecureSum) -> str:
    """What a secure sum means in a run on one machine, on one line."""
    return (
        f"integers of {secure.bits} bits, at least {secure.roster.least} of {len(secure.weights)} sites in a sum; "
        "without masks, as one machine holds all sites anyway; masks change no bit of the result"
    )


def train_alone(job: tuple[RunFolder, str]) -> tuple[float | None, str]:
    """Train one site alone, by the same rule with its own validation score; resumes an interrupted training.

    Returns
    -------
        Best validation score, and why training ended.
    """
    run, name = job
    folder = run.local_folder(name)
    with InProcessRuntime([run.spec(run.manifest(name), local=True)], threads=run.threads()) as runtime:
        result = run_rounds(
            algorithm_of(local_recipe(run.recipe)),
            runtime,
            initial_state(local_recipe(run.recipe))[0],
            folder,
            rounds=run.recipe.federation.rounds,
            patience=run.recipe.training.patience,
            resume=True,
        )
    best = result.state.best
    return None if best is None else best.mean, result.ended
