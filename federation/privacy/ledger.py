"""The private steps of a site in a run, in a file that is written before each training."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recon import DataError, write_atomically

from .accounting import PrivateSteps


@dataclass(frozen=True)
class Ledger:
    """What a site has spent in one run.

    A round that is trained again counts again: the server may have seen both updates. A training that was interrupted
    counts in full.
    """

    path: Path

    def spend(self, round: int, steps: PrivateSteps) -> None:
        """Record the steps of a round, before they are made.

        Raises
        ------
        DataError
            If the file is damaged, or the disk is full.
        """
        entries = [*self._entries(), {"round": round, **asdict(steps)}]
        write_atomically(self.path, json.dumps(entries).encode())

    def require(self, rounds: Collection[int]) -> None:
        """Check that the record holds rounds that the site has trained.

        Raises
        ------
        DataError
            If it does not: it is lost, or an older copy.
        """
        if rounds and not self.path.exists():
            raise self._damaged()
        if missing := sorted(set(rounds) - {entry.get("round") for entry in self._entries()}):
            raise DataError(
                f"{self.path}: found no private steps of round {missing[0]}, expected all that were made; restore the "
                "newest copy, else begin a new run: its epsilon adds to what rounds.jsonl states of this one"
            )

    def spent(self) -> list[PrivateSteps]:
        """All recorded steps.

        Raises
        ------
        DataError
            If the file is damaged.
        """
        try:
            return [private_steps_of(entry) for entry in self._entries()]
        except (KeyError, TypeError, ValueError):
            raise self._damaged() from None

    def _entries(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        try:
            entries = json.loads(self.path.read_bytes())
        except ValueError:
            raise self._damaged() from None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise self._damaged()
        return entries

    def _damaged(self) -> DataError:
        found = "found no list of private steps, expected one"
        return DataError(f"{self.path}: {found}; restore the newest copy: without it epsilon is not known")


def private_steps_of(entry: Mapping[str, Any]) -> PrivateSteps:
    """Steps from a record of them; older records lack the fields ``shared_by`` and ``patients``.

    Raises
    ------
    KeyError, TypeError, ValueError
        If it is no such record.
    """
    patients = entry.get("patients")
    return PrivateSteps(
        int(entry["steps"]),
        float(entry["probability"]),
        float(entry["noise_multiplier"]),
        int(entry.get("shared_by", 1)),
        None if patients is None else int(patients),
    )
