"""A task in the background of a bot ends in an unexpected way.

The bot goes on, or it ends with an error that names the task.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from sealbus import BackgroundFailed, Bot, Message, SealbusError
from tests.disturb import ERRORS, disturb, disturbable, forgotten
from tests.e2e.shop import Shop, order
from tests.waiting import PATIENCE_S, until

AMONG_THEM = {
    "keeping the session",
    "sending",
    "the handler of orders.placed",
    "the handler of stock.check",
} | {f"WatchedClient.{loop}" for loop in ("_read_loop", "_flusher", "_ping_interval")}
"""Tasks that the test must find. It may find more."""


@asynccontextmanager
async def a_running_bot(shop: Shop) -> AsyncIterator[tuple[Bot, asyncio.Task[None], list[int]]]:
    """A bot with a handler of each kind, the task of its ``run()``, and the orders that it took."""
    bot, taken = shop.bot("inventory"), list[int]()
    connected = asyncio.Event()
    bot.on_connected(connected.set)

    @bot.subscribe("orders.placed")
    async def take(message: Message) -> None:
        taken.append(int(message.payload["order_id"].removeprefix("ord-")))

    @bot.subscribe("orders.placed", durable="wide", concurrency=8)
    async def take_many(_: Message) -> None: ...

    @bot.reply("stock.check")
    async def level(message: Message) -> Any:
        return {"sku": message.payload["sku"], "available": 7}

    running = asyncio.create_task(bot.run(), name="the test's")
    async with asyncio.timeout(PATIENCE_S):
        await connected.wait()
    try:
        yield bot, running, taken
    finally:
        bot.stop()
        with suppress(SealbusError):
            await running


async def goes_on_or_says_why(
    sender: Bot, bot: Bot, running: asyncio.Task[None], taken: list[int], number: int
) -> SealbusError | None:
    """Wait until the bot takes an order and answers a request, or until it has ended.

    Returns the error with which it ended, or ``None``.
    """
    works = False

    async def work() -> None:
        nonlocal works
        await sender.publish("orders.placed", order(number), timeout=PATIENCE_S)
        await until(lambda: number in taken, "the bot takes the order")
        await sender.request("stock.check", {"sku": "ABC-0001"}, timeout=PATIENCE_S)
        works = True

    working = asyncio.create_task(work())
    await until(lambda: works or running.done(), "the bot goes on, or ends")
    working.cancel()
    with suppress(SealbusError, asyncio.CancelledError):
        await working
    if not running.done():
        return None
    error = running.exception()
    assert isinstance(error, SealbusError), repr(error)
    return error


@pytest.mark.parametrize("kind", ERRORS)
async def test_a_bot_goes_on_or_says_which_task_ended(
    shop: Shop, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The test finds the tasks by itself, so that a new task is tested too."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    tried, number, ended = set[str](), 0, True
    async with shop.bot("order") as sender:
        while ended:  # start another bot for the tasks that are left
            others, ended = asyncio.all_tasks(), False
            caplog.clear()  # not later: a bot may still work before it says why it ends
            async with a_running_bot(shop) as (bot, running, taken):
                while not ended and (left := disturbable({*others, running}).keys() - tried):
                    name, number = min(left), number + 1
                    tried.add(name)
                    disturb(disturbable({*others, running})[name], ERRORS[kind]())
                    error = await goes_on_or_says_why(sender, bot, running, taken, number)
                    ended = error is not None
                    assert not ended or isinstance(error, BackgroundFailed), f"{name}: {error!r}"
                    said = [
                        record.getMessage() for record in caplog.records if record.name == "sealbus"
                    ]
                    assert not ended or any("cannot go on" in line for line in said), name
                    assert not any("a payload's value" in line for line in said), name
            gc.collect()  # asyncio reports a forgotten exception when its task is deleted
            assert forgotten(complaints) == [], tried
    assert tried >= AMONG_THEM
