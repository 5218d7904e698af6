"""The sender link: a bot's enrolled key names the key that follows it.

A subscriber that pins an old key of a sender follows such links to the new one
(:mod:`sealbus.pins`). The relay puts the links of the key that answers for a message into each of
its deliveries, the newest first. So a stored message has them for as long as it is stored, and a
subscriber keeps and asks for nothing. Whoever takes them out on the way has the delivery refused,
as if it had been lost. A link's 102 bytes are::

    old key (32) || signature (64) || at (6, ms since 1970)

The integer is big-endian. The signature is that of a seal by the old key, in the context
``sender`` and with an empty path. It is over a msgpack array, and the link does not repeat the
fields that stand beside it::

    bus str · bot str · old key bin(32) · new key bin(32) · at int (ms)

So a link fits two keys of one bot on one bus. It proves that the old key has named the new one, and
no more: whether the new key is the bot's at all is decided by the relay, from the operators' list.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from sealbus.errors import InvalidInput, Malformed
from sealbus.protocol.codec import pack_fields
from sealbus.protocol.keys import KEY_BYTES, SIGNATURE_BYTES, Signer
from sealbus.protocol.limits import MAX_SENDER_LINKS, SENDER_LINK_BYTES
from sealbus.protocol.seal import Context, Seal, Verifier, seal
from sealbus.protocol.value import value

_AT: Final = KEY_BYTES + SIGNATURE_BYTES

_LAST_MS: Final = 253_402_300_799_999
"""The end of the year 9999, which is the last year of a time as text (ms since 1970)."""


@value
class SenderLink:
    """A sender link, taken apart."""

    old: bytes
    """The raw public key (32 bytes) that has signed it."""
    signature: bytes
    at_ms: int
    """When it was made (ms since 1970), by the clock of whoever made it."""

    @classmethod
    def decode(cls, data: bytes) -> SenderLink:
        """Read a link. Raises :class:`Malformed`. Its signature is *not* verified here."""
        if len(data) != SENDER_LINK_BYTES:
            raise Malformed(
                f"a sender link has {len(data)} bytes; expected {SENDER_LINK_BYTES}",
            )
        return cls(data[:KEY_BYTES], data[KEY_BYTES:_AT], int.from_bytes(data[_AT:], "big"))

    def holds(self, verifier: Verifier, *, bus: str, bot: str, new: bytes) -> bool:
        """Whether its signature holds for the key ``new`` (32 raw bytes) of ``bot`` on ``bus``.

        ``verifier`` remembers it, so that the next message costs no check of a signature.
        """
        fact = (Context.SENDER, bus, bot, new, self.old, self.signature, self.at_ms)
        if verifier.knows(fact):
            return True
        item = _item(bus, bot, self.old, new, self.at_ms)
        held = verifier.verify(Context.SENDER, Seal(self.old, self.signature, 0, ()), item)
        if held:
            verifier.keep(fact)
        return held


def sign_link(old: Signer, new: bytes, *, bus: str, bot: str, at_ms: int) -> bytes:
    """A link from the key ``old`` to the raw public key ``new``: 102 bytes.

    ``at_ms``: the time of its making (ms since 1970).
    """
    public = old.public.raw
    item = _item(bus, bot, public, new, at_ms)
    signature = Seal.decode(seal(old, Context.SENDER, [item])[0]).signature
    return public + signature + at_ms.to_bytes(SENDER_LINK_BYTES - _AT, "big")


def split_links(data: bytes) -> list[SenderLink]:
    """The links of a delivery, the newest first, unverified.

    Raises :class:`Malformed` unless ``data`` is 1 to 8 links, one behind the other.
    """
    count, rest = divmod(len(data), SENDER_LINK_BYTES)
    if rest or not 1 <= count <= MAX_SENDER_LINKS:
        raise Malformed(
            f"sender links of {len(data)} bytes; expected 1 to {MAX_SENDER_LINKS} links of"
            f" {SENDER_LINK_BYTES}"
        )
    return [
        SenderLink.decode(data[at : at + SENDER_LINK_BYTES])
        for at in range(0, len(data), SENDER_LINK_BYTES)
    ]


def link_text(link: bytes) -> str:
    """A link as text: base64."""
    return base64.b64encode(link).decode()


def parse_link(text: object) -> bytes:
    """The bytes of a link that was written as text. Its signature is *not* verified here.

    Raises :class:`InvalidInput`, also where its time cannot be shown: whoever has the old key can
    put any date into a link.
    """
    try:
        data = base64.b64decode(str(text).encode(), validate=True)
        at_ms = SenderLink.decode(data).at_ms
    except (binascii.Error, Malformed):
        raise InvalidInput(
            "not a sender link, which is 136 characters of base64",
            hint="`sealbus keys sign-link` prints one",
        ) from None
    if at_ms > _LAST_MS:
        raise InvalidInput(
            "the sender link is dated after the year 9999",
            hint="`sealbus keys sign-link` dates a link by the clock: make it again",
        )
    return data


def _item(bus: str, bot: str, old: bytes, new: bytes, at_ms: int) -> bytes:
    return pack_fields((bus, bot, old, new, at_ms))
