"""Commands that fail with one line; plugins that are forgotten after a test; runs with one thread."""

import sys
from collections.abc import Callable, Iterator

import pytest

from federation import SERVER_RULES
from federation.cli import main
from federation.config import plugins
from recon import MRI_READERS, PENALTIES, REGULARIZERS

REGISTRIES = (REGULARIZERS, PENALTIES, SERVER_RULES, MRI_READERS)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs take one thread: one with a single site would take all cores, which the tests beside it use, too."""
    monkeypatch.setattr("federation.cli.runs.threads_of_each", lambda processes: 1)


@pytest.fixture
def forget_plugins() -> Iterator[Callable[[], None]]:
    """Forgets plugins and their parts when called, and after the test."""

    def forget() -> None:
        for registry in REGISTRIES:
            for name in registry.keys() - set(registry.built_in):
                registry.remove(name)
        plugins._LOADED.clear()
        for module in [name for name in sys.modules if name.startswith("fedrecon_plugin_")]:
            del sys.modules[module]

    yield forget
    forget()


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail; returns its one line."""

    def command(*arguments: object) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("fedrecon: error: ") and "\n" not in error
        return error

    return command
