"""Keys and masks: X25519 key agreement, HKDF, ChaCha20 as a stream of masks, sealed messages between sites.

Not the functions of Flower for this purpose: its ``pseudo_rand_gen`` makes a mask from 32 bits, which can be searched.
"""

import hashlib
import hmac
import os
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..serialization import MessageError
from .fixed_point import Integers

#: Bytes of the stream that are added at a time: they fit into the cache of a core.
_CHUNK = 2**17
_ZEROS = memoryview(bytes(_CHUNK))
_NONCE = 12
#: Bytes of a secret that is shared; 128 bits, as strong as X25519.
SECRET_BYTES = 16


class Context(NamedTuple):
    """The run, the round and the server's name of this attempt at it; part of every key."""

    run: str
    round: int
    nonce: str

    def key(self, secret: bytes, *purpose: str) -> bytes:
        """A key of 32 bytes from a secret, for one purpose in this round."""
        words = "\n".join(("fedrecon secure sum", self.run, str(self.round), self.nonce, *purpose))
        return HKDF(hashes.SHA256(), 32, salt=None, info=words.encode()).derive(secret)


class PrivateKey:
    """An X25519 key; equal to others of the same content."""

    def __init__(self, content: bytes | None = None) -> None:
        self._key = X25519PrivateKey.generate() if content is None else X25519PrivateKey.from_private_bytes(content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PrivateKey) and hmac.compare_digest(self.content, other.content)

    def __hash__(self) -> int:
        return hash(self.content)

    @property
    def content(self) -> bytes:
        """The secret, 32 bytes."""
        return self._key.private_bytes_raw()

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    def agree(self, other: bytes) -> bytes:
        """The secret that only the owners of two keys can compute.

        Raises
        ------
        MessageError
            If ``other`` is no public key.
        """
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(other))
        except ValueError:
            raise MessageError("secure sum: found no public key of X25519, expected one") from None


@lru_cache(maxsize=2**14)
def agreed(own: PrivateKey, other: bytes) -> bytes:
    """:meth:`PrivateKey.agree` of two long-term keys, whose secret every message needs: computed once in a process."""
    return own.agree(other)


def mask_key_pair(secret: bytes, context: Context) -> PrivateKey:
    """The key of a site for the pairwise masks of one round, from a shared secret of 16 bytes."""
    return PrivateKey(context.key(secret, "mask key"))


def pair_key(own: PrivateKey, other: bytes, context: Context, sites: tuple[str, str]) -> bytes:
    """Key of the mask of two sites, the same at both."""
    return context.key(own.agree(other), "pair", *sorted(sites))


def self_key(secret: bytes, context: Context, site: str) -> bytes:
    """Key of a site's own mask."""
    return context.key(secret, "self", site)


def commitment(secret: bytes, context: Context, site: str) -> bytes:
    """A digest by which a recovered secret is checked; 128 random bits cannot be found from it."""
    return hashlib.sha256(context.key(secret, "commitment", site)).digest()


def add_mask(vector: Integers, key: bytes, *, subtract: bool = False) -> None:
    """Add the stream of a key to all numbers in place, modulo 2^k, or subtract it."""
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
    size = vector.itemsize
    step = _CHUNK // size
    buffer = bytearray(_CHUNK)
    words = np.frombuffer(buffer, vector.dtype)
    for begin in range(0, len(vector), step):
        part = vector[begin : begin + step]
        stream.update_into(_ZEROS[: len(part) * size], buffer)
        (np.subtract if subtract else np.add)(part, words[: len(part)], out=part)


def seal(key: bytes, content: bytes, said: bytes) -> bytes:
    """Encrypt for the other owner of a key; ``said`` stays readable and cannot be changed either."""
    nonce = os.urandom(_NONCE)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, content, said)


def unseal(key: bytes, sealed: bytes, said: bytes) -> bytes | None:
    """The content of :func:`seal`; None if anything was changed or the key is another."""
    try:
        return ChaCha20Poly1305(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], said)
    except (InvalidTag, ValueError):
        return None
