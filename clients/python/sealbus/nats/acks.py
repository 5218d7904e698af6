"""JetStream's acknowledgements: the subject that comes with a delivery, and the answers to it.

The subject is the reply subject of each delivery. nats-server writes its own knowledge of the
message into it, so it can be relied on where the message itself cannot::

    $JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<consumer sequence>.<stored, ns>.<pending>
    $JS.ACK.<domain>.<account>.<stream>.<consumer>.<deliveries>.<sequence>.<consumer sequence>
        .<stored, ns>.<pending>[.<random>]

The second form (one subject, wrapped here) is that of servers with a domain, or with the feature
flag ``js_ack_fc_v2``. The time is that of the message in the stream: the same for every consumer,
replica and delivery.

The answers are published on that subject: :data:`ACK`, :data:`IN_PROGRESS` and :func:`nak`.
"""

from __future__ import annotations

import json
from typing import Final, NamedTuple

PREFIX: Final = "$JS.ACK"

ACK: Final = b"+ACK"
"""The message is done. The consumer never delivers it again."""

IN_PROGRESS: Final = b"+WPI"
"""The message is being worked on: the consumer's ``ack_wait`` begins anew."""

NAK: Final = b"-NAK"
"""The message is not done: the consumer delivers it again at once."""

_FIRST: Final = PREFIX.encode().split(b".")
_SHORT: Final = 9
_LONG: Final = (11, 12)
_MAX_DIGITS: Final = 19
"""Digits of 2**63 - 1: more than any sequence or time has. ``int()`` takes quadratic time over
longer text, and raises from 4,301 digits on."""


class Ack(NamedTuple):
    """nats-server's words about a delivery."""

    stream: bytes
    consumer: bytes
    """Stream and consumer that the message comes from. Anybody can send to an inbox, so a
    subscription compares both with its own."""
    deliveries: int
    """How often the message was delivered to this consumer, this time included."""
    sequence: int
    """The message's place in the stream."""
    stored_ms: int
    """When the stream stored the message, in ms since 1970 by the server's clock."""


def read_ack(reply: bytes) -> Ack | None:
    """Take an acknowledgement subject apart; ``None`` for anything else."""
    tokens = reply.split(b".")
    if tokens[:2] != _FIRST:
        return None
    if len(tokens) == _SHORT:
        stream, consumer, *numbers = tokens[2:9]
    elif len(tokens) in _LONG:
        stream, consumer, *numbers = tokens[4:11]
    else:
        return None
    if not all(number.isdigit() and len(number) <= _MAX_DIGITS for number in numbers):
        return None
    deliveries, sequence, _, stored_ns, _ = map(int, numbers)
    return Ack(stream, consumer, deliveries, sequence, stored_ns // 1_000_000)


def ack_subjects(stream: str, consumer: str) -> str:
    """The pattern of all acknowledgement subjects of ``consumer``, in the short form."""
    return f"{PREFIX}.{stream}.{consumer}.>"


def nak(seconds: float = 0.0) -> bytes:
    """The answer that has a message delivered again after ``seconds``."""
    return NAK + b" " + json.dumps({"delay": int(seconds * 1e9)}).encode() if seconds else NAK
