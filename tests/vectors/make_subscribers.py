"""Vectors of a subscriber's memory and clock: what it hands on of several deliveries, one after another."""

from __future__ import annotations

from typing import Any, Final

from sealbus.delivery import pack_delivery
from sealbus.envelope import Header
from tests.gate.world import BUS_KEY, FORGED_BUS_KEY, NOW, PLACED, PULSE, envelope, nonce, sealed_stamp

HANDED: Final = "handed"
KNOWN: Final = "known"
REFUSED: Final = "refused"
IGNORED: Final = "ignored"

Step = tuple[str, bytes, int, str]
"""NATS subject, delivery, the subscriber's time, what becomes of it."""


def delivery(header: Header = PLACED, *, judged_at_ms: int = NOW, live: bool = False, **changes: Any) -> bytes:
    """A good delivery."""
    data = envelope(header, **changes)
    told = {name: value for name, value in changes.items() if name in ("bot", "nonce")}
    return pack_delivery(
        data, sealed_stamp(data, header, judged_at_ms=judged_at_ms, position=None if live else 7, **told)
    )


def subscribers() -> dict[str, Any]:
    """``subscribers.json``."""
    return {
        "bus": "shop",
        "bus_keys": [BUS_KEY.public.text],
        "sequences": [
            {
                "name": name,
                "kind": kind,
                "steps": [
                    {"subject": subject, "now_ms": now_ms, "delivery": data.hex(), "expect": expect}
                    for subject, data, now_ms, expect in steps
                ],
            }
            for name, kind, steps in sequences()
        ],
    }


def sequences() -> list[tuple[str, str, list[Step]]]:
    """Name, kind of subscription, steps."""
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
                (stored, pack_delivery(forged, sealed_stamp(forged, key=FORGED_BUS_KEY)), NOW, REFUSED),
                ("accepted.orders.shipped", order, NOW, REFUSED),
                (stored, order, NOW, HANDED),
            ],
        ),
        ("a stored message of a week ago", "durable", [(stored, order, NOW + 7 * 86_400_000, HANDED)]),
        ("a copy of a live message", "live", [(live, pulse, NOW, HANDED), (live, pulse, NOW + 5, KNOWN)]),
        ("a stream message as it passes by", "live", [("bus.orders.placed", order, NOW, HANDED)]),
        ("60 s old", "live", [(live, pulse, NOW + 60_000, HANDED)]),
        ("60 s and 1 ms old", "live", [(live, pulse, NOW + 60_001, REFUSED)]),
        ("stamped ahead of this clock", "live", [(live, pulse, NOW - 90_000, HANDED)]),
        (
            "a message that was too old is not remembered",
            "live",
            [(live, pulse, NOW + 60_001, REFUSED), (live, pulse, NOW + 1, HANDED)],
        ),
        ("on another subject", "live", [("bus.pulse.other", pulse, NOW, REFUSED)]),
        ("without bytes: a probe of the relay", "live", [(live, b"", NOW, IGNORED), (live, pulse, NOW, HANDED)]),
    ]
