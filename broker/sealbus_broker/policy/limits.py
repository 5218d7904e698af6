"""``limits:`` of a policy: the name, the form and the range of each, and the reasons for the ranges."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

from sealbus.limits import MAX_CONSUMERS, MAX_TTL_MS
from sealbus_broker.gate.policy import Limits
from sealbus_broker.policy.reader import Reader

MIN_TIME_MS: Final = 100
"""Shortest time-to-live, wait or retention: below it a message dies on an ordinary network."""

MAX_TIME_MS: Final = 366 * 86_400_000
"""Longest wait, session or retention: a year. A longer one is a typing error."""

MIN_SESSION_MS: Final = 10_000
"""Shortest session: renewing one takes a second or two."""

MIN_STORE_BYTES: Final = 1024**2
"""Smallest stream: it holds at least one message of the largest size."""

MAX_STORE_BYTES: Final = 2**50
"""Largest stream: 1,024 TiB, more than nats-server runs with."""

MAX_ATTEMPTS: Final = 1000
"""Most attempts: with the longest pause between two of them, about half a day."""

_COUNTS: Final = {"attempts": MAX_ATTEMPTS, "subscriptions": MAX_CONSUMERS}
"""Limits that are plain numbers, from 1 on, and the most that each may be."""

_SIZES: Final = frozenset({"accepted_bytes", "ingress_bytes", "quarantine_bytes", "live_bytes"})

_TIMES: Final = {
    # An envelope cannot carry more (protocol, limits).
    "ttl": (MIN_TIME_MS, MAX_TTL_MS),
    "live_ttl": (MIN_TIME_MS, MAX_TTL_MS),
    "clock_skew": (0, MAX_TIME_MS),
    "session": (MIN_SESSION_MS, MAX_TIME_MS),
}
"""Times whose range is not ``MIN_TIME_MS`` to ``MAX_TIME_MS``."""

NAMES: Final = tuple(field.name.removesuffix("_ms") for field in fields(Limits))
"""As they are written in the file, in the order of the document."""


def read_limits(reader: Reader, value: Any) -> Limits:
    """The limits of a policy, defaults included; what is wrong with them is noted."""
    numbers: dict[str, int] = {}
    for name, text in reader.mapping(value, ("limits",), NAMES).items():
        path = ("limits", name)
        if name in _COUNTS:
            number = reader.count(text, path, name, 1, _COUNTS[name])
        elif name in _SIZES:
            number = reader.size(text, path, name, MIN_STORE_BYTES, MAX_STORE_BYTES)
        else:
            least, most = _TIMES.get(name, (MIN_TIME_MS, MAX_TIME_MS))
            number = reader.duration(text, path, name, least, most)
        if number is not None:
            numbers[name if name in _SIZES or name in _COUNTS else f"{name}_ms"] = number
    return Limits(**numbers)
