"""Tests of the bot on a bus in memory."""

import asyncio

from examples.testing.listener import make_listener
from sealbus.testing import TestBus, expect_refused


async def test_listener_hears_a_greeting(sealbus_bus: TestBus) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    await sealbus_bus.connect(make_listener(sealbus_bus.credentials("listener"), heard))
    greeter = await sealbus_bus.bot("greeter")

    await greeter.publish("greetings.sent", {"text": "hello"})

    assert await heard.get() == "hello"


async def test_wrong_greeting_is_refused(sealbus_bus: TestBus) -> None:
    greeter = await sealbus_bus.bot("greeter")

    with expect_refused("schema") as refused:
        await greeter.publish("greetings.sent", {"txt": "hello"})

    (kept,) = await sealbus_bus.quarantine("schema")
    assert kept.record == refused.error.record
    assert kept.payload == {"txt": "hello"}


async def test_listener_may_not_greet(sealbus_bus: TestBus) -> None:
    listener = await sealbus_bus.bot("listener")

    with expect_refused("not-granted"):
        await listener.publish("greetings.sent", {"text": "hello"})
