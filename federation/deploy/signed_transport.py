"""The server's side of an exchange: signs requests, checks the signatures of replies, records both."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ..rounds import ReplyStream, SiteFailure, StillWaiting
from ..serialization import MessageError, round_of
from .audit_log import AuditLog, Head
from .keys import PublicKey, SigningKey
from .signed_message import REASONS, Countersignature, SignedMessage


class Channel(Protocol):
    """Carries bytes to sites and back: Flower's grid, or a direct call in tests."""

    def reachable(self) -> list[str]:
        """Names of the sites that are connected."""

    def send(self, messages: Mapping[str, bytes]) -> Iterator[tuple[str, bytes | Exception]]:
        """Send each message and yield the replies as they arrive, until the deadline of the channel."""


@dataclass(eq=False)
class SignedTransport:
    """A :class:`federation.rounds.Transport` over an untrusted channel.

    Parameters
    ----------
    run
        Digest of the approved run, :attr:`Approval.run`.
    key
        Key of the server, which signs the requests.
    sites_by_name
        Public keys of the enrolled sites.
    max_bytes
        Largest size of a reply.
    """

    run: str
    key: SigningKey
    sites_by_name: Mapping[str, PublicKey]
    channel: Channel
    audit: AuditLog
    max_bytes: int
    jobs: int = 1
    _heads: dict[str, Head] = field(default_factory=dict)

    def sites(self) -> list[str]:
        return sorted(self.sites_by_name)

    def exchange(self, requests: Mapping[str, bytes]) -> ReplyStream:
        """Ask each site; a reply that the site did not sign for this run and round is a failure of the site."""
        rounds: dict[str, int] = {}

        def signed() -> Iterator[tuple[str, bytes]]:
            for site in sorted(requests):
                payload = requests[site]
                rounds[site] = round_of(payload)
                yield site, self._request(site, payload, rounds[site], len(requests))

        for site, answer in self.channel.send(dict(signed())):
            reply: bytes | Exception
            if isinstance(answer, StillWaiting):
                yield site, answer
                continue
            try:
                reply = self._reply(site, answer, rounds)
            except (MessageError, SiteFailure) as error:
                self.audit.append("reply refused", site=site, round=rounds.get(site), reason=str(error)[:500])
                reply = SiteFailure(str(error))
            yield site, reply

    def _request(self, site: str, payload: bytes, round: int, participants: int) -> bytes:
        self.audit.append(
            "request",
            site=site,
            run=self.run,
            round=round,
            participants=participants,
            bytes=len(payload),
            sha256=hashlib.sha256(payload).hexdigest(),
        )
        last = self._heads.get(site)
        signed = None if last is None else Countersignature(last, self.key.sign(last.statement(site)))
        head = self.audit.head()
        return SignedMessage("request", self.run, site, round, participants, payload, head, signed).to_bytes(self.key)

    def _reply(self, site: str, answer: bytes | Exception, rounds: Mapping[str, int]) -> bytes:
        if isinstance(answer, Exception):
            raise SiteFailure(" ".join(str(answer).split())[:200])
        if site not in self.sites_by_name:
            raise SiteFailure("is not enrolled")
        key = self.sites_by_name[site]
        reply = SignedMessage.from_bytes(answer, key, kind="reply", site=site, max_bytes=self.max_bytes)
        if reply.reason:
            self._record(site, key, reply, len(answer))
            raise SiteFailure(REASONS[reply.reason])
        if (reply.run, reply.round) != (self.run, rounds.get(site)):
            raise MessageError(
                f"reply: is of round {reply.round}, expected one of round {rounds.get(site)} of this run"
            )
        self._record(site, key, reply, len(answer))
        return reply.payload

    def _record(self, site: str, key: PublicKey, reply: SignedMessage, size: int) -> None:
        """Record a reply, the head of the site's log, and the site's signature of our head."""
        self._heads[site] = reply.head
        self.audit.append(
            "reply",
            site=site,
            round=reply.round,
            reason=reply.reason,
            bytes=size,
            sha256=hashlib.sha256(reply.payload).hexdigest(),
            heads={site: [reply.head.count, reply.head.hash]},
        )
        if (signed := reply.countersigned) is not None:
            self.audit.countersign(site, key, signed.head, signed.signature)
