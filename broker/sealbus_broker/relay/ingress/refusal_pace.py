"""How long a greedy bot waits after its refusals.

A refusal costs a relay as much as an acceptance, and no stream slows it down. So a bot whose share
is full, and that goes on, would have all the time that others leave, and each of their messages
would wait for it (ADR 53).

This module is pure: it reads no clock.
"""

from __future__ import annotations

from typing import Final

MOST_REFUSED: Final = 200
"""How many envelopes a second a relay refuses of one greedy bot: as many as it bears of worthless
ones (``flood_meter.MOST_WORTHLESS``). Each takes up to 0.2 ms, so all take a twenty-fifth of its
time."""

BURST_S: Final = 0.1
"""For how many seconds of them a bot does not wait. They are two or three pieces of a bundle, so a
bot that is refused now and then never waits."""


class RefusalPace:
    """Remembers the refusals of each bot."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        """By bot, until when its refusals take at :data:`MOST_REFUSED` a second."""

    def note(self, bot: str, refused: int, now: float) -> None:
        """Take the envelopes of a bot that were refused at the time ``now`` (monotonic clock)."""
        until = max(self._until.get(bot, now), now) + refused / MOST_REFUSED
        self._until = {one: at for one, at in self._until.items() if at > now} | {bot: until}

    def wait_s(self, bot: str, now: float) -> float:
        """Return how many seconds the next envelopes of a bot wait."""
        return max(0.0, self._until.get(bot, now) - now - BURST_S)
