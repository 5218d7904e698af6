"""The envelope: one or more messages of one bot on one subject, as the bot sends them.

On the wire it is msgpack ``[version, header bin, parent, payloads, seal bin]``. The header is a
msgpack array of nine fields in fixed places, each always there::

    bus str · bot str · subject str · nonce bin(16) · issued-at int (ms) · time-to-live int (ms)
    · schema str | nil · schema-version int | nil · certificate bin(106) | nil

The certificate says whose the sealing key is (:mod:`sealbus.protocol.certificate`). Without one,
the sealing key is an enrolled key of the bot itself.

``parent`` is nil or a bin: the message from which this one follows (:class:`Parent`). ``payloads``
is an array of 1 to 256 bins. Each is a *salt*, 16 random bytes, and then one encoded value. An
envelope with a parent has one payload.

The seal is over the *outline*, which names each part by its hash::

    outline = count of payloads (2) || hash of the header || hash of the parent
              || hash of payload 0 || hash of payload 1 || …

    hash of the header      = SHA-256(0x02 || header)
    hash of the parent      = SHA-256(0x03 || parent), or SHA-256(0x04) where there is none
    hash of payload i       = SHA-256(0x05 || i (2) || payload)
    digest of the envelope  = SHA-256(0x06 || outline || seal)

So the parent or a payload can be *withheld*: its hash stands in its place, as an array of one bin.
Outline, seal and digest stay the same. A relay withholds what readers need not see: the payloads
that it refused, and a parent that it has judged. The salt keeps a withheld payload secret, because
nobody can try out values against its hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from types import NoneType
from typing import Any, Final, NamedTuple

from sealbus.errors import InvalidInput, Malformed
from sealbus.protocol.certificate import SessionKey, certificate_problem
from sealbus.protocol.codec import FieldTypes, pack_fields, unpack_array, unpack_fields
from sealbus.protocol.keys import KEY_BYTES, Signer
from sealbus.protocol.limits import (
    MAX_ENVELOPE_BYTES,
    MAX_HEADER_BYTES,
    MAX_PARENT_BYTES,
    MAX_PAYLOADS,
    MAX_SCHEMA_VERSION,
    MAX_SHOWN_BYTES,
    MAX_TIME_MS,
    MAX_TTL_MS,
    NONCE_BYTES,
    PROTOCOL_VERSION,
    SALT_BYTES,
)
from sealbus.protocol.nonces import birth_ms
from sealbus.protocol.seal import HASH_BYTES, Context, Seal, seal
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
_ENVELOPE_TYPES: Final = FieldTypes(((int,), (bytes,), (NoneType, bytes, list), (list,), (bytes,)))
_PARENT_TYPES: Final = FieldTypes(((bytes,), (int,), (bytes, NoneType)))

_HEADER: Final = b"\x02"
_PARENT: Final = b"\x03"
_PAYLOADS: Final = [b"\x05" + at.to_bytes(2, "big") for at in range(MAX_PAYLOADS)]
"""What each part's hash begins with. No part passes for one of another kind or at another place,
and none passes for a node of the seal's tree, whose hashes begin with 0x00 and 0x01."""

_DIGEST: Final = b"\x06"
_NO_PARENT: Final = hashlib.sha256(b"\x04").digest()


