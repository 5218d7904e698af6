"""A handler that fails affects only its own message."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from sealbus import Message
from sealbus.receiving.serving import CALLS_A_TURN
from tests.e2e.shop import Shop, order
from tests.waiting import until


async def test_handler_with_a_cancelled_task_keeps_its_subscription(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    order_bot, inventory, got = shop.bot("order"), shop.bot("inventory"), list[str]()

    @inventory.subscribe("orders.placed", start="all", durable="d")
    async def take(message: Message) -> None:
        got.append(message.payload["order_id"])
        if len(got) == 1:
            task = asyncio.create_task(asyncio.sleep(10))
            task.cancel()
            await task

    async with order_bot:
        for number in range(3):
            await order_bot.publish("orders.placed", order(number), alone=True)
    async with inventory:  # All messages are there, so none comes after the retry of the first.
        await until(lambda: len(got) == 4)
    assert got == ["ord-000000", "ord-000001", "ord-000002", "ord-000000"]
    assert "it is delivered again in 1 s" in caplog.text


async def test_a_live_handler_that_fails_logs_one_line(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """The line names the message and its sender, and says that it does not come again.

    The library adds no payload to it.
    """
    sender, inventory, got = shop.bot("order"), shop.bot("inventory"), list[Message]()

    @inventory.subscribe("stock.check")
    async def take(message: Message) -> None:
        got.append(message)
        if len(got) == 1:
            raise ValueError("a mistake")

    async with inventory, sender:
        for sku in ("ABC-0001", "ABC-0002"):
            await sender.publish("stock.check", {"sku": sku})
        await until(lambda: len(got) == 2)
    said = (
        f"the handler of stock.check failed on message order.{got[0].nonce.hex()}.0 "
        "(attempt 1); live messages are not delivered again"
    )
    told = [record for record in caplog.records if record.name == "sealbus" and record.exc_info]
    assert [record.getMessage() for record in told] == [said]
    assert "ABC-0001" not in caplog.text


async def test_a_handler_that_never_waits_leaves_the_loop_its_turns(shop: Shop) -> None:
    """The event loop sends acknowledgements and keeps sessions alive in these turns."""
    order_bot, inventory, count = shop.bot("order"), shop.bot("inventory"), 100
    turn, turns = 0, list[int]()

    async def count_turns() -> None:
        nonlocal turn
        while True:
            await asyncio.sleep(0)
            turn += 1

    inventory.subscribe("orders.placed", start="all")(_note(lambda: turns.append(turn)))
    async with order_bot:
        await asyncio.gather(
            *[order_bot.publish("orders.placed", order(number)) for number in range(count)]
        )
        counting = asyncio.create_task(count_turns())
        async with inventory:  # the stored messages come at once
            await until(lambda: len(turns) == count)
        counting.cancel()
    assert max(Counter(turns).values()) <= CALLS_A_TURN


def _note(do: Callable[[], None]) -> Callable[[Message], Awaitable[None]]:
    async def take(_: Message) -> None:
        do()

    return take
