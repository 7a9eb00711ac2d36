"""The command line: one line per error, exit code 2; Ctrl-C exits with 130 and says how to go on."""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from recon import DataError, text_table

from .arms import arm_of
from .compare import run_comparison
from .comparison_plan import extra_arms
from .comparison_tables import write_tables
from .evaluation import evaluate_run, reconstruct_file
from .experiment import train_run
from .flower.commands import add_deploy
from .manifest import load_federation
from .own_sites import at_sites
from .presets import PRESETS
from .published import publish, require_place
from .recipe import load_recipe
from .simulated_ct import CT_DEMO_SITES, make_ct_demo_sites, make_ct_image_sites
from .simulated_sites import DEMO_SITES, make_demo_sites, make_image_sites
from .sites import FASTMRI_4X, GROUPINGS, MadeSite, SiteFacts, check_sites, make_fastmri_sites

#: Kinds of demo, each with its recipe.
DEMOS = {"mri": "fedavg", "ct": "demos/fedavg_ct", "mixed": "demos/fedavg_mixed"}
_RECIPES = Path(__file__).resolve().parents[1] / "scripts" / "recipes"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code, 2 for an error of the user's or the data's, 130 for Ctrl-C."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(format="fedrecon: %(message)s", level=logging.WARNING)
    run: Callable[[argparse.Namespace], int | None] = arguments.run
    try:
        return run(arguments) or 0
    except DataError as error:
        print(f"fedrecon: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"fedrecon: error: {where}{error.strerror or _one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\nfedrecon: interrupted; nothing is half-written. The same command with --resume goes on.",
            file=sys.stderr,
        )
        return 130


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedrecon",
        description="Federated MRI and CT reconstruction: shared regularizer, each site's own physics.",
    )
    parser.add_argument("--version", action="version", version=f"fedrecon {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_sites(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_reconstruct(commands)
    _add_compare(commands)
    add_deploy(commands)
    return parser


def _version() -> str:
    try:
        return version("fedrecon")
    except PackageNotFoundError:
        return "(not installed)"


if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def _add_demo(commands: "Commands") -> None:
    demo = commands.add_parser("demo", help="simulate hospitals, train them together, write a report")
    demo.add_argument("--kind", choices=DEMOS, default="mri", help="which hospitals (default: %(default)s)")
    demo.add_argument("--out", type=Path, help="run folder (default: runs/demo, runs/demo_ct, runs/demo_mixed)")
    demo.add_argument("--recipe", type=Path, help="recipe to train (default: that of the kind in scripts/recipes)")
    demo.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of the recipe")
    demo.add_argument("--resume", action="store_true", help="go on with a demo that was interrupted")
    demo.set_defaults(run=_demo)
    _add_jobs(demo)


def _add_sites(commands: "Commands") -> None:
    sites = commands.add_parser("sites", help="make and check the sites of a federation")
    actions = sites.add_subparsers(required=True, metavar="ACTION")
    make = actions.add_parser("make", help="write one manifest per site")
    kinds = make.add_subparsers(required=True, metavar="KIND")

    fastmri = kinds.add_parser("fastmri", help="group a folder of fastMRI-style files by scanner")
    fastmri.add_argument("folder", type=str, help="folder of *.h5; may hold ${VARIABLES}, which the manifests keep")
    fastmri.add_argument(
        "--by", default="model,field,contrast", help=f"any of {','.join(GROUPINGS)} (default: %(default)s)"
    )
    fastmri.add_argument(
        "--measured", action="store_true", help="use fully sampled files as they are, not undersampled 4x"
    )
    fastmri.set_defaults(run=_make_fastmri)

    images = kinds.add_parser("images", help="simulate k-space from magnitude images (NIfTI, DICOM)")
    images.add_argument("images", type=Path, nargs="+", help="NIfTI files or folders of DICOM slices")
    images.set_defaults(run=_make_images)

    ct_images = kinds.add_parser("ct-images", help="simulate projections from CT images, one site per volume")
    ct_images.add_argument("images", type=Path, nargs="+", help="NIfTI files or folders of DICOM slices, in HU")
    ct_images.add_argument("--size", type=int, default=256, help="pixels per side (default: %(default)s)")
    ct_images.set_defaults(run=_make_ct_images)

    demo = kinds.add_parser("demo", help="the simulated hospitals of `fedrecon demo`")
    demo.add_argument("--size", type=int, default=128, help="pixels per side (default: %(default)s)")
    demo.set_defaults(run=_make_demo)

    demo_ct = kinds.add_parser("demo-ct", help="the simulated CT scanners of `fedrecon demo --kind ct`")
    demo_ct.add_argument("--size", type=int, default=128, help="pixels per side (default: %(default)s)")
    demo_ct.set_defaults(run=_make_demo_ct)
    _add_jobs(demo_ct)
    for kind in (fastmri, images, ct_images, demo, demo_ct):
        kind.add_argument("--out", type=Path, required=True, help="folder of the manifests")
        kind.add_argument("--overwrite", action="store_true", help="replace files that exist")

    check = actions.add_parser("check", help="read every file, compare checksums, print what each site holds")
    check.add_argument("folder", type=Path, help="folder of manifests")
    check.set_defaults(run=_check)


def _add_train(commands: "Commands") -> None:
    train = commands.add_parser("train", help="train a recipe on a federation")
    train.add_argument("recipe", type=Path, help="TOML file, see scripts/recipes/")
    train.add_argument("--sites", type=Path, required=True, help="folder of manifests")
    train.add_argument("--out", type=Path, required=True, help="run folder to write")
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of the recipe")
    train.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    train.set_defaults(run=_train)
    _add_jobs(train)


def _add_evaluate(commands: "Commands") -> None:
    evaluate = commands.add_parser(
        "evaluate", help="score every arm on the test data, write report.html and report.json"
    )
    evaluate.add_argument("folder", type=Path, help="run folder")
    evaluate.set_defaults(run=_evaluate)
    _add_jobs(evaluate)


def _add_reconstruct(commands: "Commands") -> None:
    reconstruct = commands.add_parser("reconstruct", help="reconstruct a scan with a trained run")
    reconstruct.add_argument("folder", type=Path, help="run folder")
    reconstruct.add_argument(
        "--site", required=True, help="whose data consistency to use; a site of the run or `unseen`"
    )
    reconstruct.add_argument("scan", type=Path, help="a file in the format of the site")
    reconstruct.add_argument("--out", type=Path, required=True, help="HDF5 file to write")
    reconstruct.add_argument(
        "--simulate", action="store_true", help="first degrade the scan as the site's manifest does"
    )
    reconstruct.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    reconstruct.set_defaults(run=_reconstruct)


def _add_compare(commands: "Commands") -> None:
    compare = commands.add_parser(
        "compare", help="train and score methods on the same hospitals, network and steps; tables with intervals"
    )
    compare.add_argument("recipes", type=Path, nargs="*", help="recipes beside those of the preset (TOML)")
    compare.add_argument(
        "--preset",
        choices=PRESETS,
        default="laptop",
        help="laptop: 15 to 40 minutes; full: hours (%(default)s)",
    )
    compare.add_argument(
        "--sites", type=Path, help="folder of manifests: compare at these sites, not at simulated hospitals"
    )
    compare.add_argument("--all", action="store_true", help="also every recipe of scripts/recipes, with one seed")
    compare.add_argument("--out", type=Path, help="folder (default: runs/compare_<preset>); what is there is kept")
    compare.add_argument(
        "--from",
        dest="published",
        type=Path,
        metavar="RESULTS",
        help="go on from published tables of the same preset, such as benchmarks/results/full: their arms are kept",
    )
    compare.add_argument("--modality", choices=("mri", "ct"), help="one modality only (default: both)")
    compare.add_argument(
        "--seeds",
        type=_count,
        help="training seeds of every arm (default: as the preset, and in `full` eight where a claim's difference is "
        "small, if no recipe is named; one for recipes beside it)",
    )
    compare.add_argument("--tables", action="store_true", help="train nothing, write the tables of what is there")
    compare.add_argument(
        "--publish",
        type=Path,
        metavar="FOLDER",
        help="also copy the tables, without networks, to a folder that --from goes on from; not those of own --sites",
    )
    compare.set_defaults(run=_compare)
    _add_jobs(compare)


def _add_jobs(parser: argparse.ArgumentParser) -> None:
    default = os.cpu_count() or 1
    text = "site processes at a time, one thread each; results do not depend on it (default: %(default)s)"
    parser.add_argument("--jobs", type=_count, default=default, help=text)


def _count(text: str) -> int:
    """One or more."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number of at least 1")
    return number


def _say(text: str) -> None:
    print(text, flush=True)


def _demo(arguments: argparse.Namespace) -> None:
    begin = time.monotonic()
    recipe = load_recipe(arguments.recipe or _RECIPES / f"{DEMOS[arguments.kind]}.toml", arguments.set)
    if arguments.out is None:
        arguments.out = Path("runs") / ("demo" if arguments.kind == "mri" else f"demo_{arguments.kind}")
    sites = arguments.out / "sites_data"
    going_on = arguments.resume and any(sites.glob("*.toml"))
    if not going_on:
        if arguments.out.exists() and any(arguments.out.iterdir()) and not arguments.resume:
            raise DataError(f"{arguments.out}: is not empty; remove it, choose another --out, or add --resume")
        _say("simulating the hospitals ...")
        _simulate(arguments.kind, sites, arguments.jobs)
    train_run(recipe, load_federation(sites), arguments.out, jobs=arguments.jobs, resume=arguments.resume, say=_say)
    begin_or_records = None if going_on else begin
    results = evaluate_run(arguments.out, jobs=arguments.jobs, say=_say, begin=begin_or_records)
    _say("\n" + text_table(results))
    _say(f"\nreport: {arguments.out / 'report.html'}   ({time.monotonic() - begin:.0f} s)")


def _simulate(kind: str, out: Path, jobs: int) -> None:
    """Write the hospitals of a demo; the mixed one has two of each modality."""
    if kind == "ct":
        make_ct_demo_sites(out, jobs=jobs, overwrite=True)
        return
    make_demo_sites(out, sites=DEMO_SITES if kind == "mri" else DEMO_SITES[:2], overwrite=True)
    if kind == "mixed":
        make_ct_demo_sites(out, sites=CT_DEMO_SITES[:2], jobs=jobs, overwrite=True)


def _train(arguments: argparse.Namespace) -> None:
    recipe = load_recipe(arguments.recipe, arguments.set)
    sites = load_federation(arguments.sites)
    train_run(recipe, sites, arguments.out, jobs=arguments.jobs, resume=arguments.resume, say=_say)
    _say(f"trained: {arguments.out}   next: fedrecon evaluate {arguments.out}")


def _evaluate(arguments: argparse.Namespace) -> None:
    results = evaluate_run(arguments.folder, jobs=arguments.jobs, say=_say)
    _say("\n" + text_table(results))
    _say(f"\nreport: {arguments.folder / 'report.html'}")


def _reconstruct(arguments: argparse.Namespace) -> None:
    if arguments.out.exists() and not arguments.overwrite:
        raise DataError(f"{arguments.out}: exists; choose another --out or add --overwrite")
    shape, scores = reconstruct_file(
        arguments.folder, arguments.site, arguments.scan, arguments.out, simulate=arguments.simulate
    )
    for name in ("psnr", "ssim", "residual"):
        if (value := scores.mean(name)) is not None:
            _say(f"{name} {value:.3f}" + ("  (held-out samples, in units of the noise)" if name == "residual" else ""))
    _say(f"reconstructed {shape[0]} slices of {shape[1]}x{shape[2]}: {arguments.out} (dataset `reconstruction`)")


def _compare(arguments: argparse.Namespace) -> None:
    preset = PRESETS[arguments.preset]
    out = arguments.out or Path("runs") / (
        f"compare_{preset.name}"
        if arguments.sites is None
        else f"compare_{preset.name}_{arguments.sites.resolve().name}"
    )
    begin = time.monotonic()
    if arguments.published is not None and (arguments.tables or arguments.sites is not None):
        other = "--tables" if arguments.tables else "--sites"
        raise DataError(f"--from: found beside {other}, which goes on from no published tables; leave one of them out")
    if arguments.publish is not None and arguments.sites is not None:
        raise DataError("--publish: found beside --sites, whose scores name volumes; leave one of them out")
    if arguments.tables:
        page = write_tables(out, _say)
    else:
        modalities = tuple(preset.budgets) if arguments.modality is None else (arguments.modality,)
        if arguments.publish is not None:
            require_place(out, arguments.publish, preset.described(), modalities)
        if arguments.sites is not None:
            preset = at_sites(preset, arguments.sites, modalities)
            modalities = tuple(preset.budgets)
        extra = extra_arms(preset, [arm_of(path) for path in arguments.recipes], every=arguments.all)
        page = run_comparison(
            preset,
            out,
            modalities=modalities,
            extra=extra,
            seeds=arguments.seeds,
            published=arguments.published,
            more_seeds=not arguments.recipes,  # who names some wants these
            jobs=arguments.jobs,
            say=_say,
        )
    if arguments.publish is not None:
        _say(f"\npublished: {publish(out, arguments.publish)} arms in {arguments.publish}")
    _say(f"\ncomparison: {page}   ({time.monotonic() - begin:.0f} s)")


def _make_fastmri(arguments: argparse.Namespace) -> None:
    by = tuple(part.strip() for part in arguments.by.split(","))
    simulate = None if arguments.measured else FASTMRI_4X
    made = make_fastmri_sites(arguments.folder, arguments.out, by=by, simulate=simulate, overwrite=arguments.overwrite)
    _say_made(made, arguments.out)


def _make_images(arguments: argparse.Namespace) -> None:
    _say_made(make_image_sites(arguments.images, arguments.out, overwrite=arguments.overwrite), arguments.out)


def _make_demo(arguments: argparse.Namespace) -> None:
    _say_made(make_demo_sites(arguments.out, size=arguments.size, overwrite=arguments.overwrite), arguments.out)


def _make_ct_images(arguments: argparse.Namespace) -> None:
    made = make_ct_image_sites(arguments.images, arguments.out, size=arguments.size, overwrite=arguments.overwrite)
    _say_made(made, arguments.out)


def _make_demo_ct(arguments: argparse.Namespace) -> None:
    made = make_ct_demo_sites(arguments.out, size=arguments.size, jobs=arguments.jobs, overwrite=arguments.overwrite)
    _say_made(made, arguments.out)


def _say_made(made: Sequence[MadeSite], out: Path) -> None:
    for site in made:
        counts = ", ".join(f"{count} {split}" for split, count in site.subjects.items())
        missing = f"   no subject left for: {', '.join(site.missing)}" if site.missing else ""
        _say(f"{site.name:24s} subjects: {counts}{missing}")
    _say(f"{len(made)} sites: {out}   next: fedrecon sites check {out}")


def _check(arguments: argparse.Namespace) -> None:
    for site in check_sites(arguments.folder):
        _say_facts(site)
    _say(f"all files are as the manifests say: {arguments.folder}")


def _say_facts(site: SiteFacts) -> None:
    _say(f"{site.name}  ({site.role}; checksums {site.lock})")
    for split in site.splits:
        low, high = split.accelerations
        _say(
            f"  {split.split:10s} {split.files:4d} files {split.subjects:4d} subjects {split.slices:5d} slices   "
            f"{', '.join(split.measured)}   effective acceleration {low:.2f} to {high:.2f}"
        )


if __name__ == "__main__":
    sys.exit(main())
