"""A site in rounds of a masked sum: it answers offers, masked rounds and reveals."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from recon import DataError

from ..privacy import (
    MASKED,
    OFFER,
    REVEAL,
    SUM,
    Envelope,
    PrivateKey,
    SiteProtocol,
    tensor_of,
    vector_of,
    write_private,
)
from ..serialization import MessageError, SiteReport, SiteUpdate, kind_of

if TYPE_CHECKING:
    from .site import SiteSpec


def answer_masked(spec: "SiteSpec", request: bytes, answer: Callable[[bytes], SiteReport]) -> bytes:
    """The reply to a request in a run with a masked sum.

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
    if kind not in (OFFER, MASKED, REVEAL):
        report = answer(request)
        require_report(spec, report)
        return report.to_bytes()
    asked = Envelope.from_bytes(request, kind)
    return masked_update(spec, asked, answer(asked.body)) if kind == MASKED else secrets_reply(spec, asked)


def require_report(spec: "SiteSpec", report: SiteReport) -> None:
    """Refuse to send an update without masks.

    Raises
    ------
    MessageError
        If it is one.
    """
    if isinstance(report, SiteUpdate):
        raise MessageError(f"site {spec.name}: found a broadcast without masks, expected a masked round")


def secrets_reply(spec: "SiteSpec", asked: Envelope) -> bytes:
    """The reply to a request for an offer, or for shares; see :class:`SiteProtocol`."""
    if asked.kind == REVEAL:
        shares = _protocol(spec).reveal(asked.round, asked.nonce, asked.survivors)
        return Envelope(REVEAL, asked.round, asked.nonce, reveal=shares).to_bytes()
    own = {spec.name: _protocol(spec).offer(asked.round, asked.nonce)}
    return Envelope(OFFER, asked.round, asked.nonce, own).to_bytes()


def masked_update(spec: "SiteSpec", asked: Envelope, update: SiteReport) -> bytes:
    """The reply with a masked update, and with the offer for the next round if there is one.

    Raises
    ------
    MessageError
        If the update is of another round, and as for :meth:`SiteProtocol.mask`.
    """
    if not isinstance(update, SiteUpdate) or update.round != asked.round:
        raise MessageError(f"site {spec.name}: found a masked round {asked.round} with another broadcast in it")
    protocol, following = _protocol(spec), asked.round + 1
    masked = protocol.mask(asked.round, asked.nonce, vector_of(update.shared[SUM]), asked.offers)
    is_last = spec.rounds is not None and following >= spec.rounds
    offers = {} if is_last else {spec.name: protocol.offer(following, asked.next_nonce)}
    body = replace(update, shared={SUM: tensor_of(masked)}).to_bytes()
    return Envelope(MASKED, asked.round, asked.nonce, offers, body=body).to_bytes()


def _protocol(spec: "SiteSpec") -> SiteProtocol:
    if spec.key is None or spec.secure is None:
        raise ValueError(f"SiteSpec: {spec.name} has no key or no secure sum, expected both for masks")
    folder, key = spec.folder / "secure", read_key(spec.key)
    return SiteProtocol(spec.name, spec.secure.run, spec.secure.roster, key, folder, spec.least_summed)


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
