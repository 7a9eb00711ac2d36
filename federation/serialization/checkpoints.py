"""Checkpoints on disk: safetensors with a JSON checksum beside it, written completely or not at all."""

import hashlib
import json
import logging
import re
from collections.abc import Collection, ItemsView, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from recon import DataError, State, write_atomically

from .packing import Layout, MessageError, check_finite, pack, unpack

logger = logging.getLogger(__name__)

_KIND = "checkpoint"
_FILE = re.compile(r"round_(\d{6,})\.(json|safetensors)")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Tensors and numbers as they were when ``round`` began."""

    round: int
    tensors: State
    numbers: Mapping[str, Any]


def save_checkpoint(folder: Path, round: int, tensors: State, numbers: Mapping[str, Any]) -> None:
    """Write ``round_000012.safetensors`` and, last, ``round_000012.json`` with its SHA-256.

    A kill at any moment leaves either the new checkpoint or none of that round, and all others as they were.

    Raises
    ------
    DataError
        If the disk is full or the folder cannot be written.
    MessageError
        If a tensor is not finite; nothing is written then.
    """
    check_finite(tensors, f"checkpoint of round {round}")
    data = pack(_KIND, {"round": round, "numbers": dict(numbers)}, tensors)
    facts = {"round": round, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    tensor_file, sum_file = _files(folder, round)
    write_atomically(tensor_file, data)
    write_atomically(sum_file, json.dumps(facts).encode())


def saved_rounds(folder: Path) -> list[int]:
    """Rounds whose checkpoint was completed, ascending; whether it is intact shows on loading."""
    if not folder.is_dir():
        return []
    matches = (_FILE.fullmatch(path.name) for path in folder.glob("*.json"))
    return sorted(int(match[1]) for match in matches if match)


def load_checkpoint(folder: Path, round: int, expected: Layout | None = None, beside: str | None = None) -> Checkpoint:
    """Read one checkpoint.

    Raises
    ------
    DataError
        If it is missing, its checksum differs, or it is not what :func:`save_checkpoint` writes.
    """
    tensor_file, sum_file = _files(folder, round)
    try:
        facts = json.loads(sum_file.read_bytes())
        data = tensor_file.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(_line(tensor_file, f"cannot be read ({_reason(error)})")) from None
    found = {"round": round, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    if facts != found:
        raise DataError(_line(tensor_file, f"truncated or altered, its SHA-256 or size is not that in {sum_file.name}"))
    try:
        header, tensors = unpack(data, kind=_KIND, expected=expected, beside=beside)
    except MessageError as error:
        raise DataError(_line(tensor_file, str(error))) from None
    return Checkpoint(round, tensors, header["numbers"])


def load_newest(
    folder: Path, *, at_most: int | None = None, expected: Layout | None = None, beside: str | None = None
) -> Checkpoint | None:
    """Read the newest intact checkpoint, logging each damaged one that is passed over.

    Parameters
    ----------
    folder
        Where :func:`save_checkpoint` wrote.
    at_most
        Newest round that counts.
    expected
        Names, shapes and dtypes that it must have.
    beside
        Names that begin so may be there too.

    Returns
    -------
        None if none was ever completed.

    Raises
    ------
    DataError
        If there are checkpoints and all are damaged.
    """
    damaged = None
    for round in reversed(saved_rounds(folder)):
        if at_most is not None and round > at_most:
            continue
        try:
            return load_checkpoint(folder, round, expected, beside)
        except DataError as error:
            damaged = error
            logger.warning("%s; trying the one before", error)
    if damaged is not None:
        raise DataError(f"{damaged}; no intact checkpoint is left, start anew in another folder")
    return None


def prune(folder: Path, keep: Collection[int]) -> None:
    """Remove all checkpoints but those of the rounds in ``keep``, and what a kill left half-written."""
    # The checksums first: without it a checkpoint does not exist.
    for suffix in ("json", "safetensors"):
        for path in sorted(folder.glob(f"round_*.{suffix}")):
            match = _FILE.fullmatch(path.name)
            if match and int(match[1]) not in keep:
                path.unlink()
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


class StoredState(Mapping[str, Tensor]):
    """Tensors of a message on disk, read when asked for: many updates need the memory of one.

    Parameters
    ----------
    path
        Where to write it.
    message
        A packed message that has been checked.
    """

    def __init__(self, path: Path, message: bytes) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Neither atomic nor durable: after a kill the round is run again.
            path.write_bytes(message)
        except OSError as error:
            raise _not_written(path, error) from None
        self._names = tuple(self._read())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        with safetensors.safe_open(self.path, "pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def items(self) -> ItemsView[str, Tensor]:
        # Mapping's own would read the file once per name.
        return self._read().items()

    def _read(self) -> dict[str, Tensor]:
        return safetensors.torch.load(self.path.read_bytes())


def _files(folder: Path, round: int) -> tuple[Path, Path]:
    return folder / f"round_{round:06d}.safetensors", folder / f"round_{round:06d}.json"


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _line(path: Path, found: str, advice: str = "") -> str:
    return " ".join(f"{path}: {found}{'; ' if advice else ''}{advice}".split())


def _not_written(path: Path, error: OSError) -> DataError:
    return DataError(_line(path, f"cannot be written ({_reason(error)})", "make room; --resume goes on"))
