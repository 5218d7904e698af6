"""Calls before or after a bot's life fail at once, and the hint shows the right way.

No test here needs a server.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable

import pytest

from sealbus import (
    Bot,
    BotState,
    ConnectionFailed,
    Credentials,
    InvalidInput,
    Message,
    NotConnected,
    Unresolved,
    new_nonce,
)
from sealbus.life.states import Life
from sealbus.protocol.keys import KeyKind, SigningKey
from tests.ports import free_port
from tests.refusal import refusal
from tests.waiting import PATIENCE_S, patiently, until


@pytest.fixture
def bot() -> Bot:
    """A bot whose server is not there."""
    bus_keys = frozenset([SigningKey.generate(KeyKind.BUS).public.raw])
    key = SigningKey.generate(KeyKind.BOT)
    return Bot(Credentials("shop", "order", key, (f"nats://127.0.0.1:{free_port()}",), bus_keys))


async def iterate(bot: Bot) -> object:
    """Ask for the first message."""
    async with bot.messages("orders.placed") as messages:
        return await anext(messages)


CALLS: dict[str, Callable[[Bot], Awaitable[object]]] = {
    "publish": lambda bot: bot.publish("orders.placed", 1),
    "publish_many": lambda bot: bot.publish_many("orders.placed", [1]),
    "resume": lambda bot: bot.resume(Unresolved("no verdict", nonce=new_nonce())),
    "grants": lambda bot: bot.grants(),
    "request": lambda bot: bot.request("stock.check", 1),
    "messages": iterate,
}


@pytest.mark.parametrize("call", CALLS)
async def test_before_connect_a_call_fails_and_shows_how(bot: Bot, call: str) -> None:
    with pytest.raises(NotConnected, match="order has not connected") as refused:
        await CALLS[call](bot)
    assert "async with bot" in str(refused.value.hint)


@pytest.mark.parametrize("call", CALLS)
async def test_while_connecting_a_call_fails(bot: Bot, call: str) -> None:
    connecting = asyncio.create_task(bot.connect(timeout=None))
    await until(lambda: bot.state is BotState.CONNECTING)
    with pytest.raises(NotConnected, match="still connecting"):
        await CALLS[call](bot)
    bot.stop()
    with pytest.raises(NotConnected, match="was told to stop"):
        await connecting


@pytest.mark.parametrize("call", CALLS)
async def test_after_close_a_call_fails(bot: Bot, call: str) -> None:
    await bot.close()
    with pytest.raises(NotConnected, match="order is closed") as refused:
        await CALLS[call](bot)
    assert "new Bot" in str(refused.value.hint)


async def test_a_closed_bot_stays_closed(bot: Bot) -> None:
    await bot.close()
    await bot.close()
    for call in (bot.connect(), bot.run()):
        with pytest.raises(NotConnected, match="order is closed") as refused:
            await call
        assert "new Bot" in str(refused.value.hint)

    async def handler(_: Message) -> None:
        pass

    with pytest.raises(NotConnected, match="order is closed"):
        bot.subscribe("orders.placed")(handler)
    assert bot.state is BotState.CLOSED


async def test_a_connect_that_failed_may_be_repeated(bot: Bot) -> None:
    for _ in range(2):
        await refusal(bot, "nobody listens")
        assert bot.state is BotState.NEW


async def test_connecting_twice_at_once_is_refused(bot: Bot) -> None:
    connecting = asyncio.create_task(bot.connect(timeout=None))
    await until(lambda: bot.state is BotState.CONNECTING)
    with pytest.raises(InvalidInput, match="is connecting already"):
        await bot.connect()
    await bot.close()
    with pytest.raises(NotConnected):
        await connecting


async def test_closing_ends_a_connect_that_would_wait_for_ever(bot: Bot) -> None:
    connecting = asyncio.create_task(bot.connect(timeout=None))
    await until(lambda: bot.state is BotState.CONNECTING)
    await bot.close()
    with pytest.raises(NotConnected, match="was told to stop"):
        await connecting
    assert bot.state is BotState.CLOSED


async def test_a_cancelled_connect_leaves_a_new_bot(bot: Bot) -> None:
    connecting = asyncio.create_task(bot.connect(timeout=None))
    await until(lambda: bot.state is BotState.CONNECTING)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert bot.state is BotState.NEW


async def test_run_gives_up_after_connect_timeout_if_told_so(bot: Bot) -> None:
    with pytest.raises(ConnectionFailed, match="nobody listens"):
        await bot.run(connect_timeout=1)
    assert bot.state is BotState.CLOSED


async def test_run_that_was_told_to_stop_before_it_began_ends(bot: Bot) -> None:
    bot.stop()
    bot.stop()
    await bot.run()
    assert bot.state is BotState.CLOSED


def test_a_bot_is_not_opened_with_a_plain_with(bot: Bot) -> None:
    with pytest.raises(InvalidInput, match="async with") as refused, bot:
        pass
    assert "asyncio.run" in str(refused.value.hint)


def test_a_second_event_loop_is_refused(bot: Bot) -> None:
    """An author makes this mistake with one asyncio.run() for each call."""
    with pytest.raises(ConnectionFailed):
        asyncio.run(bot.connect(timeout=1))
    for call in (bot.connect(timeout=1), bot.run()):
        with pytest.raises(InvalidInput, match="another event loop"):
            asyncio.run(call)


def test_a_bot_that_never_connected_is_closed_anywhere(bot: Bot) -> None:
    with pytest.raises(ConnectionFailed):
        asyncio.run(bot.connect(timeout=1))
    bot.stop()
    asyncio.run(bot.close())
    asyncio.run(bot.close())
    assert bot.state is BotState.CLOSED


async def test_stop_in_a_signal_handler_wakes_the_loop() -> None:
    """Without a wake-up, the loop would sleep until its next timer."""
    life = Life("order")
    life.begin()
    before = signal.signal(signal.SIGUSR1, lambda *_: life.stop_from_anywhere())
    try:
        main = threading.main_thread().ident
        assert main is not None
        loop = asyncio.get_running_loop()
        began = loop.time()
        # The loop is asleep by then, or the signal interrupts it just before.
        threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGUSR1)).start()
        await patiently(life.stopping.wait())
        assert loop.time() - began < PATIENCE_S / 2, "the timer of patiently() has not woken it"
    finally:
        signal.signal(signal.SIGUSR1, before)
