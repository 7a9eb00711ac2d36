"""Messages of a masked round: requests to a site and its replies, with fixed fields, checked on arrival.

=========  =====================================================  ==============================================
kind       request                                                reply
=========  =====================================================  ==============================================
offer      round, nonce                                           the site's offer
masked     broadcast, offers of all sites, nonce of the next      masked update, offer for the next round; or
           round                                                  the sites whose offers are wrong
confirm    sites in the sum                                       a code for each of them
reveal     sites in the sum, their codes for the site             shares of secrets
=========  =====================================================  ==============================================
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..config import SITE_NAME
from ..serialization import MessageError, pack, unpack
from .site_protocol import Offer, Reveal

OFFER, MASKED, CONFIRM, REVEAL = KINDS = ("secure offer", "secure masked", "secure confirm", "secure reveal")
#: Fields beside round and nonce that a message of each kind may have.
_FIELDS = {
    OFFER: {"offers"},
    MASKED: {"offers", "wrong", "next_nonce", "body"},
    CONFIRM: {"survivors", "codes"},
    REVEAL: {"survivors", "codes", "reveal"},
}
_BODY = "message"
_HEX = re.compile(r"(?:[0-9a-f]{2})*")
_LONGEST_HEX = 512


@dataclass(frozen=True)
class Envelope:
    """A request or reply of one of the four kinds.

    ``nonce`` names the attempt at the round, ``next_nonce`` that at the next one. ``codes`` are by the receivers in a
    reply, by the senders in a request. ``body`` is a packed broadcast or update.
    """

    kind: str
    round: int
    nonce: str
    offers: Mapping[str, Offer] = field(default_factory=dict)
    reveal: Reveal | None = None
    survivors: tuple[str, ...] = ()
    codes: Mapping[str, str] = field(default_factory=dict)
    wrong: tuple[str, ...] = ()
    next_nonce: str = ""
    body: bytes = b""

    @property
    def participants(self) -> int | None:
        """Number of sites in the round or the sum; None for a request for an offer, which says nothing of them."""
        return None if self.kind == OFFER else len(self.survivors or self.offers)

    def to_bytes(self) -> bytes:
        """The message as bytes."""
        header = {
            "round": self.round,
            "nonce": self.nonce,
            "next_nonce": self.next_nonce,
            "offers": {site: [o.public, o.committed, dict(o.sealed)] for site, o in self.offers.items()},
            "reveal": None if self.reveal is None else [dict(self.reveal.self_masks), dict(self.reveal.pair_masks)],
            "survivors": list(self.survivors),
            "codes": dict(self.codes),
            "wrong": list(self.wrong),
        }
        return pack(self.kind, header, {_BODY: torch.frombuffer(bytearray(self.body), dtype=torch.uint8)}
                    if self.body else {})  # fmt: skip

    @classmethod
    def from_bytes(cls, data: bytes, kind: str, *, round: int | None = None, nonce: str | None = None) -> "Envelope":
        """Read a message of a kind; of a round and nonce, if they are known.

        Raises
        ------
        MessageError
            If it is of another kind, round or nonce, or a field is not what it should be.
        """
        header, tensors = unpack(data, kind=kind)
        try:
            envelope = cls(
                kind,
                _count(header.pop("round")),
                _hex(header.pop("nonce")),
                {
                    _name(site): Offer(_hex(o[0]), _hex(o[1]), _by_site(o[2]))
                    for site, o in header.pop("offers").items()
                },
                None if (r := header.pop("reveal")) is None else Reveal(_by_site(r[0]), _by_site(r[1])),
                tuple(_name(site) for site in header.pop("survivors")),
                _by_site(header.pop("codes")),
                tuple(_name(site) for site in header.pop("wrong")),
                _hex(header.pop("next_nonce")),
                _body(tensors),
            )
            used = {name for name in (*_FIELDS[MASKED], *_FIELDS[REVEAL]) if getattr(envelope, name)}
            if header or used - _FIELDS[kind]:
                raise ValueError
        except (KeyError, ValueError, TypeError, AttributeError, IndexError):
            raise MessageError(f"{kind}: fields that no message of a secure sum has, or not all of them") from None
        for name, found, wanted in (("round", envelope.round, round), ("nonce", envelope.nonce, nonce)):
            if wanted not in (None, found):
                raise MessageError(f"{kind}: {name} is {found!r}, expected {wanted!r}")
        return envelope


def _body(tensors: Mapping[str, torch.Tensor]) -> bytes:
    if tensors.keys() - {_BODY} or any(tensor.dtype != torch.uint8 for tensor in tensors.values()):
        raise ValueError
    return np.asarray(tensors[_BODY]).tobytes() if tensors else b""


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError
    return value


def _hex(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_HEX or not _HEX.fullmatch(value):
        raise ValueError
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not SITE_NAME.fullmatch(value):
        raise ValueError
    return value


def _by_site(value: Any) -> dict[str, str]:
    return {_name(site): _hex(text) for site, text in value.items()}
