"""The acknowledgement subject of a delivery from JetStream: what nats-server itself says of the message.

::

    $JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<consumer sequence>.<stored, ns>.<pending>
    $JS.ACK.<domain>.<account>.<stream>.<consumer>.<deliveries>.<sequence>.<consumer sequence>.<stored, ns>.<pending>[.<random>]

The second form is that of servers with a domain, or with the feature flag ``js_ack_fc_v2``. The time is that of the message in the
stream: the same for every consumer, replica and delivery.
"""

from __future__ import annotations

from typing import Final, NamedTuple

_SHORT: Final = 9
_LONG: Final = (11, 12)
_MAX_DIGITS: Final = 19
"""Digits of the largest number that a server writes; Python would take its time over more."""


class Ack(NamedTuple):
    """What stands in it."""

    stream: bytes
    consumer: bytes
    deliveries: int
    """How often the message was delivered to this consumer, this time included."""
    sequence: int
    """Its place in the stream."""
    stored_ms: int
    """When the stream stored it, in ms since 1970 by the server's clock."""


def read_ack(reply: bytes) -> Ack | None:
    """Take an acknowledgement subject apart; ``None`` for anything else."""
    tokens = reply.split(b".")
    if tokens[:2] != [b"$JS", b"ACK"]:
        return None
    if len(tokens) == _SHORT:
        stream, consumer, *numbers = tokens[2:8]
    elif len(tokens) in _LONG:
        stream, consumer, *numbers = tokens[4:10]
    else:
        return None
    if not all(number.isdigit() and len(number) <= _MAX_DIGITS for number in numbers):
        return None
    deliveries, sequence, _, stored_ns = map(int, numbers)
    return Ack(stream, consumer, deliveries, sequence, stored_ns // 1_000_000)
