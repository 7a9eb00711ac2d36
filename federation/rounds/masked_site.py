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
    SecureSum,
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
    assert spec.secure is not None
    kind = kind_of(request)
    if kind not in (OFFER, MASKED, REVEAL):
        report = answer(request)
        if isinstance(report, SiteUpdate):
            raise MessageError(f"site {spec.name}: found a broadcast without masks, expected a masked round")
        return report.to_bytes()
    asked, protocol = Envelope.from_bytes(request, kind), _protocol(spec, spec.secure)
    if kind == REVEAL:
        shares = protocol.reveal(asked.round, asked.nonce, asked.survivors)
        return Envelope(REVEAL, asked.round, asked.nonce, reveal=shares).to_bytes()
    if kind == OFFER:
        own = {spec.name: protocol.offer(asked.round, asked.nonce)}
        return Envelope(OFFER, asked.round, asked.nonce, own).to_bytes()
    update = answer(asked.body)
    if not isinstance(update, SiteUpdate) or update.round != asked.round:
        raise MessageError(f"site {spec.name}: found a masked round {asked.round} with another broadcast in it")
    masked = protocol.mask(asked.round, asked.nonce, vector_of(update.shared[SUM]), asked.offers)
    following = {spec.name: protocol.offer(asked.round + 1, asked.next_nonce)}
    body = replace(update, shared={SUM: tensor_of(masked)}).to_bytes()
    return Envelope(MASKED, asked.round, asked.nonce, following, body=body).to_bytes()


def _protocol(spec: "SiteSpec", secure: SecureSum) -> SiteProtocol:
    if spec.key is None:
        raise ValueError(f"SiteSpec: {spec.name} has no key, expected one for a masked sum")
    return SiteProtocol(spec.name, secure.run, secure.roster, read_key(spec.key), spec.folder / "secure")


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
