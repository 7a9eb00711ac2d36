"""An append-only log: each line holds the hash of the line before, and the other side signs its head."""

import fcntl
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from recon import DataError

from .keys import PublicKey

#: The server's name in audit logs; no site may have it.
SERVER = "server"
#: Hash before the first line.
START = "0" * 64
#: Event of a line with the other party's signature of an earlier head of this log.
COUNTERSIGNED = "countersigned"
#: Event of a round of training with differential privacy, recorded before it begins.
PRIVATE_TRAINING = "private training"
_LONGEST_LINE = 2**20


@dataclass(frozen=True)
class Head:
    """Number of entries of a log and the hash of its last line."""

    count: int
    hash: str

    def statement(self, owner: str) -> bytes:
        """The text to sign: the log of ``owner`` had this head."""
        return f"fedrecon audit\n{owner}\n{self.count}\n{self.hash}\n".encode()


@dataclass(frozen=True)
class Entry:
    """A line of a log."""

    number: int
    time: str
    owner: str
    event: str
    facts: Mapping[str, Any]
    previous: str
    hash: str

    @property
    def head(self) -> Head:
        """The head of the log right after this line."""
        return Head(self.number + 1, self.hash)


class AuditLog:
    """The log of one party, in one file; several processes may append.

    An incomplete last line, left by a killed process, was never acknowledged: it is dropped, and the next line records
    that.

    Parameters
    ----------
    path
        Created with the first line.
    owner
        Name of the party, written in each line.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self.path, self.owner = path, owner

    def append(self, event: str, **facts: Any) -> Head:
        """Write a line to disk. Returns the new head.

        Raises
        ------
        DataError
            If the file cannot be written, or its last line is no line of a log.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a+b", opener=_private) as file, _locked(file):
                head, torn = self._end_of(file)
                if torn:
                    file.truncate(file.seek(0, os.SEEK_END) - torn)
                    head = self._write(file, head, "torn line dropped", {"bytes": torn})
                return self._write(file, head, event, facts)
        except OSError as error:
            raise DataError(f"{self.path}: the audit log cannot be written ({error.strerror})") from None

    def countersign(self, by: str, key: PublicKey, head: Head, signature: str) -> None:
        """Record the other party's signature of a head of this log, or that the signature is invalid."""
        if key.verifies(head.statement(self.owner), signature):
            self.append(COUNTERSIGNED, by=by, count=head.count, hash=head.hash, signature=signature)
        else:
            self.append("countersignature refused", by=by, count=head.count, hash=head.hash)

    def head(self) -> Head:
        """The current head; the head of an empty log if the file does not exist."""
        if not self.path.exists():
            return Head(0, START)
        with self.path.open("rb") as file, _locked(file):
            return self._end_of(file)[0]

    def _write(self, file: BinaryIO, head: Head, event: str, facts: Mapping[str, Any]) -> Head:
        content = {
            "n": head.count,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "owner": self.owner,
            "event": event,
            "facts": dict(facts),
            "previous": head.hash,
        }
        line = json.dumps(content, allow_nan=False, sort_keys=True).encode()
        if len(line) > _LONGEST_LINE:
            raise DataError(f"{self.path}: event {event!r} has {len(line)} bytes, expected at most {_LONGEST_LINE}")
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())
        return Head(head.count + 1, hashlib.sha256(line).hexdigest())

    def _end_of(self, file: BinaryIO) -> tuple[Head, int]:
        """The head, and the number of bytes of an incomplete line after it."""
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2 * _LONGEST_LINE - 2))
        tail = file.read()
        whole, newline, torn = tail.rpartition(b"\n")
        if not newline:
            return Head(0, START), len(torn)
        line = whole.rpartition(b"\n")[2]
        return _parsed(self.path, None, line).head, len(torn)


