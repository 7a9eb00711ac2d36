"""The rounds that a site has answered: each has one answer, whatever the server sends later."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from recon import DataError, write_atomically

from ..serialization import Broadcast, MessageError

#: Bytes of replies that are stored in a run; beyond them only the newest two, which a resumed server may ask for.
_STORED_BYTES = 2**28
_FILE = re.compile(r"round_(\d{6,})\.json")


class RepeatError(Exception):
    """The round was answered already, with other parameters, or a later round was."""


@dataclass(frozen=True)
class _Answer:
    """SHA-256 of a broadcast and of the reply to it; the last round whose reply the server said that it used."""

    broadcast: str
    reply: str
    accepted: int | None


class AnsweredRounds:
    """The answers of a site in one run: in ``folder`` two files per round, which outlive a restart.

    The same broadcast again gets the same reply from the disk, without training: a server that lost a reply, or goes
    on from its checkpoint, sends the same bytes. Another broadcast of a round that was answered is refused, and so is
    any earlier round. Otherwise the server could ask for the answers to many models in one round.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def reply_to(self, round: int, request: bytes) -> bytes | None:
        """The stored reply to the same broadcast; None if no answer was given in this round and after it.

        Raises
        ------
        RepeatError
            If this or a later round was answered, and the reply to these bytes is not stored.
        DataError
            If the record cannot be read.
        """
        answered = self._rounds()
        if not answered or round > answered[-1]:
            return None
        if round not in answered:
            raise RepeatError(f"round {round} after round {answered[-1]}, expected a later round")
        answer = self._read(round)
        if answer.broadcast != _sha256(request):
            raise RepeatError(f"round {round} was answered with another broadcast, expected the same bytes")
        try:
            reply = self._reply(round).read_bytes()
        except FileNotFoundError:
            raise RepeatError(f"round {round} was answered, and the reply is no longer stored") from None
        if _sha256(reply) != answer.reply:
            raise DataError(f"{self._reply(round)}: truncated or altered, its SHA-256 is not the recorded one")
        return reply

    def check_accepted(self, broadcast: Broadcast) -> None:
        """Check the last used reply that a new broadcast names: the site drops kept state of later rounds.

        Raises
        ------
        MessageError
            If an earlier broadcast named a later one.
        """
        answered = self._rounds()
        before = self._read(answered[-1]).accepted if answered else None
        if before is not None and (broadcast.accepted_round is None or broadcast.accepted_round < before):
            found = "none" if broadcast.accepted_round is None else str(broadcast.accepted_round)
            raise MessageError(f"request: the last used reply is of round {found}, expected {before} or later")

    def add(self, broadcast: Broadcast, request: bytes, reply: bytes) -> None:
        """Store an answer before it leaves, and remove the oldest replies if they are too large together.

        Raises
        ------
        DataError
            If the disk is full.
        """
        write_atomically(self._reply(broadcast.round), reply)
        answer = _Answer(_sha256(request), _sha256(reply), broadcast.accepted_round)
        # Last: without the record there is no answer, and the site would train again.
        write_atomically(self._record(broadcast.round), json.dumps(asdict(answer)).encode())
        stored = 0
        for age, path in enumerate(sorted(self.folder.glob("round_*.reply"), reverse=True)):
            stored += path.stat().st_size
            if age >= 2 and stored > _STORED_BYTES:
                path.unlink()

    def _rounds(self) -> list[int]:
        matches = (_FILE.fullmatch(path.name) for path in self.folder.glob("round_*.json"))
        return sorted(int(match[1]) for match in matches if match)

    def _read(self, round: int) -> _Answer:
        try:
            return _Answer(**json.loads(self._record(round).read_bytes()))
        except (OSError, ValueError, TypeError):
            path = self._record(round)
            raise DataError(f"{path}: is no record of an answer; restore it from a backup") from None

    def _record(self, round: int) -> Path:
        return self.folder / f"round_{round:06d}.json"

    def _reply(self, round: int) -> Path:
        return self.folder / f"round_{round:06d}.reply"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
