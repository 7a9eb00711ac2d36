"""`fedrecon recipes`."""

import argparse

from .arguments import Commands, say


def add_recipes(commands: Commands) -> None:
    recipes = commands.add_parser("recipes", help="list the recipes that come with fedrecon, or print one")
    recipes.add_argument("name", nargs="?", help="print the file of this recipe")
    recipes.set_defaults(run=_recipes)


def _recipes(arguments: argparse.Namespace) -> None:
    from ..recipes import library_entries, recipe_path

    if arguments.name is not None:
        say(recipe_path(arguments.name).read_text(encoding="utf-8").rstrip())
        return
    entries = library_entries()
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        say(f"{entry.name:{width}s}  {entry.summary}")
