"""Vectors of a subscriber's memory and clock.

A subscriber gets several deliveries, one after another, and passes on some of them.
"""

from __future__ import annotations

from typing import Any, Final

from sealbus.protocol.delivery import pack_delivery
from sealbus.protocol.envelope import Header
from tests.gate.world import (
    BUS_KEY,
    FORGED_BUS_KEY,
    NOW,
    ORDER,
    PLACED,
    PULSE,
    burst,
    envelope,
    nonce,
    sealed_stamp,
)
from tests.vectors.make_deliveries import shown

HANDED: Final = "handed"
KNOWN: Final = "known"
REFUSED: Final = "refused"
VOID: Final = "void"
IGNORED: Final = "ignored"

Outcome = str | list[str]
"""The outcome of a delivery. A list has the outcome of each of its messages, in order."""

Step = tuple[str, bytes, int, Outcome]
"""NATS subject, delivery, time, and outcome.

The time is the subscriber's own (live) or the time of storing (durable).
"""

LONG: Final = "$JS.ACK.here.abcdefgh"
"""The beginning of an acknowledgement subject at a server with a domain."""


def delivery(
    header: Header = PLACED, *, judged_at_ms: int = NOW, live: bool = False, **changes: Any
) -> bytes:
    """A good delivery."""
    data = envelope(header, **changes)
    told = {name: value for name, value in changes.items() if name in ("bot", "nonce")}
    return pack_delivery(
        data,
        sealed_stamp(data, header, judged_at_ms=judged_at_ms, position=None if live else 7, **told),
    )


def subscribers() -> dict[str, Any]:
    """``subscribers.json``."""
    return {
        "bus": "shop",
        "bus_keys": [BUS_KEY.public.text],
        "sequences": [
            {
                "name": name,
                "kind": kind.partition(" ")[0],
                "steps": [_told(kind, *step) for step in steps],
            }
            for name, kind, steps in (*sequences(), *bursts())
        ],
    }


def _told(kind: str, subject: str, data: bytes, at_ms: int, expect: Outcome) -> dict[str, Any]:
    if expect in (HANDED, KNOWN):
        expect = [str(expect)]
    told: dict[str, Any] = {"subject": subject, "delivery": data.hex(), "expect": expect}
    if kind == "live":
        return told | {"now_ms": at_ms}
    start, _, random = kind.partition(" ")[2].partition(" ")
    reply = f"{start or '$JS.ACK'}.ACCEPTED.order_n5udwvwoy7v2rhzy.1.7.5.{at_ms}999999.3"
    return told | {"reply": reply + (f".{random}" if random else "")}


def sequences() -> list[tuple[str, str, list[Step]]]:
    """The name, the kind of subscription, and the steps."""
    order, pulse = delivery(), delivery(PULSE, live=True)
    stored, live = "accepted.orders.placed", "bus.pulse.order"
    forged = envelope()
    return [
        ("a copy", "durable", [(stored, order, NOW, HANDED), (stored, order, NOW, KNOWN)]),
        (
            "a retry that got the stored stamp has the same nonce",
            "durable",
            [(stored, order, NOW, HANDED), (stored, delivery(issued_at_ms=NOW + 1), NOW, KNOWN)],
        ),
        (
            "another nonce",
            "durable",
            [(stored, order, NOW, HANDED), (stored, delivery(nonce=nonce("another")), NOW, HANDED)],
        ),
        (
            "another bot with the same nonce",
            "durable",
            [(stored, order, NOW, HANDED), (stored, delivery(bot="rival"), NOW, HANDED)],
        ),
        (
            "a refused copy leaves no memory",
            "durable",
            [
                (
                    stored,
                    pack_delivery(forged, sealed_stamp(forged, key=FORGED_BUS_KEY)),
                    NOW,
                    REFUSED,
                ),
                ("accepted.orders.shipped", order, NOW, REFUSED),
                (stored, order, NOW, HANDED),
            ],
        ),
        ("stored in the last millisecond", "durable", [(stored, order, NOW + 12_000, HANDED)]),
        ("stored too late", "durable", [(stored, order, NOW + 12_001, VOID)]),
        (
            "stored before it was judged, by another clock",
            "durable",
            [(stored, order, NOW - 2_000, HANDED)],
        ),
        (
            "a void message is not remembered: its sender's next attempt is handed on",
            "durable",
            [
                (stored, order, NOW + 12_001, VOID),
                (
                    stored,
                    delivery(issued_at_ms=NOW + 1, judged_at_ms=NOW + 13_000),
                    NOW + 13_001,
                    HANDED,
                ),
            ],
        ),
        (
            "at a server with a domain",
            f"durable {LONG}",
            [(stored, order, NOW + 12_001, VOID), (stored, order, NOW + 12_000, HANDED)],
        ),
        (
            "at a server with a domain that ends its subjects with a random token",
            f"durable {LONG} x7Yz",
            [(stored, order, NOW + 12_001, VOID), (stored, order, NOW + 12_000, HANDED)],
        ),
        (
            "a relay's own notes",
            "durable",
            [
                ("accepted.sealbus.genesis", b"", NOW, IGNORED),
                ("accepted.sealbus.closed", forged, NOW, IGNORED),
            ],
        ),
        (
            "a copy of a live message",
            "live",
            [(live, pulse, NOW, HANDED), (live, pulse, NOW + 5, KNOWN)],
        ),
        ("a stream message as it passes by", "live", [("bus.orders.placed", order, NOW, HANDED)]),
        (
            "a stream message of 10 s ago",
            "live",
            [("bus.orders.placed", order, NOW + 10_000, HANDED)],
        ),
        (
            "a stream message of 10 s and 1 ms ago",
            "live",
            [("bus.orders.placed", order, NOW + 10_001, VOID)],
        ),
        ("5 s old", "live", [(live, pulse, NOW + 5_000, HANDED)]),
        ("5 s and 1 ms old", "live", [(live, pulse, NOW + 5_001, VOID)]),
        ("stamped ahead of this clock", "live", [(live, pulse, NOW - 90_000, HANDED)]),
        (
            "a message that was too old is not remembered",
            "live",
            [(live, pulse, NOW + 5_001, VOID), (live, pulse, NOW + 1, HANDED)],
        ),
        (
            "a relay's own notes, as they pass by",
            "live",
            [("bus.sealbus.closed", forged, NOW, IGNORED)],
        ),
        ("on another subject", "live", [("bus.pulse.other", pulse, NOW, REFUSED)]),
        (
            "without bytes: a probe of the relay",
            "live",
            [(live, b"", NOW, IGNORED), (live, pulse, NOW, HANDED)],
        ),
    ]


