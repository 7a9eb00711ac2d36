"""Skips for what a machine may lack, a GPU (`cuda`) or measured data (`real_data`); coil maps; a table of faults."""

import gc
import os
from collections import Counter
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    # Kernels of Triton run in its interpreter, on the CPU. It is chosen when triton is imported.
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    lacks = {
        "cuda": None if torch.cuda.is_available() else "no GPU",
        "real_data": None if os.environ.get("FEDRECON_DATA") else "FEDRECON_DATA is not set",
    }
    for item in items:
        for marker, reason in lacks.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
        if fault := item.get_closest_marker("fault"):
            item.user_properties.append(("fault", fault.args[0]))


def pytest_collection_finish() -> None:
    """Thousands of tests and the modules they import live until the end: the garbage collector need not visit them."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How often each fault was injected, and how often it was survived as stated."""
    counts: Counter[tuple[str, str]] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if report.when == "call" and "fault" in dict(report.user_properties):
                counts[dict(report.user_properties)["fault"], outcome] += 1
    if counts:
        terminalreporter.section("faults injected")
        for fault in sorted({fault for fault, _ in counts}):
            survived, failed = counts[fault, "passed"], counts[fault, "failed"]
            terminalreporter.write_line(f"{fault:40} {survived + failed:4d} times, survived as stated {survived:4d}")


@pytest.fixture(scope="session", autouse=True)
def maps_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Coil maps of runs lie in a temporary folder, not in the user's."""
    before = os.environ.get("FEDRECON_CACHE")
    os.environ["FEDRECON_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("FEDRECON_CACHE")
    if before is not None:
        os.environ["FEDRECON_CACHE"] = before


@pytest.fixture
def fresh_registries() -> Iterator[None]:
    """Parts and plugins that a test registers are gone after it."""
    from federation import REGISTRIES
    from federation.config import plugins

    parts = [dict(registry) for registry in REGISTRIES]
    loaded = dict(plugins._LOADED)
    yield
    for registry, before in zip(REGISTRIES, parts, strict=True):
        for name in registry.keys() - before.keys():
            registry.remove(name)
    plugins._LOADED.clear()
    plugins._LOADED.update(loaded)
