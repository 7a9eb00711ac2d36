"""`fedrecon privacy`."""

import argparse
from pathlib import Path

from ..machine import cores
from .arguments import Commands, add_moved_sites, add_output, add_plugins, display, positive_count


def add_privacy(commands: Commands) -> None:
    text = "attack a finished run of your own: what its updates and its network tell about patients"
    described = (
        "Reconstructs training slices from gradients and updates, each against a control, and infers who was in the "
        "training data. Writes privacy.html, privacy.json and privacy.csv into the run folder; the same command goes "
        "on after an interruption. Pictures of measured data stay in sites/<site>. Needs the raw data of the sites on "
        "this machine."
    )
    privacy = commands.add_parser("privacy", help=text, description=described)
    privacy.add_argument("folder", type=Path, help="run folder")
    privacy.add_argument("--site", help="the attacked site (default: the first that takes part)")
    more = (
        ("--steps", 100, "N", "steps of every search: more make an attack stronger"),
        ("--slices", 1, "N", "training slices of the site that are attacked one by one"),
        ("--size", 48, "PIXELS", "rows and columns of the attacked slices at most"),
    )
    for option, default, metavar, help_text in more:
        privacy.add_argument(
            option, type=positive_count, default=default, metavar=metavar, help=f"{help_text} (default: %(default)s)"
        )
    counted = "sites in a secure sum (default: all that take part)"
    privacy.add_argument("--sum-of", type=positive_count, metavar="K", help=counted)
    add_moved_sites(privacy)
    privacy.set_defaults(run=_privacy)
    add_plugins(privacy)
    at_once = "searches that run at once, each in a process with one thread; results do not depend on it"
    privacy.add_argument("--jobs", type=positive_count, help=f"{at_once} (default: {cores()}, the number of cores)")
    add_output(privacy)


def _privacy(arguments: argparse.Namespace) -> None:
    with display(arguments) as shown:
        from recon import privacy_text

        from ..attacks import AttackOptions, attack_run

        options = AttackOptions(arguments.site, arguments.steps, arguments.sum_of, arguments.slices, arguments.size)
        results = attack_run(arguments.folder, options, jobs=arguments.jobs, say=shown.say, sites=arguments.sites)
        shown.result("\n" + privacy_text(results))
        shown.result(f"\nreport: {arguments.folder / 'privacy.html'}")
