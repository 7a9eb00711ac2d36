"""Files that are written completely or not at all."""

import os
from pathlib import Path

from .errors import data_error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file, creating its folder; a reader sees the old content or the new, never a part.

    Raises
    ------
    DataError
        If the disk is full or the folder cannot be written; an existing file is then left as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = f"a write error ({error.strerror})"
        raise data_error(path, "file", reason, "a writable folder", "make room or choose another") from None
