"""The user's folder of coil maps, which all runs share."""

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import NO_SPACE, DataError, data_error, os_error_line

#: Environment variable that names the folder.
CACHE_VARIABLE = "FEDRECON_CACHE"
#: Age below which an incomplete file may still be written.
_SECONDS_OF_WRITING = 3600.0
#: Files that :func:`physics.estimate_maps` writes, complete or not.
_FILE = re.compile(r"[0-9a-f]{64}\.safetensors|tmp\w+\.tmp")


def maps_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """Folder of the coil maps of all runs of this user.

    ``$FEDRECON_CACHE/maps``, else ``$XDG_CACHE_HOME/fedrecon/maps``, else ``~/.cache/fedrecon/maps``. Files are named
    by content: runs of other recipes, sites or simulations do not meet, equal data are estimated once.
    """
    if named := environment.get(CACHE_VARIABLE):
        return Path(named).expanduser().absolute() / "maps"
    users = Path(environment.get("XDG_CACHE_HOME") or "")
    # A relative path there is not valid, says the XDG standard.
    return (users if users.is_absolute() else Path.home() / ".cache") / "fedrecon" / "maps"


def require_maps_cache() -> Path:
    """:func:`maps_cache`, made for its owner alone, as maps are estimated from scans of patients.

    Raises
    ------
    DataError
        If it cannot be made or written.
    """
    folder = maps_cache()
    try:
        for path in (folder.parent, folder):
            if not path.is_dir():
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror
    else:
        reason = None if os.access(folder, os.W_OK | os.X_OK) else "no right to write"
    if reason is not None:
        expected = "a folder for coil maps"
        raise data_error(folder, CACHE_VARIABLE, reason, expected, f"set {CACHE_VARIABLE} to another folder")
    return folder


@contextlib.contextmanager
def storing_maps(folder: Path | None) -> Iterator[None]:
    """Context in which maps are read and stored; says what to do where this fails.

    Raises
    ------
    DataError
        In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        line = os_error_line(error)
        advice = "" if NO_SPACE in line else "; make the folder of coil maps one that can be written"
        if folder == maps_cache():
            advice += f", set {CACHE_VARIABLE} to another folder, or run `fedrecon cache clear`"
        raise DataError(f"coil maps: {line}{advice}") from None


@dataclass(frozen=True)
class CacheFacts:
    """Content of the folder of maps: number of files, their bytes, time of the oldest in seconds since 1970."""

    folder: Path
    files: int
    size: int
    oldest: float | None


def cache_facts() -> CacheFacts:
    """What :func:`maps_cache` holds."""
    found = [status for _, status in _stored(maps_cache())]
    oldest = min((status.st_mtime for status in found), default=None)
    return CacheFacts(maps_cache(), len(found), sum(status.st_size for status in found), oldest)


def clear_cache() -> None:
    """Remove all stored maps, and no other file; a run that needs one estimates it again.

    A temporary file stays for an hour: another process may be writing it.

    Raises
    ------
    OSError
        If one cannot be removed.
    """
    for path, status in _stored(maps_cache()):
        if path.suffix != ".tmp" or time.time() - status.st_mtime > _SECONDS_OF_WRITING:
            path.unlink(missing_ok=True)


def _stored(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if _FILE.fullmatch(path.name):
            with contextlib.suppress(FileNotFoundError):  # another process has moved it
                yield path, path.stat()
