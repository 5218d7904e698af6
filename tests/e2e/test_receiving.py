"""The messages that a subscription has in hand.

It fetches no more than it can begin, and it gives the rest back when it stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from sealbus import Bot, InvalidInput, Message
from sealbus.nats import pull
from sealbus.nats.client import HardenedClient
from sealbus.protocol.subjects import consumer_name
from sealbus.receiving import in_hand, supply
from sealbus.receiving.supply import Supply
from tests.e2e.edits import asking
from tests.e2e.shop import Shop, order
from tests.made import made
from tests.waiting import PATIENCE_S, until

PLACE: Any = {"start": "all", "durable": "d"}


async def publish(shop: Shop, numbers: range, *, alone: bool = False) -> None:
    """Publish orders together. ``alone``: each in an envelope, so that processes share them."""
    async with shop.bot("order") as sender:
        await asyncio.gather(
            *(sender.publish("orders.placed", order(number), alone=alone) for number in numbers)
        )


def number(message: Message) -> int:
    return int(message.payload["order_id"].removeprefix("ord-"))


async def consumer(shop: Shop) -> dict[str, Any]:
    """The state of the subscription's consumer, from the server."""
    async with asking(shop) as nc:
        return await consumer_from(nc)


async def consumer_from(nc: HardenedClient) -> dict[str, Any]:
    """The same, over a connection that is open."""
    name = consumer_name("inventory", "orders.placed", "d")
    state: dict[str, Any] = json.loads(
        (await nc.request(f"$JS.API.CONSUMER.INFO.ACCEPTED.{name}", b"", PATIENCE_S)).data
    )
    return state


async def given_back(shop: Shop) -> int:
    """The number of deliveries that came again, once each has come."""
    envelopes = await shop.stored("ACCEPTED") - 1  # without the genesis
    count: int = (await consumer(shop))["delivered"]["consumer_seq"] - envelopes
    return count


BURSTS = pytest.mark.parametrize("each", [1, 10], ids=["alone", "bursts"])
"""How many messages are in an envelope. The server counts and delivers envelopes."""


async def publish_bursts(shop: Shop, numbers: range, each: int) -> None:
    """Publish orders in envelopes of ``each``, and see that they are."""
    before = await shop.stored("ACCEPTED")
    async with shop.bot("order") as sender:
        for first in range(0, len(numbers), each):
            burst = numbers[first : first + each]
            await asyncio.gather(
                *(sender.publish("orders.placed", order(number)) for number in burst)
            )
    assert await shop.stored("ACCEPTED") - before == len(numbers) / each


@pytest.mark.usefixtures("quick_handlers")
@BURSTS
async def test_a_stop_gives_fetched_messages_back_in_order(shop: Shop, each: int) -> None:
    """The next process goes on with the next message, and gets the new ones after the old ones."""
    await publish_bursts(shop, range(300), each)
    seen: list[int] = []

    def listener(stop_at: int, stop: asyncio.Event) -> Bot:
        bot = shop.bot("inventory")

        @bot.subscribe("orders.placed", **PLACE)
        async def take(message: Message) -> None:
            seen.append(number(message))
            await asyncio.sleep(0.005)
            if len(seen) >= stop_at:
                stop.set()

        return bot

    for stop_at in (20, 45, 46, 70, 95):
        stop = asyncio.Event()
        async with listener(stop_at, stop):
            await stop.wait()
        assert (await consumer(shop))["num_ack_pending"] > 0  # fetched, and not done
    await publish(shop, range(300, 310))
    end = asyncio.Event()
    async with listener(310, end):
        await until(end.is_set)
    assert seen == list(range(310))
    assert await given_back(shop) > 0


async def test_a_stop_gives_back_before_its_handlers_have_ended(shop: Shop) -> None:
    await publish(shop, range(20), alone=True)
    release, first, second = asyncio.Event(), list[int](), list[int]()
    old, new = shop.bot("inventory"), shop.bot("inventory")

    @old.subscribe("orders.placed", **PLACE)
    async def block(message: Message) -> None:
        first.append(number(message))
        if len(first) > 3:
            await release.wait()

    @new.subscribe("orders.placed", **PLACE)
    async def take(message: Message) -> None:
        second.append(number(message))

    await old.connect()
    await until(lambda: len(first) > 3)
    closing = asyncio.create_task(old.close(timeout=1000))
    async with new:
        await until(lambda: len(first) + len(second) == 20)
        assert not closing.done()
    release.set()
    await closing
    assert sorted(first + second) == list(range(20))


