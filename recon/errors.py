"""The error for data that cannot be used."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class DataError(ValueError):
    """Data that cannot be used. One line: file, what was found, what was expected, what to do."""


@contextmanager
def naming_file(path: Path | str, key: str) -> Iterator[None]:
    """Errors of operators and estimators, which know no file, become a :class:`DataError` of this one."""
    try:
        yield
    except DataError:
        raise
    except (ValueError, ArithmeticError, RuntimeError) as error:
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
