"""A bot's life on a real bus: its states, its hooks and its log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

import pytest

from sealbus import Bot, BotState, InvalidInput, Message, NoReply, SubscriptionDenied, Verdict
from sealbus.nats.client import HardenedClient
from sealbus.protocol.subjects import consumer_name
from sealbus.sending import sender as sender_module
from tests.e2e.shop import Shop, order, state
from tests.waiting import PATIENCE_S, until


async def _ignore(_: Message) -> None:
    pass


async def test_the_states_the_hooks_and_the_log_tell_the_same(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sealbus")
    inventory, told = shop.bot("inventory"), list[tuple[str, BotState]]()

    @inventory.on_connected
    def connected() -> None:
        told.append(("connected", inventory.state))

    @inventory.on_lost
    async def lost(bot: Bot) -> None:
        told.append(("lost", bot.state))

    assert state(inventory) is BotState.NEW
    async with inventory:
        await until(lambda: len(told) == 1)
        await shop.server.stop()
        await until(lambda: len(told) == 2)
        await shop.server.start()
        await until(lambda: len(told) == 3)
    assert told == [
        ("connected", BotState.CONNECTED),
        ("lost", BotState.LOST),
        ("connected", BotState.CONNECTED),
    ]
    assert state(inventory) is BotState.CLOSED
    said = [record.message for record in caplog.records if record.name == "sealbus"]
    lines = (
        "is connected to the bus shop",
        "lost its connection to the bus",
        "is connected again after",
        "is closed",
    )
    places = [next(at for at, one in enumerate(said) if line in one) for line in lines]
    assert places == sorted(places)


async def test_a_hook_that_raises_changes_nothing(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    inventory, told = shop.bot("inventory"), list[str]()

    @inventory.on_connected
    def fails() -> None:
        raise RuntimeError("not today")

    inventory.on_connected(lambda: told.append("connected"))
    async with inventory:
        await until(lambda: bool(told))
    assert "a hook for connected failed" in caplog.text


async def test_run_waits_for_a_bus_that_comes_later(
    shop_folder_only: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop = shop_folder_only
    inventory, taken = shop.bot("inventory"), list[str]()

    @inventory.subscribe("orders.placed", start="all")
    async def take(message: Message) -> None:
        taken.append(message.payload["order_id"])
        inventory.stop()

    running = asyncio.create_task(inventory.run())
    await until(lambda: "no session with the bus: nobody listens" in caplog.text)
    async with shop:
        await until(lambda: "no relay admitted inventory" in caplog.text)
        await shop.start_relay()
        async with shop.bot("order") as sender:
            await sender.publish("orders.placed", order(1))
        await running
    assert taken == ["ord-000001"]


@pytest.fixture
def shop_folder_only(tmp_path: Path) -> Shop:
    """A bus whose server and relay have not started."""
    return Shop(tmp_path / "shop")


async def test_pending_messages_are_sent_again_after_reconnection(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not wait for their own retry, which here would come after an hour."""
    monkeypatch.setattr(sender_module, "RETRY_FIRST_S", 3600)
    monkeypatch.setattr(sender_module, "RETRY_MOST_S", 3600)
    lost = asyncio.Event()
    async with shop.bot("order") as sender:
        sender.on_lost(lost.set)
        for relay in shop.relays:
            relay.kill()
            await relay.wait()
        publishing = asyncio.create_task(
            sender.publish("orders.placed", order(1), timeout=PATIENCE_S)
        )
        publisher = sender._publisher
        await until(lambda: len(publisher._all) == 1 and not publisher._sender.unsent)
        await shop.server.stop()
        await lost.wait()
        await shop.server.start()
        await shop.start_relay("again")
        assert (await publishing).verdict is Verdict.ACCEPTED


@pytest.mark.parametrize("live", [False, True])
async def test_a_handler_that_is_registered_while_connected_is_served(
    shop: Shop, live: bool
) -> None:
    answered = list[str]()
    async with shop.bot("inventory") as inventory, shop.bot("order") as sender:
        if live:

            @inventory.reply("stock.check")
            async def level(message: Message) -> object:
                answered.append(message.subject)
                return {"sku": message.payload["sku"], "available": 7}

            while not answered:  # a request gets no answer before the handler is in place
                with contextlib.suppress(NoReply):
                    await sender.request("stock.check", {"sku": "ABC-0001"}, timeout=1)
        else:

            @inventory.subscribe("orders.placed", start="all")
            async def take(message: Message) -> None:
                answered.append(message.subject)

            await sender.publish("orders.placed", order(1))
        await until(lambda: bool(answered))


async def test_a_loop_over_a_handlers_place_is_refused(shop: Shop) -> None:
    inventory = shop.bot("inventory")
    inventory.subscribe("orders.placed")(_ignore)
    async with inventory:
        with pytest.raises(InvalidInput, match=r"has a handler for orders\.placed already"):
            await inventory.messages("orders.placed").__aenter__()
        async with inventory.messages("orders.placed", durable="another"):
            pass


