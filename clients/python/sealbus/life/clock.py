"""How far this machine's clock is from the bus's, as stamps show it. Reads no clock.

A clock may be wrong when the bot connects, and it may jump later: after a suspended machine wakes
up, or when NTP sets it. So each stamp that a bot gets for a message of its own is looked at.
"""

from __future__ import annotations

from typing import Final

from sealbus.log import log

NAMED_MS: Final = 1000
"""A smaller difference is no cause to name: clocks that are kept by NTP differ by some
milliseconds."""


def behind_ms(judged_at_ms: int, sealed_at_ms: int, received_at_ms: int) -> int:
    """By how much this machine's clock is behind the bus's, at least; negative if it is ahead; 0 if
    they may agree.

    A message is judged after it was sealed and before its stamp is received. With clocks that
    agree, ``judged_at_ms``, by the bus's clock, lies between the other two, by this machine's:
    however long the message waited.
    """
    if judged_at_ms > received_at_ms:
        return judged_at_ms - received_at_ms
    return min(0, judged_at_ms - sealed_at_ms)


def told(behind: int) -> str | None:
    """A sentence about such a difference, or ``None`` where it is not worth one."""
    if abs(behind) < NAMED_MS:
        return None
    return (
        f"this machine's clock is {abs(behind) / 1000:.0f} s "
        f"{'behind' if behind > 0 else 'ahead of'} the bus's"
    )


class Clock:
    """The newest word on this machine's clock. The sender tells it of stamps, and others ask."""

    def __init__(self, bot: str) -> None:
        """``bot``: its name, for the log."""
        self._bot = bot
        self._behind_ms = 0
        """By how much the clock is behind, as the log says."""

    @property
    def told(self) -> str | None:
        """A sentence about the difference; ``None``: none is known."""
        return told(self._behind_ms)

    def learn(self, *, judged_at_ms: int, sealed_at_ms: int, received_at_ms: int) -> int:
        """Take the times of a message that this machine sealed (ms since 1970).

        Returns :func:`behind_ms`. Logs a difference that begins, changes or ends.
        """
        behind = behind_ms(judged_at_ms, sealed_at_ms, received_at_ms)
        # A message that waited long hides a difference, up to the time that it waited. So it shows
        # neither that clocks agree nor how far they are apart, but only that they differ.
        is_quick = 0 <= received_at_ms - sealed_at_ms < NAMED_MS
        if is_quick or self.told is None:
            self._note(behind)
        return behind

    def _note(self, behind: int) -> None:
        before = self.told
        now = told(behind)
        if now is None and before is not None:
            log.warning("%s: this machine's clock agrees with the bus's again", self._bot)
        elif now is not None and (before is None or abs(behind - self._behind_ms) >= NAMED_MS):
            log.warning("%s: %s: set it, and keep it right with NTP", self._bot, now)
        else:
            return
        self._behind_ms = behind if now is not None else 0
