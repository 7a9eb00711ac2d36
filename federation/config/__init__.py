"""TOML files as checked models, overrides, and errors in configuration."""

from .errors import ConfigError, config_error
from .json_records import read_json
from .overrides import assign, parse_override
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
    "Section",
    "Seed",
    "assign",
    "config_error",
    "nearest",
    "one_of",
    "parse_override",
    "parse_section",
    "read_json",
    "read_toml",
    "safe_name",
]
