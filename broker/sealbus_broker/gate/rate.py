"""How fast a bot may send on a subject: the generic cell rate algorithm (ITU-T I.371).

It keeps one number for each bot and rule. Time is an argument, the arrival's, so a backlog that
waited for a relay is judged by the times at which it was sent. The time never goes back. A message
that is delivered again after a relay died comes behind messages that arrived later, and counts as
if it had arrived with the last of them. The memory is bounded by the policy's bots and subjects. It
is touched only behind a seal that holds, and may be lost with the relay.

An attacker on a bot's wire can send the bot's messages again and again. The ledger refuses such
copies, but it stands behind the rate. So bytes that were counted once are not counted against the
bot's rate again. Copies have an allowance of their own, of the same size, and a new message passes
whatever becomes of them.
"""

from __future__ import annotations

from typing import Final

from sealbus_broker.gate.policy import Rate
from sealbus_broker.gate.shares import Shares

REMEMBERED: Final = 65_536
"""How many messages are known to have been counted. At 1,000 a second on subjects with a rate,
these are the messages of a minute, which is an envelope's default life. They take about 11 MB. A
copy of an older message counts as new."""


class RateMeters:
    """Remembers, for each bot and rule, the time up to which its allowance is used."""

    __slots__ = ("_counted", "_used_until", "shares")

    def __init__(self) -> None:
        # In whole nanoseconds: a float of today's milliseconds has steps of 0.2 µs, which would let
        # extra messages through at 5,000 a second.
        self._used_until: dict[tuple[str, str, bool], tuple[int, int]] = {}
        """For each bot, rule and copies or not, the time up to which the allowance is used, and the
        newest arrival (ns since 1970)."""
        self._counted: dict[bytes, None] = {}
        """The digests that were counted, in their order."""
        self.shares = Shares()
        """The bytes that were stored for each bot."""

    def allow(
        self,
        bot: str,
        pattern: str,
        rate: Rate,
        at_ms: int,
        digest: bytes | None = None,
        count: int = 1,
    ) -> bool:
        """Whether ``count`` more messages at ``at_ms`` are within ``rate``. If so, all are counted,
        and otherwise none.

        ``digest``: of their envelope, so that a copy does not count as a new one. No two bots have
        the same envelope, because it is sealed.
        """
        meter = bot, pattern, digest in self._counted
        used_until, newest = self._used_until.get(meter, (0, 0))
        at = max(at_ms * 1_000_000, newest)
        interval = round(1e9 / rate.per_second)
        # The policy may have another rate now. At this one, the messages until the newest have used
        # the whole burst at most. Otherwise a burst at a slow rate would be held against a quick
        # one. It changes nothing while the rate is the same.
        used_until = min(used_until, newest + interval * rate.burst)
        used_until = max(used_until, at)
        allowed = used_until - at <= interval * (rate.burst - count)
        self._used_until[meter] = (used_until + interval * count if allowed else used_until), at
        if not allowed:
            return False
        if digest is not None and not meter[2]:
            if len(self._counted) >= REMEMBERED:
                del self._counted[next(iter(self._counted))]
            self._counted[digest] = None
        return True
