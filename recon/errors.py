"""The error for data that cannot be used, and the one line of an error of the operating system."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Stands in the line of every write that failed for want of space.
NO_SPACE = "no space left"
_NO_SPACE = {
    errno.ENOSPC: "on the disk", errno.EDQUOT: "in the quota", errno.EFBIG: "under the limit of file sizes, ulimit -f",
}  # fmt: skip


class DataError(ValueError):
    """Data that cannot be used. One line: file, what was found, what was expected, what to do."""


@contextmanager
def naming_file(path: Path | str, key: str) -> Iterator[None]:
    """Errors of readers, operators and estimators that name no file become a :class:`DataError` of this one."""
    try:
        yield
    except (DataError, OSError):
        raise
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError) as error:
        found, advice = f"values that cannot be used ({error})", "correct or leave out the file"
        raise data_error(path, key, found, "a scan", advice) from error


def data_error(path: Path | str, key: str, found: str, expected: str, advice: str) -> DataError:
    """Build a :class:`DataError` of the fixed form ``path: key: found ..., expected ...; advice``.

    Parameters
    ----------
    path
        The file.
    key
        Dataset, attribute or element inside the file.
    found, expected, advice
        The three parts of the message; line breaks in them become spaces.
    """
    line = f"{path}: {key}: found {found}, expected {expected}; {advice}"
    return DataError(" ".join(line.split()))


def os_error_line(error: OSError, path: Path | str | None = None) -> str:
    """File and reason in one line; without space on the disk also what to do."""
    place, reason = path or error.filename, error.strerror or str(error)
    if where := _NO_SPACE.get(error.errno or 0):
        reason = f"cannot be written ({reason}); {NO_SPACE} {where}: free space"
    return " ".join(f"{f'{place}: ' if place else ''}{reason}".split())