@value
class Header:
    """The facts about a message: its bot, bus, subject, nonce, time and kind, and who vouches for
    the key that seals it."""

    bus: str
    bot: str
    subject: str
    nonce: bytes
    issued_at_ms: int
    ttl_ms: int
    schema: str | None = None
    schema_version: int | None = None
    certificate: bytes | None = None
    """The session certificate of the sealing key. ``None``: an enrolled key has sealed."""

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
        if self.certificate is not None:
            return certificate_problem(self.certificate)
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
                self.certificate,
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
    parent: bytes | None
    """Still encoded. ``None``: there is none, or it is withheld."""
    payloads: list[bytes | None]
    """The values, still encoded: the header is judged first. ``None``: the payload is withheld."""
    seal: Seal
    outline: bytes
    """The bytes that the seal is over."""
    digest: bytes
    """SHA-256 of outline and seal (32 bytes). Stamps name the envelope by it."""
    data: bytes
    """The whole envelope, as received."""

    @property
    def enrolled(self) -> bytes:
        """The raw enrolled key (32 bytes) that answers for it: its certificate's, or the one that
        has sealed it. Whether that holds is for the caller to verify."""
        certificate = self.header.certificate
        return self.seal.key if certificate is None else certificate[:KEY_BYTES]

    @classmethod
    def decode(cls, data: bytes) -> Envelope:
        """Take a whole envelope apart, as a bot sends it: nothing is withheld.

        Raises :class:`Malformed`. The seal is *not* verified here.
        """
        if len(data) > MAX_ENVELOPE_BYTES:
            raise Malformed(f"envelope of {len(data)} bytes; at most {MAX_ENVELOPE_BYTES}")
        fields = _split(data)
        if type(fields[2]) is list or not all(type(payload) is bytes for payload in fields[3]):
            raise Malformed("an envelope in which something is withheld")
        return cls._of(fields, data)

    @classmethod
    def decode_shown(cls, data: bytes) -> Envelope:
        """Take an envelope apart in which parts may be withheld, as relays pass it on.

        Raises :class:`Malformed`. Its digest says whether it is the envelope that a stamp names;
        which parts may be withheld, is for the caller to judge.
        """
        if len(data) > MAX_SHOWN_BYTES:
            raise Malformed(f"envelope of {len(data)} bytes; at most {MAX_SHOWN_BYTES}")
        return cls._of(_split(data), data)

    @classmethod
    def _of(cls, fields: list[Any], data: bytes) -> Envelope:
        _, header, parent, payloads, sealed = fields
        outline = _outline(header, parent, payloads)
        return cls(
            Header.decode(header),
            parent if type(parent) is bytes else None,
            [payload[SALT_BYTES:] if type(payload) is bytes else None for payload in payloads],
            Seal.decode(sealed),
            outline,
            hashlib.sha256(_DIGEST + outline + sealed).digest(),
            data,
        )

    @property
    def hides_parent(self) -> bool:
        """Whether its parent is withheld."""
        return self.parent is None and self.part(1) != _NO_PARENT

    def part(self, at: int) -> bytes:
        """The hash of a part: 0 is the header, 1 the parent, and 2 the first payload."""
        begin = 2 + HASH_BYTES * at
        return self.outline[begin : begin + HASH_BYTES]

    def withhold(self, payloads: Collection[int], *, parent: bool) -> bytes:
        """The same envelope with these ``payloads`` withheld, and with its ``parent`` withheld
        too."""
        hides_parent = parent and self.parent is not None
        if not payloads and not hides_parent:
            return self.data
        fields = _split(self.data)
        if hides_parent:
            fields[2] = [self.part(1)]
        for at in payloads:
            fields[3][at] = [self.part(2 + at)]
        return pack_fields(fields)


def _split(data: bytes) -> list[Any]:
    """Version, header, parent, payloads and seal of an envelope in any form, in the exact
    encoding."""
    fields = unpack_array(data, _ENVELOPE_TYPES, MAX_PAYLOADS)
    if fields[0] != PROTOCOL_VERSION:
        raise Malformed(f"version {PROTOCOL_VERSION} expected")
    payloads = fields[3]
    if not payloads:
        raise Malformed("an envelope without payloads")
    if fields[2] is not None and len(payloads) != 1:
        raise Malformed(f"a parent and {len(payloads)} payloads; expected one payload")
    if type(fields[2]) is bytes and len(fields[2]) > MAX_PARENT_BYTES:
        raise Malformed(f"parent of {len(fields[2])} bytes; at most {MAX_PARENT_BYTES}")
    return fields


def _outline(header: bytes, parent: Any, payloads: Sequence[Any]) -> bytes:
    sha256 = hashlib.sha256
    parts = [len(payloads).to_bytes(2, "big"), sha256(_HEADER + header).digest()]
    if parent is None:
        parts.append(_NO_PARENT)
    elif type(parent) is bytes:
        parts.append(sha256(_PARENT + parent).digest())
    else:
        hidden = _hidden(parent)
        if hidden == _NO_PARENT:
            raise Malformed("a parent that is withheld although there is none")
        parts.append(hidden)
    for prefix, payload in zip(_PAYLOADS, payloads, strict=False):
        if type(payload) is not bytes:
            parts.append(_hidden(payload))
        elif len(payload) < SALT_BYTES:
            raise Malformed(f"a payload without its salt of {SALT_BYTES} bytes")
        else:
            parts.append(sha256(prefix + payload).digest())
    return b"".join(parts)


