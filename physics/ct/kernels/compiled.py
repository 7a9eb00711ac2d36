"""Kernels that numba compiles: where they are kept, and the threads that run them. Imports numba: import it late."""

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

#: The files that kernels are made of. numba looks for changes in one of them only.
_SOURCES = ("lanes.py", "ray_kernels.py", "pixel_kernels.py")


def _cache_folder() -> Path | None:
    """A private folder for compiled kernels, None where there is none: what lies there is executed."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedrecon"
    sources = b"".join((Path(__file__).parent / name).read_bytes() for name in _SOURCES)
    folder = root / f"kernels-{hashlib.sha256(sources).hexdigest()[:16]}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = folder.stat()
    except OSError as error:
        logger.info("compiled kernels are not kept: %s", error)
        return None
    if not hasattr(os, "getuid") or facts.st_uid != os.getuid() or stat.S_IMODE(facts.st_mode) & 0o022:
        logger.info("compiled kernels are not kept: %s is not this user's alone", folder)
        return None
    return folder


_FOLDER = _cache_folder()


def kernel(function: Any) -> Any:
    """Compile a function at its first call, without the interpreter's lock, and keep the result on disk."""
    before = numba.config.CACHE_DIR
    try:
        # Where a function is kept is decided when it is decorated; other users of numba keep their folder.
        numba.config.CACHE_DIR = str(_FOLDER or before)
        return numba.njit(nogil=True, cache=_FOLDER is not None)(function)
    finally:
        numba.config.CACHE_DIR = before


def run_threads(function: Callable[..., None], jobs: Sequence[tuple[Any, ...]]) -> None:
    """Call a kernel once per job, on as many threads as torch uses."""
    threads = min(torch.get_num_threads(), len(jobs))
    if threads <= 1:
        for job in jobs:
            function(*job)
        return
    for future in [_pool(os.getpid(), threads).submit(function, *job) for job in jobs]:
        future.result()


def parts(count: int, multiple: int = 1) -> list[tuple[int, int]]:
    """``range(count)`` cut for the threads, several parts each, because parts differ in work."""
    wanted = 4 * torch.get_num_threads() if torch.get_num_threads() > 1 else 1
    size = -(-count // (wanted * multiple)) * multiple
    return [(first, min(first + size, count)) for first in range(0, count, size)]


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    # By process: a forked DataLoader worker has none of its parent's threads.
    return ThreadPoolExecutor(threads, thread_name_prefix="fedrecon-kernels")
