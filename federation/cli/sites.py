"""`fedrecon sites make` and `fedrecon sites check`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import Commands, add_jobs, add_output, add_plugins, display, positive_count, say

if TYPE_CHECKING:
    from ..sites import ImageLabels, MadeSite, PersonImage, SiteFacts

#: Names in `GROUPINGS`, which loads PyTorch.
GROUPING_NAMES = ("vendor", "model", "field", "contrast", "coils")
#: Values of `recon.TaskKind`.
TASK_KINDS = ("segmentation", "classification")
#: Names in `physics.TRAJECTORIES`.
TRAJECTORY_NAMES = ("radial", "golden_angle", "spiral")


def add_sites(commands: Commands) -> None:
    sites = commands.add_parser("sites", help="make and check the sites of a federation")
    actions = sites.add_subparsers(required=True, metavar="ACTION")
    make = actions.add_parser("make", help="write one manifest per site")
    kinds = make.add_subparsers(required=True, metavar="KIND")
    of_people = [_add_fastmri(kinds), *_add_images(kinds), _add_ct_pd(kinds)]
    for kind in of_people:
        pattern = "regular expression with one group: the person, searched in the path of every file, as in '^([^_]+)_'"
        kind.add_argument("--subject", metavar="PATTERN", help=pattern)
        _add_skip_bad(kind)
    for kind in (*of_people, *_add_demos(kinds)):
        kind.add_argument("--out", type=Path, required=True, help="folder of the manifests")
        kind.add_argument("--overwrite", action="store_true", help="replace existing files")
        add_plugins(kind)
        add_output(kind)

    check = actions.add_parser("check", help="check all files and their checksums, print a summary of each site")
    check.add_argument("folder", type=Path, help="folder of manifests")
    _add_skip_bad(check)
    check.set_defaults(run=_check)
    add_plugins(check)
    add_output(check)


def _add_fastmri(kinds: Commands) -> argparse.ArgumentParser:
    text = "group a folder of measured scans by scanner: fastMRI, ISMRMRD and all other layouts of `fedrecon convert`"
    fastmri = kinds.add_parser("fastmri", aliases=["ismrmrd"], help=text)
    fastmri.add_argument("folder", help="folder of scans; ${VARIABLES} in its path stay in the manifests")
    fastmri.add_argument("--format", help="reader of all files, as m4raw (default: told from their content)")
    fastmri.add_argument(
        "--by", default="model,field,contrast", help=f"any of {','.join(GROUPING_NAMES)} (default: %(default)s)"
    )
    degraded = fastmri.add_mutually_exclusive_group()
    degraded.add_argument(
        "--measured", action="store_true", help="use fully sampled files as measured; default: undersample them 4x"
    )
    degraded.add_argument(
        "--trajectory", choices=TRAJECTORY_NAMES, help="measure fully sampled files 4x along spokes or spirals instead"
    )
    fastmri.add_argument("--persons", type=Path, metavar="CSV", help="table of files and persons")
    fastmri.set_defaults(run=_make_fastmri)
    return fastmri


def _add_images(kinds: Commands) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    images = kinds.add_parser("images", help="simulate k-space from magnitude images (NIfTI, DICOM), by person")
    images.set_defaults(run=_make_images)

    ct_images = kinds.add_parser("ct-images", help="simulate projections from CT images (NIfTI, DICOM, in HU)")
    ct_images.add_argument("--size", type=int, default=256, help="pixels per side (default: %(default)s)")
    ct_images.set_defaults(run=_make_ct_images)
    for kind in (images, ct_images):
        kind.add_argument(
            "images", type=Path, nargs="*", help="files or folders of DICOM slices, one person each without --subject"
        )
        kind.add_argument("--persons", type=Path, metavar="CSV", help="table of files and persons instead")
        kind.add_argument("--scanners", type=Path, metavar="TOML", help="the scanners to simulate")
        pattern = "label images beside the images, as in '{stem}_seg.nii.gz' or '{person}_lesions.nii.gz'"
        kind.add_argument("--labels", metavar="PATTERN", help=pattern)
        values = "what their values mean, as in lesion=1 ventricles=4,11,49-52; all others are background"
        kind.add_argument("--classes", nargs="+", default=[], metavar="NAME=VALUES", help=values)
        _add_task(kind)
    return images, ct_images


def _add_ct_pd(kinds: Commands) -> argparse.ArgumentParser:
    text = "rebin folders of DICOM-CT-PD projections, helical or axial, to fan-beam slices: a site per scanner"
    ct_pd = kinds.add_parser("dicom-ct-pd", help=text)
    ct_pd.add_argument("folder", help="folder of projections, searched recursively: every folder is a series")
    ct_pd.add_argument(
        "--slices", type=_millimeters, default=5.0, metavar="MM", help="thickness and distance, as 5mm (default: 5)"
    )
    ct_pd.add_argument("--size", type=positive_count, default=512, help="pixels per side (default: %(default)s)")
    ct_pd.add_argument("--views", type=positive_count, help="views of a slice (default: those of a turn)")
    ct_pd.add_argument(
        "--measured",
        action="store_true",
        help="all views and no reference; default: FBP of all views, of which 1/4 is kept",
    )
    ct_pd.add_argument(
        "--series", metavar="TEXT", help="only series with this text in their description, as 'full dose'"
    )
    ct_pd.add_argument("--water", type=float, metavar="PER_MM", help="attenuation of water, if files state none")
    ct_pd.add_argument(
        "--planes",
        choices=("axial", "tilted"),
        default="axial",
        help="tilted: planes follow the helix, for large cone angles; images are reconstructed axial (default: axial)",
    )
    ct_pd.add_argument(
        "--dead",
        nargs="+",
        default=(),
        metavar="COLUMN:ROW",
        help="dead elements from 1, as 12:3 or 12:all, beside those that are found",
    )
    ct_pd.set_defaults(run=_make_ct_pd)
    return ct_pd


def _add_demos(kinds: Commands) -> tuple[argparse.ArgumentParser, ...]:
    demo = kinds.add_parser("demo", help="the simulated hospitals of `fedrecon demo`")
    demo.add_argument("--size", type=int, default=128, help="pixels per side (default: %(default)s)")
    demo.add_argument("--only", metavar="NAMES", help="names of the sites to make, with commas (default: all)")
    demo.set_defaults(run=_make_demo)

    demo_ct = kinds.add_parser("demo-ct", help="the simulated CT scanners of `fedrecon demo --kind ct`")
    demo_ct.add_argument("--size", type=int, default=128, help="pixels per side (default: %(default)s)")
    demo_ct.set_defaults(run=_make_demo_ct)
    add_jobs(demo_ct)

    demo_cine = kinds.add_parser("demo-cine", help="simulated scanners of beating hearts, frames with a mask each")
    demo_cine.add_argument("--size", type=int, default=96, help="pixels per side (default: %(default)s)")
    demo_cine.add_argument("--frames", type=int, default=12, help="frames of a heart beat (default: %(default)s)")
    demo_cine.set_defaults(run=_make_demo_cine)
    add_jobs(demo_cine)

    demo_task = kinds.add_parser("demo-task", help="simulated heads, or chests in CT, with lesions and their labels")
    demo_task.add_argument("--modality", choices=("mri", "ct"), default="mri", help="(default: %(default)s)")
    demo_task.add_argument("--size", type=int, default=96, help="pixels per side (default: %(default)s)")
    _add_task(demo_task)
    demo_task.add_argument("--people", type=positive_count, default=6, help="for training at a site (default: 6)")
    demo_task.set_defaults(run=_make_demo_task)
    add_jobs(demo_task)
    return demo, demo_ct, demo_cine, demo_task


def _add_task(parser: argparse.ArgumentParser) -> None:
    text = "labels in the manifests: maps, or which slice shows what (default: %(default)s)"
    parser.add_argument("--task", choices=TASK_KINDS, default=TASK_KINDS[0], help=text)


def _add_skip_bad(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--skip-bad", action="store_true", help="leave out files that cannot be used; they are named")


def _make_fastmri(arguments: argparse.Namespace) -> None:
    with display(arguments):
        from recon import TrajectorySimulation

        from ..sites import FASTMRI_4X, make_fastmri_sites

        by = tuple(part.strip() for part in arguments.by.split(","))
        along = None if arguments.trajectory is None else TrajectorySimulation(arguments.trajectory, 4)
        simulate = None if arguments.measured else along or FASTMRI_4X
        made = make_fastmri_sites(
            arguments.folder,
            arguments.out,
            by=by,
            simulate=simulate,
            overwrite=arguments.overwrite,
            subject_pattern=arguments.subject,
            persons=arguments.persons,
            skip_bad=arguments.skip_bad,
            format=arguments.format,
        )
    _print_made(made, arguments.out)


def _make_images(arguments: argparse.Namespace) -> None:
    with display(arguments):
        from ..sites import IMAGE_SITES, MRIScanner, make_image_sites, read_scanners

        sites = read_scanners(arguments.scanners, MRIScanner) if arguments.scanners else IMAGE_SITES
        source = arguments.persons or "sites make"
        made = make_image_sites(
            _given(arguments),
            arguments.out,
            sites=sites,
            source=source,
            overwrite=arguments.overwrite,
            skip_bad=arguments.skip_bad,
            labels=_labels(arguments),
        )
    _print_made(made, arguments.out)


def _labels(arguments: argparse.Namespace) -> "ImageLabels | None":
    """Label images of the command line; None: no labels."""
    from ..config import config_error
    from ..sites import ImageLabels, parse_classes

    if (arguments.labels is None) != (not arguments.classes):
        found = "--labels without --classes" if arguments.labels else "--classes without --labels"
        raise config_error("sites make", "labels", found, "both or none", "name the label images and their classes")
    if arguments.labels is None:
        return None
    return ImageLabels(arguments.labels, parse_classes(arguments.classes), arguments.task)


def _given(arguments: argparse.Namespace) -> Sequence["Path | PersonImage"]:
    """Images of the command line, or those of the table of persons."""
    from ..config import config_error
    from ..sites import images_of_persons, read_persons, require_one_source

    require_one_source(arguments.subject, arguments.persons)
    images: list[Path] = arguments.images
    if bool(images) == bool(arguments.persons):
        found = "both images and --persons" if images else "neither images nor --persons"
        raise config_error("sites make", "images", found, "one of them", "list files, or name a table")
    if arguments.subject is None:
        return images or read_persons(arguments.persons)
    return images_of_persons(images, arguments.subject)


def _make_demo(arguments: argparse.Namespace) -> None:
    with display(arguments):
        from ..config import config_error
        from ..sites import DEMO_SITES, make_demo_sites

        _require_least(arguments, size=8)
        known = {site.name: site for site in DEMO_SITES}
        names = [name.strip() for name in arguments.only.split(",")] if arguments.only is not None else list(known)
        for name in names:
            if name not in known:
                raise config_error("sites make", "--only", repr(name), f"one of {', '.join(known)}", "correct it")
        chosen = [site for name, site in known.items() if name in names]
        made = make_demo_sites(arguments.out, size=arguments.size, sites=chosen, overwrite=arguments.overwrite)
    _print_made(made, arguments.out)


def _make_ct_images(arguments: argparse.Namespace) -> None:
    with display(arguments):
        from ..sites import CTScanner, make_ct_image_sites, read_scanners

        _require_least(arguments, size=8)
        made = make_ct_image_sites(
            _given(arguments),
            arguments.out,
            size=arguments.size,
            sites=read_scanners(arguments.scanners, CTScanner) if arguments.scanners else None,
            source=arguments.persons or "sites make",
            overwrite=arguments.overwrite,
            skip_bad=arguments.skip_bad,
            labels=_labels(arguments),
        )
    _print_made(made, arguments.out)


def _make_ct_pd(arguments: argparse.Namespace) -> None:
    with display(arguments) as shown:
        from ..sites import make_ct_pd_sites

        made = make_ct_pd_sites(
            arguments.folder,
            arguments.out,
            thickness_mm=arguments.slices,
            size=arguments.size,
            views=arguments.views,
            measured=arguments.measured,
            water_per_mm=arguments.water,
            tilted=arguments.planes == "tilted",
            dead_elements=arguments.dead,
            series=arguments.series,
            subject_pattern=arguments.subject,
            overwrite=arguments.overwrite,
            skip_bad=arguments.skip_bad,
            say=shown.say,
        )
    _print_made(made, arguments.out)


def _millimeters(text: str) -> float:
    """Parse a length such as ``5mm`` or ``0.75``."""
    try:
        length = float(text.strip().removesuffix("mm"))
    except ValueError:
        length = 0.0
    if not 0.1 <= length <= 100:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected millimeters from 0.1 to 100, as in 5mm")
    return length


def _make_demo_ct(arguments: argparse.Namespace) -> None:
    with display(arguments):
        from ..sites import make_ct_demo_sites

        _require_least(arguments, size=8)
        made = make_ct_demo_sites(
            arguments.out, size=arguments.size, jobs=arguments.jobs, overwrite=arguments.overwrite
        )
    _print_made(made, arguments.out)


def _make_demo_cine(arguments: argparse.Namespace) -> None:
    with display(arguments):
        from ..sites import make_cine_demo_sites

        _require_least(arguments, size=8, frames=1)
        made = make_cine_demo_sites(
            arguments.out,
            size=arguments.size,
            frames=arguments.frames,
            jobs=arguments.jobs,
            overwrite=arguments.overwrite,
        )
    _print_made(made, arguments.out)


def _make_demo_task(arguments: argparse.Namespace) -> None:
    with display(arguments):
        from ..sites import TASK_DEMOS, make_task_demo_sites

        _require_least(arguments, size=8)
        made = make_task_demo_sites(
            arguments.out,
            kind=arguments.task,
            size=arguments.size,
            train=arguments.people,
            sites=TASK_DEMOS[arguments.modality],
            jobs=arguments.jobs,
            overwrite=arguments.overwrite,
        )
    _print_made(made, arguments.out)


def _require_least(arguments: argparse.Namespace, **least: int) -> None:
    from ..config import config_error

    for option, number in least.items():
        if (value := getattr(arguments, option)) < number:
            raise config_error("sites make", f"--{option}", str(value), f"at least {number}", "correct it")


def _print_made(made: Sequence["MadeSite"], out: Path) -> None:
    for site in made:
        counts = ", ".join(f"{count} {split}" for split, count in site.subjects.items())
        missing = f"   no subject left for: {', '.join(site.missing)}" if site.missing else ""
        say(f"{site.name:24s} subjects: {counts}{missing}")
    say(f"{len(made)} sites: {out}   next: fedrecon sites check {out}")


def _check(arguments: argparse.Namespace) -> None:
    with display(arguments):
        from ..sites import check_sites, grouped

        sites = check_sites(arguments.folder, skip_bad=arguments.skip_bad)
    for site in sites:
        _print_facts(site)
    warnings = [warning for site in sites for split in site.splits for warning in split.warnings]
    warnings = grouped(warnings + [warning for site in sites for warning in site.warnings])
    for warning in warnings:
        say(f"warning: {warning}")
    count = f", with {len(warnings)} warning{'s' * (len(warnings) > 1)}" if warnings else ""
    say(f"all files agree with the manifests{count}: {arguments.folder}")


def _print_facts(site: "SiteFacts") -> None:
    say(f"{site.name}  ({site.role}; checksums {site.lock})")
    for split in site.splits:
        low, high = split.accelerations
        lines = "" if split.calibration is None else "   calibration lines {} to {}".format(*split.calibration)
        say(
            f"  {split.split:10s} {split.files:4d} files {split.subjects:4d} subjects {split.slices:5d} slices   "
            f"{', '.join(split.measured)}   effective acceleration {low:.2f} to {high:.2f}{lines}"
        )
        if (labels := split.labels) is not None:
            shown = ", ".join(f"{name} in {n} ({slices})" for name, (n, slices) in labels.classes.items())
            say(f"  {'':10s} labels of {labels.people} subjects ({labels.slices} slices): {shown}")
