"""A delivery to a subscriber, and everything that the subscriber checks before it believes it.

A delivery is msgpack ``[envelope bin, stamp bin]``, or ``[envelope bin, stamp bin, links bin]``
where the sender's key follows others (:mod:`sealbus.protocol.sender_links`). NATS delivers whatever
reaches a subject; only the bus's stamp makes it a message. The payloads that the stamp refuses are
withheld from the envelope, and no others: whoever passes a delivery on could take out accepted ones
otherwise. Nothing seals the links as a whole. Each has a signature of its own, which a subscriber
that pins the sender verifies.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

from sealbus.errors import Malformed
from sealbus.protocol.codec import FieldTypes, pack_fields, unpack_fields, unpack_json
from sealbus.protocol.envelope import Envelope, Parent
from sealbus.protocol.seal import Verifier
from sealbus.protocol.sender_links import split_links
from sealbus.protocol.stamp import Stamp, Verdict, open_stamp
from sealbus.protocol.value import value
from sealbus.typed import read

T = TypeVar("T")


@value
class Message:
    """One accepted message. The bus's seal covers everything in it but ``links`` and
    ``attempt``."""

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
    links: bytes = b""
    """The sender links of its delivery, unverified, the newest first."""
    index: int = 0
    """Its place in the envelope. Sender, nonce and index together name a message."""
    attempt: int = 1
    """How often it was given to a handler of this durable subscription, this time included. Always
    1 for a live message."""

    @property
    def id(self) -> str:
        """The message's name on this bus: ``<bot>.<nonce in hex>.<index>``. The message has it at
        each attempt. No other message has it, unless its own bot uses a nonce twice
        (``docs/threats.md``)."""
        return f"{self.bot}.{self.nonce.hex()}.{self.index}"

    def as_(self, kind: type[T]) -> T:
        """The payload as a ``kind``: a dataclass, an attrs class or a pydantic model.

        An ``int`` may have come as a float without a fraction, such as 2.0.

        Raises :class:`Malformed` with the place of a misfit: a missing or unknown field, a
        value of another type. Raises :class:`InvalidInput` if no value can be read as a ``kind``.
        """
        return read(self.payload, kind)

    def as_parent(self, *, with_envelope: bool = False) -> bytes:
        """The parent of a message that answers this one or follows from it.

        ``with_envelope``: whether a rule of the policy compares payloads (``match``) and so needs
        this one's.
        """
        quote = None
        if with_envelope:
            others = [at for at in range(self.stamp.count) if at != self.index]
            quote = self.envelope.withhold(others, parent=True)
        return Parent(self.stamp_data, self.index, quote).encode()


_TYPES: Final = FieldTypes(((bytes,), (bytes,)))
_LINKED_TYPES: Final = FieldTypes(((bytes,), (bytes,), (bytes,)))
_LINKED: Final = b"\x93"
"""How a delivery with links begins: an array of three."""


def pack_delivery(envelope: bytes, stamp: bytes, links: bytes = b"") -> bytes:
    """The relay's bytes for subscribers. ``links``: 1 to 8 sender links, or nothing."""
    return pack_fields((envelope, stamp, links) if links else (envelope, stamp))


def split_delivery(data: bytes) -> tuple[bytes, bytes]:
    """Envelope and stamp of a delivery, unverified. Raises :class:`Malformed`."""
    envelope, stamp, _ = split_linked(data)
    return envelope, stamp


def split_linked(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Envelope, stamp and links of a delivery, unverified. Raises :class:`Malformed`."""
    if data[:1] != _LINKED:
        envelope, stamp = unpack_fields(data, _TYPES)
        return envelope, stamp, b""
    envelope, stamp, links = unpack_fields(data, _LINKED_TYPES)
    split_links(links)
    return envelope, stamp, links


def open_delivery(
    data: bytes,
    subject: str,
    *,
    bus: str,
    bus_keys: frozenset[bytes],
    verifier: Verifier,
    attempt: int = 1,
) -> list[Message]:
    """Turn received bytes into messages, at least one and in order, or raise :class:`Malformed`
    that names the check that failed.

    In order: the bytes are exactly an envelope, a stamp and perhaps links; the stamp is sealed by a
    key of the bus that the reader pinned; it is of this bus, says *accepted*, and is for the very
    ``subject`` on which the bytes arrived; it is about this envelope; the envelope says the same of
    itself; it withholds exactly the payloads that the stamp refuses; each other payload is one
    exact value. The signatures of the links are not verified here.
    """
    envelope_data, stamp_data, links = split_linked(data)
    stamp = open_stamp(stamp_data, bus_keys, verifier)
    if stamp.bus != bus:
        raise Malformed("stamped for another bus")
    if stamp.verdict is not Verdict.ACCEPTED:
        raise Malformed("stamped, but not as accepted")
    if stamp.subject != subject:
        raise Malformed("stamped for another subject than it arrived on")
    envelope = Envelope.decode_shown(envelope_data)
    if envelope.digest != stamp.envelope:
        raise Malformed("the stamp is about another envelope")
    header = envelope.header
    stamped = (bus, stamp.bot, subject, stamp.nonce)
    if (header.bus, header.bot, header.subject, header.nonce) != stamped:
        raise Malformed("envelope and stamp disagree")
    withheld = [at for at, payload in enumerate(envelope.payloads) if payload is None]
    if len(envelope.payloads) != stamp.count or withheld != [one.index for one in stamp.refused]:
        raise Malformed("an accepted payload is withheld, or a refused one shown")
    return [
        Message(
            subject=subject,
            bot=header.bot,
            payload=unpack_json(payload),
            nonce=header.nonce,
            issued_at_ms=header.issued_at_ms,
            stamp=stamp,
            envelope=envelope,
            stamp_data=stamp_data,
            links=links,
            index=index,
            attempt=attempt,
        )
        for index, payload in enumerate(envelope.payloads)
        if payload is not None
    ]
