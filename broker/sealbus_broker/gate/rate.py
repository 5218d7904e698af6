"""How fast a bot may send on a subject: the generic cell rate algorithm (ITU-T I.371), one number a bot and rule.

Time is an argument, and is the arrival's, so a backlog that waited for a relay is judged by when it was sent. It never goes back: what is
delivered again, after a relay died, comes behind messages that arrived later, and counts as if it had arrived with the last of them. The
memory is bounded by the policy's bots and subjects, is only touched behind a seal that held, and may be lost with the relay.

Whoever holds a bot's wire can send what the bot said again and again. The ledger refuses such copies, but stands behind the rate. So the
very bytes that were counted once are not counted against the bot's rate again: copies have an allowance of their own, of the same size, and
what is new passes whatever becomes of them.
"""

from __future__ import annotations

from typing import Final

from sealbus_broker.gate.policy import Rate
from sealbus_broker.gate.shares import Shares

REMEMBERED: Final = 65_536
"""Messages whose bytes are known to have been counted: a minute's worth, an envelope's default life, at 1,000 a second on subjects with a
rate. About 11 MB. A copy of an older one counts as new."""


class RateMeters:
    """Remembers, for each bot and rule, the time up to which its allowance is used."""

    __slots__ = ("_counted", "_used_until", "shares")

    def __init__(self) -> None:
        # Whole nanoseconds: a float of today's milliseconds is 0.2 µs coarse, which at 5,000/s lets extra messages through.
        self._used_until: dict[tuple[str, str, bool], tuple[int, int]] = {}
        """With the newest arrival that was asked about."""
        self._counted: dict[bytes, None] = {}
        """In the order in which they were counted."""
        self.shares = Shares()
        """What was stored for each bot, which whoever stores it says."""

    def allow(self, bot: str, pattern: str, rate: Rate, at_ms: int, digest: bytes | None = None) -> bool:
        """Whether one more message at ``at_ms`` is within ``rate``; if so, it is counted.

        ``digest``: of its bytes, so that a copy does not count as a new message. Each bot's are its own, because they are sealed.
        """
        meter = bot, pattern, digest in self._counted
        used_until, newest = self._used_until.get(meter, (0, 0))
        at = max(at_ms * 1_000_000, newest)
        interval = round(1e9 / rate.per_second)
        used_until = max(used_until, at)
        allowed = used_until - at <= interval * (rate.burst - 1)
        self._used_until[meter] = (used_until + interval if allowed else used_until), at
        if not allowed:
            return False
        if digest is not None and not meter[2]:
            if len(self._counted) >= REMEMBERED:
                del self._counted[next(iter(self._counted))]
            self._counted[digest] = None
        return True
