"""How fast a bot may send on a subject: the generic cell rate algorithm (ITU-T I.371), one number a bot and rule.

Time is an argument, and is the arrival's, so a backlog that waited for a relay is judged by when it was sent. The memory is bounded by
the policy's bots and subjects, is only touched behind a seal that held, and may be lost with the relay.
"""

from __future__ import annotations

from sealbus_broker.gate.policy import Rate


class RateMeters:
    """Remembers, for each bot and rule, the time up to which its allowance is used."""

    __slots__ = ("_used_until",)

    def __init__(self) -> None:
        # Whole nanoseconds: a float of today's milliseconds is 0.2 µs coarse, which at 5,000/s lets extra messages through.
        self._used_until: dict[tuple[str, str], int] = {}

    def allow(self, bot: str, pattern: str, rate: Rate, at_ms: int) -> bool:
        """Whether one more message at ``at_ms`` is within ``rate``; if so, it is counted."""
        at, interval = at_ms * 1_000_000, round(1e9 / rate.per_second)
        used_until = max(self._used_until.get((bot, pattern), 0), at)
        if used_until - at > interval * (rate.burst - 1):
            return False
        self._used_until[bot, pattern] = used_until + interval
        return True
