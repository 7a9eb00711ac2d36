"""Signed messages between server and site: payload, sender, and the heads of both audit logs."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import SITE_NAME
from ..serialization import MessageError
from .audit_log import Head
from .keys import PublicKey, SigningKey

#: Reasons of a refusal, the only words about it that leave a site. The site's own log has the details.
REASONS = {
    "": "",
    "not approved": "the site has not approved this bundle, recipe or software",
    "policy": "the site's policy forbids it",
    "message": "the message is not what the site expects",
    "change": "the parameters changed more than the site allows",
    "repeated": "answered this or a later round; resume it, or propose it with another name (secure sum: and seed)",
    "data": "the site's data or state cannot be used",
    "training": "training failed or diverged",
    "error": "an error at the site",
}
_HEX = re.compile(r"[0-9a-f]*")
_MAX_HEADER = 4096
_FIELDS = ("kind", "run", "site", "round", "participants", "reason", "payload", "head", "countersigned", "signature")


@dataclass(frozen=True)
class Countersignature:
    """A signature of the head of the other side's log, as received in the previous message."""

    head: Head
    signature: str


@dataclass(frozen=True)
class SignedMessage:
    """A request to a site or its reply, with no further fields.

    ``run`` is the digest of the approved run, ``participants`` the number of sites in the round, ``reason`` the cause
    of a reply without payload, ``head`` the head of the sender's log.
    """

    kind: str
    run: str
    site: str
    round: int
    participants: int
    payload: bytes
    head: Head
    countersigned: Countersignature | None = None
    reason: str = ""

    def to_bytes(self, key: SigningKey) -> bytes:
        """The message with the signature of the sender, as bytes."""
        header = self._header()
        header["signature"] = key.sign(_canonical(header))
        head = _canonical(header)
        return len(head).to_bytes(4, "big") + head + self.payload

    def _header(self) -> dict[str, Any]:
        signed = self.countersigned
        return {
            "kind": self.kind,
            "run": self.run,
            "site": self.site,
            "round": self.round,
            "participants": self.participants,
            "reason": self.reason,
            "payload": hashlib.sha256(self.payload).hexdigest(),
            "head": [self.head.count, self.head.hash],
            "countersigned": None if signed is None else [signed.head.count, signed.head.hash, signed.signature],
        }

    @classmethod
    def from_bytes(cls, data: bytes, key: PublicKey, *, kind: str, site: str, max_bytes: int) -> "SignedMessage":
        """Read a message signed by the owner of ``key``.

        Raises
        ------
        MessageError
            If it is too large, damaged, not signed by that key, or of another kind or site.
        """
        if len(data) > max_bytes:
            raise MessageError(f"{kind}: {len(data)} bytes, expected at most {max_bytes}")
        header, payload = _parts(data, kind)
        signature = header.pop("signature")
        if not key.verifies(_canonical(header), signature):
            raise MessageError(f"{kind}: the signature is not by the expected sender")
        if header["payload"] != hashlib.sha256(payload).hexdigest():
            raise MessageError(f"{kind}: the payload differs from the signed one")
        if (header["kind"], header["site"]) != (kind, site):
            found = f"a {header['kind']} of site {header['site']!r}"
            raise MessageError(f"{kind}: found {found}, expected a {kind} of site {site!r}")
        if kind == "reply" and bool(payload) == bool(header["reason"]):
            raise MessageError(f"{kind}: has a payload and a reason, or neither")
        countersigned = header["countersigned"]
        return cls(
            kind,
            header["run"],
            site,
            header["round"],
            header["participants"],
            payload,
            Head(*header["head"]),
            None if countersigned is None else Countersignature(Head(*countersigned[:2]), countersigned[2]),
            header["reason"],
        )


def _canonical(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def _parts(data: bytes, kind: str) -> tuple[dict[str, Any], bytes]:
    """Header with all fields checked, and payload."""
    length = int.from_bytes(data[:4], "big")
    try:
        if not 0 < length <= min(_MAX_HEADER, len(data) - 4):
            raise ValueError
        header = json.loads(data[4 : 4 + length])
        if header.keys() != set(_FIELDS) or not _is_right(header):
            raise ValueError
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise MessageError(f"{kind}: {len(data)} bytes that are not a signed message of fedrecon") from None
    return header, data[4 + length :]


def _is_right(header: Mapping[str, Any]) -> bool:
    signed = header["countersigned"]
    return (
        header["kind"] in ("request", "reply")
        and _is_hash(header["run"])
        and isinstance(header["site"], str)
        and SITE_NAME.fullmatch(header["site"]) is not None
        and _is_count(header["round"])
        and _is_count(header["participants"])
        and header["reason"] in REASONS
        and _is_hash(header["payload"])
        and _is_head(header["head"])
        and (signed is None or (_is_list(signed, 3) and _is_head(signed[:2]) and _is_hex(signed[2])))
        and _is_hex(header["signature"])
    )


def _is_list(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length


def _is_head(value: Any) -> bool:
    return _is_list(value, 2) and _is_count(value[0]) and _is_hash(value[1])


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_hex(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 512 and _HEX.fullmatch(value) is not None


def _is_hash(value: Any) -> bool:
    return _is_hex(value) and len(value) == 64