# ---- denied ------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [True, False])
async def test_a_handler_that_is_not_granted_ends_connect(shop: Shop, durable: bool) -> None:
    scraper = shop.bot("scraper")
    scraper.subscribe("orders.placed" if durable else "stock.check", live=not durable)(_ignore)
    with pytest.raises(SubscriptionDenied, match="does not let scraper subscribe") as denied:
        await scraper.connect()
    assert denied.value.pattern in ("orders.placed", "stock.check")
    assert "subscribe` grant" in str(denied.value.hint)


@pytest.mark.parametrize("pattern", ["stock.*", ">", "stock.check.>"])
async def test_a_live_pattern_wider_than_the_grant_is_denied(shop: Shop, pattern: str) -> None:
    inventory = shop.bot("inventory")
    inventory.subscribe(pattern, live=True)(_ignore)
    with pytest.raises(SubscriptionDenied, match="does not let inventory subscribe"):
        await inventory.connect()


async def test_a_reply_that_is_not_granted_ends_connect(shop: Shop) -> None:
    scraper = shop.bot("scraper")
    scraper.reply("stock.check")(_ignore)
    with pytest.raises(SubscriptionDenied, match="does not let scraper subscribe"):
        await scraper.connect()


async def test_a_live_handler_that_is_denied_later_ends_run(shop: Shop) -> None:
    async with shop.bot("inventory") as inventory:
        running = asyncio.create_task(inventory.run())
        inventory.subscribe("orders.shipped", live=True)(_ignore)
        with pytest.raises(SubscriptionDenied, match=r"subscribe to orders\.shipped"):
            await running


GRANTED = "subscribe: [orders.placed, stock.check]"
"""The grants of the inventory bot to subscribe."""


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("hooked", [False, True])
async def test_a_grant_that_was_taken_away_is_reported(
    shop: Shop, hooked: bool, live: bool, caplog: pytest.LogCaptureFixture
) -> None:
    inventory, told = shop.bot("inventory"), list[SubscriptionDenied]()
    pattern, left = ("stock.check", "orders.placed") if live else ("orders.placed", "stock.check")
    inventory.subscribe(pattern)(_ignore)
    if hooked:
        inventory.on_denied(told.append)
    running = asyncio.create_task(inventory.run())
    await until(lambda: state(inventory) is BotState.CONNECTED)
    await shop.replace_relay(GRANTED, f"subscribe: [{left}]")
    if live:
        await shop.server.stop()  # so that the bot logs in again
        await shop.server.start()
    if hooked:
        await until(lambda: bool(told))
        assert told[0].pattern == pattern
        assert inventory.denied_subscriptions == {pattern: 1}
        assert not running.done()
        inventory.stop()
        await running
    else:
        with pytest.raises(SubscriptionDenied, match=f"subscribe to {pattern}"):
            await running
    assert f"does not let inventory subscribe to {pattern}" in caplog.text


@pytest.mark.parametrize("live", [False, True])
async def test_a_loop_over_messages_reports_a_grant_taken_away(shop: Shop, live: bool) -> None:
    pattern, left = ("stock.check", "orders.placed") if live else ("orders.placed", "stock.check")

    async def iterate(inventory: Bot) -> None:
        async with inventory.messages(pattern) as messages:
            await shop.replace_relay(GRANTED, f"subscribe: [{left}]")
            if live:
                await shop.server.stop()
                await shop.server.start()
            await anext(messages)

    async with shop.bot("inventory") as inventory:
        with pytest.raises(SubscriptionDenied, match=f"subscribe to {pattern}"):
            await iterate(inventory)
        assert state(inventory) in (BotState.CONNECTED, BotState.LOST)


async def test_a_live_subscription_made_during_a_renewal_outlives_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new connection has its subscriptions by then, and the bot still uses the old one."""
    attach, renewing, may_go_on = Bot._attach, asyncio.Event(), asyncio.Event()

    async def pause(bot: Bot, client: HardenedClient) -> None:
        await attach(bot, client)
        if bot.name == "inventory" and state(bot) is BotState.CONNECTED:
            renewing.set()
            await may_go_on.wait()

    monkeypatch.setattr(Bot, "_attach", pause)
    async with shop.bot("inventory") as inventory, shop.bot("order") as asker:
        before = await inventory._session.client()
        adding = asyncio.create_task(
            inventory._session.add_consumer(consumer_name("inventory", "orders.placed", "d"))
        )
        await renewing.wait()
        async with inventory.messages("stock.check") as messages:
            may_go_on.set()
            await adding
            await until(lambda: before.is_closed)
            asking = asyncio.create_task(asker.request("stock.check", {"sku": "ABC-0001"}))
            async with asyncio.timeout(PATIENCE_S):
                message = await anext(messages)
            assert message.payload == {"sku": "ABC-0001"}
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
