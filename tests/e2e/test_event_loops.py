"""A bot belongs to the event loop that it has connected in. Calls from another one are refused."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sealbus import Bot, BotState, InvalidInput, Message, NotConnected, Unresolved, new_nonce
from sealbus.life.states import Life
from tests.e2e.shop import Shop, state
from tests.waiting import patiently


async def iterate(bot: Bot) -> None:
    async with bot.messages("orders.placed"):
        pass


async def register(bot: Bot) -> None:
    async def handler(_: Message) -> None:
        pass

    bot.subscribe("orders.placed")(handler)


CALLS: dict[str, Callable[[Bot], Coroutine[Any, Any, object]]] = {
    "publish()": lambda bot: bot.publish("orders.placed", 1),
    "publish_many()": lambda bot: bot.publish_many("orders.placed", [1]),
    "resume()": lambda bot: bot.resume(Unresolved("no verdict", nonce=new_nonce())),
    "request()": lambda bot: bot.request("stock.check", 1),
    "grants()": lambda bot: bot.grants(),
    "messages()": iterate,
    "a handler for orders.placed": register,
    "run()": lambda bot: bot.run(),
    "close()": lambda bot: bot.close(),
}


def refused(bot: Bot) -> None:
    """Make each call in an event loop of its own."""
    for name, call in CALLS.items():
        with pytest.raises(NotConnected, match="another event loop") as told:
            asyncio.run(patiently(call(bot)))
        assert told.value.what.startswith(f"{name} belongs in")
        assert "run_coroutine_threadsafe" in str(told.value.hint)
    with pytest.raises(InvalidInput, match="another event loop"):
        asyncio.run(patiently(bot.connect()))


async def test_calls_from_a_thread_s_own_loop_are_refused(shop: Shop) -> None:
    bot = shop.bot("inventory")
    await bot.connect()
    await patiently(asyncio.to_thread(refused, bot))
    assert state(bot) is BotState.CONNECTED
    await patiently(asyncio.to_thread(no_loop, bot))
    await bot.grants()
    await bot.close()
    assert state(bot) is BotState.CLOSED


def no_loop(bot: Bot) -> None:
    """Register a handler in a thread that runs no event loop."""
    with pytest.raises(NotConnected, match="another event loop"):
        register(bot).send(None)


ONE_RUN_A_CALL = """
import asyncio, sys
from sealbus import Bot, SealbusError

bot = Bot.from_file(sys.argv[1])
asyncio.run(bot.connect())
for call in (bot.publish("orders.placed", 1), bot.run(), bot.connect(), bot.close()):
    try:
        asyncio.run(call)
    except SealbusError as error:
        print(type(error).__name__, error.what)
bot.stop()
"""


UNREST = re.compile(
    "Traceback|Exception ignored|was never (awaited|retrieved)|Task was destroyed"
    "|Event loop is closed|(Runtime|Resource)Warning"
)
"""Lines of Python and asyncio about work that was left behind."""


async def test_calls_after_the_loop_of_the_bot_has_ended(shop: Shop) -> None:
    """As an author does who writes asyncio.run() around each call. The program ends in peace."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ONE_RUN_A_CALL, str(shop.bus.credentials("inventory"))),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await patiently(process.communicate())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    belongs = (
        "belongs in the event loop that inventory connected in, and this is another event loop"
    )
    assert out.decode().splitlines() == [
        f"NotConnected publish() {belongs}",
        f"NotConnected run() {belongs}",
        "InvalidInput inventory was used in another event loop before",
        f"NotConnected close() {belongs}",
    ]
    # A busy machine may make the bot log a line, such as about a slow answer.
    assert process.returncode == 0
    assert UNREST.search(err.decode()) is None, err.decode()


async def test_any_thread_may_stop_a_bot(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that another thread sets wakes nobody, until something else happens."""
    threads, stop = list[int](), Life.stop

    def watch(life: Life) -> None:
        threads.append(threading.get_ident())
        stop(life)

    monkeypatch.setattr(Life, "stop", watch)
    bot, connected = shop.bot("inventory"), asyncio.Event()
    bot.on_connected(connected.set)
    running = asyncio.create_task(bot.run())
    await patiently(connected.wait())
    await asyncio.to_thread(bot.stop)
    await patiently(running)
    assert set(threads) == {threading.get_ident()}
    assert state(bot) is BotState.CLOSED
