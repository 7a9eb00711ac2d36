"""Compile kernels with numba, store them on disk, run them on threads. Import late: importing numba is slow."""

import hashlib
import logging
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numba
import torch

logger = logging.getLogger(__name__)

#: Source files of the kernels. numba alone notices changes only in the file of the function itself.
_SOURCES = ("lanes.py", "ray_lanes.py", "ray_kernels.py", "pixel_kernels.py")


def _cache_folder() -> Path | None:
    """Folder of compiled kernels, which must be private because its files are executed; None if there is none."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedrecon"
    sources = b"".join((Path(__file__).parent / name).read_bytes() for name in _SOURCES)
    folder = root / f"kernels-{hashlib.sha256(sources).hexdigest()[:16]}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = folder.stat()
    except OSError as error:
        logger.info("compiled kernels are not stored: %s", error)
        return None
    if not hasattr(os, "getuid") or facts.st_uid != os.getuid() or stat.S_IMODE(facts.st_mode) & 0o022:
        logger.info("compiled kernels are not stored: other users may own or write %s", folder)
        return None
    return folder


_FOLDER = _cache_folder()


def kernel(function: Any) -> Any:
    """Compile a function at its first call and store it on disk; it runs without the interpreter's lock."""
    before = numba.config.CACHE_DIR
    try:
        # numba reads the folder when it decorates a function; other code that uses numba keeps its own folder.
        numba.config.CACHE_DIR = str(_FOLDER or before)
        return numba.njit(nogil=True, cache=_FOLDER is not None)(function)
    finally:
        numba.config.CACHE_DIR = before


def run_threads(function: Callable[..., None], jobs: Sequence[tuple[Any, ...]]) -> None:
    """Call a kernel once per job on as many threads as torch uses."""
    threads = min(torch.get_num_threads(), len(jobs))
    if threads <= 1:
        for job in jobs:
            function(*job)
        return
    for future in [_pool(os.getpid(), threads).submit(function, *job) for job in jobs]:
        future.result()


def parts(count: int) -> list[tuple[int, int]]:
    """Split ``range(count)`` into several parts per thread, because parts differ in work."""
    wanted = 4 * torch.get_num_threads() if torch.get_num_threads() > 1 else 1
    size = max(1, -(-count // wanted))
    return [(first, min(first + size, count)) for first in range(0, count, size)]


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    # One pool per process: a forked DataLoader worker has none of its parent's threads.
    return ThreadPoolExecutor(threads, thread_name_prefix="fedrecon-kernels")
