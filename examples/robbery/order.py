"""The order bot places orders, and learns when they are shipped.

The director starts it with a credentials file and the orders. It does not know of the attacker on
its network connection.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from examples.robbery.cues import cues, tell
from sealbus import Bot, Message, SealbusError

TTL_S = 4.0
"""The time-to-live.

An order is sent at once or sealed again, so a captured one is worthless seconds later.
"""

MOST_UNDER_WAY = 150
"""The most orders that are placed and not yet shipped.

So trade is busy when the relay is killed.
"""


class OrderDesk:
    """Places orders, a number at a time, and counts the shipments."""

    def __init__(self, bot: Bot, orders: list[dict[str, Any]]) -> None:
        self.bot = bot
        self.orders = orders
        self.started = 0
        self.placed = 0
        self.shipped: Counter[str] = Counter()
        self._free = asyncio.Semaphore(max(1, min(MOST_UNDER_WAY, len(orders) // 4)))
        bot.subscribe("orders.shipped", start="all", concurrency=64)(self.on_shipped)

    async def on_shipped(self, message: Message) -> None:
        """Count a shipment. The director hears of every twentieth part."""
        order_id = message.payload["order_id"]
        self.shipped[order_id] += 1
        if self.shipped[order_id] == 1:
            self._free.release()
        if len(self.shipped) % max(1, len(self.orders) // 20) == 0:
            tell("shipped", count=len(self.shipped))

    async def place(self, count: int) -> None:
        """Place the next ``count`` orders, and wait until the relay has accepted them all."""
        begin, self.started = self.started, self.started + count
        async with asyncio.TaskGroup() as group:
            for order in self.orders[begin : self.started]:
                await self._free.acquire()
                group.create_task(self._place(order))

    async def _place(self, order: dict[str, Any]) -> None:
        # The director counts the stored envelopes, so each order has its own.
        await self.bot.publish("orders.placed", order, ttl=TTL_S, timeout=60, alone=True)
        self.placed += 1

    async def ask_stock(self, skus: list[str]) -> dict[str, int]:
        """Ask the inventory bot over the bus for the stock of each article."""
        answers = [await self.bot.request("stock.check", {"sku": sku}) for sku in skus]
        return {answer.payload["sku"]: answer.payload["available"] for answer in answers}

    def status(self) -> dict[str, Any]:
        """The counts of this bot."""
        return {
            "placed": self.placed,
            "shipped": len(self.shipped),
            "doubled": sum(count - 1 for count in self.shipped.values()),
            "refused": self.bot.refused_deliveries,
        }


async def main(credentials: str, orders: str) -> None:
    """Serve the director's cues."""
    # No other code runs yet, so a blocking read is fine.
    lines = Path(orders).read_text(encoding="utf-8").splitlines()  # noqa: ASYNC240
    bot = Bot.from_file(credentials)
    desk = OrderDesk(bot, [json.loads(line) for line in lines if line.strip()])
    async with bot:
        tell("ready")
        running: set[asyncio.Task[None]] = set()
        async for cue in cues():
            task = asyncio.create_task(_serve(desk, cue))
            running.add(task)
            task.add_done_callback(running.discard)


async def _serve(desk: OrderDesk, cue: dict[str, Any]) -> None:
    if cue["do"] == "place":
        try:
            await desk.place(cue["count"])
        except* SealbusError as errors:
            tell("failed", what=str(errors.exceptions[0]))
        else:
            tell("placed", **desk.status())
    elif cue["do"] == "stock":
        tell("stock", stock=await desk.ask_stock(cue["skus"]))
    else:
        tell("status", **desk.status())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
