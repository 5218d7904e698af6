"""The bus as bots see it: a real nats-server, and a relay in a process of its own."""

from __future__ import annotations

import asyncio

import pytest

from sealbus import (
    Bot,
    Message,
    NoReply,
    Reason,
    Refused,
    SubscriptionDenied,
    Verdict,
    new_nonce,
)
from sealbus.credentials import Credentials
from sealbus.protocol.keys import KeyKind, SigningKey
from tests.e2e.shop import Shop, order
from tests.refusal import refusal
from tests.waiting import PATIENCE_S, until


async def test_a_message_is_accepted_stamped_and_delivered_once(shop: Shop) -> None:
    inventory, seen = shop.bot("inventory"), list[Message]()

    @inventory.subscribe("orders.placed", start="all")
    async def on_order(message: Message) -> None:
        seen.append(message)

    async with shop.bot("order") as sender, inventory:
        stamp = await sender.publish("orders.placed", order(1))
        await until(lambda: bool(seen))
    assert stamp.verdict is Verdict.ACCEPTED
    assert (seen[0].bot, seen[0].payload, seen[0].nonce) == ("order", order(1), stamp.nonce)
    assert seen[0].stamp == stamp
    assert len(seen) == 1


async def test_durable_subscriber_gets_messages_sent_while_away(shop: Shop) -> None:
    seen: list[str] = []

    async def listen(count: int) -> None:
        inventory = shop.bot("inventory")

        @inventory.subscribe("orders.placed")
        async def on_order(message: Message) -> None:
            seen.append(message.payload["order_id"])

        async with inventory, shop.bot("order") as sender:
            if count == 1:
                await sender.publish("orders.placed", order(1))
            await until(lambda: len(seen) >= count)

    await listen(1)
    async with shop.bot("order") as sender:
        await sender.publish("orders.placed", order(2))
    await listen(2)
    assert seen == ["ord-000001", "ord-000002"]


