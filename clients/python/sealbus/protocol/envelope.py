"""The envelope: a message as a bot sends it.

On the wire it is msgpack ``[version, header bin, payload bin, seal bin]``; the seal is over the
bytes before it. The header is a msgpack array of nine fields in fixed places, each always there::

    bus str · bot str · subject str · nonce bin(16) · issued-at int (ms) · time-to-live int (ms)
    · schema str | nil · schema-version int | nil · parent bin | nil

A parent is the message that this one answers or follows from: msgpack
``[stamp bin, envelope bin | nil]``, the relay's sealed stamp of that earlier message and, where a
rule must compare payloads, its envelope.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from types import NoneType
from typing import Final

from sealbus.errors import InvalidInput, Malformed
from sealbus.protocol.codec import (
    FieldTypes,
    join_sealed,
    pack_fields,
    signed_part,
    split_sealed,
    unpack_fields,
)
from sealbus.protocol.keys import SigningKey
from sealbus.protocol.limits import (
    MAX_ENVELOPE_BYTES,
    MAX_HEADER_BYTES,
    MAX_PARENT_BYTES,
    MAX_SCHEMA_VERSION,
    MAX_TIME_MS,
    MAX_TTL_MS,
    NONCE_BYTES,
)
from sealbus.protocol.nonces import birth_ms
from sealbus.protocol.seal import Context, Seal, seal
from sealbus.protocol.subjects import is_name, is_subject
from sealbus.protocol.value import value

_HEADER_TYPES: Final = FieldTypes(
    (
        (str,),
        (str,),
        (str,),
        (bytes,),
        (int,),
        (int,),
        (str, NoneType),
        (int, NoneType),
        (bytes, NoneType),
    )
)
_PARENT_TYPES: Final = FieldTypes(((bytes,), (bytes, NoneType)))


@value
class Header:
    """The facts about a message: its bot, bus, subject, nonce, time, kind and cause."""

    bus: str
    bot: str
    subject: str
    nonce: bytes
    issued_at_ms: int
    ttl_ms: int
    schema: str | None = None
    schema_version: int | None = None
    parent: bytes | None = None

    @property
    def birth_ms(self) -> int:
        """When its nonce was first used, as the nonce says."""
        return birth_ms(self.nonce)

    @property
    def schema_name(self) -> str | None:
        """``<schema>.v<version>``, or ``None`` where the header leaves the choice to the policy."""
        return None if self.schema is None else f"{self.schema}.v{self.schema_version}"

    def problem(self) -> str | None:
        """The first field outside the protocol's grammar and limits, if any."""
        if not is_name(self.bus):
            return "bus is not a name"
        if not is_name(self.bot):
            return "bot is not a name"
        if not is_subject(self.subject):
            return "subject is not a subject"
        if len(self.nonce) != NONCE_BYTES:
            return f"nonce has {len(self.nonce)} bytes; expected {NONCE_BYTES}"
        if not 0 <= self.issued_at_ms <= MAX_TIME_MS:
            return "issued-at is out of range"
        if not 1 <= self.ttl_ms <= MAX_TTL_MS:
            return "time-to-live is out of range"
        if (self.schema is None) != (self.schema_version is None):
            return "schema and schema-version go together"
        if self.schema is not None and not is_subject(self.schema):
            return "schema is not a schema's name"
        if self.schema_version is not None and not 1 <= self.schema_version <= MAX_SCHEMA_VERSION:
            return "schema-version is out of range"
        if self.parent is not None and len(self.parent) > MAX_PARENT_BYTES:
            return f"parent has {len(self.parent)} bytes; at most {MAX_PARENT_BYTES}"
        return None

    def encode(self) -> bytes:
        """The header's bytes. Raises :class:`InvalidInput` for a field that :meth:`problem`
        names."""
        problem = self.problem()
        if problem:
            raise InvalidInput(f"envelope header: {problem}")
        return pack_fields(
            (
                self.bus,
                self.bot,
                self.subject,
                self.nonce,
                self.issued_at_ms,
                self.ttl_ms,
                self.schema,
                self.schema_version,
                self.parent,
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """Read a header. Raises :class:`Malformed`."""
        if len(data) > MAX_HEADER_BYTES:
            raise Malformed(f"header of {len(data)} bytes; at most {MAX_HEADER_BYTES}")
        header = cls(*unpack_fields(data, _HEADER_TYPES))
        problem = header.problem()
        if problem:
            raise Malformed(f"header: {problem}")
        return header


@value
class Envelope:
    """An envelope as it was received: taken apart, with the exact bytes kept."""

    header: Header
    payload: bytes
    """Still encoded: the header is judged first."""
    seal: Seal
    signed: bytes
    """The bytes that the seal is over, as sent."""
    data: bytes
    """The whole envelope, as sent."""

    @classmethod
    def decode(cls, data: bytes) -> Envelope:
        """Take an envelope apart. Raises :class:`Malformed`; the seal is *not* verified here."""
        if len(data) > MAX_ENVELOPE_BYTES:
            raise Malformed(f"envelope of {len(data)} bytes; at most {MAX_ENVELOPE_BYTES}")
        (header, payload), signed, sealed = split_sealed(data, 2)
        return cls(Header.decode(header), payload, Seal.decode(sealed), signed, data)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the whole envelope (32 bytes). Stamps name the envelope by it."""
        return hashlib.sha256(self.data).digest()


def seal_envelopes(key: SigningKey, drafts: Sequence[tuple[Header, bytes]]) -> list[bytes]:
    """Seal 1 to 1,024 drafts (header, encoded payload) with one signature; return the envelopes'
    bytes, in order.

    Raises :class:`InvalidInput` for a header outside the grammar or an envelope over the size
    limit.
    """
    parts = [(header.encode(), payload) for header, payload in drafts]
    seals = seal(key, Context.ENVELOPE, [signed_part(part) for part in parts])
    envelopes = [join_sealed(part, sealed) for part, sealed in zip(parts, seals, strict=True)]
    for envelope in envelopes:
        if len(envelope) > MAX_ENVELOPE_BYTES:
            raise InvalidInput(
                f"the envelope would have {len(envelope)} bytes; at most {MAX_ENVELOPE_BYTES}",
                hint="send a smaller payload, or where it can be fetched and its hash",
            )
    return envelopes


@value
class Parent:
    """The message that this one answers or follows from, as it travels in a header."""

    stamp: bytes
    envelope: bytes | None = None

    def encode(self) -> bytes:
        """The bytes of the header's last field."""
        return pack_fields((self.stamp, self.envelope))

    @classmethod
    def decode(cls, data: bytes) -> Parent:
        """Read a parent. Raises :class:`Malformed`; nothing in it is verified here."""
        return cls(*unpack_fields(data, _PARENT_TYPES))
