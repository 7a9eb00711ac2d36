"""Plugins: Python files of the user that register parts of their own, such as a regularizer or a reader."""

import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from recon import write_atomically

from .errors import ConfigError, config_error

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Plugin:
    """A file that was run in this process, and the SHA-256 of its content."""

    path: Path
    sha256: str

    @property
    def name(self) -> str:
        """What recipes that rest or travel say in place of a path."""
        return f"sha256:{self.sha256}"


_LOADED: dict[str, Plugin] = {}


def load_plugin(path: Path | str) -> Plugin:
    """Run a plugin once; its parts are in their registries afterwards.

    Raises
    ------
    ConfigError
        If the file cannot be read, raises an exception, or registers a name that is taken.
    """
    path = Path(path).absolute()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise config_error(path, "", error.strerror or "unreadable", "a Python file of parts", "correct it") from None
    plugin = Plugin(path, hashlib.sha256(content).hexdigest())
    if plugin.sha256 in _LOADED:
        return _LOADED[plugin.sha256]
    name = f"fedrecon_plugin_{plugin.sha256[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise config_error(path, "", f"a file that ends in {path.suffix!r}", "a Python file (.py)", "rename it")
    # Under its name before it runs: pickled objects refer to the classes of the module by it.
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        line = _line_of(error, path)
        raise ConfigError(
            f"{path}: the plugin{line} raises {type(error).__name__}: {' '.join(str(error).split())}; correct it"
        ) from error
    _LOADED[plugin.sha256] = plugin
    return plugin


def _line_of(error: Exception, path: Path) -> str:
    trace, line = error.__traceback__, None
    while trace is not None:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == str(path) else line
        trace = trace.tb_next
    return "" if line is None else f", line {line},"


def loaded_plugins() -> tuple[Plugin, ...]:
    """Plugins of this process; worker processes load them again, see :func:`load_again`."""
    return tuple(_LOADED.values())


def load_again(plugins: Iterable[Plugin]) -> None:
    """Load the plugins of another process.

    Raises
    ------
    ConfigError
        If a file has changed meanwhile.
    """
    for plugin in plugins:
        if load_plugin(plugin.path).sha256 != plugin.sha256:
            raise config_error(plugin.path, "", "another content than before", "an unchanged file", "start again")


def resolve_plugins(names: Iterable[str], folder: Path, source: Path | str) -> tuple[str, ...]:
    """Load the plugins that a file names; returns their names by content.

    Parameters
    ----------
    names
        Paths, relative to ``folder``; or ``sha256:...`` of a plugin that is loaded already or stored with
        :func:`store_plugins`.
    source
        The file that names them, for messages.

    Raises
    ------
    ConfigError
        If one cannot be loaded.
    """
    found = []
    for name in names:
        digest = _DIGEST.fullmatch(name)
        if digest is None:
            found.append(load_plugin(folder / name).name)
            continue
        if digest[1] not in _LOADED:
            stored = folder / "plugins" / f"{digest[1]}.py"
            if not stored.is_file() or load_plugin(stored).sha256 != digest[1]:
                expected = "the Python file with this checksum, which does not travel"
                raise config_error(
                    source, "plugins", name, expected, "get it from its author, give it as --plugin FILE"
                )
        found.append(name)
    return tuple(dict.fromkeys(found))


def require_plugins(names: Iterable[object], source: Path | str) -> None:
    """Refuse a recipe from elsewhere whose plugins were not given by this machine's user; loads nothing.

    Raises
    ------
    ConfigError
        If one is not loaded.
    """
    for name in names:
        digest = _DIGEST.fullmatch(str(name))
        if digest is None or digest[1] not in _LOADED:
            raise _missing(name, source)


def _missing(name: object, source: Path | str) -> ConfigError:
    advice = "get it from its author, read it, and give it as --plugin FILE"
    return config_error(source, "plugins", repr(name), "the Python file with this checksum", advice)


def load_stored(folder: Path) -> None:
    """Load the plugins that :func:`store_plugins` copied to ``folder/plugins``.

    Raises
    ------
    ConfigError
        If one cannot be loaded or has changed.
    """
    for path in sorted((folder / "plugins").glob("*.py")):
        if load_plugin(path).sha256 != path.stem:
            raise config_error(path, "", "another content than its name says", "an unchanged file", "restore it")


def store_plugins(names: Iterable[str], folder: Path) -> None:
    """Copy loaded plugins to ``folder/plugins``, where a recipe in ``folder`` finds them."""
    for name in names:
        plugin = _LOADED[name.removeprefix("sha256:")]
        write_atomically(folder / "plugins" / f"{plugin.sha256}.py", plugin.path.read_bytes())
