"""A command of `fedrecon deploy`: its files are for their owner alone, and it needs the extra `deploy`."""

import argparse
import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from recon import DataError

from .arguments import RECIPE, Commands, add_plugins

if TYPE_CHECKING:
    from ..recipes import Recipe


def add_command(
    actions: Commands, name: str, about: str, run: Callable[[argparse.Namespace], int | None]
) -> argparse.ArgumentParser:
    """Add a command; ``about`` is its help."""
    parser = actions.add_parser(name, help=about, description=about[0].upper() + about[1:])
    parser.set_defaults(run=functools.partial(_privately, run))
    return parser


def _privately(run: Callable[[argparse.Namespace], int | None], arguments: argparse.Namespace) -> int | None:
    """Run a command whose files are for their owner alone."""
    flower("run_server")  # fails with advice if the extra is missing, before a module of `deploy` fails to import it
    from ..deploy.private_files import private_files

    with private_files():
        return run(arguments)


def flower(module: str) -> Any:
    """A module of `federation.flower`.

    Raises
    ------
    DataError
        If the extra `deploy` is not installed.
    """
    try:
        return importlib.import_module(f"federation.flower.{module}")
    except ModuleNotFoundError as error:
        raise DataError(f"{error.name}: is not installed; pip install 'fedrecon[deploy]'") from None


def add_recipe(parser: argparse.ArgumentParser, *, default: str | None = None) -> None:
    """Add the recipe of a run and its options; :func:`recipe_of` reads them."""
    if default is None:
        parser.add_argument("recipe", help=RECIPE)
    else:
        parser.add_argument("recipe", nargs="?", default=default, help=f"{RECIPE} (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value")
    parser.add_argument("--name", help="name of the run (default: name of the recipe)")
    add_plugins(parser)


def recipe_of(arguments: argparse.Namespace) -> tuple["Recipe", str]:
    """The recipe of a run and the name of the run.

    Raises
    ------
    DataError
        If the recipe cannot be used, or the name is no name of a folder.
    """
    from ..config import safe_name
    from ..recipes import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.set, plugins=arguments.plugin)
    try:
        return recipe, safe_name(arguments.name or recipe.name)
    except ValueError as error:
        raise DataError(f"--name {arguments.name!r}: expected {error}") from None
