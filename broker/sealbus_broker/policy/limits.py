"""``limits:`` of a policy: name, form and range of each, with reasons for the ranges."""

from __future__ import annotations

from typing import Any, Final

from sealbus.own import QUESTION_TTL_MS
from sealbus.protocol.limits import (
    MAX_CONSUMERS,
    MAX_ENVELOPE_BYTES,
    MAX_SESSION_KEY_MS,
    MAX_TTL_MS,
)
from sealbus_broker.gate.policy import MOST_PARTITIONS, REPLICAS, Limits
from sealbus_broker.policy.reader import Reader

MIN_TIME_MS: Final = 100
"""Shortest time-to-live, wait or retention: below it a message dies on an ordinary network."""

MAX_TIME_MS: Final = 366 * 86_400_000
"""Longest wait, session or retention: a year. A longer one is a typing error."""

MIN_SESSION_MS: Final = 10_000
"""Shortest session: renewing one takes a second or two."""

MIN_SESSION_KEY_MS: Final = 300_000
"""Shortest ``session_key``: a bot makes a new key every four minutes."""

MIN_POLICY_AGE_MS: Final = 10_000
"""Shortest ``policy_age``. A relay looks at its folder every two seconds, and a disk may stall for
some."""

MIN_KEY_AGE_MS: Final = 3_600_000
"""Shortest ``key_age``: a person replaces keys, and no oftener than each hour."""

MAX_KEY_AGE_MS: Final = 10 * MAX_TIME_MS
"""Longest ``key_age``: ten years, as long as a machine runs."""

MIN_STORE_BYTES: Final = 1024**2
"""Smallest stream: it holds at least one message of the largest size."""

MAX_STORE_BYTES: Final = 2**50
"""Largest stream: 1,024 TiB, more than nats-server runs with."""

MAX_ATTEMPTS: Final = 1000
"""Most attempts: with the longest pause between two of them, about half a day."""

PAYLOAD: Final = (1, MAX_ENVELOPE_BYTES)
"""Range of ``payload_bytes``. The shortest payload has one byte: a small number or ``null``."""

MIN_WAITING: Final = 64
"""Fewest messages of a bot that may wait: as many as a client sends in one turn of its loop."""

MAX_WAITING: Final = 10**9
"""Most messages of a bot that may wait. INGRESS is full long before."""

MIN_CONNECTIONS: Final = 2
"""Fewest sessions of a bot. A bot that renews its session has two for a moment."""

MAX_CONNECTIONS: Final = 8128
"""Most sessions of a bot: as many as a nats-server takes from bots
(``sealbus_broker.nats.config``).
"""

MIN_FLOOD: Final = 1000
"""Fewest messages a second that end a bot's sessions. A process of the client library sends as many
when it publishes in bursts, or acknowledges."""

MAX_FLOOD: Final = 10**9
"""Most of them. No server takes as many, so nothing is watched."""

MIN_FLOOD_BYTES: Final = 8 * 1024**2
"""Fewest bytes a second that end a bot's sessions: sixty of the largest messages."""

_ODD: Final = "a stream works only while more than half of its nodes run"

_SIZE: Final = (MIN_STORE_BYTES, MAX_STORE_BYTES)
_TIME: Final = (MIN_TIME_MS, MAX_TIME_MS)

RANGES: Final = {
    # An envelope cannot carry a longer one (MAX_TTL_MS).
    "ttl": (MIN_TIME_MS, MAX_TTL_MS),
    # No bot could connect with a shorter one.
    "live_ttl": (QUESTION_TTL_MS, MAX_TTL_MS),
    "clock_skew": (0, MAX_TIME_MS),
    "ingress_wait": _TIME,
    "session": (MIN_SESSION_MS, MAX_TIME_MS),
    "session_key": (MIN_SESSION_KEY_MS, MAX_SESSION_KEY_MS),
    "policy_age": (MIN_POLICY_AGE_MS, MAX_TIME_MS),
    "key_age": (MIN_KEY_AGE_MS, MAX_KEY_AGE_MS),
    "retention": _TIME,
    "accepted_bytes": _SIZE,
    "ingress_bytes": _SIZE,
    "quarantine_bytes": _SIZE,
    "live_bytes": _SIZE,
    "payload_bytes": PAYLOAD,
    "ingress_messages": (MIN_WAITING, MAX_WAITING),
    "bot_share": (1, 100),
    "attempts": (1, MAX_ATTEMPTS),
    "subscriptions": (1, MAX_CONSUMERS),
    "connections": (MIN_CONNECTIONS, MAX_CONNECTIONS),
    "replicas": (REPLICAS[0], REPLICAS[-1]),
    "partitions": (1, MOST_PARTITIONS),
    "flood_messages": (MIN_FLOOD, MAX_FLOOD),
    "flood_bytes": (MIN_FLOOD_BYTES, MAX_STORE_BYTES),
}
"""Each limit, as it is written in the file, with its least and its greatest value."""

_COUNTS: Final = frozenset(
    {
        "ingress_messages",
        "bot_share",
        "attempts",
        "subscriptions",
        "connections",
        "replicas",
        "partitions",
        "flood_messages",
    }
)


def read_limits(reader: Reader, value: Any) -> Limits:
    """The limits of a policy, with the defaults. Their problems are noted."""
    numbers: dict[str, int] = {}
    for name, text in reader.mapping(value, ("limits",), list(RANGES)).items():
        path, (least, most) = ("limits", name), RANGES[name]
        if name in _COUNTS:
            number = reader.count(text, path, name, least, most)
            field = name
            if name == "replicas" and number is not None and number not in REPLICAS:
                _refuse_even(reader, path, number)
        elif name.endswith("_bytes"):
            number = reader.size(text, path, name, least, most)
            field = name
        else:
            number = reader.duration(text, path, name, least, most)
            field = f"{name}_ms"
        if number is not None:
            numbers[field] = number
    return Limits(**numbers)


def _refuse_even(reader: Reader, path: tuple[str, ...], number: int) -> None:
    """Refuse two and four replicas, which look safer than one and three, and are not."""
    what = f"{number} replicas are no safer than {number - 1}"
    reader.problem(
        path, what, got=number, expected=", ".join(str(one) for one in REPLICAS), hint=_ODD
    )
