"""`fedrecon compare`."""

import argparse
import time
from dataclasses import fields
from pathlib import Path

from .arguments import RECIPE, Commands, add_jobs, add_output, add_plugins, display, positive_count

#: Names in `PRESETS`, which loads PyTorch.
PRESET_NAMES = ("laptop", "full", "tiny", "anatomy")


def add_compare(commands: Commands) -> None:
    compare = commands.add_parser(
        "compare", help="train and score methods on the same sites, network and steps; tables with intervals"
    )
    compare.add_argument("recipes", nargs="*", help=f"recipes beside those of the preset, each the {RECIPE}")
    compare.add_argument(
        "--preset",
        choices=PRESET_NAMES,
        default="laptop",
        help="tiny: minutes, to try a recipe; laptop: 15 to 40 minutes; full: hours; anatomy: images of people in "
        "the folder FEDRECON_DATA, hours, or with --device cuda less (%(default)s)",
    )
    compare.add_argument(
        "--sites", type=Path, help="folder of manifests: compare at these sites, not at simulated hospitals"
    )
    compare.add_argument(
        "--all", dest="every", action="store_true", help="also every recipe of `fedrecon recipes`, with one seed"
    )
    compare.add_argument("--out", type=Path, help="folder (default: runs/compare_<preset>); finished arms are kept")
    compare.add_argument(
        "--from",
        dest="published",
        type=Path,
        metavar="RESULTS",
        help="published tables of the same preset, such as benchmarks/results/full: their arms are not run again",
    )
    compare.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change the network or the training of all arms, such as federation.rounds=20 or network.channels=8; "
        "registered claims are not judged then",
    )
    compare.add_argument("--modality", choices=("mri", "ct"), help="one modality only (default: both)")
    compare.add_argument(
        "--seeds",
        type=positive_count,
        help="training seeds of every arm (default: those of the preset, with `full` eight for small differences of a "
        "claim unless recipes are named; one for recipes beside the preset)",
    )
    compare.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="TABLE",
        help="one table of the preset; may be given several times",
    )
    compare.add_argument(
        "--device", choices=("cpu", "cuda"), help="device of all sites (default: cpu); not with --sites"
    )
    compare.add_argument("--tables", action="store_true", help="train nothing, write the tables of finished arms")
    compare.add_argument(
        "--publish",
        type=Path,
        metavar="FOLDER",
        help="also copy the tables, without networks, to a folder for --from; not with --sites",
    )
    compare.set_defaults(run=_compare)
    add_plugins(compare)
    add_jobs(compare)
    add_output(compare)


def _compare(arguments: argparse.Namespace) -> None:
    with display(arguments) as shown:
        from ..comparison import CompareOptions, compare

        begin = time.monotonic()
        known = {each.name: getattr(arguments, each.name) for each in fields(CompareOptions)}
        page = compare(CompareOptions(**known), shown.say)
        shown.result(f"\ncomparison: {page}   ({time.monotonic() - begin:.0f} s)")
