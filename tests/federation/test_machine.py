"""Cores and memory: limits of a cgroup count, and files that are missing mean that nothing is known."""

from pathlib import Path

import pytest

from federation import machine

GIGABYTE = 2**30


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 16 GiB, of which 9 are available, in no limited cgroup."""
    monkeypatch.setattr(machine, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    write(tmp_path / "proc/meminfo", f"MemTotal: {16 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {9 * 2**20} kB\n")
    write(tmp_path / "proc/self/status", "VmHWM:   2048 kB\nRssAnon: 512 kB\nRssFile: 256 kB\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_limits_the_machine_counts(system: Path) -> None:
    assert machine.cores() == 8
    assert (machine.memory_available(), machine.memory_total()) == (9 * GIGABYTE, 16 * GIGABYTE)
    assert (machine.peak_memory(), machine.shared_memory()) == (2048 * 1024, 256 * 1024)


@pytest.mark.parametrize("own", ["0::/job/step\n", "0::/\n"])
def test_the_limits_of_a_container_count_and_its_file_cache_is_free(system: Path, own: str) -> None:
    write(system / "proc/self/cgroup", own)
    limited = system / "cgroup"
    write(limited / "memory.max", str(4 * GIGABYTE))
    write(limited / "memory.current", str(2 * GIGABYTE))
    write(limited / "memory.stat", f"anon 5\ninactive_file {GIGABYTE}\n")
    write(limited / "cpu.max", "250000 100000\n")
    write(limited / "job/step/memory.max", "max\n")
    write(limited / "job/step/cpu.max", "max 100000\n")
    assert machine.cores() == 2
    assert (machine.memory_available(), machine.memory_total()) == (3 * GIGABYTE, 4 * GIGABYTE)


def test_the_limits_of_the_first_version_of_cgroups_count_unless_they_are_none(system: Path) -> None:
    write(system / "cgroup/memory/memory.limit_in_bytes", str(2**63 - 4096))
    write(system / "cgroup/memory/memory.usage_in_bytes", str(GIGABYTE))
    assert machine.memory_available() == 9 * GIGABYTE
    write(system / "cgroup/memory/memory.limit_in_bytes", str(2 * GIGABYTE))
    assert (machine.memory_available(), machine.memory_total()) == (GIGABYTE, 2 * GIGABYTE)


def test_a_system_that_tells_nothing_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_PROC", tmp_path)
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    assert machine.memory_available() is None and machine.peak_memory() > 0
    assert machine.disk_free(tmp_path / "not/there/yet") > 0
