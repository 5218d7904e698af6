"""Work of many bots, done a few pieces at a time, with each bot in its turn.

A bot that asks for much waits behind itself, and not in front of the others. The pieces that wait
are bounded for each bot and for all of them, in number and in bytes, because a request holds its
whole envelope.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from sealbus.supervision import Supervisor

AT_ONCE: Final = 64
"""How many pieces are under way. JetStream makes consumers one after the other, so more would only
wait there."""

WAITING_PER_BOT: Final = 128
"""How many pieces of one bot wait: four times the durable subscriptions of one session, for which a
bot asks at once when it connects."""

WAITING_PER_BOT_BYTES: Final = 2 * 1024 * 1024
"""How many bytes of one bot wait: four of the largest envelopes. An honest request has a few
hundred bytes."""

WAITING: Final = 16_384
"""How many pieces wait: two requests of each of the 8,192 connections that nats-server takes, as
when all bots come back at once."""

WAITING_BYTES: Final = 64 * 1024 * 1024
"""How many bytes wait: the relay's memory for them."""

Work = Callable[[], Coroutine[Any, Any, None]]
"""One piece, begun by the call."""


class FairQueue:
    """Runs work. Work handles its expected errors, and the supervisor logs the others."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._bots: dict[str, deque[tuple[int, Work]]] = {}
        """The pieces that wait, by bot, with their sizes. The bot whose turn is next comes
        first."""
        self._bytes: dict[str, int] = {}
        """The bytes that wait, by bot."""
        self._waiting = 0
        """How many pieces wait."""
        self._waiting_bytes = 0
        """How many bytes wait."""
        self._tasks: set[asyncio.Task[None]] = set()
        """The pieces under way."""

    def put(self, bot: str, size: int, work: Work) -> bool:
        """Have ``work`` done for ``bot``, which holds ``size`` bytes until then.

        ``False``: there is no room, and the work is not taken.
        """
        own = len(self._bots.get(bot, ()))
        own_bytes = self._bytes.get(bot, 0)
        if own >= WAITING_PER_BOT or own_bytes + size > WAITING_PER_BOT_BYTES:
            return False
        if self._waiting >= WAITING or self._waiting_bytes + size > WAITING_BYTES:
            return False
        self._bots.setdefault(bot, deque()).append((size, work))
        self._bytes[bot] = own_bytes + size
        self._waiting += 1
        self._waiting_bytes += size
        self._begin()
        return True

    async def drain(self) -> None:
        """Wait until all work is done."""
        # Again and again: a piece that ends begins the next one. A copy of the set, which changes
        # meanwhile.
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def cancel(self) -> None:
        """Give up the work that waits or is under way."""
        # First: a task that ends begins the next piece that waits.
        self._bots.clear()
        for task in self._tasks:
            task.cancel()

    def _begin(self) -> None:
        while self._bots and len(self._tasks) < AT_ONCE:
            bot = next(iter(self._bots))
            waiting = self._bots.pop(bot)
            size, work = waiting.popleft()
            self._waiting -= 1
            self._waiting_bytes -= size
            if waiting:
                self._bots[bot] = waiting  # behind the others
                self._bytes[bot] -= size
            else:
                del self._bytes[bot]
            task = self._supervisor.piece("serving a bot", work())
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._begin()
