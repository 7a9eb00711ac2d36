"""`fedrecon reconstruct`, with a run or with weights, and `fedrecon weights`."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon import DataError

from .arguments import Commands, add_moved_sites, add_output, add_plugins, display, say

if TYPE_CHECKING:
    from ..experiment.reconstruction import Reconstructed


def add_weights(commands: Commands) -> None:
    weights = commands.add_parser(
        "weights",
        help="list the trained weights that come with fedrecon, or export those of a run",
        usage="fedrecon weights [NAME]\n       fedrecon weights export RUN --out FOLDER [--site SITE] [options]",
    )
    weights.add_argument("name", nargs="?", help="print the card of these weights, or the word `export`")
    weights.add_argument("exported", metavar="RUN", nargs="?", type=Path, help="with export: folder of a trained run")
    weights.add_argument("--out", type=Path, help="with export: folder to write, with the card MODEL.md")
    text = "with export: the network of this site (default: the shared parameters alone, as at an unseen site)"
    weights.add_argument("--site", help=text)
    add_moved_sites(weights)
    weights.add_argument("--overwrite", action="store_true", help="with export: replace existing files")
    weights.set_defaults(run=_weights)
    add_plugins(weights)


def add_reconstruct(commands: Commands) -> None:
    reconstruct = commands.add_parser(
        "reconstruct",
        help="reconstruct a scan with a trained run, or with starter weights",
        usage="fedrecon reconstruct RUN SCAN --site SITE --out FILE [options]\n"
        "       fedrecon reconstruct RUN FOLDER --site SITE --out FOLDER --suffix .nii.gz [options]\n"
        "       fedrecon reconstruct --weights NAME SCAN --out FILE [options]",
        epilog="NIfTI, DICOM and PNG of CT are in Hounsfield units; HDF5 holds attenuation in 1/mm. DICOM files are MR "
        "or CT images if the scan states ImageOrientationPatient and ImagePositionPatient, else secondary captures: "
        "left and right are not known.",
    )
    reconstruct.add_argument("folder", metavar="RUN", type=Path, help="run folder; none with --weights")
    scan = reconstruct.add_argument(
        "scan",
        metavar="SCAN",
        type=Path,
        help="file in the format of the site or another one, told from its content; or a folder",
    )

    class Weights(argparse.Action):
        """Stores the name; the scan is then the only positional argument."""

        def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
            namespace.weights = values
            scan.required = False

    reconstruct.add_argument(
        "--weights",
        action=Weights,
        metavar="NAME",
        help="name of `fedrecon weights`, or a file of weights",
    )
    reconstruct.add_argument("--site", help="site of the run whose data consistency is used, or `unseen`")
    add_moved_sites(reconstruct)
    reconstruct.add_argument(
        "--out",
        type=Path,
        required=True,
        help="file to write: .h5, .nii, .nii.gz, .png, .dcm; a name without end is a folder of DICOM files; with a "
        "folder of scans, the folder of their images",
    )
    reconstruct.add_argument(
        "--suffix",
        metavar="END",
        help="with a folder of scans: format of the images, .h5, .nii.gz, .dcm (a folder per scan), ... (default: .h5)",
    )
    reconstruct.add_argument(
        "--slices",
        choices=("middle", "all"),
        default="middle",
        help="with .png: the middle slice, or all of them, numbered (default: %(default)s)",
    )
    reconstruct.add_argument("--format", help="with --weights: format of the scan (default: told from its content)")
    reconstruct.add_argument(
        "--simulate", action="store_true", help="first degrade the scan as in [simulate] of the site's manifest"
    )
    reconstruct.add_argument(
        "--adapt",
        metavar="STEPS",
        type=int,
        nargs="?",
        const=100,
        help="first train the network on this scan for at most STEPS steps (default: %(const)s), without a reference",
    )
    reconstruct.add_argument("--overwrite", action="store_true", help="replace existing files")
    reconstruct.set_defaults(run=_reconstruct)
    add_plugins(reconstruct)
    add_output(reconstruct)


def _weights(arguments: argparse.Namespace) -> None:
    from recon import STARTER_WEIGHTS, open_weights

    if arguments.name == "export":
        _export(arguments)
        return
    options = ("exported", "out", "site", "sites", "overwrite")
    if given := [option for option in options if getattr(arguments, option)]:
        raise DataError(f"weights: {given[0]} goes with `fedrecon weights export RUN --out FOLDER`; leave it out")
    if arguments.name is not None:
        file = open_weights(arguments.name)
        if not file.card.is_file():
            raise DataError(
                f"{file.path}: found no card beside it, expected {file.card.name}; ask who made the weights"
            )
        say(file.card.read_text(encoding="utf-8").rstrip())
        return
    if not STARTER_WEIGHTS:
        say("no weights come with this version")
    for name in STARTER_WEIGHTS:
        file = open_weights(name)
        size = f"{file.parameters} parameters, {file.bytes / 1000:.0f} kB"
        say(f"{name}  {file.title}; {file.modality}, {size}; card: {file.card}")


def _export(arguments: argparse.Namespace) -> None:
    from ..experiment import export_weights

    for option, name in (("exported", "RUN"), ("out", "--out")):
        if getattr(arguments, option) is None:
            raise DataError(f"weights export: {name} is missing; fedrecon weights export RUN --out FOLDER")
    run, out = arguments.exported, arguments.out
    file = export_weights(run, out, site=arguments.site, sites=arguments.sites, overwrite=arguments.overwrite)
    say(f"weights: {file}   card: {file.with_name('MODEL.md')}")


def _reconstruct(arguments: argparse.Namespace) -> None:
    _require_one_form(arguments)
    with display(arguments) as shown:
        from recon import require_export

        from ..experiment import (
            Method,
            ReconstructOptions,
            method_of_run,
            method_of_weights,
            reconstruct_folder,
            reconstruct_scan,
        )

        scan, out = arguments.scan if arguments.weights is None else arguments.folder, arguments.out
        many = scan.is_dir()
        if not many and arguments.suffix is not None:
            raise DataError(f"--suffix: belongs to a folder of scans, and {scan} is none; leave it out")
        if not many:
            require_export(out, overwrite=arguments.overwrite, slices=arguments.slices)
        method: Method
        if arguments.weights is None:
            method = method_of_run(arguments.folder, arguments.site, arguments.sites)
        else:
            method = method_of_weights(arguments.weights, arguments.format)
        options = ReconstructOptions(arguments.simulate, arguments.adapt, arguments.overwrite, arguments.slices)
        done = partial(_say_reconstructed, shown.result)
        if many:
            suffix = arguments.suffix or ".h5"
            count = reconstruct_folder(method, scan, out, suffix, options, shown.say, done)
            shown.result(f"reconstructed {count} scans: {out}")
        else:
            done(out, reconstruct_scan(method, scan, out, options, shown.say))


def _say_reconstructed(say: Callable[[str], None], out: Path, result: "Reconstructed") -> None:
    shape, scores = result
    for name in ("psnr", "ssim"):
        if (value := scores.mean(name)) is not None:
            say(f"{name} {value:.3f}")
    if scores.mean("psnr") is None:
        residual = scores.mean("residual")
        said = "none" if residual is None else f"{residual:.3f}  (held-out samples, in units of the noise)"
        say(f"residual {said}")
    dataset = " (dataset `reconstruction`)" if out.suffix.lower() in (".h5", ".hdf5") else ""
    say(f"reconstructed {shape[0]} slices of {shape[1]}x{shape[2]}: {out}{dataset}")


def _require_one_form(arguments: argparse.Namespace) -> None:
    """Refuse options of the other form of the command."""
    if arguments.adapt is not None and arguments.adapt < 1:
        raise DataError(f"--adapt: found {arguments.adapt}, expected at least 1 step; leave it out for none")
    if arguments.weights is None:
        if arguments.format is not None:
            raise DataError("--format: goes with --weights; the manifest of the site states the format, leave it out")
        if arguments.site is None:
            raise DataError("--site: missing; name a site of the run, or give --weights NAME instead of a run")
    elif arguments.scan is not None:
        raise DataError(f"{arguments.folder}: a run folder or --weights, not both; give the scan alone")
    elif given := [option for option in ("site", "simulate", "sites") if getattr(arguments, option)]:
        raise DataError(f"--{given[0]}: belongs to a run; leave it out with --weights")
