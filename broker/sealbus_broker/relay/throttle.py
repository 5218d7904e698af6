"""Log lines that strangers cause, so many and no more.

Whoever can reach the port can be refused as often as he likes, a thousand times a second. Of one kind, one line is written in
:data:`QUIET_S`, and of all kinds together :data:`LINES` in :data:`PERIOD_S`; each line says how many were left out before it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

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
        self._spoken: dict[Hashable, float] = {}
        self._left = lines
        self._since = monotonic()
        self._unsaid = 0

    def may_speak(self, kind: Hashable) -> int | None:
        """How many lines were left out since the last one, or ``None`` if this one is to be left out too."""
        now = self._monotonic()
        if now - self._since >= PERIOD_S:
            self._since, self._left = now, self._lines
        if self._left <= 0 or now - self._spoken.get(kind, -QUIET_S) < QUIET_S:
            self._unsaid += 1
            return None
        if len(self._spoken) >= KINDS:
            self._spoken.clear()
        self._left -= 1
        self._spoken[kind] = now
        unsaid, self._unsaid = self._unsaid, 0
        return unsaid
