"""Errors in manifests, recipes and policies."""

from pathlib import Path

from recon import DataError


class ConfigError(DataError):
    """A manifest, recipe or policy cannot be used. One line per mistake, each with file and key."""


def config_error(path: Path | str, key: str, found: str, expected: str, advice: str) -> ConfigError:
    """Build a :class:`ConfigError` of the fixed form ``path: key: found ..., expected ...; advice``.

    Parameters
    ----------
    path
        The TOML file, or the option of the command line.
    key
        Dotted path of the key; empty for the file as a whole.
    found, expected, advice
        The three parts of the sentence; line breaks in them (library messages) become spaces.
    """
    where = f"{path}: {key}" if key else str(path)
    return ConfigError(" ".join(f"{where}: found {found}, expected {expected}; {advice}".split()))
