"""Log lines that strangers cause, so many and no more.

Whoever can reach the port can be refused as often as he likes, a thousand times a second. Of one kind, the first
:data:`FIRST` lines are written, and then one in :data:`QUIET_S`; of all kinds together :data:`LINES` in :data:`PERIOD_S`.
Each line says how many were left out before it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

FIRST: Final = 5
"""Lines of one kind that are all written, until there was none for PERIOD_S: a few tries of a person are told one by one."""

QUIET_S: Final = 10.0
"""Between two lines of one kind: soon enough to see what goes on while it goes on."""

LINES: Final = 60
PERIOD_S: Final = 60.0
"""A line has at most some 350 bytes: 30 MB a day, however many logins are refused for however many reasons."""

KINDS: Final = 4096
"""Kinds that are remembered. A stranger may name as many bots as he likes: beyond this, all are forgotten at once."""


class Throttle:
    """Says whether a line may be written, and how many were not."""

    def __init__(self, monotonic: Callable[[], float], *, lines: int = LINES) -> None:
        self._monotonic = monotonic
        self._lines = lines
        self._spoken: dict[Hashable, tuple[float, int]] = {}
        """Of each kind, when its last line was written, and how many were."""
        self._left = lines
        self._since = monotonic()
        self._unsaid = 0

    def may_speak(self, kind: Hashable) -> int | None:
        """How many lines were left out since the last one, or ``None`` if this one is to be left out too."""
        now = self._monotonic()
        if now - self._since >= PERIOD_S:
            self._since, self._left = now, self._lines
        last, count = self._spoken.get(kind, (now, 0))
        if now - last >= PERIOD_S:
            count = 0
        if self._left <= 0 or (count >= FIRST and now - last < QUIET_S):
            self._unsaid += 1
            return None
        if len(self._spoken) >= KINDS:
            self._spoken.clear()
        self._left -= 1
        self._spoken[kind] = now, count + 1
        unsaid, self._unsaid = self._unsaid, 0
        return unsaid
