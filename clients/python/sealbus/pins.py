"""Pinned senders: the enrolled keys by which a subscriber believes a bot itself.

By default a subscriber believes the bus: a relay has verified the sender's seal, and has stamped
the message. A thief of the bus key can stamp a forged message. A *pin* is an enrolled key of
another bot, which the subscriber got beforehand. It believes messages of that bot only if a pinned
key has sealed them, or has certified the session key that did.

**A pin follows a rotation.** The sender's old key signs a link to the new one
(:mod:`sealbus.protocol.sender_links`), and each delivery under the new key has it. So the new key
counts like the pinned one, if a chain of links leads to it from there. Nothing is kept: the links
are followed anew for each message, and the verifier remembers those that held. Without the links a
message under the new key is refused, as one by a stranger is.

In the credentials::

    [senders]
    order = ["U…"]                            # or several, while the bot gets a new one
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sealbus.errors import InvalidInput, Malformed
from sealbus.protocol.certificate import Certificate
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.keys import KeyKind, PublicKey
from sealbus.protocol.limits import CERTIFICATE_AHEAD_MS
from sealbus.protocol.seal import Context, Verifier
from sealbus.protocol.sender_links import split_links
from sealbus.protocol.subjects import NAME_HINT, RELAY, is_name

MAX_SENDERS: Final = 1024
"""The most bots whose keys are pinned. A bot hears fewer."""

MAX_PINS: Final = 16
"""The most keys of one bot, as in its key file."""

Pins = Mapping[str, frozenset[bytes]]
"""By bot: the raw public keys (32 bytes each) that may answer for its messages."""


def read_pins(value: object) -> dict[str, frozenset[bytes]]:
    """Read the table ``senders`` of credentials. Raises :class:`InvalidInput`."""
    if not isinstance(value, dict) or len(value) > MAX_SENDERS:
        raise InvalidInput(
            f"senders must be a table of at most {MAX_SENDERS} bots",
            hint='write [senders] and below it order = ["U…"]',
        )
    pins: dict[str, frozenset[bytes]] = {}
    for bot, keys in value.items():
        if not is_name(bot):
            raise InvalidInput("senders has an invalid name of a bot", hint=NAME_HINT)
        if bot == RELAY:
            raise InvalidInput(
                f"senders has {RELAY}, which is the name of the relays",
                hint="bus_keys has their keys",
            )
        if not isinstance(keys, list) or not 1 <= len(keys) <= MAX_PINS:
            raise InvalidInput(f"senders.{bot} must be a list of 1 to {MAX_PINS} public keys (U…)")
        pins[bot] = frozenset(
            PublicKey.parse(key if isinstance(key, str) else "", KeyKind.BOT).raw for key in keys
        )
    return pins


HINT: Final = (
    "did the sender get another key without a link? `sealbus keys pins BOT` prints the keys of"
    " today for the credentials; if an operator did not change its key, somebody else has sealed"
    " this, and has the bus key"
)
"""The remedy, where a pinned sender is not believed."""


def check_sender(
    envelope: Envelope, pins: frozenset[bytes], verifier: Verifier, links: bytes = b""
) -> None:
    """Raise :class:`Malformed` unless a key of ``pins`` answers for ``envelope``, or a key that
    follows one by ``links``.

    Its certificate must have been valid when the envelope was issued, by the bot's own clock.
    ``links``: those of the delivery, whose form was checked.
    """
    header, seal = envelope.header, envelope.seal
    if header.certificate is not None:
        certificate = Certificate.decode(header.certificate)
        begin, end = certificate.not_before_ms, certificate.not_before_ms + certificate.life_ms
        if not begin - CERTIFICATE_AHEAD_MS <= header.issued_at_ms <= end:
            raise Malformed("pinned sender: issued outside the time of its session key")
        if not certificate.holds(verifier, bus=header.bus, bot=header.bot, key=seal.key):
            raise Malformed("pinned sender: the certificate is not for this session key")
    if envelope.enrolled not in pins:
        _follow(envelope, pins, verifier, links)
    if not verifier.verify(Context.ENVELOPE, seal, envelope.outline):
        raise Malformed("pinned sender: the seal does not hold")


def _follow(envelope: Envelope, pins: frozenset[bytes], verifier: Verifier, links: bytes) -> None:
    """Raise :class:`Malformed` unless ``links`` lead from a key of ``pins`` to the enrolled key of
    ``envelope``."""
    header, key = envelope.header, envelope.enrolled
    for link in split_links(links) if links else []:
        if not link.holds(verifier, bus=header.bus, bot=header.bot, new=key):
            raise Malformed("pinned sender: a link that its old key has not signed", hint=HINT)
        if link.old in pins:
            return
        key = link.old
    raise Malformed("pinned sender: another key than the pinned ones", hint=HINT)
