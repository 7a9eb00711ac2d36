"""Use many files: all that cannot be used are reported together, or left out by name."""

import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

from recon import DataError

from ..config import ConfigError

logger = logging.getLogger(__name__)
#: Advice below the errors of several files.
_SKIP = "correct them, or leave them out with --skip-bad"
_NONE_LEFT = "no other is left; correct them"

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable(items: Iterable[Item], use: Callable[[Item], Result], *, skip_bad: bool) -> dict[Item, Result]:
    """Result of ``use`` for every file that it accepts.

    Parameters
    ----------
    use
        Raises :class:`recon.DataError` or OSError, with the file's name, for a file that cannot be used.
    skip_bad
        Leave out such files, with a warning for each.

    Raises
    ------
    DataError
        If files cannot be used: one line each. With ``skip_bad``: if no file is left.
    """
    results: dict[Item, Result] = {}
    faults: list[Exception] = []
    for item in items:
        try:
            results[item] = use(item)
        except (DataError, OSError) as error:
            faults.append(error)
    refuse(faults, skip_bad=skip_bad and bool(results), advice=_NONE_LEFT if skip_bad else _SKIP)
    return results


def refuse(faults: Iterable[Exception], *, skip_bad: bool, advice: str = _SKIP) -> None:
    """Raise the errors of all files as one, a line each, or log them where the files are left out.

    Raises
    ------
    DataError
        If there is an error and files are not left out, ``advice`` after the last; a single one is raised as it is.
    """
    faults = list({str(fault): fault for fault in faults}.values())  # several persons may be in one file
    if skip_bad:
        for fault in faults:
            logger.warning("left out: %s", fault)
    elif len(faults) == 1:
        raise faults[0]
    elif faults:
        count = f"{len(faults)} files cannot be used; {advice}"
        raise ConfigError("\n".join([*(" ".join(str(fault).split()) for fault in faults), count]))
