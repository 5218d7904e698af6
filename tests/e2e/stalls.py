"""The longest times between the messages of steady traffic."""

from __future__ import annotations

import time


class Stalls:
    """The longest time between two events."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._last: float | None = None

    def note(self) -> None:
        """One more event."""
        now = time.monotonic()
        if self._last is not None:
            self.longest_s = max(self.longest_s, now - self._last)
        self._last = now

    def take(self) -> float:
        """Return the longest time since the last call, and begin anew. Also the time since the last
        event counts."""
        self.note()
        longest_s, self.longest_s = self.longest_s, 0.0
        return longest_s
