"""The inventory bot reserves stock for orders, and answers questions about the stock."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from examples.robbery.consequences import nonce_after
from examples.robbery.cues import cues, tell
from sealbus import Bot, Message


class Warehouse:
    """The stock, and the reservations from it."""

    def __init__(self, bot: Bot, stock: dict[str, int]) -> None:
        self.bot = bot
        self.stock = stock
        self.reserved: Counter[str] = Counter()
        bot.subscribe("orders.placed", start="all", concurrency=64)(self.reserve)
        bot.reply("stock.check")(self.level)

    async def reserve(self, message: Message) -> None:
        """Reserve the articles of an order, and tell shipping."""
        order = message.payload
        lines = [{"sku": item["sku"], "quantity": item["quantity"]} for item in order["items"]]
        await self.bot.publish(
            "stock.reserved",
            {"order_id": order["order_id"], "lines": lines},
            parent=message,  # proves that there was an order
            include_parent=True,  # shows which order it was
            # If this handler runs again for the same order, it is the same reservation.
            nonce=nonce_after(message),
            timeout=60,
        )
        for line in lines:
            self.stock[line["sku"]] -= line["quantity"]
        self.reserved[order["order_id"]] += 1

    async def level(self, message: Message) -> dict[str, Any]:
        """Answer a question for the level of one article."""
        sku = message.payload["sku"]
        return {"sku": sku, "available": self.stock.get(sku, 0)}

    def status(self) -> dict[str, Any]:
        """The counts of this bot."""
        return {
            "reserved": len(self.reserved),
            "doubled": sum(count - 1 for count in self.reserved.values()),
            "stock": self.stock,
            "refused": self.bot.refused_deliveries,
        }


async def main(credentials: str, stock: str) -> None:
    """Serve until the director is gone."""
    bot = Bot.from_file(credentials)
    # No other code runs yet, so a blocking read is fine.
    warehouse = Warehouse(bot, json.loads(Path(stock).read_text()))  # noqa: ASYNC240
    async with bot:
        tell("ready")
        async for _ in cues():
            tell("status", **warehouse.status())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
