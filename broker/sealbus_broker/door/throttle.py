"""A bound on the log lines that strangers cause.

A stranger who can reach the port can be refused a thousand times a second. Of one kind of line, the
first :data:`FIRST` are written, and then one in :data:`QUIET_S`. Of all kinds together,
:data:`LINES` are written in :data:`PERIOD_S`. Each line says how many were left out before it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

FIRST: Final = 5
"""How many lines of one kind are all written, so that a person sees a few attempts one by one. A
kind without a line for PERIOD_S begins again."""

QUIET_S: Final = 10.0
"""The pause between two further lines of one kind. It is short enough to follow an attack while it
lasts."""

LINES: Final = 60
"""How many lines are written in a period."""

PERIOD_S: Final = 60.0
"""How long a period is. A line has at most about 350 bytes, so the log grows by at most 30 MB a
day."""

KINDS: Final = 4096
"""How many kinds are remembered. A stranger may name any number of bots. Beyond this number, all
kinds are forgotten at once."""


class Throttle:
    """Says whether a line may be written, and how many were left out."""

    def __init__(self, monotonic: Callable[[], float], *, lines: int = LINES) -> None:
        self._monotonic = monotonic
        self._lines = lines
        self._spoken: dict[Hashable, tuple[float, int]] = {}
        """For each kind, when its last line was written, and how many were."""
        self._left = lines
        """How many lines may still be written in this period."""
        self._since = monotonic()
        """When this period began."""
        self._unsaid = 0
        """How many lines were left out since the last one."""

    def may_speak(self, kind: Hashable) -> int | None:
        """Return how many lines were left out since the last one, or ``None`` to leave this one
        out."""
        now = self._monotonic()
        if now - self._since >= PERIOD_S:
            self._since = now
            self._left = self._lines
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
        unsaid = self._unsaid
        self._unsaid = 0
        return unsaid
