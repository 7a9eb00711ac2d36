"""The error that a user's manifest or recipe can cause."""

from pathlib import Path

from recon import DataError


class ConfigError(DataError):
    """A manifest or recipe that cannot be used. One line per mistake, each naming file and key."""


def config_error(path: Path | str, key: str, found: str, expected: str, advice: str) -> ConfigError:
    """Build a :class:`ConfigError` of the fixed form ``path: key: found ..., expected ...; advice``.

    Parameters
    ----------
    path
        The TOML file, or the option of the command line.
    key
        Dotted path of the key; empty where the file as a whole is meant.
    found, expected, advice
        The three parts of the sentence; line breaks in them (library messages) become spaces.
    """
    where = f"{path}: {key}" if key else str(path)
    return ConfigError(" ".join(f"{where}: found {found}, expected {expected}; {advice}".split()))
