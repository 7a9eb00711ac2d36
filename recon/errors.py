"""The error that a user's data can cause."""

from pathlib import Path


class DataError(ValueError):
    """Data that cannot be used, in one line: where it is, what was found, what was expected, what to do."""


def data_error(path: Path | str, key: str, found: str, expected: str, advice: str) -> DataError:
    """Build a :class:`DataError` of the fixed form ``path: key: found ..., expected ...; advice``.

    Parameters
    ----------
    path
        The file.
    key
        Dataset, attribute or element inside the file.
    found, expected, advice
        The three parts of the sentence; line breaks in them (library messages) become spaces.
    """
    line = f"{path}: {key}: found {found}, expected {expected}; {advice}"
    return DataError(" ".join(line.split()))
