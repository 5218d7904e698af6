"""Work of many bots, done a few pieces at a time, with each bot in its turn.

A bot that asks for much waits behind itself, not in front of the others. What waits is bounded for each bot and for
all of them, in pieces and in bytes, because a request holds its whole envelope.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from sealbus.supervision import Supervisor

AT_ONCE: Final = 64
"""Pieces under way: JetStream makes consumers one after the other, so more only wait there."""

WAITING_PER_BOT: Final = 128
"""Four times the durable subscriptions of one session, which a bot asks for at once when it connects."""

WAITING_PER_BOT_BYTES: Final = 2 * 1024 * 1024
"""Four of the largest envelopes; what honest bots ask has a few hundred bytes."""

WAITING: Final = 16_384
"""Two requests of each of the 8,192 connections that nats-server takes: all bots that come back at once."""

WAITING_BYTES: Final = 64 * 1024 * 1024
"""Of the relay's memory."""

Work = Callable[[], Coroutine[Any, Any, None]]


class FairQueue:
    """Runs work. Work handles its own errors; the supervisor logs the others."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._bots: dict[str, deque[tuple[int, Work]]] = {}
        """What waits, by bot; the bot whose turn is next comes first."""
        self._bytes: dict[str, int] = {}
        self._waiting = 0
        self._waiting_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def put(self, bot: str, size: int, work: Work) -> bool:
        """Have ``work`` done for ``bot``; it holds ``size`` bytes until then. ``False``: a bound is met, and it is not taken."""
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
        """Wait until all of it is done."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def cancel(self) -> None:
        """Give up what waits and what is under way."""
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
