"""Orders that an author puts together by hand, 64 in a request or a stored message.

These peers are beside the others so that nobody is fooled: much of a burst's speed comes from the
number of messages in it, and others can have that too, with one verdict for all 64.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from benchmarks.peer import Order

TOGETHER: Final = 64


class Together:
    """Collects the orders that are sent in one turn of the event loop."""

    def __init__(self, send: Callable[[list[Order]], Awaitable[None]]) -> None:
        """``send``: sends up to :data:`TOGETHER` orders, and returns with their confirmation."""
        self._send = send
        self._orders: list[Order] = []
        self._sent: asyncio.Task[None] | None = None
        """Sends the orders that are being collected."""

    async def send(self, order: Order) -> None:
        """Return when the order is confirmed, with those beside it."""
        self._orders.append(order)
        if self._sent is None:
            self._sent = asyncio.ensure_future(self._collect(self._orders))
        sent = self._sent
        if len(self._orders) == TOGETHER:
            self._begin_anew()
        await sent

    async def _collect(self, orders: list[Order]) -> None:
        # Whoever sends in this turn has done so once this task runs.
        if orders is self._orders:
            self._begin_anew()
        await self._send(orders)

    def _begin_anew(self) -> None:
        self._orders = []
        self._sent = None
