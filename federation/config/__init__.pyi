from .derived import section_of as section_of, section_with as section_with, value_of as value_of
from .errors import ConfigError as ConfigError, config_error as config_error
from .json_records import read_json as read_json
from .overrides import assign as assign, parse_override as parse_override
from .plugins import (
    Plugin as Plugin,
    load_again as load_again,
    load_plugin as load_plugin,
    load_stored as load_stored,
    loaded_plugins as loaded_plugins,
    require_plugins as require_plugins,
    resolve_plugins as resolve_plugins,
    store_plugins as store_plugins,
)
from .schema import (
    SITE_NAME as SITE_NAME,
    KeyPath as KeyPath,
    Name as Name,
    Names as Names,
    NonNegative as NonNegative,
    Section as Section,
    Seed as Seed,
    nearest as nearest,
    one_of as one_of,
    parse_section as parse_section,
    read_toml as read_toml,
    safe_name as safe_name,
)
