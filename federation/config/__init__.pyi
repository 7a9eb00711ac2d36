from .derived import section_of as section_of
from .derived import section_with as section_with
from .derived import value_of as value_of
from .errors import ConfigError as ConfigError
from .errors import config_error as config_error
from .json_records import read_json as read_json
from .overrides import assign as assign
from .overrides import parse_override as parse_override
from .plugins import (
    Plugin as Plugin,
)
from .plugins import (
    load_again as load_again,
)
from .plugins import (
    load_plugin as load_plugin,
)
from .plugins import (
    load_stored as load_stored,
)
from .plugins import (
    loaded_plugins as loaded_plugins,
)
from .plugins import (
    require_plugins as require_plugins,
)
from .plugins import (
    resolve_plugins as resolve_plugins,
)
from .plugins import (
    store_plugins as store_plugins,
)
from .schema import (
    SITE_NAME as SITE_NAME,
)
from .schema import (
    KeyPath as KeyPath,
)
from .schema import (
    Name as Name,
)
from .schema import (
    Names as Names,
)
from .schema import (
    NonNegative as NonNegative,
)
from .schema import (
    Section as Section,
)
from .schema import (
    Seed as Seed,
)
from .schema import (
    nearest as nearest,
)
from .schema import (
    one_of as one_of,
)
from .schema import (
    parse_section as parse_section,
)
from .schema import (
    read_toml as read_toml,
)
from .schema import (
    safe_name as safe_name,
)
