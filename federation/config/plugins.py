"""Plugins: Python files of the user that register parts, such as a regularizer or a reader."""

import hashlib
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

from recon import write_atomically

from .errors import ConfigError, config_error

_BY_CONTENT = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Plugin:
    """A Python file that runs once per process, and its content."""

    path: Path
    content: bytes

    @cached_property
    def name(self) -> str:
        """``sha256:`` and the checksum of the content: its name in recipes that are stored or sent."""
        return f"sha256:{hashlib.sha256(self.content).hexdigest()}"


_LOADED: dict[str, Plugin] = {}


def load_plugin(path: Path | str, name: str | None = None) -> Plugin:
    """Run a plugin, unless this process has run its content before; its parts are in their registries afterwards.

    Parameters
    ----------
    name
        Expected :attr:`Plugin.name`; a file of another content is not run.

    Raises
    ------
    ConfigError
        If the file cannot be read, has another content, raises an exception, or registers a name that is taken.
    """
    path = Path(path).absolute()
    try:
        plugin = Plugin(path, path.read_bytes())
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or str(error)
        raise config_error(path, "", found.lower(), "a Python file", "correct the path") from None
    if path.suffix != ".py":
        raise config_error(path, "", f"a file that ends in {path.suffix!r}", "a Python file (.py)", "rename it")
    if name not in (None, plugin.name):
        raise config_error(path, "", f"content with {plugin.name}", f"{name}", "restore the file")
    load_again([plugin])
    return plugin


def loaded_plugins() -> tuple[Plugin, ...]:
    """Plugins of this process, for :func:`load_again` in its worker processes."""
    return tuple(_LOADED.values())


def load_again(plugins: Iterable[Plugin]) -> None:
    """Run plugins that another process has loaded; their files may have changed since.

    Raises
    ------
    ConfigError
        If one raises an exception.
    """
    for plugin in plugins:
        if plugin.name not in _LOADED:
            _run(plugin)
            _LOADED[plugin.name] = plugin


def _run(plugin: Plugin) -> None:
    # Compiled from the content that was hashed: an import would run a cached .pyc file if there is one.
    module = ModuleType(f"fedrecon_plugin_{plugin.name[7:23]}")
    module.__file__ = str(plugin.path)
    sys.modules[module.__name__] = module  # pickled objects find their classes there
    try:
        exec(compile(plugin.content, module.__file__, "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        text = f"the plugin{_line_of(error, plugin.path)} raises {type(error).__name__}: {error}; correct it"
        raise ConfigError(f"{plugin.path}: {' '.join(text.split())}") from error


def _line_of(error: BaseException, path: Path) -> str:
    """The line of the file that raised, such as ``", line 3,"``; empty for a syntax error, whose text has it."""
    trace, line = error.__traceback__, ""
    while trace is not None:
        line = f", line {trace.tb_lineno}," if trace.tb_frame.f_code.co_filename == str(path) else line
        trace = trace.tb_next
    return line


def resolve_plugins(names: object, folder: Path, source: Path | str) -> list[str]:
    """Load the plugins that a recipe or manifest names; returns their names by content.

    Parameters
    ----------
    names
        Value of the key ``plugins``: paths, relative to ``folder``, or names by content of plugins that are loaded or
        were stored in ``folder`` by :func:`store_plugins`.
    source
        The file that names them, for messages.

    Raises
    ------
    ConfigError
        If the value is no list of names, or a plugin cannot be loaded.
    """
    return list(dict.fromkeys(_resolved(name, folder, source) for name in _checked(names, source)))


def _resolved(name: str, folder: Path, source: Path | str) -> str:
    by_content = _BY_CONTENT.fullmatch(name) is not None
    path = _stored(folder, name) if by_content else folder / name
    if by_content and (name in _LOADED or not path.exists()):
        require_plugins([name], source)
        return name
    try:
        return load_plugin(path, name if by_content else None).name
    except ConfigError as error:
        raise ConfigError(f"{source}: plugins: {error}") from error


def require_plugins(names: object, source: Path | str) -> None:
    """Refuse a recipe from elsewhere unless the user of this machine has loaded its plugins; runs nothing.

    Raises
    ------
    ConfigError
        If the value is no list of names, or a plugin is not loaded.
    """
    for name in _checked(names, source):
        if name not in _LOADED:
            expected = "a plugin that you give: recipes travel without their plugins"
            advice = "get the Python file with this checksum from its author, read it, and add --plugin FILE"
            raise config_error(source, "plugins", repr(name), expected, advice)


def _checked(names: object, source: Path | str) -> list[str]:
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise config_error(source, "plugins", repr(names), "a list of Python files", 'write for example ["parts.py"]')
    return list(names)


def load_stored(folder: Path) -> None:
    """Load the plugins that :func:`store_plugins` copied to ``folder``.

    Raises
    ------
    ConfigError
        If one cannot be loaded or has changed.
    """
    for path in sorted((folder / "plugins").glob("*.py")):
        load_plugin(path, f"sha256:{path.stem}")


def store_plugins(names: Iterable[str], folder: Path) -> None:
    """Copy loaded plugins to ``folder/plugins``, for a recipe in ``folder`` that names them by content."""
    for name in names:
        write_atomically(_stored(folder, name), _LOADED[name].content)


def _stored(folder: Path, name: str) -> Path:
    return folder / "plugins" / f"{name.removeprefix('sha256:')}.py"
