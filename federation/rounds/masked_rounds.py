"""The server in rounds of a masked sum: three trips a round, and the record that lets an interrupted round go on."""

import hashlib
import json
import logging
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from recon import DataError, write_atomically

from ..privacy import (
    CONFIRM,
    MASKED,
    OFFER,
    REVEAL,
    Context,
    Envelope,
    Integers,
    Offer,
    Reveal,
    Roster,
    check_offer,
    check_reveal,
    unmask,
)
from ..serialization import MessageError
from .masked_record import RECORD, REVEALS, Record, read_reveals
from .summed_rounds import RepeatRound, SummedRounds
from .transport import ReplyStream, SiteFailure, StillWaiting

logger = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")

#: Seconds that a round waits for further offers or shares once enough of them are there.
_LATE_SECONDS = 30.0
#: Rounds whose record stays: a server with a damaged checkpoint goes back one round.
_KEPT = 2


@dataclass(eq=False)
class _Attempt:
    """One attempt at a round: nonce, and the offers of the sites in it."""

    round: int
    nonce: str
    offers: dict[str, Offer] = field(default_factory=dict)


@dataclass(eq=False)
class MaskedRounds(SummedRounds):
    """Rounds in which the server sees masked updates and learns their sum.

    Trip one carries the broadcast and the offers of all sites, and brings masked updates, each with the site's offer
    for the next round. In trip two the sites in the sum confirm to each other, through the server, which offers they
    have seen and which sites are in the sum. Trip three asks for the shares that remove the masks of the sum. Sites
    without an offer are asked for one before: all in the first round and after a restart, later those that missed a
    round.

    A record in ``folder`` holds masked updates and survivors before trip two begins. A restarted server repeats both
    trips with the same survivors, as a site answers one set in a round. A round that was interrupted before is repeated
    with a new nonce and new masks.
    """

    folder: Path = Path()
    _next: _Attempt | None = None
    _now: _Attempt | None = None
    _replies: dict[str, bytes] = field(default_factory=dict)
    _beside: dict[str, Counter[str]] = field(default_factory=dict)
    #: Reasons why sites are left out until the server starts again.
    _left_out: dict[str, str] = field(default_factory=dict)

    def exchange(self, requests: Mapping[str, bytes], round: int, needed: int) -> ReplyStream:
        """See :meth:`SummedRounds.exchange`; each reply is the masked update. Bytes are those of the last attempt."""
        self._beside = {site: Counter() for site in requests}
        self._replies = {}
        if ((place := self._place(round)) / RECORD).exists():
            record = Record.read(place)
            if unknown := sorted(record.updates.keys() - requests.keys()):
                raise DataError(
                    f"{place / RECORD}: site {unknown[0]} is not in this run; expected the sites of the run"
                )
            self._now = _Attempt(round, record.nonce, dict(record.offers))
            for site in record.survivors:
                _ = requests[site]  # packed, so that its size is known
                self._replies[site] = record.update(place, site)
                yield site, self._replies[site]
            return
        now = self._begin(round)
        for site, reason in sorted(self._left_out.items()):
            yield site, SiteFailure(reason)
        asked_for_offers = sorted(requests.keys() - self._left_out.keys())
        for site, answer in self._ask_offers(now, asked_for_offers, max(needed, self.least)):
            yield site, answer
        following = self._next = _Attempt(round + 1, secrets.token_hex(16))
        asked = _Wrapped(requests, now, following.nonce, self._beside)
        if len(now.offers) < self.least:
            return
        with closing(self.transport.exchange(asked)) as replies:
            for site, reply in replies:
                if isinstance(reply, Exception):
                    yield site, reply
                    continue
                try:
                    envelope = Envelope.from_bytes(reply, MASKED, round=round, nonce=now.nonce)
                except MessageError as error:
                    yield site, SiteFailure(str(error))
                    continue
                if envelope.wrong and site in now.offers:
                    self._leave_out(site, envelope.wrong, now)
                if (offer := envelope.offers.get(site)) is not None and _is_right(offer, self.secure.roster, site):
                    following.offers[site] = offer
                self._replies[site] = envelope.body
                self._beside[site]["up"] += len(reply) - len(envelope.body)
                yield site, envelope.body

    def bytes_beside(self, site: str) -> tuple[int, int]:
        counts = self._beside.get(site, Counter())
        return counts["down"], counts["up"]

    def _begin(self, round: int) -> _Attempt:
        """The attempt whose offers came with the round before, or a new one."""
        if self._next is not None and self._next.round == round:
            now, self._next = self._next, None
        else:
            now = _Attempt(round, secrets.token_hex(16))
        self._now = now
        return now

    def _leave_out(self, site: str, wrong: Collection[str], now: _Attempt) -> None:
        """Begin the round anew without the sites whose offers ``site`` cannot open; it ends if the quorum needs them.

        Raises
        ------
        RepeatRound
            Always.
        """
        named = sorted(set(wrong) & now.offers.keys() - {site})
        if not named or len(now.offers) - len(named) < self.least:
            # Rather this one is wrong: without so many others there is no sum.
            text = f"it says that the offers of {', '.join(wrong)} are wrong; without them there are too few sites"
            self._left_out[site] = text
        else:
            self._left_out |= dict.fromkeys(named, f"its offer for the secure sum is wrong, says site {site}")
        raise RepeatRound(f"left out until the server starts again: site {', '.join(sorted(self._left_out))}")

    def _ask_offers(self, now: _Attempt, sites: list[str], needed: int) -> ReplyStream:
        """Ask the sites without an offer; yields those that fail. Once enough have one, the others have little time."""
        request = Envelope(OFFER, now.round, now.nonce).to_bytes()
        asked = {site: request for site in sites if site not in now.offers}
        if not asked:
            return
        enough_since = time.monotonic() if len(now.offers) >= needed else None
        with closing(self.transport.exchange(asked)) as replies:
            for site, reply in replies:
                if isinstance(reply, StillWaiting):
                    if _is_late(enough_since):
                        break
                    yield site, reply
                    continue
                try:
                    if isinstance(reply, Exception):
                        raise reply
                    envelope = Envelope.from_bytes(reply, OFFER, round=now.round, nonce=now.nonce)
                    check_offer(envelope.offers[site], self.secure.roster, site)
                    now.offers[site] = envelope.offers[site]
                    self._count(site, len(request), len(reply))
                except (MessageError, SiteFailure, KeyError) as error:
                    yield site, SiteFailure(f"no offer for the secure sum: {error}")
                if len(now.offers) >= needed and enough_since is None:
                    enough_since = time.monotonic()

    def _unmask(self, total: Integers, sites: list[str]) -> None:
        now = self._now
        assert now is not None
        place = self._place(now.round)
        self._record(place, now, sites)
        context = Context(self.secure.run, now.round, now.nonce)
        # Shares that came before a restart; their sites may be gone.
        reveals = read_reveals(place / REVEALS, sites)
        failures: dict[str, str] = {}
        codes: dict[str, Mapping[str, str]] = {}
        wrong: list[tuple[str, str]] | None = None
        while wrong is None:
            if len(reveals) >= self.least:
                try:
                    wrong = unmask(total, self.secure.roster, context, now.offers, sites, reveals)
                    continue
                except MessageError as error:
                    logger.warning("round %d: %s; the other sites are asked", now.round, error)
                    failures["the sum"] = str(error)
            codes = codes or self._ask_codes(now, sites)
            more = self._ask_reveals(now, sites, codes, reveals, failures)
            if not more:
                raise MessageError(
                    f"secure sum: {len(reveals)} of {len(sites)} sites revealed shares, expected at least {self.least} "
                    f"that fit ({_reasons(failures)}); --resume asks again"
                )
            reveals |= more
            content = {site: [reveal.self_masks, reveal.pair_masks] for site, reveal in reveals.items()}
            write_atomically(place / REVEALS, json.dumps(content).encode())
        for owner, holder in wrong:
            text = (
                "round %d: the share of site %s at site %s does not fit; one of both is wrong, the share was left out"
            )
            logger.warning(text, now.round, owner, holder)

    def _ask_codes(self, now: _Attempt, sites: list[str]) -> dict[str, Mapping[str, str]]:
        """The codes by which survivors confirm the sum to each other, by the site that made them.

        Raises
        ------
        MessageError
            If too few sites confirm it.
        """

        def read(site: str, reply: Envelope) -> Mapping[str, str]:
            if missing := sorted(set(sites) - {site} - reply.codes.keys()):
                raise MessageError(f"secure sum: no code for site {missing[0]} in the reply")
            return reply.codes

        request = Envelope(CONFIRM, now.round, now.nonce, survivors=tuple(sites)).to_bytes()
        failures: dict[str, str] = {}
        codes = self._ask(CONFIRM, now, dict.fromkeys(sites, request), self.least, read, failures)
        if len(codes) < self.least:
            raise MessageError(
                f"secure sum: {len(codes)} of {len(sites)} sites confirmed the sum, expected at least {self.least} "
                f"({_reasons(failures)}); --resume asks again"
            )
        return codes

    def _ask_reveals(
        self,
        now: _Attempt,
        sites: list[str],
        codes: Mapping[str, Mapping[str, str]],
        known: Collection[str],
        failures: dict[str, str],
    ) -> dict[str, Reveal]:
        """Shares of the survivors that have sent none."""

        def read(site: str, reply: Envelope) -> Reveal:
            if reply.reveal is None:
                raise MessageError("secure sum: no shares in the reply")
            check_reveal(reply.reveal, now.offers, sites, site)
            return reply.reveal

        def request(site: str) -> bytes:
            to_site = {other: given[site] for other, given in codes.items() if other != site}
            return Envelope(REVEAL, now.round, now.nonce, survivors=tuple(sites), codes=to_site).to_bytes()

        requests = {site: request(site) for site in sites if site not in known}
        return self._ask(REVEAL, now, requests, self.least - len(known), read, failures)

    def _ask(
        self,
        kind: str,
        now: _Attempt,
        requests: Mapping[str, bytes],
        enough: int,
        read: Callable[[str, Envelope], _Answer],
        failures: dict[str, str],
    ) -> dict[str, _Answer]:
        """Answers of sites; once there are enough, others are waited for a short time."""
        answers: dict[str, _Answer] = {}
        enough_since: float | None = None
        with closing(self.transport.exchange(requests)) as replies:
            for site, reply in replies:
                if isinstance(reply, StillWaiting):
                    if _is_late(enough_since):
                        break
                    continue
                try:
                    if isinstance(reply, Exception):
                        raise reply
                    answer = read(site, Envelope.from_bytes(reply, kind, round=now.round, nonce=now.nonce))
                except (MessageError, SiteFailure) as error:
                    logger.warning("round %d: no answer of site %s to %s: %s", now.round, site, kind, error)
                    failures[f"site {site}"] = str(error)
                    continue
                answers[site] = answer
                self._count(site, len(requests[site]), len(reply))
                if len(answers) >= enough and enough_since is None:
                    enough_since = time.monotonic()
        return answers

    def _record(self, place: Path, now: _Attempt, sites: list[str]) -> None:
        """Store the updates and, last, the survivors; a record that is there stays.

        Raises
        ------
        DataError
            If the record has other survivors.
        """
        if (path := place / RECORD).exists():
            if (stored := Record.read(place).survivors) != sites:
                raise DataError(
                    f"{path}: round {now.round} is a sum of {', '.join(stored)}, and now of {', '.join(sites)}; "
                    "a round has one sum: start a new run with another seed"
                )
            return
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        digests = {}
        for site in sites:
            write_atomically(place / f"{site}.update", self._replies[site])
            digests[site] = hashlib.sha256(self._replies[site]).hexdigest()
        Record(now.nonce, now.offers, digests).write(place)
        for old in self.folder.glob("round_*"):
            if old.name <= self._place(now.round - _KEPT).name:
                shutil.rmtree(old)

    def _place(self, round: int) -> Path:
        return self.folder / f"round_{round:06d}"

    def _count(self, site: str, down: int, up: int) -> None:
        self._beside[site].update(down=down, up=up)


