"""The command line: one line per error and exit code 2; Ctrl-C exits with 130 and a hint to `--resume`."""

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

from recon import DataError, os_error_line

from ..config import ConfigError
from .cache import add_cache
from .compare import add_compare
from .convert import add_convert
from .deploy import add_deploy
from .doctor import add_doctor
from .import_weights import add_import_weights
from .privacy import add_privacy
from .recipes import add_recipes
from .runs import add_demo, add_evaluate, add_plan, add_train
from .serve import add_serve
from .sites import add_sites
from .weights import add_reconstruct, add_weights


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code: 2 for an error in arguments, files or data, 130 after Ctrl-C."""
    parser = _parser()
    _complete(parser)
    arguments = parser.parse_args(argv)
    logging.basicConfig(format="fedrecon: %(message)s", level=logging.WARNING)
    try:
        return _run(arguments)
    except Exception as error:
        text = _explained(error)
        if text is None:
            raise
        print(f"fedrecon: error: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interruption:
        again = "no file is half-written. The same command continues, with --resume if it has this option."
        print(f"\nfedrecon: interrupted; {str(interruption) or again}", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace) -> int:
    for file in getattr(arguments, "plugin", ()):
        from ..config import load_plugin

        load_plugin(file)
    run: Callable[[argparse.Namespace], int | None] = arguments.run
    return run(arguments) or 0


def _execute(argv: Sequence[str]) -> int:
    """Run one command for another one, which gets its errors."""
    return _run(_parser().parse_args(argv))


def _explained(error: Exception) -> str | None:
    """The error in one line, with the line of the user's plugin that caused it; None: an error of fedrecon."""
    lines = str(error).splitlines() if isinstance(error, ConfigError) else [str(error)]  # one per mistake
    text = "\n".join(" ".join(line.split()) for line in lines)
    if isinstance(error, OSError):
        text = os_error_line(error)
    refused = isinstance(error, DataError | OSError)
    if refused and error.__cause__ is None:
        return text
    from ..config.plugin_errors import line_in_plugin

    where = line_in_plugin(error)
    if refused:
        return text if not where or where.split(", line ")[0] in text else f"{text} ({where})"
    return f"{where}: {type(error).__name__}: {text}" if where else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedrecon",
        description="Federated MRI and CT reconstruction: shared regularizer, each site's own physics.",
        epilog="Completion by the shell: pip install 'fedrecon[completion]', then put "
        'eval "$(register-python-argcomplete fedrecon)" into ~/.bashrc or ~/.zshrc.',
    )
    parser.add_argument("--version", action="version", version=f"fedrecon {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_demo(commands)
    add_convert(commands)
    add_sites(commands)
    add_recipes(commands)
    add_plan(commands)
    add_train(commands)
    add_evaluate(commands)
    add_privacy(commands)
    add_reconstruct(commands)
    add_serve(commands)
    add_weights(commands)
    add_import_weights(commands)
    add_compare(commands)
    add_cache(commands)
    add_deploy(commands, _execute)
    add_doctor(commands)
    return parser


def _complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that completes a command, if the extra is installed; the shell then sets the variable."""
    if "_ARGCOMPLETE" in os.environ:
        with contextlib.suppress(ImportError):
            import argcomplete

            argcomplete.autocomplete(parser)


def _version() -> str:
    try:
        return version("fedrecon")
    except PackageNotFoundError:
        return "(not installed)"
