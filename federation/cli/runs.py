"""`fedrecon demo`, `train` and `evaluate`."""

import argparse
import time
from pathlib import Path

from recon import DataError

from .arguments import RECIPE, Commands, add_jobs, add_moved_sites, add_plugins, say

#: Names in `DEMOS`, which loads PyTorch.
DEMO_NAMES = ("mri", "ct", "mixed")


def add_demo(commands: Commands) -> None:
    demo = commands.add_parser("demo", help="simulate hospitals, train them together, write a report")
    demo.add_argument(
        "--kind", choices=DEMO_NAMES, default="mri", help="modalities of the hospitals (default: %(default)s)"
    )
    demo.add_argument("--out", type=Path, help="run folder (default: runs/demo, runs/demo_ct, runs/demo_mixed)")
    demo.add_argument("--recipe", help=f"{RECIPE} (default: the recipe of the kind)")
    demo.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of the recipe")
    _add_start(demo)
    demo.add_argument("--resume", action="store_true", help="continue an interrupted demo")
    demo.set_defaults(run=_demo)
    add_plugins(demo)
    add_jobs(demo)


def add_train(commands: Commands) -> None:
    train = commands.add_parser("train", help="train a recipe on a federation")
    train.add_argument("recipe", help=RECIPE)
    train.add_argument("--sites", type=Path, required=True, help="folder of manifests")
    train.add_argument("--out", type=Path, required=True, help="run folder to write")
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of the recipe")
    _add_start(train)
    train.add_argument("--resume", action="store_true", help="continue an interrupted run")
    train.set_defaults(run=_train)
    add_plugins(train)
    add_jobs(train)


def add_evaluate(commands: Commands) -> None:
    evaluate = commands.add_parser(
        "evaluate", help="score each arm on the test data, write report.html and report.json"
    )
    evaluate.add_argument("folder", type=Path, help="run folder")
    add_moved_sites(evaluate)
    evaluate.set_defaults(run=_evaluate)
    add_plugins(evaluate)
    add_jobs(evaluate)


def _add_start(parser: argparse.ArgumentParser) -> None:
    text = (
        "trained weights to start from (see `fedrecon weights`), or a run folder; they replace [network] of the recipe"
    )
    parser.add_argument("--start-from", metavar="NAME", help=text)


def _demo(arguments: argparse.Namespace) -> None:
    from recon import text_table

    from ..experiment import evaluate_run, train_run
    from ..recipes import load_recipe
    from ..sites import DEMOS, load_checked

    begin = time.monotonic()
    demo = DEMOS[arguments.kind]
    recipe = load_recipe(
        arguments.recipe or demo.recipe, arguments.set, plugins=arguments.plugin, start_from=arguments.start_from
    )
    out: Path = arguments.out or demo.out
    sites = out / "sites_data"
    resumed = arguments.resume and any(sites.glob("*.toml"))
    if not resumed:
        if out.exists() and any(out.iterdir()) and not arguments.resume:
            raise DataError(f"{out}: is not empty; remove it, choose another --out, or add --resume")
        say("simulating the hospitals ...")
        demo.make(sites, arguments.jobs)
    train_run(recipe, load_checked(sites, say), out, jobs=arguments.jobs, resume=arguments.resume, say=say)
    results = evaluate_run(out, jobs=arguments.jobs, say=say, begin=None if resumed else begin)
    say("\n" + text_table(results))
    say(f"\nreport: {out / 'report.html'}   ({time.monotonic() - begin:.0f} s)")


def _train(arguments: argparse.Namespace) -> None:
    from ..experiment import train_run
    from ..recipes import load_recipe
    from ..sites import load_checked

    recipe = load_recipe(arguments.recipe, arguments.set, plugins=arguments.plugin, start_from=arguments.start_from)
    sites = load_checked(arguments.sites, say)
    train_run(recipe, sites, arguments.out, jobs=arguments.jobs, resume=arguments.resume, say=say)
    say(f"trained: {arguments.out}   next: fedrecon evaluate {arguments.out}")


def _evaluate(arguments: argparse.Namespace) -> None:
    from recon import text_table

    from ..experiment import evaluate_run

    results = evaluate_run(arguments.folder, jobs=arguments.jobs, say=say, sites=arguments.sites)
    say("\n" + text_table(results))
    say(f"\nreport: {arguments.folder / 'report.html'}")
