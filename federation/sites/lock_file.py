"""Lock files: sizes and checksums of the files of a site when it was made, to notice changes."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from recon import write_atomically

from ..config import Section, parse_section, read_json


class LockedFile(Section):
    """Size, checksum and patient of a file; ``patient_id`` is empty if the file names none.

    ``labels`` is the checksum of its labels for a downstream task. ``checked`` says under which checks and conditions
    the file passed, see :func:`load_checked`.
    """

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0)
    patient_id: str
    labels: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    checked: str | None = None


class Lock(Section):
    """Content of a lock file, by the file names of the manifest."""

    version: Literal[1] = 1
    files: dict[str, LockedFile]


def lock_path(manifest: Path) -> Path:
    """``north.lock.json`` beside ``north.toml``."""
    return manifest.with_suffix(".lock.json")


def read_lock(manifest: Path) -> dict[str, LockedFile]:
    """Read the lock file beside a manifest; empty if there is none.

    Raises
    ------
    DataError
        If it is no lock file.
    """
    path = lock_path(manifest)
    if not path.exists():
        return {}
    return parse_section(Lock, read_json(path, "delete it and run `fedrecon sites check`"), path).files


def write_lock(manifest: Path, files: Mapping[str, LockedFile]) -> None:
    """Write the lock file beside a manifest atomically."""
    lock = Lock(files=dict(sorted(files.items())))
    path = lock_path(manifest)
    write_atomically(path, (json.dumps(lock.model_dump(exclude_none=True), indent=1) + "\n").encode())
    path.chmod(manifest.stat().st_mode & 0o666)  # whoever reads the manifest reads it, whatever the umask


def lock_file(path: Path, patient_id: str | None) -> LockedFile:
    """Size and checksum of a file, with the patient in its header."""
    return LockedFile(sha256=sha256_file(path), size=path.stat().st_size, patient_id=patient_id or "")


def sha256_file(path: Path | str) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