async def test_a_handler_that_fails_gets_the_message_again(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    inventory, attempts = shop.bot("inventory"), list[str]()

    @inventory.subscribe("orders.placed", start="all")
    async def on_order(message: Message) -> None:
        attempts.append(message.payload["order_id"])
        if len(attempts) == 1:
            raise RuntimeError("not today")

    async with shop.bot("order") as sender, inventory:
        await sender.publish("orders.placed", order(1))
        await until(lambda: len(attempts) == 2)
    assert attempts == ["ord-000001", "ord-000001"]
    assert "the handler of orders.placed failed" in caplog.text


async def test_messages_of_one_bot_arrive_in_order(shop: Shop) -> None:
    count, seen = 300, list[str]()
    inventory = shop.bot("inventory")

    @inventory.subscribe("orders.placed", start="all")
    async def on_order(message: Message) -> None:
        seen.append(message.payload["order_id"])

    async with shop.bot("order") as sender, inventory:
        await asyncio.gather(
            *(sender.publish("orders.placed", order(number)) for number in range(count))
        )
        await until(lambda: len(seen) == count)
    assert seen == [order(number)["order_id"] for number in range(count)]


async def test_asking_for_the_next_message_acknowledges_the_last(shop: Shop) -> None:
    async with shop.bot("order") as sender:
        for number in range(3):
            await sender.publish("orders.placed", order(number))
    first: list[str] = []
    async with (
        shop.bot("inventory") as inventory,
        inventory.messages("orders.placed", start="all") as messages,
    ):
        async for message in messages:
            first.append(message.payload["order_id"])
            if len(first) == 2:
                break
    assert first == ["ord-000000", "ord-000001"]


async def test_a_request_is_answered_by_the_bot_that_replies(shop: Shop) -> None:
    inventory = shop.bot("inventory")

    @inventory.reply("stock.check")
    async def level(message: Message) -> dict[str, object]:
        return {"sku": message.payload["sku"], "available": 7}

    async with inventory, shop.bot("order") as asker:
        answer = await asker.request("stock.check", {"sku": "ABC-0001"})
    assert (answer.bot, answer.payload) == ("inventory", {"sku": "ABC-0001", "available": 7})


async def test_a_request_that_nobody_answers_says_so(shop: Shop) -> None:
    inventory = shop.bot("inventory")

    @inventory.subscribe("stock.check")
    async def only_listen(_: Message) -> None: ...

    async with inventory, shop.bot("order") as asker:
        with pytest.raises(NoReply, match="nobody answered"):
            await asker.request("stock.check", {"sku": "ABC-0001"}, timeout=3)


@pytest.mark.parametrize(
    ("bot", "subject", "payload", "reason"),
    [
        ("order", "orders.placed", {"order_id": "ord-000001"}, Reason.SCHEMA),
        ("order", "orders.shipped", order(1), Reason.NOT_GRANTED),
        ("scraper", "orders.placed", order(1), Reason.NOT_GRANTED),
        ("order", "nothing.such", {}, Reason.UNDECLARED_SUBJECT),
        ("inventory", "stock.reserved", {"order_id": "ord-000001", "lines": []}, Reason.SCHEMA),
        (
            "inventory",
            "stock.reserved",
            {"order_id": "ord-000001", "lines": [{"sku": "ABC-0001", "quantity": 1}]},
            Reason.CAUSE,
        ),
    ],
)
@pytest.mark.usefixtures("each_sent_once")
async def test_a_violation_is_refused_and_not_delivered(
    shop: Shop, bot: str, subject: str, payload: object, reason: Reason
) -> None:
    before = await shop.stored("ACCEPTED")
    async with shop.bot(bot) as sender:
        with pytest.raises(Refused) as refused:
            await sender.publish(subject, payload)
    assert refused.value.reason is reason
    assert await shop.stored("ACCEPTED") == before
    assert await shop.stored("QUARANTINE") == 1


async def test_only_one_reservation_follows_from_an_order(shop: Shop) -> None:
    lines = [{"sku": "ABC-0001", "quantity": 1}]
    async with shop.bot("order") as sender, shop.bot("inventory") as inventory:
        await sender.publish("orders.placed", order(1))
        async with inventory.messages("orders.placed", start="all") as messages:
            placed = await anext(messages)
        await inventory.publish(
            "stock.reserved",
            {"order_id": "ord-000001", "lines": lines},
            parent=placed,
            include_parent=True,
        )
        with pytest.raises(Refused) as again:
            await inventory.publish(
                "stock.reserved",
                {"order_id": "ord-000001", "lines": lines},
                parent=placed,
                include_parent=True,
            )
        with pytest.raises(Refused) as other:
            await inventory.publish(
                "stock.reserved",
                {"order_id": "ord-000002", "lines": lines},
                parent=placed,
                include_parent=True,
            )
    assert again.value.reason is Reason.ALREADY_ANSWERED
    assert other.value.reason is Reason.CAUSE


async def test_publishing_again_with_the_same_nonce_counts_once(shop: Shop) -> None:
    nonce = new_nonce()
    async with shop.bot("order") as sender:
        first = await sender.publish("orders.placed", order(1), nonce=nonce)
        again = await sender.publish("orders.placed", order(1), nonce=nonce, timeout=PATIENCE_S)
        assert again.position == first.position
        with pytest.raises(Refused) as reused:
            await sender.publish("orders.placed", order(2), nonce=nonce)
    assert reused.value.reason is Reason.NONCE_REUSED
    assert await shop.stored("ACCEPTED") == 2  # the genesis, and this message


async def test_a_key_that_the_policy_does_not_know_opens_nothing(shop: Shop) -> None:
    known = shop.credentials("order")
    stranger = Credentials(
        known.bus, "order", SigningKey.generate(KeyKind.BOT), known.servers, known.bus_keys
    )
    await refusal(Bot(stranger), "not admitted")


async def test_a_subscription_without_a_grant_is_denied(shop: Shop) -> None:
    async with shop.bot("scraper") as scraper:
        with pytest.raises(SubscriptionDenied, match="does not let scraper subscribe"):
            async with scraper.messages("orders.placed"):
                pass


@pytest.mark.usefixtures("each_sent_once")
async def test_only_operators_may_list_the_quarantine(shop: Shop) -> None:
    async with shop.bot("order") as sender, shop.bot("operator") as operator:
        for number in range(3):
            with pytest.raises(Refused):
                await sender.publish("orders.placed", {"order_id": f"ord-{number}"})
        page = (await operator.request("sealbus.quarantine.list", {"limit": 2})).payload
        rest = (
            await operator.request("sealbus.quarantine.list", {"limit": 2, "before": page["next"]})
        ).payload
        with pytest.raises(Refused) as refused:
            await sender.request("sealbus.quarantine.list", {})
    rows = page["records"] + rest["records"]
    assert [row["sequence"] for row in rows] == [3, 2, 1]
    assert {(row["reason"], row["session"], row["proven"]) for row in rows} == {
        ("schema", "order", "order")
    }
    assert page["total"] == 3
    assert refused.value.reason is Reason.NOT_GRANTED


async def test_a_renewed_session_loses_nothing(shop: Shop) -> None:
    count, seen = 200, list[str]()
    inventory = Bot(shop.credentials("inventory"), renew_s=0.3)

    @inventory.subscribe("orders.placed", start="all")
    async def on_order(message: Message) -> None:
        seen.append(message.payload["order_id"])

    async with inventory, Bot(shop.credentials("order"), renew_s=0.2) as sender:
        for number in range(count):
            await sender.publish("orders.placed", order(number))
            await asyncio.sleep(0.005)
        await until(lambda: len(seen) >= count)
    assert seen == [order(number)["order_id"] for number in range(count)]


async def test_removing_a_grant_removes_its_durable_subscription(shop: Shop) -> None:
    async with shop.bot("order") as sender, shop.bot("inventory") as inventory:
        await sender.publish("orders.placed", order(1))
        async with inventory.messages("orders.placed", start="all") as messages:
            await anext(messages)
    assert await shop.consumers("ACCEPTED") == 1
    shop.relays[0].terminate()
    await shop.relays[0].wait()
    policy = shop.bus.path / "policy.yaml"
    policy.write_text(
        policy.read_text().replace(
            "subscribe: [orders.placed, stock.check]", "subscribe: [stock.check]"
        )
    )
    await shop.start_relay("stricter")
    assert await shop.consumers("ACCEPTED") == 0
    async with shop.bot("inventory") as inventory:
        with pytest.raises(SubscriptionDenied, match="does not let inventory subscribe"):
            async with inventory.messages("orders.placed", start="all"):
                pass


async def test_closing_does_not_wait_for_a_bus_that_is_gone(shop: Shop) -> None:
    inventory = shop.bot("inventory")

    @inventory.subscribe("orders.placed")
    async def on_order(message: Message) -> None:
        raise AssertionError(message.subject)

    await inventory.connect()
    await shop.server.stop()
    async with asyncio.timeout(PATIENCE_S):
        await inventory.close(timeout=10 * PATIENCE_S)


async def test_a_refusal_names_every_fault_and_the_record(shop: Shop) -> None:
    wrong = order(1) | {"currency": "euro", "customer": 7}
    del wrong["ship_to"]
    async with shop.bot("order") as sender, shop.bot("operator") as operator:
        with pytest.raises(Refused) as refused:
            await sender.publish("orders.placed", wrong)
        error = refused.value
        shown = await operator.request("sealbus.quarantine.show", {"sequence": error.record})
    assert sorted(fault.partition(":")[0] for fault in error.faults) == [
        "(root)",
        "/currency",
        "/customer",
    ]
    assert all(fault in str(error) for fault in error.faults)
    assert f"record {error.record}" in str(error)
    assert (shown.payload["record"]["nonce"], shown.payload["record"]["detail"]) == (
        error.stamp.nonce.hex(),
        error.detail,
    )


async def test_every_bot_may_ask_for_its_grants(shop: Shop) -> None:
    async with shop.bot("scraper") as scraper:
        answer = await scraper.request("sealbus.grants", {})
        assert answer.bot == "sealbus"
        assert answer.payload["publish"] == [
            "sealbus.grants",
            "sealbus.park",
            "sealbus.progress",
            "sealbus.subscribe",
            "metrics.scraped",
        ]
        assert abs(answer.payload["time"] - answer.stamp.judged_at_ms) < PATIENCE_S * 1000
        assert answer.payload["policy"] == answer.stamp.policy.hex()
