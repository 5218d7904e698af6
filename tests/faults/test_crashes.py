"""Relays and servers die in the middle of trade: no message is lost, and none is doubled."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from sealbus import Message, SealbusError, Stamp, Verdict
from sealbus.protocol.limits import MAX_PAYLOADS
from tests.e2e.shop import Shop, order
from tests.faults.stored import stored_orders
from tests.forked import Program
from tests.waiting import PATIENCE_S, patiently, until

COUNT = 600
LANES = 4
"""How many bursts are under way at a time."""
BURSTS = 6
"""How many full bursts follow each other in a lane."""
SUBSCRIBE = {"pattern": "orders.shipped", "durable": "after", "from": "new"}


@pytest.mark.parametrize("relays", [1, 2])
async def test_a_relay_killed_in_the_middle_loses_and_doubles_nothing(
    tmp_path: Path, relays: int
) -> None:
    async with Shop(tmp_path / "shop") as shop:
        first = await start_relays(shop, relays)
        seen: Counter[str] = Counter()
        inventory = shop.bot("inventory")

        @inventory.subscribe("orders.placed", start="all")
        async def on_order(message: Message) -> None:
            seen[message.payload["order_id"]] += 1

        async with inventory, shop.bot("order") as sender:

            async def trade(number: int) -> Verdict:
                await asyncio.sleep(number * 0.002)
                return (
                    await sender.publish("orders.placed", order(number), timeout=PATIENCE_S)
                ).verdict

            trading = [asyncio.create_task(trade(number)) for number in range(COUNT)]
            await until(lambda: len(seen) > COUNT // 4)
            await kill(shop, first, relays)
            verdicts = await asyncio.gather(*trading)
            await until(lambda: len(seen) == COUNT)
        assert set(verdicts) == {Verdict.ACCEPTED}
        assert set(seen.values()) == {1}
        assert len(await stored_orders(shop)) == COUNT
        # The messages in the dead relay's hand are delivered once more, and found in the ledger.
        await settled(shop)
        assert len(await stored_orders(shop)) == COUNT
        assert await shop.stored("QUARANTINE") == 0
        assert set(seen.values()) == {1}


@pytest.mark.parametrize("relays", [1, 2])
async def test_a_relay_killed_amid_bursts_loses_and_doubles_nothing(
    tmp_path: Path, relays: int
) -> None:
    async with Shop(tmp_path / "shop") as shop:
        first = await start_relays(shop, relays)
        seen: Counter[str] = Counter()
        handled: Counter[str] = Counter()
        inventory = shop.bot("inventory")

        @inventory.subscribe("orders.placed", start="all")
        async def on_order(message: Message) -> None:
            seen[message.payload["order_id"]] += 1
            handled[message.id] += 1

        async with inventory, shop.bot("order") as sender:
            outcomes: list[Stamp | SealbusError] = []
            amid = asyncio.Event()

            async def trade(lane: int) -> None:
                for number in range(BURSTS):
                    begin = (lane * BURSTS + number) * MAX_PAYLOADS
                    orders = [order(begin + at) for at in range(MAX_PAYLOADS)]
                    outcomes.extend(
                        await sender.publish_many("orders.placed", orders, timeout=PATIENCE_S)
                    )
                    amid.set()

            trading = asyncio.gather(*(trade(lane) for lane in range(LANES)))
            count = LANES * BURSTS * MAX_PAYLOADS
            # One burst is done. Its lane has others to send, and so have all lanes.
            await patiently(amid.wait())
            await kill(shop, first, relays)
            await trading
            await until(lambda: len(seen) == count)
            await settled(shop)
        stamps = [one for one in outcomes if isinstance(one, Stamp)]
        assert len(stamps) == count
        assert {one.verdict for one in stamps} == {Verdict.ACCEPTED}
        assert set(seen.values()) == {1}
        assert set(handled.values()) == {1}
        assert len(handled) == count
        nonces = {one.nonce.hex() for one in stamps}
        assert len(nonces) < count // 64, "they travel in bursts"
        assert nonces == {name.split(".")[1] for name in handled}
        stored = await stored_orders(shop)
        assert sorted(stored) == sorted(seen)
        assert await shop.stored("QUARANTINE") == 0


async def start_relays(shop: Shop, relays: int) -> Program:
    """Start one relay, or two. Returns the first."""
    first = await shop.start_relay("first")
    if relays == 2:
        await shop.start_relay("second")
    return first


async def kill(shop: Shop, relay: Program, relays: int) -> None:
    """Kill a relay. If it was the only one, start another."""
    relay.send_signal(signal.SIGKILL)
    await relay.wait()
    if relays == 1:
        await shop.start_relay("again")


async def settled(shop: Shop) -> None:
    """Wait until every envelope has a verdict."""
    async with asyncio.timeout(PATIENCE_S):
        while await shop.stored("INGRESS"):  # noqa: ASYNC110  # it empties in other processes
            await asyncio.sleep(0.2)


async def test_a_killed_nats_server_is_restarted_and_loses_nothing(tmp_path: Path) -> None:
    async with Shop(tmp_path / "shop") as shop:
        await shop.start_relay()
        watching = asyncio.create_task(shop.server.supervise())
        seen: Counter[str] = Counter()
        inventory = shop.bot("inventory")

        @inventory.subscribe("orders.placed", start="all")
        async def on_order(message: Message) -> None:
            seen[message.payload["order_id"]] += 1

        async with inventory, shop.bot("order") as sender:
            trading = [
                asyncio.create_task(
                    sender.publish("orders.placed", order(number), timeout=PATIENCE_S)
                )
                for number in range(100)
            ]
            await until(lambda: len(seen) > 10)
            assert shop.server.pid is not None
            os.kill(shop.server.pid, signal.SIGKILL)
            later = [
                asyncio.create_task(
                    sender.publish("orders.placed", order(number), timeout=PATIENCE_S)
                )
                for number in range(100, 200)
            ]
            stamps = await asyncio.gather(*trading, *later)
            await until(lambda: len(seen) == 200)
            # The live stream was only in memory. It exists again, and its ledger begins anew.
            stamp = await sender.publish("sealbus.subscribe", SUBSCRIBE, live=True)
            assert stamp.verdict is Verdict.ACCEPTED
        assert {stamp.verdict for stamp in stamps} == {Verdict.ACCEPTED}
        assert set(seen.values()) == {1}
        await shop.server.stop()
        await watching


async def test_a_relay_told_to_stop_finishes_its_messages_and_ends(shop_folder: Path) -> None:
    async with Shop(shop_folder) as shop:
        relay = await shop.start_relay()
        async with shop.bot("order") as sender:
            publishing = [
                asyncio.create_task(sender.publish("orders.placed", order(n), timeout=2))
                for n in range(200)
            ]
            await asyncio.sleep(0)
            relay.terminate()
            assert await patiently(relay.wait()) == 0
            await asyncio.gather(*publishing, return_exceptions=True)
        verdicts = [one for one in publishing if one.exception() is None]
        # Each message has its verdict or still waits for a relay, at whatever moment the signal
        # came.
        assert len(await stored_orders(shop)) >= len(verdicts)
        await shop.start_relay("next")
        await settled(shop)
        assert len(await stored_orders(shop)) == 200
        assert await shop.stored("QUARANTINE") == 0


@pytest.fixture
def shop_folder(tmp_path: Path) -> Path:
    return tmp_path / "shop"