async def test_a_slow_handler_leaves_the_rest_to_others(shop: Shop) -> None:
    """Each of two processes fetches only messages that it begins soon.

    So both work, and no message waits in a queue.
    """
    seen: dict[str, list[int]] = {"one": [], "two": []}

    def listener(name: str) -> Bot:
        bot = shop.bot("inventory")

        @bot.subscribe("orders.placed", **PLACE)
        async def take(message: Message) -> None:
            seen[name].append(number(message))
            await asyncio.sleep(0.6)

        return bot

    most = 0
    async with (
        listener("one"),
        listener("two"),
        asking(shop) as nc,
        asyncio.TaskGroup() as publishing,
    ):
        # Only now, because the second may take long to connect.
        publishing.create_task(publish(shop, range(24), alone=True))
        while sum(map(len, seen.values())) < 24:
            most = max(most, (await consumer_from(nc))["num_ack_pending"])
            await asyncio.sleep(0.01)
    assert sorted(seen["one"] + seen["two"]) == list(range(24))
    assert most <= 4  # of each: one in its hand, and one whose acknowledgement is under way
    assert min(len(seen["one"]), len(seen["two"])) > 4


async def test_messages_behind_a_slow_one_are_given_back(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, quick_handlers: Callable[[], None]
) -> None:
    """The handler was fast, so the bot fetched many messages. Then one message takes long."""
    release, seen, unbegun_s = asyncio.Event(), list[int](), supply.UNBEGUN_S
    monkeypatch.setattr(supply, "UNBEGUN_S", PATIENCE_S)  # until the test has asked the server
    await publish(shop, range(300), alone=True)
    slow, other = shop.bot("inventory"), shop.bot("inventory")

    @slow.subscribe("orders.placed", **PLACE)
    async def take(message: Message) -> None:
        seen.append(number(message))
        if number(message) == 50:
            await release.wait()

    @other.subscribe("orders.placed", **PLACE)
    async def help_out(message: Message) -> None:
        seen.append(number(message))

    async with slow:
        await until(lambda: 50 in seen)
        assert (await consumer(shop))["num_ack_pending"] > 1
        monkeypatch.setattr(supply, "UNBEGUN_S", unbegun_s)
        quick_handlers()
        async with other:
            await until(lambda: len(seen) == 300)
        release.set()
    assert Counter(seen) == Counter(range(300))


@BURSTS
async def test_the_order_holds_though_messages_were_given_back(
    shop: Shop, each: int, monkeypatch: pytest.MonkeyPatch, quick_handlers: Callable[[], None]
) -> None:
    supplies = made(monkeypatch, Supply)
    seen: list[int] = []
    await publish_bursts(shop, range(100), each)
    bot = shop.bot("inventory")

    @bot.subscribe("orders.placed", **PLACE)
    async def take(message: Message) -> None:
        seen.append(number(message))
        if number(message) in (20, 60):
            quick_handlers()
            (mine,) = supplies
            await until(lambda: bool(mine._hand.waiting), "messages wait behind this one")
            await until(lambda: not mine._hand.waiting, "they are given back")

    async with bot:
        await until(lambda: len(seen) == 100)
    assert seen == list(range(100))
    assert await given_back(shop) > 0


