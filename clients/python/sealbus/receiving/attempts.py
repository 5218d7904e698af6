"""Messages whose handlers failed: when they are tried again, and when that ends.

A failing message waits at the server for its next attempt while the others go on. It is tried
``most`` times. Then the relay parks it in the quarantine, and the subscription is done with it. Two
cases end sooner:

* Too many messages wait. The server keeps a bounded number per subscription, and beyond it delivers
  nothing new. So a failing message is parked at once while :data:`MOST_WAITING` others wait. This
  needs a sign that the messages are at fault: if nothing has succeeded lately, it is the handler
  that fails, and then waiting is right and emptying the subscription into the quarantine wrong.
* No attempt has had an outcome. A message that kills its process is never reported as failed. It is
  parked untried once it has been delivered far more often than it may be tried.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

RETRY_FIRST_S: Final = 1.0
RETRY_MOST_S: Final = 60.0
"""Pause before the next attempt: doubled with each attempt. Ten attempts take four minutes, a short
outage of a service that a handler needs."""

_DOUBLINGS: Final = 6
"""2**6 s is past RETRY_MOST_S. Bounded before the power is taken: the 1,025th would not fit a
float."""

DEFAULT_ATTEMPTS: Final = 10
"""As in a policy that does not say (``limits.attempts``), for a relay that does not tell."""

MOST_WAITING: Final = 4096
"""Failed messages of this process that may wait for another attempt: a quarter of the server's
bound per subscription (16,384), so that four processes can have as many without holding up the
rest."""

FAILURES_IN_A_ROW: Final = 100
"""After this number of failures without one success between them the handler is at fault, and not
the messages."""

UNTRIED_LEAST: Final = 1000
"""Deliveries before a message is parked untried, at least. Parking is final, and a message that a
process fetched and gave back was delivered too: a subscription that stops after each message
delivers those in reserve again and again. A message that kills its process is delivered every 30 s,
so this takes 8 hours."""

_REMEMBERED: Final = 65_536
"""Messages whose give-backs are remembered: far more than a subscription has in hand, about 8
MiB."""


def delay_s(attempt: int) -> float:
    """Seconds to wait after ``attempt`` (1 = the first) failed."""
    return min(RETRY_FIRST_S * 2.0 ** min(attempt - 1, _DOUBLINGS), RETRY_MOST_S)


class Attempts:
    """Counts the attempts at the messages of one subscription, in this process."""

    def __init__(self, most: int) -> None:
        """``most``: how often a message is tried."""
        self.most = most
        self._given_back: OrderedDict[int, int] = OrderedDict()
        """How often each delivery was given back here, by its sequence. In the order of the last
        time, so that the oldest one is forgotten first."""
        self._again: OrderedDict[int, float] = OrderedDict()
        """Sequence and due time (event loop) of deliveries with a failed message. In the order of
        the last failure. Only :data:`MOST_WAITING` are kept, because more count the same."""
        self._failures = 0
        """Failures without one success between them."""

    def number(self, sequence: int, delivered: int) -> int:
        """The number of the attempt: ``delivered``, the server's count, without the deliveries that
        were given back here."""
        if delivered == 1:
            return 1  # most messages, and nothing is known of them yet
        self._again.pop(sequence, None)
        return max(1, delivered - self._given_back.get(sequence, 0))

    def gave_back(self, sequence: int) -> None:
        """The delivery was not tried."""
        self._given_back[sequence] = self._given_back.pop(sequence, 0) + 1
        if len(self._given_back) > _REMEMBERED:
            self._given_back.popitem(last=False)

    def succeeded(self) -> None:
        """A message was handled."""
        self._failures = 0

    def ended(self, sequence: int) -> None:
        """The delivery needs no other attempt."""
        self._given_back.pop(sequence, None)

    def failed(self, sequence: int, attempt: int) -> float | None:
        """The handler failed. Returns the seconds until the next attempt, or ``None`` if the
        message is to be parked."""
        self._failures += 1
        if attempt >= self.most or (self._failures < FAILURES_IN_A_ROW and self._are_many()):
            self._given_back.pop(sequence, None)
            return None
        pause = delay_s(attempt)
        self._again.pop(sequence, None)
        self._again[sequence] = asyncio.get_running_loop().time() + pause
        if len(self._again) > MOST_WAITING:
            # The oldest one is due first. Its next attempt may be in another process, and nothing
            # here would tell.
            self._again.popitem(last=False)
        return pause

    def is_hopeless(self, attempt: int) -> bool:
        """Whether a message was delivered too often without any outcome to be tried again."""
        return attempt > max(2 * self.most, UNTRIED_LEAST)

    def _are_many(self) -> bool:
        now = asyncio.get_running_loop().time()
        if len(self._again) >= MOST_WAITING:  # those that are due may have gone to another process
            for sequence in [one for one, due in self._again.items() if due < now]:
                del self._again[sequence]
        return len(self._again) >= MOST_WAITING
