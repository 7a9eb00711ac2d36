"""Assignments such as ``federation.rounds=20`` that override values of a recipe."""

import re
import tomllib
from pathlib import Path
from typing import Any

from .errors import ConfigError, config_error
from .schema import KeyPath


def parse_override(override: str) -> tuple[KeyPath, Any]:
    """Split ``"a.b=1"`` into ``(("a", "b"), 1)``.

    Raises
    ------
    ConfigError
        If it has no ``=``, an empty key, or a value that is neither TOML nor a bare word.
    """
    where = f"--set {override}"
    key, equals, text = override.partition("=")
    keys = tuple(part.strip() for part in key.split("."))
    if not equals or not all(re.fullmatch(r"[A-Za-z0-9_-]+", part) for part in keys):
        raise config_error(where, "", repr(override), "key=value", "write for example federation.rounds=20")
    text = text.strip()
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError as error:
        if re.fullmatch(r"[A-Za-z_][\w.*/+-]*", text):
            return keys, text
        raise config_error(
            where, "", f"{text!r} ({error})", "a TOML value", 'quote strings, as in ["a", "b"]'
        ) from None
    if table.keys() != {"value"}:
        raise config_error(where, "", "several lines", "one TOML value", "use one --set per key")
    return keys, table["value"]


def assign(table: dict[str, Any], keys: KeyPath, value: Any, where: str, path: Path | str) -> None:
    """Set a value in the table of a file, making tables on the way; ``where`` is what asks for it, for errors.

    Raises
    ------
    ConfigError
        If a key on the way holds a value that is no table.
    """
    for depth, key in enumerate(keys[:-1], start=1):
        below = table.setdefault(key, {})
        if not isinstance(below, dict):
            raise ConfigError(
                f"{where}: {'.'.join(keys[:depth])} is {below!r} in {path}, expected a table; set it as a whole"
            )
        table = below
    table[keys[-1]] = value
