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
        self._used_until: dict[tuple[str, str], float] = {}

    def allow(self, bot: str, pattern: str, rate: Rate, at_ms: int) -> bool:
        """Whether one more message at ``at_ms`` is within ``rate``; if so, it is counted."""
        interval = 1000.0 / rate.per_second
        used_until = max(self._used_until.get((bot, pattern), 0.0), float(at_ms))
        if used_until - at_ms > interval * (rate.burst - 1) + 1e-6:
            return False
        self._used_until[bot, pattern] = used_until + interval
        return True
