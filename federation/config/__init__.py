"""TOML files as checked models, overrides, and the error that a user can cause."""

from .derived import section_of, section_with, value_of
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
    "section_of",
    "section_with",
    "value_of",
]