def bursts() -> list[tuple[str, str, list[Step]]]:
    """Deliveries of several messages. Each message is remembered by itself."""
    stored, live = "accepted.orders.placed", "bus.pulse.order"
    three = burst(ORDER, 1, 2)
    whole, first, others = shown(three), shown(three, 1, 2), shown(three, 0)
    again = burst(ORDER, 1, 2, issued_at_ms=NOW + 1)
    another = burst(ORDER, 1, 2, nonce=nonce("another"))
    many = shown(burst(*range(256)))
    beats = burst(70, 71, header=PULSE)
    sealed = sealed_stamp(beats, PULSE, position=None, count=2)
    pulses = pack_delivery(beats, sealed)
    every = [HANDED] * 3
    beat = burst(70, header=PULSE)
    alone = pack_delivery(beat, sealed_stamp(beat, PULSE, position=None))
    return [
        ("a burst", "durable", [(stored, whole, NOW, every)]),
        (
            "a burst again",
            "durable",
            [(stored, whole, NOW, every), (stored, whole, NOW, [KNOWN] * 3)],
        ),
        (
            "a burst again, of which the first message is known",
            "durable",
            [
                (stored, first, NOW, [HANDED]),
                (stored, whole, NOW, [KNOWN, HANDED, HANDED]),
                (stored, whole, NOW, [KNOWN] * 3),
            ],
        ),
        (
            "a burst again, of which the last two messages are known",
            "durable",
            [
                (stored, others, NOW, [HANDED, HANDED]),
                (stored, first, NOW, [HANDED]),
                (stored, others, NOW, [KNOWN, KNOWN]),
            ],
        ),
        (
            "a burst that was sealed again",
            "durable",
            [(stored, whole, NOW, every), (stored, shown(again), NOW, [KNOWN] * 3)],
        ),
        (
            "another burst with the same payloads",
            "durable",
            [
                (stored, whole, NOW, every),
                (stored, shown(another, nonce=nonce("another")), NOW, every),
            ],
        ),
        (
            "one message, and then a burst under its nonce",
            "durable",
            [(stored, delivery(), NOW, HANDED), (stored, whole, NOW, [KNOWN, HANDED, HANDED])],
        ),
        (
            "256 messages twice",
            "durable",
            [(stored, many, NOW, [HANDED] * 256), (stored, many, NOW, [KNOWN] * 256)],
        ),
        (
            "a burst that was stored too late",
            "durable",
            [(stored, whole, NOW + 12_001, VOID), (stored, whole, NOW + 12_000, every)],
        ),
        (
            "a live burst",
            "live",
            [
                (live, pulses, NOW, [HANDED] * 2),
                (live, pulses, NOW + 5, [KNOWN] * 2),
                (live, pulses, NOW + 5_001, VOID),
            ],
        ),
        (
            "one live message, and then a live burst under its nonce",
            "live",
            [(live, alone, NOW, HANDED), (live, pulses, NOW, [KNOWN, HANDED])],
        ),
    ]
