"""The keyring: the bus's list of its own keys, by which a bot follows from an old key to a new one.

The list is a chain of *links*. Each names a key and the one that follows it, and is sealed by the
first of the two. So whoever trusts one key of the chain can trust all later ones. A link on the
wire is msgpack ``[version, body bin, seal bin]``; the body is a msgpack array of six fields in
fixed places::

    bus str · number int · old bin(32) · new bin(32) · from int (ms) · end int (ms)

Relays seal with the new key from ``from`` on. The old key may judge until ``end``, so that relays
need not change in one moment. The list is msgpack ``[version, [link bin, …]]``.

This module reads, and takes nobody's word: :func:`open_keyring` says that a list is one chain.
Whether it leads to keys that a reader trusts is for :mod:`sealbus.trust`. A chain proves nothing
against somebody who has one of its private keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sealbus.errors import Malformed
from sealbus.protocol.codec import FieldTypes, pack_fields, unpack_array
from sealbus.protocol.keys import KEY_BYTES, SigningKey
from sealbus.protocol.limits import (
    MAX_KEYRING_BYTES,
    MAX_LINK_BYTES,
    MAX_LINKS,
    MAX_TIME_MS,
    PROTOCOL_VERSION,
)
from sealbus.protocol.seal import Context, Verifier
from sealbus.protocol.sealed import open_body, seal_bodies
from sealbus.protocol.subjects import is_name
from sealbus.protocol.value import value

_BODY_TYPES: Final = FieldTypes(((str,), (int,), (bytes,), (bytes,), (int,), (int,)))
_LIST_TYPES: Final = FieldTypes(((int,), (list,)))


@value
class Link:
    """From one key of a bus to the next."""

    bus: str
    number: int
    """1 for the first link of a bus, and one more for each that follows."""
    old: bytes
    """Raw public key (32 bytes), which has sealed the link."""
    new: bytes
    """Raw public key (32 bytes) that follows it."""
    from_ms: int
    """When relays begin to seal with the new key."""
    end_ms: int
    """The last time at which the old key may judge."""

    def encode(self) -> bytes:
        """The body's bytes."""
        return pack_fields(
            (self.bus, self.number, self.old, self.new, self.from_ms, self.end_ms),
        )

    @classmethod
    def decode(cls, data: bytes) -> Link:
        """Read a body. Raises :class:`Malformed`."""
        bus, number, old, new, begin, end = unpack_array(data, _BODY_TYPES)
        if not is_name(bus):
            raise Malformed("keyring: the bus is not a name")
        if not 1 <= number <= MAX_TIME_MS:
            raise Malformed(f"keyring: a link with the number {number}; expected 1 or more")
        if not len(old) == len(new) == KEY_BYTES:
            raise Malformed(f"keyring: a key that has not {KEY_BYTES} bytes")
        if not 0 <= begin <= end <= MAX_TIME_MS:
            raise Malformed("keyring: the old key ends before the new one begins, or never")
        return cls(bus, number, old, new, begin, end)


def seal_link(key: SigningKey, link: Link) -> bytes:
    """``link``, sealed with the private half of its old key."""
    return seal_bodies(key, Context.KEYRING, [link.encode()])[0]


def open_link(data: bytes) -> Link:
    """A link that its old key has sealed. Whose key that is, is for the caller to judge.

    Raises :class:`Malformed` if the bytes are not a link, another key has sealed it, or the seal
    does not hold.
    """
    # One of its own, because a list is read once, and not for each message.
    body, key = open_body(data, None, Verifier(), context=Context.KEYRING, most=MAX_LINK_BYTES)
    link = Link.decode(body)
    if key != link.old:
        raise Malformed("keyring: a link that its old key has not sealed")
    return link


def pack_keyring(links: Sequence[bytes]) -> bytes:
    """The list of 1 to 32 sealed links, in order."""
    return pack_fields((PROTOCOL_VERSION, list(links)))


def split_keyring(data: bytes) -> list[bytes]:
    """The sealed links of a list, unverified. Raises :class:`Malformed`."""
    if len(data) > MAX_KEYRING_BYTES:
        raise Malformed(f"keyring of {len(data)} bytes; at most {MAX_KEYRING_BYTES}")
    version, links = unpack_array(data, _LIST_TYPES, MAX_LINKS)
    if version != PROTOCOL_VERSION:
        raise Malformed(f"version {PROTOCOL_VERSION} expected")
    if not links or not all(type(link) is bytes for link in links):
        raise Malformed(f"keyring: expected 1 to {MAX_LINKS} links in bytes")
    return list(links)


def open_keyring(data: bytes, bus: str) -> tuple[Link, ...]:
    """The links of a list, oldest first: one chain of keys of ``bus``.

    Raises :class:`Malformed` that names the rule which the list breaks: see :func:`check_chain`.
    """
    links = tuple([open_link(one) for one in split_keyring(data)])
    check_chain(links, bus)
    return links


def check_chain(links: Sequence[Link], bus: str) -> None:
    """Raise :class:`Malformed` unless ``links`` are one chain.

    All are about ``bus``. Each has the next number, and begins with the key that the one before
    leads to. No key comes twice. A later key begins later, and an older one does not outlive it.
    """
    seen: set[bytes] = set()
    before: Link | None = None
    for link in links:
        if link.bus != bus:
            raise Malformed("keyring: a link of another bus")
        if before is not None:
            if link.number != before.number + 1:
                raise Malformed("keyring: the numbers of its links have a gap")
            if link.old != before.new:
                raise Malformed("keyring: a link that does not begin where the last one ends")
            if link.from_ms <= before.from_ms or link.end_ms < before.end_ms:
                raise Malformed("keyring: the times of its links are out of order")
        seen.add(link.old)
        if link.new in seen:
            raise Malformed("keyring: a key that comes back")
        before = link
