"""Sealed messages: what a receiver believes, and all that it does not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from federation.deploy.audit_log import START, Head
from federation.deploy.keys import SigningKey
from federation.deploy.signed_message import REASONS, Countersignature, SignedMessage
from federation.serialization.packing import MessageError

REQUEST = SignedMessage("request", "ab" * 32, "north", 3, 4, b"the payload", Head(7, "cd" * 32))
LIMIT = 10_000


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return SigningKey.create(tmp_path_factory.mktemp("keys") / "server")


def opened(
    data: bytes, key: SigningKey, kind: str = "request", site: str = "north", max_bytes: int = LIMIT
) -> SignedMessage:
    return SignedMessage.from_bytes(data, key.public, kind=kind, site=site, max_bytes=max_bytes)


def test_a_message_survives_the_trip(key: SigningKey) -> None:
    assert opened(REQUEST.to_bytes(key), key) == REQUEST
    signed = replace(REQUEST, countersigned=Countersignature(Head(0, START), key.sign(b"x")))
    assert opened(signed.to_bytes(key), key) == signed
    refused = replace(REQUEST, kind="reply", payload=b"", reason="policy")
    assert opened(refused.to_bytes(key), key, kind="reply") == refused


def test_it_weighs_little(key: SigningKey) -> None:
    assert len(replace(REQUEST, payload=bytes(100_000)).to_bytes(key)) < 101_000


def test_every_flipped_bit_is_found_out(key: SigningKey) -> None:
    data = REQUEST.to_bytes(key)
    for position in range(0, len(data)):
        altered = bytearray(data)
        altered[position] ^= 1 << position % 8
        with pytest.raises(MessageError):
            opened(bytes(altered), key)


def test_what_someone_else_sealed_is_not_believed(key: SigningKey, tmp_path: Path) -> None:
    stranger = SigningKey.create(tmp_path / "stranger")
    with pytest.raises(MessageError, match="signature is not by the expected sender"):
        opened(REQUEST.to_bytes(stranger), key)


@pytest.mark.parametrize(
    ("message", "arguments", "reason"),
    [
        (REQUEST, {"kind": "reply"}, "found a request of site 'north', expected a reply of site 'north'"),
        (REQUEST, {"site": "south"}, "expected a request of site 'south'"),
        (REQUEST, {"max_bytes": 100}, "expected at most 100"),
        (replace(REQUEST, kind="reply", reason="policy"), {"kind": "reply"}, "a payload and a reason, or neither"),
        (replace(REQUEST, kind="reply", payload=b""), {"kind": "reply"}, "a payload and a reason, or neither"),
    ],
)
def test_what_was_not_asked_for_is_refused(
    key: SigningKey, message: SignedMessage, arguments: dict[str, object], reason: str
) -> None:
    with pytest.raises(MessageError, match=reason):
        opened(message.to_bytes(key), key, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "other"},
        {"run": "../run"},
        {"run": "ab"},
        {"site": "../north"},
        {"site": ["north"]},
        {"round": -1},
        {"round": True},
        {"participants": 2**40},
        {"reason": "John Doe, scan.h5"},
        {"reason": ["policy"]},
        {"head": [1]},
        {"head": [1, "x" * 64]},
        {"countersigned": [1, "ab" * 32]},
        {"countersigned": {"a": 1}},
        {"mask": [1, 0]},
    ],
)
def test_a_sender_that_is_believed_can_still_say_nothing_else(key: SigningKey, changes: dict[str, object]) -> None:
    header = {**REQUEST._header(), **changes}
    header["signature"] = key.sign(json.dumps(header, sort_keys=True, separators=(",", ":")).encode())
    content = json.dumps(header).encode()
    with pytest.raises(MessageError, match="not a signed message"):
        opened(len(content).to_bytes(4, "big") + content + REQUEST.payload, key)


@pytest.mark.parametrize(
    "data", [b"", b"\0\0", b"\0\0\0\1{", b"\0\0\0\2[]", b"\xff\xff\xff\xff{}", b"\x80\x04\x95pickle"]
)
def test_other_bytes_are_refused(key: SigningKey, data: bytes) -> None:
    with pytest.raises(MessageError, match="not a signed message"):
        opened(data, key)


def test_reasons_are_words_of_ours() -> None:
    assert all(reason == reason.lower() and len(text) < 100 for reason, text in REASONS.items())
