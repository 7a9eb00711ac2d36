"""Arguments and output shared by several commands."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ..machine import cores

if TYPE_CHECKING:
    from ..progress import Display

#: A group of commands; argparse has no public name for its type.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

#: Help of an argument that `recipe_path` reads.
RECIPE = "name of a recipe (see `fedrecon recipes`) or a TOML file"


def add_plugins(parser: argparse.ArgumentParser) -> None:
    text = "Python file that registers parts of your own; repeat for several"
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE", help=text)


def add_moved_sites(parser: argparse.ArgumentParser) -> None:
    text = "folder of the manifests of a run, if it has moved since training"
    parser.add_argument("--sites", type=Path, help=text)


def add_jobs(parser: argparse.ArgumentParser) -> None:
    text = "site processes that run at once, one thread each; results do not depend on it (default: %(default)s)"
    parser.add_argument("--jobs", type=positive_count, default=cores(), help=text)


def add_jobs_that_fit(parser: argparse.ArgumentParser) -> None:
    """Add `--jobs` of a command that measures its memory; None if it is not given."""
    default = f"as many as {cores()} cores and the memory allow"
    text = f"site processes that run at once; results do not depend on it (default: {default})"
    parser.add_argument("--jobs", type=positive_count, help=text)


def add_threads(parser: argparse.ArgumentParser) -> None:
    text = (
        "threads of every site process, whatever --jobs is; the run records it, as the last bits of its results depend "
        f"on it (default: {cores()} cores over the number of sites that train, at least 1)"
    )
    parser.add_argument("--threads", type=positive_count, metavar="N", help=text)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add `--quiet` and `--verbose`; :func:`display` reads them."""
    level = parser.add_mutually_exclusive_group()
    level.add_argument("--quiet", action="store_true", help="print results and warnings only")
    level.add_argument("--verbose", action="store_true", help="print a line whenever a process begins other work")


def display(arguments: argparse.Namespace) -> "Display":
    """The display of a command with the options of :func:`add_output`.

    Commands enter it before they load PyTorch: on a busy machine this alone takes longer than a command may be silent.
    """
    from ..progress import Display

    return Display("quiet" if arguments.quiet else "verbose" if arguments.verbose else "normal")


def positive_count(text: str) -> int:
    """Parse a whole number of at least 1."""
    return _count(text, 1)


def count_or_none(text: str) -> int:
    """Parse a whole number of at least 0."""
    return _count(text, 0)


def part(text: str) -> float:
    """Parse a number between 0 and 1, without both."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number between 0 and 1, such as 0.9")
    return number


def _count(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number of at least {least}")
    return number


def say(text: str) -> None:
    print(text, flush=True)
