"""Many bots that ask the bus's services at the same moment."""

from __future__ import annotations

import asyncio
import contextlib
import re

from sealbus import RequestFailed
from sealbus.supervision import end
from tests.e2e.shop import Shop
from tests.waiting import PATIENCE_S

SUBSCRIPTIONS = 300
"""More than are served at once, and more than one bot may have waiting."""


async def test_each_of_many_requests_is_served_or_told_that_the_relay_is_busy(shop: Shop) -> None:
    """Nobody is left to ask again after a time-out."""
    async with shop.bot("inventory") as bot:

        async def ask(number: int) -> str:
            durable = f"crowd-{number}"
            question = {"pattern": "orders.placed", "durable": durable, "from": "new"}
            try:
                await bot.request("sealbus.subscribe", question, timeout=PATIENCE_S)
            except RequestFailed as failed:
                return failed.error
            return "served"

        # At once, so that they arrive together.
        outcomes = await asyncio.gather(*map(ask, range(SUBSCRIPTIONS)))
        assert set(outcomes) <= {"served", "busy", "not-served"}  # not-served: a bot may have so many subscriptions
        assert outcomes.count("served") > 0
        log = (shop.bus.path / "relay.log").read_text()
        assert not re.search(r"Traceback", log)


async def test_a_bot_that_floods_the_services_holds_up_no_other(shop: Shop) -> None:
    async with shop.bot("inventory") as greedy, shop.bot("shipping") as patient:
        question = {"pattern": "orders.placed", "durable": "again", "from": "new"}

        async def flood() -> None:
            while True:
                with contextlib.suppress(RequestFailed):
                    await greedy.request("sealbus.subscribe", question, timeout=PATIENCE_S)

        flooding = [asyncio.create_task(flood()) for _ in range(300)]
        try:
            for _ in range(10):
                await patient.request("sealbus.grants", {}, timeout=PATIENCE_S)
        finally:
            await end(*flooding)
