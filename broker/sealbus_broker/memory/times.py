"""Times as nats-server writes them."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from typing import Final

NS_PER_S: Final = 1_000_000_000

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)")
_UNITS_NS: Final = {
    "ns": 1,
    "us": 10**3,
    "ms": 10**6,
    "s": NS_PER_S,
    "m": 60 * NS_PER_S,
    "h": 3600 * NS_PER_S,
}


def now_ns() -> int:
    """Nanoseconds since 1970 UTC."""
    return time.time_ns()


def rfc3339(at_ns: int) -> str:
    """A time with nanoseconds, such as ``2026-11-26T08:00:00.000000000Z``."""
    seconds, rest = divmod(at_ns, NS_PER_S)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def read_rfc3339(text: str) -> int:
    """The nanoseconds of a time. Raises :class:`ValueError`."""
    whole = datetime.fromisoformat(text)
    # Not timestamp() * 10**9: a float does not hold so many digits.
    return int(whole.timestamp()) * NS_PER_S + whole.microsecond * 1000


def read_pause(text: bytes) -> int | None:
    """The nanoseconds that a ``-NAK`` names: ``{"delay": 1000}`` or ``1.5s``. ``None``: none."""
    if text.startswith(b"{"):
        try:
            return int(json.loads(text)["delay"])
        except (ValueError, KeyError, TypeError):
            return None
    parts = _DURATION.findall(text.decode("latin-1"))
    return int(sum(float(number) * _UNITS_NS[unit] for number, unit in parts)) if parts else None