def read_log(path: Path) -> Iterator[Entry]:
    """All entries; checks the chain of hashes.

    Raises
    ------
    DataError
        With the first line that does not hold the hash of the line before.
    """
    previous, number = START, 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break  # incomplete: being written, or left by a killed process
            entry = _parsed(path, number, line[:-1])
            if (entry.number, entry.previous) != (number, previous):
                raise DataError(
                    f"{path}: line {number + 1}: is entry {entry.number} after {entry.previous[:12]}, expected entry "
                    f"{number} after {previous[:12]}; lines were altered, removed or inserted"
                )
            previous, number = entry.hash, number + 1
            yield entry


@dataclass(frozen=True)
class Verified:
    """Outcome of :func:`verify_log`: head, number of countersignatures, number of entries at the last of them."""

    head: Head
    countersigned: int
    last_countersigned: int


def verify_log(
    path: Path,
    owner: str,
    signers: Mapping[str, Collection[PublicKey]],
    seen_elsewhere: Mapping[int, str] | None = None,
) -> Verified:
    """Check the chain of hashes, all signatures of its heads, and the heads that other parties recorded.

    Parameters
    ----------
    owner
        Name of the party that wrote the log.
    signers
        Public keys of the parties that sign heads, by name; several keys if a site got a new one.
    seen_elsewhere
        Heads of this log by number of entries, from the logs of other parties; they show a removed end.

    Raises
    ------
    DataError
        With the first check that fails.
    """
    heads = {0: START}
    signed: list[tuple[int, Mapping[str, Any]]] = []
    for entry in read_log(path):
        if entry.owner != owner:
            raise DataError(f"{path}: is the log of {entry.owner!r}, expected the log of {owner!r}; correct --owner")
        heads[entry.number + 1] = entry.hash
        if entry.event == COUNTERSIGNED:
            signed.append((entry.number + 1, entry.facts))
    for line, facts in signed:
        name, head = facts.get("by"), Head(facts.get("count", -1), str(facts.get("hash")))
        if heads.get(head.count) != head.hash:
            raise DataError(f"{path}: line {line}: the signed head is none of this log; lines were altered or removed")
        keys = signers.get(str(name))
        if keys is None:
            known = ", ".join(sorted(signers)) or "no key"
            raise DataError(f"{path}: line {line}: signed by {name!r}, given {known}; add --key {name}=FILE")
        if not any(key.verifies(head.statement(owner), str(facts.get("signature"))) for key in keys):
            raise DataError(f"{path}: line {line}: the signature of {name!r} is invalid; check its key")
    for count, found in sorted((seen_elsewhere or {}).items()):
        if heads.get(count) != found:
            what = "has fewer entries" if count not in heads else "had another head"
            raise DataError(f"{path}: {what}: other logs recorded {count} entries with head {found[:12]}")
    return Verified(
        Head(len(heads) - 1, heads[len(heads) - 1]),
        len(signed),
        max((facts["count"] for _, facts in signed), default=0),
    )


def heads_seen(path: Path, owner: str) -> dict[int, str]:
    """Heads of the log of ``owner`` recorded in the log at ``path``, by number of entries."""
    seen = {}
    for entry in read_log(path):
        head = entry.facts.get("heads", {}).get(owner)
        if head is not None:
            seen[int(head[0])] = str(head[1])
    return seen


def _parsed(path: Path, number: int | None, line: bytes) -> Entry:
    where = f"{path}: last line" if number is None else f"{path}: line {number + 1}"
    try:
        content = json.loads(line)
        return Entry(
            int(content["n"]),
            str(content["time"]),
            str(content["owner"]),
            str(content["event"]),
            dict(content["facts"]),
            str(content["previous"]),
            hashlib.sha256(line).hexdigest(),
        )
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{where}: is no entry of an audit log; restore the log from a backup") from None


def _private(path: str, flags: int) -> int:
    """Open a file; a new one is for its owner alone."""
    return os.open(path, flags, 0o600)


@contextmanager
def _locked(file: BinaryIO) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
