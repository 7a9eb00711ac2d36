"""`fedrecon cache`."""

import argparse
import sys
from datetime import datetime

from recon import DataError

from .arguments import Commands, say


def add_cache(commands: Commands) -> None:
    text = "show or clear the coil maps that runs share"
    described = (
        "Estimated coil maps are stored once for all runs, in $FEDRECON_CACHE, else $XDG_CACHE_HOME/fedrecon, else "
        "~/.cache/fedrecon. A deployed site keeps them in its own folder."
    )
    cache = commands.add_parser("cache", help=text, description=described)
    cache.add_argument("action", nargs="?", choices=("show", "clear"), default="show", help="default: %(default)s")
    cache.add_argument("--yes", action="store_true", help="clear without asking")
    cache.set_defaults(run=_cache)


def _cache(arguments: argparse.Namespace) -> None:
    from recon import cache_facts, clear_cache

    facts = cache_facts()
    say(f"folder   {facts.folder}")
    say(f"files    {facts.files}")
    say(f"size     {_size(facts.size)}")
    if facts.oldest is not None:
        say(f"oldest   {datetime.fromtimestamp(facts.oldest):%Y-%m-%d %H:%M}")
    if arguments.action == "show" or not facts.files:
        return
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise DataError("cache clear: found no terminal to ask, expected an answer; add --yes")
        if input(f"remove {facts.files} files, {_size(facts.size)}? [y/N] ").strip().lower() not in ("y", "yes"):
            return
    clear_cache()
    left = cache_facts()
    say(f"removed {facts.files - left.files} files, {_size(facts.size - left.size)}")
    if left.files:
        say(f"kept {left.files} files, which another process may be writing")


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
