"""How many messages a durable subscription may have in hand.

A message in hand is lost to every other process of the subscription, so none is taken that cannot
be begun soon. How soon depends on the handler, and only measuring tells: a handler of 50 µs is kept
busy by 128 messages in hand, and with a handler of five seconds even one message in reserve waits
for nothing.

The window also grows by one message for each that was handled, and no faster. Whoever takes two
messages and stops must not have fetched a hundred: each would be given back, and the server counts
that as a delivery. Pure: times come in as arguments.
"""

from __future__ import annotations

from typing import Final

MAX_IN_HAND: Final = 128
"""Most messages in hand, unless more handlers than this may run at once. A request for 128 messages
lasts some milliseconds at full speed, several times as long as the answer takes, so a fast handler
never waits for the server."""

BEGIN_S: Final = 0.5
"""Messages in hand are to begin within this time: a quarter of the two seconds for which work may
wait while a handler is idle."""

FORGET: Final = 0.9
"""Factor by which the longest handling time shrinks with each handled message. A single slow call
is forgotten after some 50 messages, and one in ten slow calls still counts fully."""


class Window:
    """The bound on messages in hand, from the handling times so far."""

    __slots__ = ("_concurrency", "_handled", "_slowest_s", "size")

    def __init__(self, concurrency: int) -> None:
        """``concurrency``: how many handlers may run at once."""
        self._concurrency = concurrency
        self._handled = 0
        """Handling times noted so far."""
        self._slowest_s = 0.0
        """The longest of them, which fades (seconds)."""
        self.size = concurrency
        """Most messages in hand, at work and in reserve. Without a measured time: only those that
        can begin at once."""

    def note(self, duration_s: float) -> None:
        """Take the time that one message took into account."""
        # The slowest time, not the mean: one slow call holds up everything behind it.
        slowest = self._slowest_s = max(duration_s, self._slowest_s * FORGET)
        soon = self._concurrency * BEGIN_S
        # Compared before it is divided: a handler may take no measurable time.
        reserve = MAX_IN_HAND if slowest * MAX_IN_HAND <= soon else int(soon / slowest)
        self._handled += 1
        self.size = max(self._concurrency, min(reserve, self._concurrency + self._handled))
