"""Warnings about files that were said already: many files of a site share a fault, and several processes read them."""

import logging
import re
from collections.abc import Iterable
from pathlib import Path

logger = logging.getLogger(__name__)

#: A site, and a line without its path and numbers.
Said = tuple[str, str]
_SAID: set[Said] = set()


def warn_once(site: str, path: Path, line: str) -> None:
    """Log a line unless the same was said of a file of the site before."""
    if (key := _key(site, path, line)) not in _SAID:
        _SAID.add(key)
        logger.warning("%s", line)


def count_as_said(site: str, path: Path, lines: Iterable[str]) -> None:
    """Log none of these lines: the caller prints them."""
    _SAID.update(_key(site, path, line) for line in lines)


def said_warnings() -> frozenset[Said]:
    """All that was said in this process, for :func:`say_no_more` in its worker processes."""
    return frozenset(_SAID)


def say_no_more(said: Iterable[Said]) -> None:
    """Log nothing that another process has said."""
    _SAID.update(said)


def _key(site: str, path: Path, line: str) -> Said:
    return site, re.sub(r"[-+.\d]+", "", line.removeprefix(str(path)))
