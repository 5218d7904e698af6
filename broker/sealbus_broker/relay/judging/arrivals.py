"""From the messages of NATS to arrivals, which the gate judges one by one.

A NATS message has one envelope, or a bundle of several of the same bot. Each is an arrival of its
own, and is judged by itself.

Everything that is said of an arrival comes from the *server*: the subject, whose last token is the
bot that NATS let publish, and the acknowledgement subject, with the number of deliveries, the
sequence and the time. No header is read, because the bot writes the headers.
"""

from __future__ import annotations

from typing import Final

from sealbus.errors import Malformed
from sealbus.nats.acks import read_ack
from sealbus.protocol.codec import is_bundle, split_bundle
from sealbus.protocol.streams import INGRESS
from sealbus.protocol.value import value
from sealbus_broker.gate.policy import DeliveryClass
from sealbus_broker.gate.verdict import Arrival

_STREAM: Final = INGRESS.encode()


@value
class Place:
    """The facts that the server states about a message of the ingress stream."""

    session: str
    """The bot whose session published it."""
    deliveries: int
    """How often it was delivered, this time included."""
    position: int
    """Its sequence in INGRESS."""
    stored_ms: int
    """When INGRESS stored it, in ms since 1970 by the server's clock."""


def read_place(subject: bytes, reply: bytes) -> Place | None:
    """Read a message's subject, ``ingress.<partitions>.<partition>.<bot>``, and its acknowledgement
    subject. An earlier message has no number of partitions.

    Returns:
        The server's facts, or ``None`` for a message that does not come from INGRESS.
    """
    ack = read_ack(reply)
    tokens = subject.split(b".")
    if ack is None or ack.stream != _STREAM or len(tokens) not in (3, 4):
        return None
    return Place(_name(tokens[-1]), ack.deliveries, ack.sequence, ack.stored_ms)


def ingress_arrivals(place: Place, data: bytes) -> list[Arrival]:
    """Return the arrivals in a message pulled from INGRESS."""
    redelivered = place.deliveries > 1
    return [
        Arrival(
            place.session, one, DeliveryClass.STREAM, place.stored_ms, place.position, redelivered
        )
        for one in _envelopes(data)
    ]


def live_arrivals(subject: bytes, data: bytes, now_ms: int) -> tuple[str, list[Arrival]]:
    """Return the bot and the arrivals of a live message, which came on ``call.<bot>``."""
    session = live_session(subject)
    return session, [
        Arrival(session, one, DeliveryClass.LIVE, now_ms, None) for one in _envelopes(data)
    ]


def live_session(subject: bytes) -> str:
    """Return the bot whose session sent a live message, by its subject ``call.<bot>``."""
    return _name(subject.split(b".")[1])


def _envelopes(data: bytes) -> list[bytes]:
    """Take a message apart. A malformed bundle is one item, which the gate refuses as a whole."""
    if not is_bundle(data):
        return [data]
    try:
        return split_bundle(data)
    except Malformed:
        return [data]


def _name(token: bytes) -> str:
    # Bytes that are not UTF-8 become U+FFFD, which is in no bot's name.
    return token.decode("utf-8", "replace")
