"""A signal, a deadline or close() stops a bot that waits, in every state."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sealbus import (
    Bot,
    BotState,
    InvalidInput,
    Message,
    NotConnected,
    Unresolved,
    Verdict,
)
from sealbus.nats.client import HardenedClient
from tests.e2e.shop import Shop, order, state
from tests.forked import ForkedProcess
from tests.refusal import refusal
from tests.waiting import PATIENCE_S, TIMEOUTS_S, until

START = Callable[..., Coroutine[Any, Any, asyncio.subprocess.Process]]


@asynccontextmanager
async def stoppable(scene: str, shop: Shop, *more: str) -> AsyncIterator[ForkedProcess]:
    """Run the inventory bot in a process of its own."""
    credentials = str(shop.bus.credentials("inventory"))
    process = await ForkedProcess.start(("tests.e2e.stoppable", scene, credentials, *more))
    try:
        yield process
    finally:
        process.kill()
        await process.communicate()


async def says(stream: asyncio.StreamReader | None, what: bytes) -> None:
    """Wait until a line with ``what`` in it comes."""
    assert stream is not None
    seen = b""
    async with asyncio.timeout(PATIENCE_S):
        while what not in seen.rpartition(b"\n")[2]:
            line = await stream.readline()
            assert line, f"ended without {what!r}: {seen.decode()}"
            seen += b"\n" + line.rstrip(b"\n")


async def ends(process: asyncio.subprocess.Process | ForkedProcess) -> tuple[int | None, str]:
    """Wait for the end. Returns the exit code, and the part of stderr that was not read before."""
    async with asyncio.timeout(PATIENCE_S):
        _, stderr = await process.communicate()
    return process.returncode, stderr.decode()


# ---- signals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_a_bot_that_finds_no_bus(tmp_path: Path, number: int) -> None:
    shop = Shop(tmp_path / "shop")
    async with stoppable("serve", shop) as process:
        await says(process.stderr, b"no session with the bus: nobody listens")
        process.send_signal(number)
        code, stderr = await ends(process)
    assert code == 0
    assert "Traceback" not in stderr


async def test_a_signal_ends_a_bot_whose_relay_froze_after_admission(shop: Shop) -> None:
    async with stoppable("freeze", shop, str(shop.relays[0].pid)) as process:
        await says(process.stdout, b"frozen")
        process.terminate()
        code, stderr = await ends(process)
    shop.relays[0].send_signal(signal.SIGCONT)
    assert (code, stderr) == (0, "")


async def test_a_signal_ends_a_bot_that_lost_its_connection(shop: Shop) -> None:
    async with stoppable("serve", shop) as process:
        await says(process.stdout, b"connected")
        await shop.server.stop()
        await says(process.stderr, b"lost its connection")
        process.terminate()
        code, stderr = await ends(process)
    assert code == 0
    assert "Traceback" not in stderr


async def test_one_signal_ends_every_bot_of_a_process(shop: Shop) -> None:
    async with stoppable("two", shop) as process:
        await says(process.stdout, b"connected")
        await says(process.stdout, b"connected")
        process.terminate()
        assert await ends(process) == (0, "")


async def test_a_second_signal_cuts_handlers_short(shop: Shop) -> None:
    async with shop.bot("order") as sender:
        await sender.publish("orders.placed", order(1))
    async with stoppable("never-finish", shop) as process:
        await says(process.stdout, b"began")
        process.terminate()
        await says(process.stdout, b"closing")  # so the next signal is the second
        process.terminate()
        code, stderr = await ends(process)
    assert code == 0
    assert "were cut short" in stderr


SIGNALLED_LATE = """
import atexit, os, runpy, signal
for number in (signal.SIGTERM, signal.SIGINT):
    atexit.register(os.kill, os.getpid(), number)  # registered first, so called last
