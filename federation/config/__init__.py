"""TOML files as checked models, overrides, and errors in configuration."""

from .derived import section_of, section_with, value_of
from .errors import ConfigError, config_error
from .json_records import read_json
from .overrides import assign, parse_override
from .plugins import (
    Plugin,
    load_again,
    load_plugin,
    load_stored,
    loaded_plugins,
    require_plugins,
    resolve_plugins,
    store_plugins,
)
from .schema import (
    SITE_NAME,
    KeyPath,
    Name,
    Names,
    NonNegative,
    Section,
    Seed,
    nearest,
    one_of,
    parse_section,
    read_toml,
    safe_name,
)

__all__ = [
    "SITE_NAME",
    "ConfigError",
    "KeyPath",
    "Name",
    "Names",
    "NonNegative",
    "Plugin",
    "Section",
    "Seed",
    "assign",
    "config_error",
    "load_again",
    "load_plugin",
    "load_stored",
    "loaded_plugins",
    "nearest",
    "one_of",
    "parse_override",
    "parse_section",
    "read_json",
    "read_toml",
    "require_plugins",
    "resolve_plugins",
    "safe_name",
    "section_of",
    "section_with",
    "store_plugins",
    "value_of",
]
