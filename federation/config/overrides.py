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
        If ``=`` is missing, the key is empty, or the value is neither TOML nor a bare word.
    """
    where = f"--set {override}"
    key, equals, text = override.partition("=")
    keys = tuple(part.strip() for part in key.split("."))
    if not equals or not all(re.fullmatch(r"[A-Za-z0-9_-]+", part) for part in keys):
        raise config_error(where, "", repr(override), "key=value", "write for example federation.rounds=20")
    text = text.strip()
    try:
        content = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError as error:
        if re.fullmatch(r"[A-Za-z_][\w.*/+-]*", text):
            return keys, text
        raise config_error(
            where, "", f"{text!r} ({error})", "a TOML value", 'quote strings, as in ["a", "b"]'
        ) from None
    if content.keys() != {"value"}:
        raise config_error(where, "", "several lines", "one TOML value", "use one --set per key")
    return keys, content["value"]


def assign(content: dict[str, Any], keys: KeyPath, value: Any, where: str, path: Path | str) -> None:
    """Set a value in the content of a file and create missing sections. Errors name ``where``, the origin of the value.

    Raises
    ------
    ConfigError
        If a key on the path is no section.
    """
    for depth, key in enumerate(keys[:-1], start=1):
        below = content.setdefault(key, {})
        if not isinstance(below, dict):
            raise ConfigError(
                f"{where}: {'.'.join(keys[:depth])} is {below!r} in {path}, expected a section; set it as a whole"
            )
        content = below
    content[keys[-1]] = value