runpy.run_module("tests.e2e.stoppable", run_name="__main__")
"""


async def test_a_signal_while_the_interpreter_ends_changes_nothing(shop: Shop) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SIGNALLED_LATE, "serve", str(shop.bus.credentials("inventory"))),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    await says(process.stdout, b"connected")
    process.terminate()
    assert await ends(process) == (0, "")


# ---- deadlines ---------------------------------------------------------------------------------


def frozen_after_admission(monkeypatch: pytest.MonkeyPatch, shop: Shop) -> None:
    """Freeze the relay just after it has admitted the next bot."""
    attach, frozen = Bot._attach, list[Bot]()

    async def freeze(bot: Bot, client: HardenedClient) -> None:
        await attach(bot, client)
        if not frozen:
            frozen.append(bot)
            shop.relays[0].send_signal(signal.SIGSTOP)

    monkeypatch.setattr(Bot, "_attach", freeze)


async def test_the_deadline_of_connect_counts_for_subscriptions_too(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen_after_admission(monkeypatch, shop)
    inventory = shop.bot("inventory")
    inventory.subscribe("orders.placed")(_ignore)
    error = await refusal(inventory, "has a session, but no relay answered within")
    assert error.what.endswith(tuple(f" within {timeout_s} s" for timeout_s in TIMEOUTS_S))
    assert state(inventory) is BotState.NEW
    shop.relays[0].send_signal(signal.SIGCONT)
    await inventory.connect(timeout=PATIENCE_S)
    assert state(inventory) is BotState.CONNECTED
    await inventory.close()


async def test_stop_ends_a_wait_for_a_subscription(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen_after_admission(monkeypatch, shop)
    inventory = shop.bot("inventory")
    inventory.subscribe("orders.placed")(_ignore)
    connecting = asyncio.create_task(inventory.connect(timeout=None))
    await until(lambda: inventory._session.is_up)
    inventory.stop()
    with pytest.raises(NotConnected, match="was told to stop"):
        await connecting
    shop.relays[0].send_signal(signal.SIGCONT)
    assert state(inventory) is BotState.CLOSED


async def test_a_deadline_or_a_stop_ends_the_wait_to_receive(shop: Shop) -> None:
    """The bot is connected, and the relay that would make the subscription is silent."""
    bot = shop.bot("inventory")

    async def iterate() -> list[Message]:
        async with bot.messages("orders.placed") as messages:
            return [message async for message in messages]

    await bot.connect()
    shop.relays[0].send_signal(signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2) as limit, bot.messages("orders.placed"):
            limit.reschedule(None)
    iterating = asyncio.create_task(iterate())
    await until(lambda: bool(bot._listener._taken))
    with pytest.raises(InvalidInput, match="has a loop over messages"):
        await iterate()
    iterating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await iterating
    assert not bot._listener._taken, "the place is free"
    iterating = asyncio.create_task(iterate())
    bot.subscribe("orders.placed", durable="handler")(_ignore)
    await until(lambda: len(bot._listener._taken) == 2)
    bot.stop()
    async with asyncio.timeout(PATIENCE_S):
        assert await iterating == []
        await bot.close(timeout=10 * PATIENCE_S)
    shop.relays[0].send_signal(signal.SIGCONT)


# ---- close() -----------------------------------------------------------------------------------


async def test_closing_waits_for_verdicts(shop: Shop) -> None:
    sender = shop.bot("order")
    await sender.connect()
    shop.relays[0].send_signal(signal.SIGSTOP)
    publishing = asyncio.create_task(sender.publish("orders.placed", order(1), timeout=PATIENCE_S))
    await asyncio.sleep(0)
    closing = asyncio.create_task(sender.close(timeout=PATIENCE_S))
    await until(lambda: state(sender) is BotState.CLOSING)
    shop.relays[0].send_signal(signal.SIGCONT)
    assert (await publishing).verdict is Verdict.ACCEPTED
    await closing
    assert state(sender) is BotState.CLOSED


async def test_a_message_without_verdict_is_unresolved_after_close(shop: Shop) -> None:
    sender = shop.bot("order")
    await sender.connect()
    shop.relays[0].send_signal(signal.SIGSTOP)
    publishing = asyncio.create_task(sender.publish("orders.placed", order(1), timeout=PATIENCE_S))
    asking = asyncio.create_task(sender.request("stock.check", {"sku": "ABC-0001"}, timeout=3600))
    await asyncio.sleep(0)
    await sender.close(timeout=0.1)
    for task in (publishing, asking):
        with pytest.raises(Unresolved, match="was closed before the verdict") as unresolved:
            await task
        assert len(unresolved.value.nonce) == 16
    shop.relays[0].send_signal(signal.SIGCONT)


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_handler_may_close_its_bot(shop: Shop, concurrency: int) -> None:
    inventory, taken = shop.bot("inventory"), list[str]()

    @inventory.subscribe("orders.placed", start="all", concurrency=concurrency)
    async def take(message: Message) -> None:
        taken.append(message.payload["order_id"])
        await inventory.close()
        await asyncio.gather(inventory.close(), inventory.close())
        assert state(inventory) is not BotState.CLOSED

    async with shop.bot("order") as sender:
        await sender.publish("orders.placed", order(1))
        await inventory.run()
        assert state(inventory) is BotState.CLOSED
        await sender.publish("orders.placed", order(2))
    # The first message was acknowledged: another process of this bot is given the second.
    assert await first_order(shop) == "ord-000002"
    assert taken == ["ord-000001"]


async def first_order(shop: Shop) -> str:
    """The first order that is delivered to the inventory bot's subscription."""
    inventory, taken = shop.bot("inventory"), list[str]()

    @inventory.subscribe("orders.placed")
    async def take(message: Message) -> None:
        taken.append(message.payload["order_id"])
        inventory.stop()

    await inventory.run()
    return taken[0]


