"""Refusals of a bot's own questions to the bus, and whether it asks again.

A bot asks for its grants and its durable subscriptions, and cannot begin without them. So it asks
again where another relay, or a later moment, may accept the question. Each question that is asked
again is sealed anew, under another nonce.
"""

from __future__ import annotations

import asyncio
from typing import Final

from sealbus.outcomes import ABOUT_TIME, Refused
from sealbus.protocol.reason import OLDER_THAN_LEDGER, Reason

OLD_POLICY: Final = frozenset(
    {
        Reason.UNKNOWN_KEY,
        Reason.KEY_NOT_VALID,
        Reason.CERTIFICATE_MISSING,
        Reason.CERTIFICATE_NOT_VALID,
    }
)
"""Refusals of a bot that was admitted, by a relay that may not have the new policy yet."""

OLD_POLICY_S: Final = 10.0
"""How long they count as such. Relays follow their folders within two seconds, and a busy machine
takes longer."""

WRONG_CLOCK_S: Final = 5.0
"""How long a bot asks again although this machine's clock is wrong. NTP may be about to set it.
This is less than the time that ``connect()`` has by default, so its error names the clock."""

PAUSE_S: Final = 0.5
"""The pause before the bot asks again."""


class Insistence:
    """Decides about the refusals of one question, which is asked until it is answered. Made when
    the question is asked for the first time."""

    def __init__(self) -> None:
        self._time = asyncio.get_running_loop().time
        self._began = self._time()
        self._wrong_since: float | None = None
        """When a refusal showed that the clock is wrong, by the loop's clock. ``None``: the last
        one did not."""

    def pause_s(self, refused: Refused) -> float | None:
        """The pause in seconds before the question is asked again. ``None``: another question
        would be refused too."""
        if refused.reason is Reason.RATE:
            # Many processes of the bot ask at the same time. No pause: the pace of the subject has
            # kept the question until its time was over.
            return 0.0
        if refused.reason in OLD_POLICY:
            return self._pause_until(self._began + OLD_POLICY_S)
        if refused.reason not in ABOUT_TIME:
            return None
        if not _shows_wrong_clock(refused):
            # It came late, or waited too long, as on a bus that is busy. So this is like no answer.
            self._wrong_since = None
            return PAUSE_S
        if self._wrong_since is None:
            self._wrong_since = self._time()
        return self._pause_until(self._wrong_since + WRONG_CLOCK_S)

    def _pause_until(self, moment: float) -> float | None:
        return PAUSE_S if self._time() < moment else None


def _shows_wrong_clock(refused: Refused) -> bool:
    """Whether the cause of a refusal for its time is this machine's clock."""
    if refused.reason is Reason.STALE and refused.detail != OLDER_THAN_LEDGER:
        # The question waited too long for a relay, by the clock of the relay alone.
        return False
    return refused.clock is not None or refused.reason is Reason.ISSUED_IN_FUTURE
