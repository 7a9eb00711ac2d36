"""Checkpoints on disk: safetensors with a checksum file beside them, written completely or not at all."""

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

from recon import NO_SPACE, DataError, State, os_error_line, write_atomically

from .packing import Layout, MessageError, check_finite, pack, unpack

logger = logging.getLogger(__name__)

_KIND = "checkpoint"
_FILE = re.compile(r"round_(\d{6,})\.(json|safetensors)")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Tensors and numbers at the start of ``round``."""

    round: int
    tensors: State
    numbers: Mapping[str, Any]


def save_checkpoint(folder: Path, round: int, tensors: State, numbers: Mapping[str, Any]) -> None:
    """Write ``round_000012.safetensors`` and, last, ``round_000012.json`` with its SHA-256.

    A kill at any moment leaves either the complete checkpoint or none of that round; the others stay unchanged.

    Raises
    ------
    DataError
        If the disk is full or the folder cannot be written.
    MessageError
        If a tensor is not finite; then nothing is written.
    """
    check_finite(tensors, f"checkpoint of round {round}")
    data = pack(_KIND, {"round": round, "numbers": dict(numbers)}, tensors)
    facts = {"round": round, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    tensor_file, sum_file = _files(folder, round)
    write_atomically(tensor_file, data)
    write_atomically(sum_file, json.dumps(facts).encode())


def saved_rounds(folder: Path) -> list[int]:
    """Rounds with a complete checkpoint, ascending; damage is found on loading."""
    if not folder.is_dir():
        return []
    matches = (_FILE.fullmatch(path.name) for path in folder.glob("*.json"))
    return sorted(int(match[1]) for match in matches if match)


def load_checkpoint(folder: Path, round: int, expected: Layout | None = None, beside: str | None = None) -> Checkpoint:
    """Read one checkpoint.

    Raises
    ------
    DataError
        If the checkpoint is missing or damaged, or has other tensors than ``expected``.
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
    """Read the newest intact checkpoint; log each damaged one.

    Parameters
    ----------
    at_most
        Newest round to consider.
    expected
        Layout of the tensors.
    beside
        Prefix of further tensors that are accepted.

    Returns
    -------
        None without any complete checkpoint.

    Raises
    ------
    DataError
        If all checkpoints are damaged.
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
    """Remove all checkpoints except those of the rounds in ``keep``, and files that a kill left half-written."""
    # The checksum first: without it a checkpoint does not exist.
    for suffix in ("json", "safetensors"):
        for path in sorted(folder.glob(f"round_*.{suffix}")):
            match = _FILE.fullmatch(path.name)
            if match and int(match[1]) not in keep:
                path.unlink()
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


class StoredState(Mapping[str, Tensor]):
    """Tensors of a message, stored on disk and read on demand: many updates need the memory of one.

    Parameters
    ----------
    path
        File to write.
    message
        A packed message that has been checked.
    """

    def __init__(self, path: Path, message: bytes) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Neither atomic nor durable: after a kill the round is repeated.
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
        # The inherited method would read the file once per name.
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
    if NO_SPACE in (line := os_error_line(error, path)):
        return DataError(f"{line}; --resume goes on")
    return DataError(_line(path, f"cannot be written ({_reason(error)})", "--resume goes on"))
