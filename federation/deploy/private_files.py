"""The folder of a server or site is for one user of its machine: it holds keys, parameters and the audit log."""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recon import DataError

#: Mode bits that new files do not get: no other user may read, write or enter them.
PRIVATE_UMASK = 0o077


@contextmanager
def private_files() -> Iterator[None]:
    """Make all files and folders for their owner alone; holds for the whole process."""
    before = os.umask(PRIVATE_UMASK)
    try:
        yield
    finally:
        os.umask(before)


def make_private(folder: Path) -> None:
    """Create a folder that only its owner can enter; an existing one gets this mode."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def require_private(folder: Path) -> None:
    """Check that no other user may enter a folder, nor every user change a file directly in it.

    A file with the group's right to write passes: editors make such files under a umask of 002, and the folder's own
    mode keeps the group out.

    Raises
    ------
    DataError
        With the file, its mode and the command that corrects it.
    """
    advice = f"only its owner may; chmod -R go-rwx {shlex.quote(str(folder))}"
    if (mode := folder.stat().st_mode) & PRIVATE_UMASK:
        raise DataError(f"{folder}: mode {mode & 0o777:03o} lets other users in, {advice}")
    for path in sorted(folder.iterdir()):
        if not path.is_symlink() and (mode := path.lstat().st_mode) & 0o002:
            raise DataError(f"{path}: mode {mode & 0o777:03o} lets other users change it, {advice}")
