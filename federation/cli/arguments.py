"""Arguments and output shared by several commands."""

import argparse
import os
from pathlib import Path
from typing import TypeAlias

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
    default = os.cpu_count() or 1
    text = "site processes that run at once, one thread each; results do not depend on it (default: %(default)s)"
    parser.add_argument("--jobs", type=positive_count, default=default, help=text)


def positive_count(text: str) -> int:
    """Parse a whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number of at least 1")
    return number


def say(text: str) -> None:
    print(text, flush=True)
