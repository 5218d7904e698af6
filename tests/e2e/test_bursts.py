"""Envelopes of several messages on a real bus."""

from __future__ import annotations

import asyncio

from sealbus import Message
from sealbus.outcomes import Refused
from tests.e2e.shop import Shop, order, until


async def test_each_of_many_messages_gets_its_own_verdict(shop: Shop) -> None:
    """Every tenth is bad. Subscribers get the others, once and in order."""
    order_bot, inventory = shop.bot("order"), shop.bot("inventory")
    got: list[str] = []

    @inventory.subscribe("orders.placed")
    async def take(message: Message) -> None:
        got.append(message.payload["order_id"])

    bad = range(0, 600, 10)
    async with inventory, order_bot:
        before = await shop.stored("QUARANTINE")
        outcomes = await asyncio.gather(
            *(
                order_bot.publish("orders.placed", {"order_id": "no"} if at in bad else order(at))
                for at in range(600)
            ),
            return_exceptions=True,
        )
        good = [order(at)["order_id"] for at in range(600) if at not in bad]
        await until(lambda: len(got) >= len(good))
        envelopes = {one.stamp.nonce for one in outcomes if isinstance(one, Refused)}
        records = await shop.stored("QUARANTINE") - before
    assert records == len(envelopes), "a record has all payloads that one reason refuses"
    assert [at for at, one in enumerate(outcomes) if isinstance(one, Refused)] == list(bad)
    assert not [one for one in outcomes if isinstance(one, Exception) and type(one) is not Refused]
    assert got == good
    assert inventory.refused_deliveries == {}
