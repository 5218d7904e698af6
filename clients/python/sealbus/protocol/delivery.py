"""A delivery to a subscriber, and everything that the subscriber checks before it believes it.

A delivery is msgpack ``[envelope bin, stamp bin]``. NATS delivers whatever reaches a subject; only
the bus's stamp makes it a message.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final, TypeVar

from sealbus.errors import Malformed
from sealbus.protocol.codec import FieldTypes, pack_fields, unpack_fields, unpack_json
from sealbus.protocol.envelope import Envelope, Parent
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import Stamp, Verdict, open_stamp
from sealbus.protocol.value import value
from sealbus.typed import read

T = TypeVar("T")


@value
class Message:
    """One accepted message. Everything in it is covered by the bus's seal."""

    subject: str
    bot: str
    """Who sent it: proven to the relay by that bot's seal."""
    payload: Any
    """The decoded payload: ``None``, ``bool``, ``int``, ``float``, ``str``, ``list`` or
    ``dict``."""
    nonce: bytes
    issued_at_ms: int
    stamp: Stamp
    envelope: Envelope
    stamp_data: bytes
    attempt: int = 1
    """How often it was given to a handler of this durable subscription, this time included. Always
    1 for a live message."""

    def as_(self, kind: type[T]) -> T:
        """The payload as a ``kind``: a dataclass, an attrs class or a pydantic model.

        Raises :class:`Malformed` with the place of a misfit: a missing or unknown field, a
        value of another type.
        """
        return read(self.payload, kind)

    def as_parent(self, *, with_envelope: bool = False) -> bytes:
        """The parent in the header of a message that answers this one or follows from it.

        ``with_envelope``: whether a rule of the policy compares payloads (``match``) and so needs
        this one's.
        """
        return Parent(self.stamp_data, self.envelope.data if with_envelope else None).encode()


_TYPES: Final = FieldTypes(((bytes,), (bytes,)))


def pack_delivery(envelope: bytes, stamp: bytes) -> bytes:
    """The relay's bytes for subscribers."""
    return pack_fields((envelope, stamp))


def split_delivery(data: bytes) -> tuple[bytes, bytes]:
    """Envelope and stamp of a delivery, unverified. Raises :class:`Malformed`."""
    envelope, stamp = unpack_fields(data, _TYPES)
    return envelope, stamp


def open_delivery(
    data: bytes,
    subject: str,
    *,
    bus: str,
    bus_keys: frozenset[bytes],
    verifier: Verifier,
    attempt: int = 1,
) -> Message:
    """Turn received bytes into a message, or raise :class:`Malformed` that names the check that
    failed.

    In order: the bytes are exactly an envelope and a stamp; the stamp is sealed by a key of the bus
    that the reader pinned; it is of this bus, says *accepted*, and is about this envelope; it is
    for the very ``subject`` on which the bytes arrived; the envelope says the same of itself; the
    payload is one exact value.
    """
    envelope_data, stamp_data = split_delivery(data)
    stamp = open_stamp(stamp_data, bus_keys, verifier)
    if stamp.bus != bus:
        raise Malformed("stamped for another bus")
    if stamp.verdict is not Verdict.ACCEPTED:
        raise Malformed("stamped, but not as accepted")
    if stamp.subject != subject:
        raise Malformed("stamped for another subject than it arrived on")
    if hashlib.sha256(envelope_data).digest() != stamp.envelope:
        raise Malformed("the stamp is about another envelope")
    envelope = Envelope.decode(envelope_data)
    header = envelope.header
    stamped = (bus, stamp.bot, subject, stamp.nonce)
    if (header.bus, header.bot, header.subject, header.nonce) != stamped:
        raise Malformed("envelope and stamp disagree")
    return Message(
        subject=subject,
        bot=header.bot,
        payload=unpack_json(envelope.payload),
        nonce=header.nonce,
        issued_at_ms=header.issued_at_ms,
        stamp=stamp,
        envelope=envelope,
        stamp_data=stamp_data,
        attempt=attempt,
    )
