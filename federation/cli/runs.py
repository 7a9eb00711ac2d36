"""`fedrecon demo`, `train` and `evaluate`."""

import argparse
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from recon import DataError

from ..machine import cores, threads_of_each
from .arguments import (
    RECIPE,
    Commands,
    add_jobs_that_fit,
    add_moved_sites,
    add_output,
    add_plugins,
    add_threads,
    count_or_none,
    display,
    part,
)

if TYPE_CHECKING:
    from ..sites import SiteManifest

#: Names in `DEMOS`, which loads PyTorch.
DEMO_NAMES = ("mri", "ct", "mixed", "task")
#: Names in `CURVE_WRITERS`, which loads PyTorch.
CURVE_WRITER_NAMES = ("tensorboard", "mlflow")


def add_demo(commands: Commands) -> None:
    demo = commands.add_parser("demo", help="simulate hospitals, train them together, write a report")
    text = "modalities of the hospitals; task: MRI with labels, heads are trained in three ways (default: %(default)s)"
    demo.add_argument("--kind", choices=DEMO_NAMES, default="mri", help=text)
    text = "run folder, with --kind task of several runs (default: runs/demo, and runs/demo_KIND of other kinds)"
    demo.add_argument("--out", type=Path, help=text)
    text = f"{RECIPE}; with --kind task that of the network before the heads (default: the recipe of the kind)"
    demo.add_argument("--recipe", help=text)
    text = "override a value of the recipe, with --kind task of the recipes of the heads"
    demo.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)
    _add_start(demo)
    demo.add_argument("--resume", action="store_true", help="continue an interrupted demo")
    _add_log(demo)
    demo.set_defaults(run=_demo)
    add_plugins(demo)
    add_jobs_that_fit(demo)
    add_threads(demo)
    add_output(demo)


def add_train(commands: Commands) -> None:
    train = commands.add_parser("train", help="train a recipe on a federation")
    train.add_argument("recipe", nargs="?", help=f"{RECIPE}; not with --without")
    text = "folder of manifests; with --without only if it has moved since the training of the run"
    train.add_argument("--sites", type=Path, help=text)
    train.add_argument("--out", type=Path, required=True, help="run folder to write")
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of the recipe")
    _add_start(train)
    text = (
        "train the run of --start-from again without this site, as if it had never joined, and make a few rounds "
        "without it from the end of the run; `fedrecon evaluate` compares both with the run"
    )
    train.add_argument("--without", metavar="SITE", help=text)
    text = "rounds without the site from the end of the run, 0: none (default: a fifth of the rounds of the recipe)"
    train.add_argument("--approximate-rounds", type=count_or_none, metavar="N", help=text)
    text = "continue an interrupted run; with more federation.rounds also a finished one"
    train.add_argument("--resume", action="store_true", help=text)
    _add_log(train)
    train.set_defaults(run=_train)
    add_plugins(train)
    add_jobs_that_fit(train)
    add_threads(train)
    add_output(train)


def add_plan(commands: Commands) -> None:
    plan = commands.add_parser("plan", help="measure what a training would cost: time, memory, disk and cores")
    plan.add_argument("recipe", help=RECIPE)
    plan.add_argument("--sites", type=Path, required=True, help="folder of manifests")
    plan.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of the recipe")
    _add_start(plan)
    plan.set_defaults(run=_plan)
    add_plugins(plan)
    add_jobs_that_fit(plan)
    add_threads(plan)
    add_output(plan)


def add_evaluate(commands: Commands) -> None:
    evaluate = commands.add_parser(
        "evaluate", help="score each arm on the test data, write report.html and report.json"
    )
    evaluate.add_argument("folder", type=Path, help="run folder")
    add_moved_sites(evaluate)
    text = (
        "part of the pixels that the intervals of error bars should hold, where the network has them "
        "(network.error_bars), and part of the truth that label sets of a head should hold (default: %(default)s)"
    )
    evaluate.add_argument("--coverage", type=part, default=0.9, metavar="PART", help=text)
    evaluate.set_defaults(run=_evaluate)
    add_plugins(evaluate)
    add_jobs_that_fit(evaluate)
    add_output(evaluate)


def _add_start(parser: argparse.ArgumentParser) -> None:
    text = (
        "trained weights to start from (see `fedrecon weights`), or a run folder, also one of other sites: its shared "
        "parameters of the best round; kept parameters and optimizers begin anew. They replace [network] of the "
        "recipe; the head of a run starts that of the recipe"
    )
    parser.add_argument("--start-from", metavar="NAME", help=text)


def _add_log(parser: argparse.ArgumentParser) -> None:
    text = "write curves for this program while training; needs the extra of this name; repeat for both"
    parser.add_argument("--log", action="append", default=[], choices=CURVE_WRITER_NAMES, help=text)