async def test_the_answer_of_a_handler_that_closes_its_bot_arrives(shop: Shop) -> None:
    inventory = shop.bot("inventory")

    @inventory.reply("stock.check")
    async def level(message: Message) -> object:
        await inventory.close()
        return {"sku": message.payload["sku"], "available": 7}

    running = asyncio.create_task(inventory.run())
    await until(lambda: state(inventory) is BotState.CONNECTED)
    async with shop.bot("order") as asker:
        answer = await asker.request("stock.check", {"sku": "ABC-0001"}, timeout=PATIENCE_S)
    await running
    assert answer.payload["available"] == 7
    assert state(inventory) is BotState.CLOSED


async def test_a_hook_may_close_its_bot(shop: Shop) -> None:
    inventory = shop.bot("inventory")
    # If close() waited for the hook, it would wait an hour.
    inventory.on_connected(lambda: inventory.close(timeout=3600))
    await inventory.run()
    assert state(inventory) is BotState.CLOSED


async def test_a_loop_over_messages_may_close_its_bot(shop: Shop) -> None:
    async with shop.bot("order") as sender:
        for number in (1, 2):
            await sender.publish("orders.placed", order(number))
    taken = list[str]()
    async with shop.bot("inventory") as inventory:
        async with inventory.messages("orders.placed", start="all") as messages:
            async for message in messages:
                taken.append(message.payload["order_id"])
                await inventory.close()
        await inventory.close()  # outside the block it waits for the end
        assert state(inventory) is BotState.CLOSED
    assert taken == ["ord-000001"]
    assert await first_order(shop) == "ord-000002"  # the first was acknowledged


async def test_two_who_close_wait_for_the_same_end(shop: Shop) -> None:
    inventory, may_end, taken = shop.bot("inventory"), asyncio.Event(), list[str]()

    @inventory.subscribe("orders.placed", start="all")
    async def take(message: Message) -> None:
        taken.append(message.payload["order_id"])
        await may_end.wait()

    async with shop.bot("order") as sender:
        await sender.publish("orders.placed", order(1))
    await inventory.connect()
    await until(lambda: bool(taken))
    closing = [asyncio.create_task(inventory.close(timeout=PATIENCE_S)) for _ in range(2)]
    await until(lambda: state(inventory) is BotState.CLOSING)
    assert not any(task.done() for task in closing)
    may_end.set()
    await asyncio.gather(*closing)
    assert state(inventory) is BotState.CLOSED


async def test_a_cancelled_close_still_closes(shop: Shop) -> None:
    inventory, taken = shop.bot("inventory"), list[str]()

    @inventory.subscribe("orders.placed", start="all")
    async def take(message: Message) -> None:
        taken.append(message.payload["order_id"])
        await asyncio.Event().wait()

    async with shop.bot("order") as sender:
        await sender.publish("orders.placed", order(1))
    await inventory.connect()
    await until(lambda: bool(taken))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await inventory.close(timeout=3600)
    await until(lambda: state(inventory) is BotState.CLOSED)


async def test_a_frozen_server_does_not_hold_up_closing(shop: Shop) -> None:
    inventory = shop.bot("inventory")
    inventory.subscribe("orders.placed")(_ignore)
    await inventory.connect()
    assert shop.server.pid is not None
    os.kill(shop.server.pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(PATIENCE_S):
            await inventory.close()
    finally:
        os.kill(shop.server.pid, signal.SIGCONT)


async def _ignore(_: Message) -> None:
    pass
