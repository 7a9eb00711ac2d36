"""A site in rounds of a masked sum: it answers offers, masked rounds, confirmations and reveals."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from recon import DataError

from ..privacy import (
    CONFIRM,
    KINDS,
    MASKED,
    OFFER,
    REVEAL,
    SUM,
    Envelope,
    PrivateKey,
    SecureSum,
    SiteProtocol,
    tensor_of,
    vector_of,
    write_private,
)
from ..serialization import Broadcast, MessageError, SiteReport, SiteUpdate, kind_of, unpack


@dataclass(frozen=True)
class MaskedSite:
    """Replies of one site in a masked sum.

    Parameters
    ----------
    protocol
        Its secrets.
    rounds
        Number of training rounds; None: not known.
    """

    protocol: SiteProtocol
    rounds: int | None

    @classmethod
    def of(cls, name: str, secure: SecureSum, key: Path, folder: Path, *, rounds: int | None) -> "MaskedSite":
        """The site ``name`` with its key; secrets of rounds lie in ``folder``."""
        return cls(SiteProtocol(name, secure.run, secure.roster, read_key(key), folder), rounds)

    def answer(self, request: bytes, answer: Callable[[bytes], SiteReport]) -> bytes:
        """The reply to a request.

        Parameters
        ----------
        answer
            Answers a packed broadcast.

        Raises
        ------
        MessageError
            If the request is not of this run, or the protocol of the sum forbids the answer.
        """
        kind = kind_of(request)
        if kind not in KINDS:
            self.require_masks(request)
            report = report_alone(answer(request))
            self.protocol.files.forget()  # no sum comes after the last scores
            return report.to_bytes()
        asked = Envelope.from_bytes(request, kind)
        if kind != MASKED:
            return self.secrets(asked)
        return self.refusal(asked) or self.update(asked, answer(asked.body))

    def require_masks(self, broadcast: bytes) -> None:
        """Refuse a packed broadcast that trains, before it does.

        Raises
        ------
        MessageError
            If its update would travel without masks.
        """
        header, _ = unpack(broadcast, kind=Broadcast.kind())
        if header.get("evaluate_only") is not True:
            raise _unmasked(self.protocol.name)

    def refusal(self, asked: Envelope) -> bytes:
        """The reply with the sites whose offers are wrong; empty if all are right and the site can train.

        Raises
        ------
        MessageError
            As for :meth:`SiteProtocol.wrong_offers`.
        """
        wrong = self.protocol.wrong_offers(asked.round, asked.nonce, asked.offers)
        return Envelope(MASKED, asked.round, asked.nonce, wrong=tuple(wrong)).to_bytes() if wrong else b""

    def secrets(self, asked: Envelope) -> bytes:
        """The reply to a request for an offer, a confirmation or shares; see :class:`SiteProtocol`."""
        if asked.kind == CONFIRM:
            codes = self.protocol.confirm(asked.round, asked.nonce, asked.survivors)
            return Envelope(CONFIRM, asked.round, asked.nonce, codes=codes).to_bytes()
        if asked.kind == REVEAL:
            shares = self.protocol.reveal(asked.round, asked.nonce, asked.survivors, asked.codes)
            return Envelope(REVEAL, asked.round, asked.nonce, reveal=shares).to_bytes()
        own = {self.protocol.name: self.protocol.offer(asked.round, asked.nonce)}
        return Envelope(OFFER, asked.round, asked.nonce, own).to_bytes()

    def update(self, asked: Envelope, update: SiteReport) -> bytes:
        """The reply with a masked update, and with the offer for the next round if there is one.

        Raises
        ------
        MessageError
            If the update is of another round, and as for :meth:`SiteProtocol.mask`.
        """
        name, following = self.protocol.name, asked.round + 1
        if not isinstance(update, SiteUpdate) or update.round != asked.round:
            raise MessageError(f"site {name}: found a masked round {asked.round} with another broadcast in it")
        masked = self.protocol.mask(asked.round, asked.nonce, vector_of(update.shared[SUM]), asked.offers)
        is_last = self.rounds is not None and following >= self.rounds
        offers = {} if is_last else {name: self.protocol.offer(following, asked.next_nonce)}
        body = replace(update, shared={SUM: tensor_of(masked)}).to_bytes()
        return Envelope(MASKED, asked.round, asked.nonce, offers, body=body).to_bytes()


def report_alone(report: SiteReport) -> SiteReport:
    """A reply to a broadcast without masks, which may hold scores and no update.

    Raises
    ------
    MessageError
        If it is an update.
    """
    if isinstance(report, SiteUpdate):
        raise _unmasked(report.site)
    return report


def _unmasked(site: str) -> MessageError:
    return MessageError(f"site {site}: found a broadcast without masks, expected a masked round")


def make_key(path: Path) -> PrivateKey:
    """The key of a site in a file that only its owner can read, created if there is none."""
    if not path.exists():
        write_private(path, PrivateKey().content)
    return read_key(path)


def read_key(path: Path) -> PrivateKey:
    """Read a file of :func:`make_key`.

    Raises
    ------
    DataError
        If it holds no key.
    """
    content = path.read_bytes() if path.is_file() else b""
    if len(content) != 32:
        raise DataError(f"{path}: found {len(content)} bytes, expected a key of 32; restore it, or start a new run")
    return PrivateKey(content)
