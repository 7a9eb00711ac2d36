"""The log of a run, ``rounds.jsonl``: one line per round and site."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recon import DataError, os_error_line, write_atomically

_ROWS = "rounds.jsonl"

#: A line of rounds.jsonl.
Row = dict[str, Any]


def read_rows(folder: Path) -> list[Row]:
    """Lines of ``rounds.jsonl``, without a last line that a kill cut short."""
    path = folder / _ROWS
    rows: list[Row] = []
    if not path.exists():
        return rows
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            raise DataError(f"{path}: line {number} is not JSON; remove it") from None
    return rows


def append_rows(folder: Path, rows: Sequence[Row]) -> None:
    """Add lines to ``rounds.jsonl``."""
    path = folder / _ROWS
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise DataError(f"{os_error_line(error, path)}; --resume goes on") from None


def drop_rows(folder: Path, first: int) -> None:
    """Remove the rows of round ``first`` and later, and a last line that a kill cut short."""
    path = folder / _ROWS
    if path.exists():
        kept = [row for row in read_rows(folder) if row["round"] < first]
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in kept).encode())
