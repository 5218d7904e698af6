"""Keeping to a subject's rate, so that the relay need not refuse.

The relay counts by the generic cell rate algorithm: a message at time t is refused if
``used until - t`` is more than ``(burst - 1) / rate``, and each one that passes uses ``1 / rate``.
An envelope of n messages is refused above ``(burst - n) / rate``, and uses ``n / rate``.
A :class:`Pace` does the same beforehand, and keeps a message that is too early until its turn. It
leaves a little of the burst unused, because the network delays some messages more than others, and
they then arrive closer together than they were sent.

The policy may change the rate, take it away, or give a subject one. The pace follows, also with the
messages that wait. An envelope that was sent cannot be divided. If it has more messages than a new
burst, waiting does not help, and the relay refuses it.

The allowance is the bot's, and other processes of the same bot use it too. Nobody here knows of
them; but then the relay refuses, and a pace that hears of a refusal goes slower for a time.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from sealbus.grants import GrantedRate
from sealbus.protocol.limits import MAX_PAYLOADS
from sealbus.supervision import Supervisor

JITTER_S: Final = 0.5
"""How much closer together two messages may arrive than they were sent: a busy machine or network
holds some up for so long. Of a burst of less than a second, half is left unused."""

SPARE: Final = 1.02
"""With a burst of one nothing can be left unused, so the pauses are a little longer than the rate
asks for."""

TURN_S: Final = 0.02
"""Messages whose turns are within this time go together: a signature for each message of a fast
subject would be far more work."""

SLOWEST: Final = 16.0
"""A pace slows down to this fraction of the rate: as if that many processes shared it."""

RECOVERY_S: Final = 1.0
"""After this time without a refusal the pace goes a quarter faster again."""

SHARE: Final = 4
"""An envelope takes at most this part of a rate's burst: a quarter. A relay counts all messages of
an envelope at once, so one that took the whole burst would find it unused too seldom, where other
processes use the same rate."""


class Paced(Protocol):
    """Something that waits for its turn."""

    @property
    def order(self) -> int:
        """Lower numbers go first."""

    @property
    def weight(self) -> int:
        """How many messages it is."""

    @property
    def is_over(self) -> bool:
        """Whether its turn is no longer wanted."""


Waiter = TypeVar("Waiter", bound=Paced)


class Pace(Generic[Waiter]):
    """The pace of this process on the subjects of one declaration."""

    def __init__(
        self, rate: GrantedRate | None, release: Callable[[Waiter], None], supervisor: Supervisor
    ) -> None:
        """``rate``: see :meth:`set_rate`. ``release`` is called with each item in its turn."""
        self._supervisor = supervisor
        self._release = release
        self._waiting: list[tuple[int, Waiter]] = []
        """A heap: messages that were refused go before those that were not sent yet."""
        self._members: set[Waiter] = set()
        """The items in the heap. An item that waits is not added again."""
        self._timer: asyncio.TimerHandle | None = None
        """Runs out at the turn of the first one; ``None`` while nothing waits."""
        self._interval_s = 0.0
        """The time that one message uses."""
        self._tolerance_s = 0.0
        """How far ahead of now the used time may be."""
        self._turn_s = 0.0
        """The shortest wait for a turn."""
        self._used_until = 0.0
        """The relay's "theoretical arrival time", by the loop's clock: each message moves it by an
        interval, and it may be ahead of now by the tolerance."""
        self._slower = 1.0
        """By which factor the pauses are longer than the rate asks for, because others use it
        too."""
        self._refused_at = 0.0
        """When the relay last refused a message for its rate, or the pace last became faster."""
        self.rate: GrantedRate | None = None
        self.set_rate(rate)

    @property
    def most(self) -> int:
        """The most messages of an envelope."""
        return MAX_PAYLOADS if self.rate is None else max(1, self.rate.burst // SHARE)

    def has_turn(self, weight: int) -> bool:
        """Whether the relay accepts so many messages at once at any time."""
        return self.rate is None or weight <= self.rate.burst

    def set_rate(self, rate: GrantedRate | None) -> None:
        """Keep to another rate from now on. ``None``: to no rate, so that no item waits."""
        if rate == self.rate:
            return
        self.rate = rate
        # Without a rate, a message uses nothing.
        self._interval_s = 0.0 if rate is None else 1 / rate.per_second
        tolerance_s = 0.0 if rate is None else (rate.burst - 1) * self._interval_s
        # Messages that were sent evenly may arrive closer together. The unused part of the burst
        # takes that up.
        self._tolerance_s = tolerance_s - min(JITTER_S, tolerance_s / 2)
        # A longer turn than the tolerance would leave a part of the rate unused.
        self._turn_s = min(TURN_S, self._tolerance_s)
        if rate is not None and rate.burst == 1:
            self._interval_s *= SPARE
        # A burst at a slow rate is not held against a quick one. The relay does the same.
        now = asyncio.get_running_loop().time()
        self._used_until = min(self._used_until, self._whole_burst(now))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._wait()

    def submit(self, item: Waiter) -> None:
        """Release ``item`` now, or in its turn."""
        if item in self._members:
            return
        if not self._waiting and self._take(item.weight, asyncio.get_running_loop().time()):
            self._release(item)
        else:
            heapq.heappush(self._waiting, (item.order, item))
            self._members.add(item)
            self._wait()

    def hold_back(self) -> None:
        """The relay refused a message for its rate: somebody else uses the allowance."""
        now = asyncio.get_running_loop().time()
        # Messages that were sent together are refused together, and count as one refusal.
        if now - self._refused_at >= self._interval_s * self._slower:
            self._slower = min(2 * self._slower, SLOWEST)
        self._refused_at = now
        # As if the whole burst were used up: whoever shares the allowance has used it.
        # A timer that is set stays. A turn that comes too early takes nothing, and sets the next.
        self._used_until = max(self._used_until, self._whole_burst(now))

    def _whole_burst(self, now: float) -> float:
        """The time up to which the allowance is used where the whole burst was sent just now."""
        return now + self._tolerance_s + self._interval_s * self._slower

    def _take(self, weight: int, now: float) -> bool:
        """Whether ``weight`` more may go now; if so, they are counted."""
        if self.rate is None or not self.has_turn(weight):
            # Without a rate nothing is used. An item above the burst is refused at any time.
            return True
        if self._early_s(weight, now) > 0:
            return False
        if self._slower > 1 and now - self._refused_at >= RECOVERY_S:
            self._slower = max(1.0, self._slower / 1.25)
            self._refused_at = now
        # Time in which nothing was sent is not saved up: the burst is all that may be ahead.
        self._used_until = max(self._used_until, now) + weight * self._interval_s * self._slower
        return True

    def _early_s(self, weight: int, now: float) -> float:
        """How much too early it is for ``weight`` more. Not positive: they may go."""
        tolerance_s = self._tolerance_s - (weight - 1) * self._interval_s * self._slower
        return self._used_until - now - max(0.0, tolerance_s)

    def _wait(self) -> None:
        if self._timer is None:
            early_s = self._early_s(self._waiting[0][1].weight, asyncio.get_running_loop().time())
            self._timer = self._supervisor.later(
                "keeping to a rate",
                max(early_s, self._turn_s),
                self._turn,
            )

    def _turn(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._waiting:
            first = self._waiting[0][1]
            if not first.is_over and not self._take(first.weight, now):
                self._wait()
                return
            heapq.heappop(self._waiting)
            self._members.discard(first)
            if not first.is_over:
                self._release(first)