def _hidden(part: Any) -> bytes:
    """The hash that stands for a withheld part."""
    if type(part) is not list or len(part) != 1 or type(part[0]) is not bytes:
        raise Malformed("a part of an envelope is neither bytes nor withheld")
    hidden: bytes = part[0]
    if len(hidden) != HASH_BYTES:
        raise Malformed(f"the hash of a withheld part has {len(hidden)} bytes; expected 32")
    return hidden


@value
class Draft:
    """An envelope that is not sealed yet."""

    header: Header
    payloads: Sequence[bytes]
    """1 to 256, each a salt of 16 random bytes and one encoded value. A message that is sealed
    again keeps its salt, because relays compare hashes."""
    parent: bytes | None = None
    """An encoded :class:`Parent`. Then there is one payload."""


class SealedEnvelope(NamedTuple):
    """An envelope that was sealed."""

    data: bytes
    """Its bytes."""
    digest: bytes
    """Its digest, by which receipts name it."""


def seal_envelopes(by: SessionKey | Signer, drafts: Sequence[Draft]) -> list[SealedEnvelope]:
    """Seal 1 to 1,024 drafts with one signature; return the envelopes, in order.

    A session key puts its certificate into the headers. Any other key leaves them as they are.

    Raises :class:`InvalidInput` for a header outside the grammar, a number of payloads outside the
    limits, or a parent or an envelope over its size limit.
    """
    headers = [draft.header for draft in drafts]
    key: Signer
    if isinstance(by, SessionKey):
        key = by.key
        headers = [replace(header, certificate=by.certificate) for header in headers]
    else:
        key = by
    parts = [
        (header.encode(), draft.parent, list(draft.payloads))
        for header, draft in zip(headers, drafts, strict=True)
    ]
    for _, parent, payloads in parts:
        if parent is not None and len(parent) > MAX_PARENT_BYTES:
            raise InvalidInput(f"a parent of {len(parent)} bytes; at most {MAX_PARENT_BYTES}")
        if not 1 <= len(payloads) <= (MAX_PAYLOADS if parent is None else 1):
            raise InvalidInput(f"an envelope with {len(payloads)} payloads")
    outlines = [_outline(*part) for part in parts]
    seals = seal(key, Context.ENVELOPE, outlines)
    envelopes = [
        SealedEnvelope(
            pack_fields((PROTOCOL_VERSION, *part, sealed)),
            hashlib.sha256(_DIGEST + outline + sealed).digest(),
        )
        for part, outline, sealed in zip(parts, outlines, seals, strict=True)
    ]
    for data, _ in envelopes:
        if len(data) > MAX_ENVELOPE_BYTES:
            raise InvalidInput(
                f"the envelope would have {len(data)} bytes; at most {MAX_ENVELOPE_BYTES}",
                hint="send a smaller payload, or where it can be fetched and its hash",
            )
    return envelopes


@value
class Parent:
    """The message from which another one follows: the relay's sealed stamp of its envelope, and its
    place there.

    Where a rule must compare payloads, it quotes the message: the envelope with all other payloads
    withheld.
    """

    stamp: bytes
    index: int = 0
    """The place of its payload in the envelope."""
    quote: bytes | None = None
    """The envelope, in which only this payload is shown."""

    def encode(self) -> bytes:
        """The bytes of an envelope's parent."""
        return pack_fields((self.stamp, self.index, self.quote))

    @classmethod
    def decode(cls, data: bytes) -> Parent:
        """Read a parent. Raises :class:`Malformed`; nothing in it is verified here."""
        parent = cls(*unpack_fields(data, _PARENT_TYPES))
        if not 0 <= parent.index < MAX_PAYLOADS:
            raise Malformed(f"a parent with the index {parent.index}")
        return parent