class _Wrapped(Mapping[str, bytes]):
    """Wraps each broadcast with the offers for its site when the transport reads it."""

    def __init__(
        self, requests: Mapping[str, bytes], now: _Attempt, next_nonce: str, beside: dict[str, Counter[str]]
    ) -> None:
        self.requests, self.now, self.next_nonce, self.beside = requests, now, next_nonce, beside

    def __getitem__(self, site: str) -> bytes:
        body = self.requests[site]
        offers = {other: offer.to_site(site) for other, offer in self.now.offers.items()}
        data = Envelope(
            MASKED, self.now.round, self.now.nonce, offers, next_nonce=self.next_nonce, body=body
        ).to_bytes()
        self.beside[site]["down"] += len(data) - len(body)
        return data

    def __iter__(self) -> Iterator[str]:
        return (site for site in self.requests if site in self.now.offers)

    def __len__(self) -> int:
        return len(list(iter(self)))


def _is_right(offer: Offer, roster: Roster, site: str) -> bool:
    try:
        check_offer(offer, roster, site)
    except MessageError:
        return False  # the site is asked for one again, and the round says why that is refused
    return True


def _reasons(failures: Mapping[str, str]) -> str:
    return "; ".join(f"{who}: {reason}" for who, reason in sorted(failures.items())) or "no reply"


def _is_late(enough_since: float | None) -> bool:
    return enough_since is not None and time.monotonic() > enough_since + _LATE_SECONDS