def _demo(arguments: argparse.Namespace) -> None:
    with display(arguments) as shown:
        from recon import task_text, text_table

        from ..experiment import Planning, evaluate_run, require_curve_writers, train_run
        from ..recipes import load_recipe
        from ..sites import DEMOS, load_checked
        from .task_demo import train_heads

        require_curve_writers(arguments.log)
        planning = Planning(fixed_jobs=arguments.jobs is not None)
        begin = time.monotonic()
        demo = DEMOS[arguments.kind]
        has_heads = arguments.kind == "task"
        if has_heads and arguments.recipe and arguments.start_from:
            found = f"--recipe {arguments.recipe} and --start-from {arguments.start_from}"
            raise DataError(f"{found}: both name the network before the heads; leave one out")
        recipe = load_recipe(
            arguments.recipe or demo.recipe,
            () if has_heads else arguments.set,
            plugins=arguments.plugin,
            start_from=None if has_heads else arguments.start_from,
        )
        out: Path = arguments.out or demo.out
        sites, run = out / "sites_data", out / "base" if has_heads else out
        resumed = arguments.resume and any(sites.glob("*.toml"))
        if not resumed and out.exists() and any(out.iterdir()) and not arguments.resume:
            raise DataError(f"{out}: is not empty; remove it, choose another --out, or add --resume")
        if not resumed:
            shown.say("simulating the hospitals ...")
            demo.make(sites, arguments.jobs or cores())
        manifests = load_checked(sites, shown.say)
        how = {"resume": arguments.resume, "planning": planning, "logs": arguments.log}
        how |= _counts(arguments, manifests, run)
        if arguments.start_from is None or not has_heads:
            train_run(recipe, manifests, run, say=shown.say, **how)
        if has_heads:
            train_heads(
                arguments.start_from or run, manifests, out, shown,
                overrides=arguments.set, plugins=arguments.plugin, evaluating=arguments.jobs, **how,
            )  # fmt: skip
            shown.result(f"({time.monotonic() - begin:.0f} s)")
            return
        results = evaluate_run(out, jobs=arguments.jobs, say=shown.say, begin=None if resumed else begin)
        shown.result("\n" + text_table(results))
        if text := task_text(results):
            shown.result("\n" + text)
        shown.result(f"\nreport: {out / 'report.html'}   ({time.monotonic() - begin:.0f} s)")


def _train(arguments: argparse.Namespace) -> None:
    if arguments.without is not None:
        _train_without(arguments)
        return
    if arguments.approximate_rounds is not None:
        raise DataError("--approximate-rounds: found without --without, expected both; name the site that leaves")
    if arguments.recipe is None or arguments.sites is None:
        missing = "a recipe" if arguments.recipe is None else "--sites"
        raise DataError(f"fedrecon train: found no {missing.removeprefix('a ')}, expected {missing}; add it")
    with display(arguments) as shown:
        from ..experiment import Planning, require_curve_writers, train_run
        from ..recipes import load_recipe
        from ..sites import load_checked

        require_curve_writers(arguments.log)
        planning = Planning(fixed_jobs=arguments.jobs is not None)
        recipe = load_recipe(arguments.recipe, arguments.set, plugins=arguments.plugin, start_from=arguments.start_from)
        sites = load_checked(arguments.sites, shown.say)
        counts = _counts(arguments, sites, arguments.out)
        train_run(
            recipe,
            sites,
            arguments.out,
            resume=arguments.resume,
            say=shown.say,
            planning=planning,
            logs=arguments.log,
            **counts,
        )
        shown.result(f"trained: {arguments.out}   next: fedrecon evaluate {arguments.out}")


def _train_without(arguments: argparse.Namespace) -> None:
    if arguments.start_from is None:
        raise DataError("--without: found no --start-from, expected the run that the site leaves; add --start-from RUN")
    if arguments.recipe is not None or arguments.plugin:
        what = "a recipe" if arguments.recipe is not None else "--plugin"
        raise DataError(f"--without: found {what}, expected none: that of the run is trained; leave it out")
    with display(arguments) as shown:
        from ..experiment import Planning, recorded_threads, train_without

        threads = arguments.threads or recorded_threads(arguments.out) or recorded_threads(arguments.start_from)
        train_without(
            arguments.without,
            arguments.start_from,
            arguments.out,
            overrides=arguments.set,
            sites=arguments.sites,
            rounds=arguments.approximate_rounds,
            resume=arguments.resume,
            say=shown.say,
            planning=Planning(fixed_jobs=arguments.jobs is not None),
            logs=arguments.log,
            jobs=arguments.jobs or max(1, cores() // (threads or 1)),
            threads=threads,
        )
        shown.result(f"trained: {arguments.out}   next: fedrecon evaluate {arguments.out}")


def _plan(arguments: argparse.Namespace) -> None:
    with display(arguments) as shown:
        from ..experiment import Planning, plan_recipe
        from ..recipes import load_recipe
        from ..sites import load_checked

        planning = Planning(fixed_jobs=arguments.jobs is not None, always=True)
        recipe = load_recipe(arguments.recipe, arguments.set, plugins=arguments.plugin, start_from=arguments.start_from)
        sites = tuple(load_checked(arguments.sites, shown.say))
        plan_recipe(recipe, sites, planning=planning, say=shown.result, **_counts(arguments, sites))


class _Counts(TypedDict):
    jobs: int
    threads: int


def _counts(arguments: argparse.Namespace, sites: "Iterable[SiteManifest]", out: Path | None = None) -> _Counts:
    """``jobs`` and ``threads`` of each: as given, as the run in ``out`` began, or so that all cores work."""
    from ..experiment import recorded_threads

    recorded = None if out is None else recorded_threads(out)
    threads = arguments.threads or recorded or threads_of_each(sum(site.trains for site in sites))
    return {"jobs": arguments.jobs or max(1, cores() // threads), "threads": threads}


def _evaluate(arguments: argparse.Namespace) -> None:
    with display(arguments) as shown:
        from recon import error_bars_text, task_text, text_table, unlearning_text

        from ..experiment import evaluate_run

        results = evaluate_run(
            arguments.folder, jobs=arguments.jobs, say=shown.say, sites=arguments.sites, coverage=arguments.coverage
        )
        shown.result("\n" + text_table(results))
        if text := error_bars_text(results.get("error_bars", {})):
            shown.result("\n" + text)
        if text := task_text(results):
            shown.result("\n" + text)
        if text := unlearning_text(results.get("unlearning", {})):
            shown.result("\n" + text)
        shown.result(f"\nreport: {arguments.folder / 'report.html'}")
