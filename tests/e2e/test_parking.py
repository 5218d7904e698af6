"""Messages whose handlers fail.

They are tried again, and then parked in the quarantine. Other messages go on meanwhile.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from sealbus import Bot, Message, RequestFailed
from sealbus.protocol.subjects import consumer_name
from sealbus.receiving.attempts import UNTRIED_LEAST
from tests.e2e.shop import Shop, order
from tests.waiting import PATIENCE_S, until

PLACE: Any = {"start": "all", "durable": "d"}
CONSUMER = consumer_name("inventory", "orders.placed", "d")


class Poison(Exception):
    """The error that a handler raises."""


async def publish(shop: Shop, numbers: range, *, alone: bool = False) -> None:
    """Publish orders together. ``alone``: each in an envelope of its own."""
    async with shop.bot("order") as sender:
        await asyncio.gather(
            *(sender.publish("orders.placed", order(number), alone=alone) for number in numbers)
        )


def number(message: Message) -> int:
    return int(message.payload["order_id"].removeprefix("ord-"))


async def records(shop: Shop) -> list[dict[str, Any]]:
    """The records of the messages that were given up, as an operator reads them."""
    found: list[dict[str, Any]] = []
    async with shop.bot("operator") as operator:
        ask: dict[str, Any] = {"reason": "undeliverable", "limit": 200}
        while True:
            page = (await operator.request("sealbus.quarantine.list", ask)).payload
            found.extend(page["records"])
            if page["next"] is None:
                return found
            ask["before"] = page["next"]


async def in_hand(shop: Shop) -> int:
    nc = await shop.nats()
    try:
        asked = f"$JS.API.CONSUMER.INFO.ACCEPTED.{CONSUMER}"
        info = json.loads((await nc.request(asked, b"", PATIENCE_S)).data)
        count: int = info["num_ack_pending"]
        return count
    finally:
        await nc.close()


async def test_a_failing_message_ends_in_the_quarantine(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    await publish(shop, range(1))
    attempts: list[int] = []
    bot = shop.bot("inventory")

    @bot.subscribe("orders.placed", attempts=2, **PLACE)
    async def fail(message: Message) -> None:
        attempts.append(message.attempt)
        raise Poison("the price was 17")

    async with bot:
        await until(lambda: "gave up" in caplog.text)
    (record,) = await records(shop)
    assert attempts == [1, 2]
    assert (record["reason"], record["session"], record["claimed"], record["subject"]) == (
        "undeliverable",
        "inventory",
        "order",
        "orders.placed",
    )
    assert record["detail"] == "given up after 2 attempts (Poison): subscription d to orders.placed"
    assert await in_hand(shop) == 0
    assert f"number in the quarantine: {record['sequence']}" in caplog.text
    async with shop.bot("operator") as operator:
        shown = (
            await operator.request("sealbus.quarantine.show", {"sequence": record["sequence"]})
        ).payload
    assert shown["size"] == record["size"] > 0


@pytest.mark.usefixtures("patient_parking")
async def test_failing_messages_hold_up_no_good_ones(shop: Shop) -> None:
    """Every second message fails. All others are handled, and each failing one is parked once."""
    count = 200
    await publish(shop, range(count), alone=True)
    assert await shop.stored("ACCEPTED") == 1 + count  # with the genesis: each is a delivery
    tries, good = Counter[int](), list[int]()
    bot = shop.bot("inventory")

    @bot.subscribe("orders.placed", attempts=2, **PLACE)
    async def half(message: Message) -> None:
        if number(message) % 2:
            tries[number(message)] += 1
            raise Poison
        good.append(number(message))

    async def parked() -> bool:
        return await shop.stored("QUARANTINE") == count // 2

    async with bot:
        await until(lambda: len(good) == count // 2)
        await until(parked)
    assert good == list(range(0, count, 2))
    assert set(tries.values()) == {2}
    kept = {(record["nonce"], *(record["payloads"] or [])) for record in await records(shop)}
    assert len(kept) == count // 2
    assert await in_hand(shop) == 0


async def test_the_policy_limits_the_number_of_attempts(shop: Shop) -> None:
    """A subscription may ask for fewer attempts, and not for more."""
    for attempts, expected in ((None, 10), (3, 3), (1000, 10)):
        bot = shop.bot("inventory")
        async with bot, bot.messages("orders.placed", durable="d", attempts=attempts) as messages:
            assert messages._subscription._attempts.most == expected  # type: ignore[union-attr]


async def test_a_message_that_ends_its_process_is_parked_untried(shop: Shop) -> None:
    await publish(shop, range(1))
    bot = shop.bot("inventory")
    async with bot, bot.messages("orders.placed", **PLACE):
        pass
    nc = await shop.nats()
    inbox = nc.new_inbox()
    arrivals = await nc.subscribe(inbox)
    for _ in range(UNTRIED_LEAST + 1):
        await nc.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.ACCEPTED.{CONSUMER}", b'{"batch": 1}', reply=inbox
        )
        taken = await arrivals.next_msg(PATIENCE_S)
        await nc.publish(taken.reply, b"-NAK")
        await nc.flush()
    await nc.close()
    await publish(shop, range(1, 2))
    seen: list[int] = []
    again = shop.bot("inventory")

    @again.subscribe("orders.placed", **PLACE)
    async def take(message: Message) -> None:
        seen.append(number(message))

    async with again:
        await until(lambda: bool(seen))
    (record,) = await records(shop)
    assert seen == [1]
    assert "(no-outcome)" in record["detail"]


async def test_a_delivery_that_does_not_verify_is_kept(shop: Shop) -> None:
    """The message is not deleted, because the stored message may be good.

    Somebody may have changed only the copy on the wire, or the bot may have a wrong bus key.
    """
    bot, seen = shop.bot("inventory"), list[int]()

    @bot.subscribe("orders.placed", attempts=2, **PLACE)
    async def take(message: Message) -> None:
        seen.append(number(message))

    async with bot:
        nc = await shop.nats()
        await nc.request("accepted.orders.placed", b"not a delivery", PATIENCE_S)
        await nc.close()
        await publish(shop, range(1))
        await until(lambda: seen == [0])

        async def parked() -> bool:
            return await shop.stored("QUARANTINE") == 1

        await until(parked)
        assert sum(bot.refused_deliveries.values()) == 2
    (record,) = await records(shop)
    assert "2 attempts (unverified)" in record["detail"]
    assert record["claimed"] is None


async def test_a_message_that_cannot_be_parked_is_kept(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """Only a relay can park a message. Without one, the subscription keeps it, and goes on."""
    await publish(shop, range(4))
    seen: list[int] = []
    bot = shop.bot("inventory")

    @bot.subscribe("orders.placed", attempts=1, **PLACE)
    async def take(message: Message) -> None:
        if number(message) == 0:
            shop.relays[0].kill()
            await shop.relays[0].wait()
            raise Poison
        seen.append(number(message))

    async with bot:
        await until(lambda: seen == [1, 2, 3])
        await until(lambda: "could not be parked" in caplog.text)
        assert await in_hand(shop) == 1


async def refusal(bot: Bot, **fields: Any) -> str:
    """Why the relay does not park a message."""
    with pytest.raises(RequestFailed) as refused:
        await ask(bot, **fields)
    return refused.value.message


async def ask(bot: Bot, **fields: Any) -> dict[str, Any]:
    wanted = {"consumer": CONSUMER, "sequence": 2, "attempt": 1, "error": "Poison", **fields}
    asked = await bot.request("sealbus.park", wanted, timeout=PATIENCE_S)
    answer: dict[str, Any] = asked.payload
    return answer


@pytest.mark.usefixtures("patient_parking")
async def test_a_bot_can_park_only_a_message_in_its_hand(shop: Shop) -> None:
    await publish(shop, range(3), alone=True)
    async with shop.bot("inventory") as bot, shop.bot("scraper") as scraper:
        other = consumer_name("inventory", "orders.placed", "other")
        assert "no subscription" in await refusal(bot, consumer=other)
        async with bot.messages("orders.placed", **PLACE) as messages:
            await anext(messages)
            assert "is not a subscription of scraper" in await refusal(scraper)
            assert "is not in the hand of" in await refusal(bot, sequence=4)
            assert "does not deliver message 1" in await refusal(bot, sequence=1)  # the genesis
            assert await shop.stored("QUARANTINE") == 0
            first, again = await ask(bot), await ask(bot)
        assert first == again == {"record": 1}
        assert "is not in the hand of" in await refusal(bot)
    assert await shop.stored("QUARANTINE") == 1
