"""Orders from one bot to another, all the time, while something happens to the bus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sealbus import Bot, Message
from tests.e2e.shop import Shop, order
from tests.waiting import PATIENCE_S, until


@dataclass
class Traffic:
    """A bot that publishes all the time, and one that receives it."""

    sent: int = 0
    got: list[str] = field(default_factory=list)
    """The orders that came by the durable subscription."""
    heard: list[str] = field(default_factory=list)
    """Those that came live."""
    lost: list[str] = field(default_factory=list)
    """The bots that lost their session."""

    async def goes_on(self) -> None:
        """Wait until messages that are sent from now on have arrived."""
        at = self.sent + 2
        await until(lambda: min(len(self.got), len(self.heard)) > at, "messages go on")

    def check(self) -> None:
        """Nothing is lost, doubled or in another order."""
        wanted = [order(number)["order_id"] for number in range(self.sent)]
        assert self.got == self.heard == wanted


@asynccontextmanager
async def traffic(shop: Shop, *, renew_s: float | None = None) -> AsyncIterator[Traffic]:
    """Orders from one bot to another, all the time. Afterwards all have arrived.

    ``renew_s``: how often the bots renew their sessions.
    """
    seen = Traffic()
    sender, listener = (
        Bot(shop.credentials(name), renew_s=renew_s) for name in ("order", "inventory")
    )

    @listener.subscribe("orders.placed", start="all", durable="d")
    async def take(message: Message) -> None:
        seen.got.append(message.payload["order_id"])

    @listener.subscribe("orders.placed", live=True)
    async def hear(message: Message) -> None:
        seen.heard.append(message.payload["order_id"])

    for bot in (sender, listener):
        bot.on_lost(lambda bot: seen.lost.append(bot.name))

    is_over = False

    async def publish() -> None:
        while not is_over:
            # Raises for a refusal.
            await sender.publish("orders.placed", order(seen.sent), timeout=PATIENCE_S)
            seen.sent += 1
            await asyncio.sleep(0.005)

    async with listener, sender:
        publishing = asyncio.create_task(publish())
        try:
            await seen.goes_on()
            yield seen
            await seen.goes_on()
        finally:
            is_over = True
            await publishing
        last = order(seen.sent - 1)["order_id"]
        await until(lambda: seen.got[-1] == seen.heard[-1] == last, "all have come")
        assert sender.refused_deliveries == listener.refused_deliveries == {}
