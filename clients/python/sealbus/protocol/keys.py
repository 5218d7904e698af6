"""Ed25519 keys and their texts.

A key is written as an *nkey*: base32 of a prefix byte for the key's purpose, the 32 raw bytes, and
a CRC-16. The prefix shows as the first letter, so a bot's key (``U…``) pasted where a bus key
(``N…``) belongs is refused by name, and the checksum catches a typing error. A seed reads ``S`` and
then that letter. The format is NATS's own, but its Python library checks neither checksum nor
padding, so the few lines that read it are here.
"""

from __future__ import annotations

import base64
import binascii
import math
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

import nacl.bindings
import nacl.exceptions
import nacl.signing
import nacl.utils

from sealbus.errors import InvalidInput

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

_SEED_PREFIX = 18 << 3  # base32 "S"


class KeyKind(Enum):
    """The purpose of a key. The value is its nkey prefix byte."""

    BOT = 20 << 3
    """``U…``: a bot's own key: seals its envelopes and answers its connect challenge."""
    BUS = 13 << 3
    """``N…``: the relays' key: seals stamps. Bots pin its public half."""
    ISSUER = 0 << 3
    """``A…``: signs the NATS sessions that the relay grants. Known to nats-server alone."""

    @property
    def letter(self) -> str:
        """First letter of a public key of this kind."""
        return _LETTERS[self]


_LETTERS = {KeyKind.BOT: "U", KeyKind.BUS: "N", KeyKind.ISSUER: "A"}


def _read(text: str, size: int, what: str) -> bytes:
    """Undo base32 and check the CRC-16/XMODEM; return the ``size`` bytes before it. The text itself
    is never in an error."""
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        raise InvalidInput(
            f"{what} is not base32 text", hint="copy the key again, whole and without spaces"
        ) from None
    length = math.ceil((size + 2) * 8 / 5)
    if len(text) != length:
        raise InvalidInput(
            f"{what} has {len(text)} characters; expected {length}",
            hint="copy the key again, whole; only a seed begins with S",
        )
    # The bits behind the last byte are no part of the checksum.
    if _write(raw[:-2]) != text:
        raise InvalidInput(
            f"{what} has a wrong checksum", hint="copy the key again: a character is wrong"
        )
    return raw[:-2]


def _write(raw: bytes) -> str:
    checked = raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")
    return base64.b32encode(checked).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key: ``raw`` (32 bytes) and its purpose."""

    raw: bytes
    kind: KeyKind

    @classmethod
    def parse(cls, text: str, kind: KeyKind) -> PublicKey:
        """Read an nkey text of ``kind``.

        Raises :class:`InvalidInput` for a wrong kind, length, checksum, or bytes that are not a
        point of the prime-order group (libsodium's ``crypto_core_ed25519_is_valid_point``): with a
        small-order key one signature would fit many messages.
        """
        what = f"public key ({kind.letter}…)"
        if text[:1] == "S":
            raise InvalidInput(
                f"{what} expected, got a seed",
                hint="a seed is secret: keep it out of here, and replace the key",
            )
        raw = _read(text, 1 + KEY_BYTES, what)
        if raw[0] != kind.value:
            raise InvalidInput(
                f"{what} expected, got a key that begins with {text[:1]!r}",
                hint="this key is of another kind",
            )
        if not nacl.bindings.crypto_core_ed25519_is_valid_point(raw[1:]):
            raise InvalidInput(
                f"{what} is not a valid Ed25519 key", hint="make a new one with `sealbus keys new`"
            )
        return cls(raw[1:], kind)

    @property
    def text(self) -> str:
        """The nkey text."""
        return _write(bytes([self.kind.value]) + self.raw)


class Signer(Protocol):
    """Signs for a bot's enrolled key, wherever that key lives. A :class:`SigningKey` is one.

    See :mod:`sealbus.signing` for how a bot calls it.
    """

    @property
    def public(self) -> PublicKey:
        """The public half, of the kind ``BOT``. It is known without a call to anything."""
        ...

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature (RFC 8032, without a hash of the message before it).

        ``message`` has some 83 bytes. The call may block. Raise
        :class:`~sealbus.CredentialsError` with a sentence and a hint for people: the text of any
        other error is not shown, because it may have a secret in it.
        """
        ...


class SigningKey:
    """A private key. Its text form never appears in ``repr()``, ``str()`` or an error."""

    __slots__ = ("_key", "kind", "public")

    def __init__(self, seed: bytes, kind: KeyKind) -> None:
        self._key = nacl.signing.SigningKey(seed)
        self.kind = kind
        self.public = PublicKey(bytes(self._key.verify_key), kind)

    @classmethod
    def generate(cls, kind: KeyKind) -> SigningKey:
        """A new key from the operating system's randomness."""
        return cls(nacl.utils.random(KEY_BYTES), kind)

    @classmethod
    def parse(cls, text: str, kind: KeyKind) -> SigningKey:
        """Read a seed's nkey text (``SU…``, ``SN…``, ``SA…``). Raises :class:`InvalidInput`; never
        repeats the text."""
        what = f"seed (S{kind.letter}…)"
        raw = _read(text, 2 + KEY_BYTES, what)
        prefix = (raw[0] & 7) << 5 | raw[1] >> 3
        if raw[0] & 0xF8 != _SEED_PREFIX or raw[1] & 7 or prefix != kind.value:
            raise InvalidInput(f"{what} expected, got a key of another kind")
        return cls(raw[2:], kind)

    @property
    def seed_text(self) -> str:
        """The secret nkey text. For writing into a 0600 file, nowhere else."""
        prefix = self.kind.value
        return _write(bytes([_SEED_PREFIX | prefix >> 5, (prefix & 31) << 3]) + bytes(self._key))

    @property
    def raw_seed(self) -> bytes:
        """The secret 32 bytes. For encryption, nowhere else."""
        return bytes(self._key)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature (RFC 8032). Only ``seal`` and the JWTs call this; bots
        never sign bare bytes."""
        return self._key.sign(message).signature

    def __repr__(self) -> str:
        return f"SigningKey({self.public.text})"


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` (64 bytes) is ``public``'s (32 raw bytes) over ``message``, as
    libsodium judges it.

    libsodium is the only verifier in Sealbus: implementations disagree on edge cases (see
    ``tests/vectors``), and two that disagree are two different buses.
    """
    if len(public) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        nacl.bindings.crypto_sign_open(signature + message, public)
    except nacl.exceptions.BadSignatureError:
        return False
    return True
