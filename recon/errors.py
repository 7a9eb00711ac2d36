"""The error for data that cannot be used."""

from pathlib import Path


class DataError(ValueError):
    """Data that cannot be used. One line: file, what was found, what was expected, what to do."""


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
