"""The seal: the one way in which anything on the bus is signed.

A signature is always over these 83 bytes::

    MAGIC (11) || context (8) || key (32) || root (32)

``context`` is the kind of the item, so a signature over one kind never passes for another.
``key`` is the signer's public key, so a signature cannot be claimed by a second key. ``root`` is
the SHA-256 Merkle root over one or more *items* (byte strings, as sent)::

    leaf(item)        = SHA-256(0x00 || length of item as 8 bytes, big-endian || item)
    node(left, right) = SHA-256(0x01 || left || right)

Neighbours are paired from the left, level by level; an odd one at the end moves up unchanged. An
item alone is its own root. So one signature serves up to 1,024 items. Each has an inclusion proof,
the path from its leaf to the root, and can be verified by itself.

A seal in bytes:
``key (32) || signature (64) || sides (2, big-endian) || path (0 to 10 steps of 32)``. Bit *i* of
``sides`` is 1 where step *i* (the first is nearest the leaf) stands to the left.

There is no algorithm field: version 1 is Ed25519 as libsodium verifies it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from enum import Enum
from typing import Final

from sealbus.errors import InvalidInput, Malformed
from sealbus.protocol.keys import KEY_BYTES, SIGNATURE_BYTES, Signer, SigningKey, verify
from sealbus.protocol.limits import MAX_BATCH, MAX_PROOF_STEPS
from sealbus.protocol.value import value

MAGIC: Final = b"\x00sealbus/1\x00"
"""Begins with NUL, so the signed bytes can never be a text or a JWT that some other protocol would
accept."""

HASH_BYTES: Final = 32
_SIDES_BYTES = 2
_FIXED_BYTES = KEY_BYTES + SIGNATURE_BYTES + _SIDES_BYTES
_VERIFIED_ROOTS = 4096


class Context(Enum):
    """The kind of item that a seal is over: 8 bytes, fixed."""

    ENVELOPE = b"envelope"
    STAMP = b"stamp\0\0\0"
    CONNECT = b"connect\0"
    NOTICE = b"notice\0\0"
    SESSION = b"session\0"
    JOIN = b"join\0\0\0\0"
    KEYRING = b"keyring\0"
    SENDER = b"sender\0\0"


@value
class Seal:
    """The seal of one item, taken apart."""

    key: bytes
    signature: bytes
    sides: int
    path: tuple[bytes, ...]

    @classmethod
    def decode(cls, data: bytes) -> Seal:
        """Read a seal. Raises :class:`Malformed` for any length or side bit that no signer would
        have written."""
        steps, rest = divmod(len(data) - _FIXED_BYTES, HASH_BYTES)
        if rest or not 0 <= steps <= MAX_PROOF_STEPS:
            raise Malformed(
                f"a seal of {len(data)} bytes; expected {_FIXED_BYTES} plus 0 to "
                f"{MAX_PROOF_STEPS} steps of 32"
            )
        sides = int.from_bytes(data[_FIXED_BYTES - _SIDES_BYTES : _FIXED_BYTES], "big")
        if sides >> steps:
            raise Malformed(f"a seal whose sides name more than its {steps} steps")
        return cls(
            data[:KEY_BYTES],
            data[KEY_BYTES : KEY_BYTES + SIGNATURE_BYTES],
            sides,
            tuple(
                [data[at : at + HASH_BYTES] for at in range(_FIXED_BYTES, len(data), HASH_BYTES)]
            ),
        )

    def encode(self) -> bytes:
        """The bytes that :meth:`decode` reads."""
        return (
            self.key
            + self.signature
            + self.sides.to_bytes(_SIDES_BYTES, "big")
            + b"".join(self.path)
        )

    def root(self, item: bytes) -> bytes:
        """The Merkle root that this seal claims ``item`` belongs to."""
        digest, sides, sha256 = _leaf(item), self.sides, hashlib.sha256
        for step in self.path:
            digest = sha256(
                b"\x01" + step + digest if sides & 1 else b"\x01" + digest + step
            ).digest()
            sides >>= 1
        return digest


def _leaf(item: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + len(item).to_bytes(8, "big") + item).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _signed_input(context: Context, key: bytes, root: bytes) -> bytes:
    return MAGIC + context.value + key + root


def seal(key: Signer, context: Context, items: Sequence[bytes]) -> list[bytes]:
    """Seal 1 to 1,024 ``items`` with one signature; return each one's encoded seal, in order.

    Raises :class:`InvalidInput` for none or too many.
    """
    if not 1 <= len(items) <= MAX_BATCH:
        raise InvalidInput(
            f"{len(items)} items to seal at once", hint=f"seal 1 to {MAX_BATCH} at a time"
        )
    levels = [[_leaf(item) for item in items]]
    while len(levels[-1]) > 1:
        below = levels[-1]
        pairs = zip(below[::2], below[1::2], strict=False)
        levels.append([_node(left, right) for left, right in pairs] + below[len(below) & ~1 :])
    ((root,),) = levels[-1:]
    public = key.public.raw
    signature = key.sign(_signed_input(context, public, root))
    # From the root down: a node's proof is its neighbour, and then its parent's proof.
    proofs = [(0, b"")]
    for level in reversed(levels[:-1]):
        below_proofs = []
        for at in range(len(level)):
            sides, steps = proofs[at >> 1]
            if at ^ 1 < len(level):
                sides, steps = sides << 1 | at & 1, level[at ^ 1] + steps
            below_proofs.append((sides, steps))
        proofs = below_proofs
    begin = public + signature
    return [begin + sides.to_bytes(_SIDES_BYTES, "big") + steps for sides, steps in proofs]


class Verifier:
    """Verifies seals, and remembers the last few thousand roots that held: a burst then costs one
    signature check.

    So does a stamp, which is met again as a parent. An envelope that is sealed alone is not met
    again, and is not remembered. Only seals that held are remembered, with their signature, so the
    memory cannot make anything valid. Not safe across threads.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[Hashable, None] = {}
        """Signatures with the bytes they are over, and other facts that follow from one."""

    def verify(self, context: Context, sealed: Seal, item: bytes) -> bool:
        """Whether ``sealed`` is a valid seal of its key over ``item``. Whose key it is, is for the
        caller to judge."""
        signed = _signed_input(context, sealed.key, sealed.root(item))
        if not sealed.path and context is not Context.STAMP:
            return verify(sealed.key, signed, sealed.signature)
        if sealed.signature + signed in self._held:
            return True
        if not verify(sealed.key, signed, sealed.signature):
            return False
        self.keep(sealed.signature + signed)
        return True

    def knows(self, fact: Hashable) -> bool:
        """Whether ``fact`` was given to :meth:`keep`, not too long ago."""
        return fact in self._held

    def remember(self, context: Context, encoded: bytes, item: bytes) -> None:
        """Remember a seal that this process has just made with a key of its own."""
        sealed = Seal.decode(encoded)
        self.keep(sealed.signature + _signed_input(context, sealed.key, sealed.root(item)))

    def keep(self, held: Hashable) -> None:
        """Remember a fact that a valid signature has shown. It has to name everything that was
        signed."""
        if len(self._held) >= _VERIFIED_ROOTS:
            del self._held[next(iter(self._held))]
        self._held[held] = None


def sign_connect(key: SigningKey, challenge: bytes, admission: bytes) -> bytes:
    """The 64-byte answer to nats-server's challenge, which also binds the admission text.

    The challenge is never signed bare: a server that picks challenges would otherwise get
    signatures over bytes of its choice. Nor one with a line feed in it, which could be read as a
    shorter challenge and more of an admission text: raises :class:`InvalidInput`.
    """
    if b"\n" in challenge:
        raise InvalidInput(
            "the server's challenge has a line feed in it",
            hint="this is not nats-server: do not answer it",
        )
    return Seal.decode(seal(key, Context.CONNECT, [challenge + b"\n" + admission])[0]).signature


def verify_connect(key: bytes, *, challenge: bytes, admission: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is ``key``'s answer to ``challenge`` for exactly this ``admission``
    text."""
    if len(key) != KEY_BYTES or len(signature) != SIGNATURE_BYTES or b"\n" in challenge:
        return False
    return Verifier().verify(
        Context.CONNECT, Seal(key, signature, 0, ()), challenge + b"\n" + admission
    )
