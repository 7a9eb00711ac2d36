"""Files of a site with the secrets of one round; only their owner can read them."""

import json
import os
import re
from pathlib import Path
from typing import Any

from recon import DataError

_FILE = re.compile(r"round_(\d{6,})\.json")


class RoundFiles:
    """One JSON file per round in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, round: int) -> dict[str, Any] | None:
        """What is stored of a round; None: nothing.

        Raises
        ------
        DataError
            If the file is damaged.
        """
        path = self._path(round)
        if not path.exists():
            return None
        try:
            found: dict[str, Any] = json.loads(path.read_bytes())
        except ValueError:
            raise DataError(
                f"{path}: is damaged, so what this site has revealed is not known; start a new run with another seed"
            ) from None
        return found

    def write(self, round: int, content: dict[str, Any]) -> None:
        """Store the record of a round, on disk before this returns."""
        write_private(self._path(round), json.dumps(content).encode())

    def remove_before(self, round: int) -> None:
        """Remove the records of earlier rounds, and what a killed process left unfinished."""
        for old in (r for r in self.rounds() if r < round):
            self._path(old).unlink(missing_ok=True)
        for scratch in self.folder.glob(".round_*.json"):
            scratch.unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove the records with secrets; what was revealed stays known."""
        for round in self.rounds():
            if not self._has_revealed(round):
                self._path(round).unlink(missing_ok=True)
        for scratch in self.folder.glob(".round_*.json"):
            scratch.unlink(missing_ok=True)

    def has_revealed(self) -> bool:
        """Whether the site has revealed shares in a round of this run; a damaged record counts as one that has."""
        return any(map(self._has_revealed, self.rounds()))

    def _has_revealed(self, round: int) -> bool:
        try:
            return (self.read(round) or {}).get("revealed") is not None
        except DataError:
            return True

    def rounds(self) -> list[int]:
        """Rounds of which something is stored, sorted."""
        matches = (_FILE.fullmatch(path.name) for path in self.folder.glob("round_*.json"))
        return sorted(int(match[1]) for match in matches if match)

    def _path(self, round: int) -> Path:
        return self.folder / f"round_{round:06d}.json"


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read, completely or not at all; on disk before this returns."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}")
    scratch.unlink(missing_ok=True)
    with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
    # The name, too: after a power failure a site must know what it has revealed.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
