"""Relays and servers that are stopped properly.

No time-out passes, and a bot's messages keep their order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sealbus import Bot
from sealbus_broker.relay.ingress import pulling
from sealbus_broker.relay.relay import Relay
from sealbus_broker.relay.store import stream_store
from tests.e2e.shop import Shop, order
from tests.faults.stored import is_known, stored_orders
from tests.waiting import until

AT_ONCE = 1000
"""Messages without a verdict: many more than a relay pulls before it judges the first of them."""
SOME = 100
ROUNDS = 6


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    """A shop whose server runs, without a relay."""
    async with Shop(tmp_path / "shop") as running:
        yield running


async def published(sender: Bot, enough: asyncio.Event, accepted: list[int]) -> int:
    """Publish many orders at once until ``enough`` is set, and return how many.

    Each accepted order is added to ``accepted``.
    """

    async def publish(number: int) -> None:
        await sender.publish("orders.placed", order(number), timeout=90)
        accepted.append(number)
        room.release()

    room, count = asyncio.Semaphore(AT_ONCE), 0
    async with asyncio.TaskGroup() as trading:
        while not enough.is_set():
            await room.acquire()
            trading.create_task(publish(count))
            count += 1
    return count


@pytest.mark.parametrize("next_relay", ["starts later", "stands by"])
async def test_pipelined_messages_keep_their_order_when_a_relay_stops(
    shop: Shop, next_relay: str
) -> None:
    """A relay gives back the messages that it pulled and has not begun.

    They keep their order, and no newer message is delivered before them.

    The relay may have begun all of them, or another relay may hold the bot's partition. So relay
    after relay is stopped, until one gives messages back, or :data:`ROUNDS` have stopped.
    """
    enough, accepted, number = asyncio.Event(), list[int](), 1
    earlier = await shop.start_relay("relay-0")
    await is_known(shop, "relay-0")
    earlier.terminate()
    await earlier.wait()
    relay = await shop.start_relay("relay-1")
    await is_known(shop, "relay-1")
    async with shop.bot("order") as sender:
        trading = asyncio.create_task(published(sender, enough, accepted))
        while not enough.is_set():
            name = f"relay-{(number + 1) % 2}"
            standby = await shop.start_relay(name) if next_relay == "stands by" else None
            accepted.clear()
            await until(
                lambda: trading.done() or len(accepted) > SOME, "some more have their verdict"
            )
            if trading.done():
                break  # the relay failed
            relay.terminate()
            assert await relay.wait() == 0
            log = (shop.bus.path / f"relay-{number % 2}.log").read_text()
            if "partition.given-back" in log or number == ROUNDS:
                enough.set()
            relay, number = standby or await shop.start_relay(name), number + 1
        count = await trading
    assert await stored_orders(shop) == [f"ord-{number:06d}" for number in range(count)]


async def test_a_restarted_server_is_used_as_soon_as_it_is_back(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The requests of the lost connection are made again at once.

    Otherwise this would take ten minutes here.
    """
    monkeypatch.setattr(pulling, "SILENCE_S", 600.0)
    monkeypatch.setattr(stream_store, "ACK_TIMEOUT_S", 600.0)
    stopping, ready = asyncio.Event(), asyncio.Event()
    policy = shop.bus.policy(shop.secrets.bus.public)
    relay = Relay(servers=[shop.url], secrets=shop.secrets, policy=policy, name="relay")
    running = asyncio.create_task(relay.run(stopping, ready.set))
    await ready.wait()
    try:
        async with shop.bot("order") as sender:
            await sender.publish("orders.placed", order(1), timeout=30)
            trading = [
                asyncio.create_task(sender.publish("orders.placed", order(number), timeout=60))
                for number in range(2, 200)
            ]
            await until(lambda: any(one.done() for one in trading), "some have their verdict")
            await shop.restart_server()
            await asyncio.gather(*trading)
            await sender.publish("orders.placed", order(200), timeout=60)
    finally:
        stopping.set()
        await running