@pytest.mark.usefixtures("quick_handlers")
@BURSTS
async def test_a_lost_connection_costs_no_order_and_no_message(
    shop: Shop, each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is lost while deliveries wait, and no request is under way, whose answer would be lost."""
    supplies = made(monkeypatch, Supply)
    await publish_bursts(shop, range(60), each)
    seen, waiting = list[int](), list[int]()
    bot = shop.bot("inventory")

    def is_quiet() -> bool:
        (mine,) = supplies
        return mine._pull is not None and not mine._pull.outstanding

    @bot.subscribe("orders.placed", **PLACE)
    async def take(message: Message) -> None:
        seen.append(number(message))
        await asyncio.sleep(0.02)
        if len(seen) == 15:
            await until(is_quiet)
            waiting.append(len(supplies[0]._hand.waiting))
            transport = (await bot._session.client())._transport
            assert transport is not None
            transport.close()  # type: ignore[no-untyped-call]  # as a network does

    async with bot:
        await until(lambda: len(seen) >= 60)
    assert seen == list(range(60))
    assert waiting[0] > 0


@pytest.mark.usefixtures("patient_parking")
async def test_leaving_the_block_by_break_ends_the_last_message(shop: Shop) -> None:
    await publish(shop, range(1, 6))
    seen: list[list[int]] = []
    for _ in range(2):
        got = list[int]()
        async with shop.bot("inventory") as bot, bot.messages("orders.placed", **PLACE) as messages:
            async for message in messages:
                got.append(number(message))
                if len(got) == 2:
                    break
        seen.append(got)
    assert seen == [[1, 2], [3, 4]]


@pytest.mark.usefixtures("patient_parking")
async def test_short_blocks_one_after_another_lose_nothing(shop: Shop) -> None:
    """`sub -n 2` does this again and again.

    A message that a block fetched and gave back does not count as a failed attempt.
    """
    await publish(shop, range(120))
    seen: list[int] = []
    attempts: list[int] = []
    async with shop.bot("inventory") as bot:
        for _ in range(30):
            async with bot.messages("orders.placed", **PLACE) as messages:
                for _ in range(2):
                    message = await anext(messages)
                    seen.append(number(message))
                    attempts.append(message.attempt)
    assert seen == list(range(60))
    assert max(attempts) < 5
    assert await shop.stored("QUARANTINE") == 0


async def test_leaving_the_block_by_an_exception_is_an_attempt(shop: Shop) -> None:
    await publish(shop, range(1))
    attempts: list[int] = []
    for _ in range(2):
        with contextlib.suppress(KeyError):
            async with (
                shop.bot("inventory") as bot,
                bot.messages("orders.placed", **PLACE) as messages,
            ):
                async for message in messages:
                    attempts.append(message.attempt)
                    raise KeyError
    async with shop.bot("inventory") as bot, bot.messages("orders.placed", **PLACE) as messages:
        attempts.append((await anext(messages)).attempt)
    assert attempts == [1, 2, 3]


async def test_a_cancelled_block_gives_its_message_back(shop: Shop) -> None:
    await publish(shop, range(1))
    begun = asyncio.Event()

    async def work() -> None:
        async with shop.bot("inventory") as bot, bot.messages("orders.placed", **PLACE) as messages:
            async for _ in messages:
                begun.set()
                await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await begun.wait()
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    async with shop.bot("inventory") as bot, bot.messages("orders.placed", **PLACE) as messages:
        assert number(await anext(messages)) == 0


async def test_messages_outside_their_block_are_refused_at_once(shop: Shop) -> None:
    async with shop.bot("inventory") as bot:
        with pytest.raises(InvalidInput, match="outside its block") as refused:
            aiter(bot.messages("orders.placed"))
        with pytest.raises(InvalidInput, match="outside its block"):
            await anext(bot.messages("orders.placed"))
        async with bot.messages("orders.placed") as messages:
            pass
        with pytest.raises(InvalidInput, match="outside its block"):
            await anext(messages)
    assert "async with bot.messages" in str(refused.value.hint)


async def test_a_live_block_that_was_left_receives_no_more(shop: Shop) -> None:
    async with shop.bot("inventory") as bot:
        async with bot.messages("orders.placed", live=True):
            assert len(bot._listener._live) == 1
        nc = await bot._session.client()
        subjects = {subscription.subject for subscription in nc._subs.values()}
    assert "bus.orders.placed" not in subjects


async def test_a_consumer_that_is_deleted_is_made_again(shop: Shop) -> None:
    seen: list[int] = []
    bot = shop.bot("inventory")

    @bot.subscribe("orders.placed", **PLACE)
    async def take(message: Message) -> None:
        seen.append(number(message))

    async with bot:
        await publish(shop, range(1))
        await until(lambda: seen == [0])
        nc = await shop.nats()
        name = consumer_name("inventory", "orders.placed", "d")
        await nc.request(f"$JS.API.CONSUMER.DELETE.ACCEPTED.{name}", b"", PATIENCE_S)
        await nc.close()
        await publish(shop, range(1, 2))
        await until(lambda: seen[-1] == 1)
    assert seen == [0, 1]


async def test_with_room_for_few_bytes_everything_comes_in_order(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request brings two orders. The bot makes another request only when no order waits."""
    monkeypatch.setattr(pull, "PULL_BYTES", 2_000)
    monkeypatch.setattr(in_hand, "WAITING_BYTES", 0)
    sender, inventory, got = shop.bot("order"), shop.bot("inventory"), list[str]()

    @inventory.subscribe("orders.placed", start="all")
    async def take(message: Message) -> None:
        got.append(message.payload["order_id"])

    async with sender, inventory:
        await asyncio.gather(
            *(sender.publish("orders.placed", order(number), alone=True) for number in range(60))
        )
        await until(lambda: len(got) >= 60)
    assert got == [f"ord-{number:06d}" for number in range(60)]
