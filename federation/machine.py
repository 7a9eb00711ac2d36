"""Cores, memory and memory of GPUs of this machine that a command may use, and memory of its processes."""

import contextlib
import os
import resource
import shutil
import sys
from pathlib import Path

_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")

#: Bytes of GPU memory of a process that uses CUDA, beside its tensors. About 300 MB since kernels are loaded when they
#: are needed (CUDA 11.7), https://github.com/pytorch/pytorch/issues/107667; libraries of FFTs and of convolutions add.
CUDA_CONTEXT = 500 * 10**6


def cores() -> int:
    """Cores that this process may use: its affinity, and the processor time that its cgroup gets."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _cgroups():
        quota = _words(folder / "cpu.max")
        if len(quota) == 2 and quota[0].isdigit():
            found = min(found, max(1, int(quota[0]) // int(quota[1])))
    return found


def threads_of_each(processes: int) -> int:
    """Threads of each of some processes that together keep the cores busy, at least 1."""
    return max(1, cores() // max(1, processes))


def memory_available() -> int | None:
    """Bytes that new processes can use without swapping, within the limits of the cgroup; None if unknown."""
    return _least([_proc_bytes("meminfo", "MemAvailable:"), *_cgroup_memory(free=True)])


def memory_total() -> int | None:
    """Bytes of the machine, or the limit of the cgroup if that is lower; None if unknown."""
    total = _proc_bytes("meminfo", "MemTotal:")
    if total is None:
        with contextlib.suppress(ValueError, OSError, AttributeError):
            total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return _least([total, *_cgroup_memory(free=False)])


def gpu_memory_free(device: str) -> int:
    """Bytes of a GPU that are free for this process, such as those of ``cuda:0``; it holds a context there from now on.

    Raises
    ------
    RuntimeError
        If the driver or the GPU fails.
    """
    import torch

    return int(torch.cuda.mem_get_info(device)[0])


def peak_memory() -> int:
    """Largest number of bytes of this process so far; on Linux since :func:`reset_peak_memory`."""
    peak = _proc_bytes("self/status", "VmHWM:")
    if peak is not None:
        return peak
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def shared_memory() -> int:
    """Bytes of this process now that are pages of files, such as libraries: other processes share them."""
    return _proc_bytes("self/status", "RssFile:") or 0


def reset_peak_memory() -> None:
    """Begin a new peak of this process's memory, if the system can."""
    with contextlib.suppress(OSError):
        (_PROC / "self/clear_refs").write_text("5")


def disk_free(folder: Path) -> int:
    """Free bytes where a folder is or will be."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def _cgroups() -> list[Path]:
    """Folders of this process's cgroup (version 2) and of those above it; the root of version 1 in a container."""
    own = ""
    with contextlib.suppress(OSError):
        for line in (_PROC / "self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                own = line[3:].strip("/")
    path = _CGROUP / own
    return [folder for folder in (path, *path.parents) if folder == _CGROUP or _CGROUP in folder.parents]


def _cgroup_memory(*, free: bool) -> list[int | None]:
    """Limits of the memory of the cgroups, less what is used if ``free``."""
    found: list[int | None] = []
    for folder in _cgroups():
        limit, used = _words(folder / "memory.max"), _words(folder / "memory.current")
        if limit and limit[0].isdigit():
            cache = _field(folder / "memory.stat", "inactive_file") or 0
            found.append(int(limit[0]) - (int(used[0]) - cache if free and used else 0))
    old = _CGROUP / "memory"
    limit, used = _words(old / "memory.limit_in_bytes"), _words(old / "memory.usage_in_bytes")
    if limit:
        cache = _field(old / "memory.stat", "total_inactive_file") or 0
        found.append(int(limit[0]) - (int(used[0]) - cache if free and used else 0))
    return found


def _least(values: list[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _proc_bytes(file: str, key: str) -> int | None:
    """A number of kB in a file of ``/proc``, in bytes."""
    found = _field(_PROC / file, key)
    return None if found is None else found * 1024


def _field(path: Path, key: str) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            words = line.split()
            if words and words[0] == key:
                return int(words[1])
    return None


def _words(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return path.read_text().split()
    return []
