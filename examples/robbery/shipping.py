"""The shipping bot ships the reserved orders."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from typing import Any

from examples.robbery.consequences import nonce_after
from examples.robbery.cues import cues, tell
from sealbus import Bot, Message


class Dock:
    """The parcels that were shipped."""

    def __init__(self, bot: Bot) -> None:
        self.bot = bot
        self.shipped: Counter[str] = Counter()
        bot.subscribe("stock.reserved", start="all", concurrency=64)(self.ship)

    async def ship(self, message: Message) -> None:
        """Ship one reservation."""
        order_id = message.payload["order_id"]
        await self.bot.publish(
            "orders.shipped",
            {
                "order_id": order_id,
                "parcel": order_id.replace("ord-", "par-"),
                "items": sum(line["quantity"] for line in message.payload["lines"]),
            },
            parent=message,
            include_parent=True,
            nonce=nonce_after(message),
            timeout=60,
        )
        self.shipped[order_id] += 1

    def status(self) -> dict[str, Any]:
        """The counts of this bot."""
        return {
            "shipped": len(self.shipped),
            "doubled": sum(count - 1 for count in self.shipped.values()),
            "refused": self.bot.refused_deliveries,
        }


async def main(credentials: str) -> None:
    """Serve until the director is gone."""
    bot = Bot.from_file(credentials)
    dock = Dock(bot)
    async with bot:
        tell("ready")
        async for _ in cues():
            tell("status", **dock.status())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
