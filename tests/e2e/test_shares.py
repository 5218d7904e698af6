"""One bot fills its share of a store, and others go on."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from sealbus import Bot, Message, Reason, Refused
from tests.e2e.edits import edit
from tests.e2e.shop import Shop, order
from tests.waiting import PATIENCE_S, until

SMALL = "limits:\n  accepted_bytes: 1MiB\n  quarantine_bytes: 1MiB"


async def test_a_bot_fills_its_share_of_accepted_and_others_go_on(shop: Shop) -> None:
    await shop.replace_relay("limits:", SMALL)
    shipped = {"order_id": "ord-000001"}
    async with shop.bot("order") as greedy, shop.bot("inventory") as other:
        sent: list[object] = []
        while not any(isinstance(one, Refused) for one in sent):
            assert len(sent) < 700
            numbers = range(len(sent), len(sent) + 50)
            calls = (
                greedy.publish("orders.placed", order(number), timeout=PATIENCE_S, alone=True)
                for number in numbers
            )
            sent += await asyncio.gather(*calls, return_exceptions=True)
        refused = [one for one in sent if isinstance(one, Refused)]
        assert {one.reason for one in refused} == {Reason.QUOTA}
        assert len(sent) - len(refused) > 200
        # The refused messages fill only the share of their bot in the quarantine. The relay judges
        # and keeps the messages of another bot as before.
        with pytest.raises(Refused) as wrong:
            await other.publish("stock.reserved", shipped, timeout=PATIENCE_S)
    assert wrong.value.reason is Reason.SCHEMA
    assert wrong.value.stamp.record is not None


async def test_greedy_bot_does_not_fill_accepted_across_restarts(shop: Shop) -> None:
    """A relay that starts does not know whose the messages in the store are."""
    edit(shop, "publish: [stock.reserved]", "publish: [stock.reserved, orders.placed]")
    await shop.replace_relay("limits:", SMALL)
    numbers = itertools.count()

    async def fill(greedy: Bot) -> int:
        """Fill the share; return how many messages were accepted."""
        accepted = 0
        while True:
            calls = (
                greedy.publish("orders.placed", order(next(numbers)), timeout=PATIENCE_S)
                for _ in range(50)
            )
            sent = await asyncio.gather(*calls, return_exceptions=True)
            refused = [one for one in sent if isinstance(one, Refused)]
            assert {one.reason for one in refused} <= {Reason.QUOTA}
            accepted += len(sent) - len(refused)
            if refused:
                return accepted

    async with shop.bot("order") as greedy, shop.bot("inventory") as other:
        before = await fill(greedy)
        for name in ("second", "third"):
            shop.relays[-1].terminate()
            await shop.relays[-1].wait()
            await shop.start_relay(name)
            after = await fill(greedy)
            assert 0 < after < before
            before = after
        await other.publish("orders.placed", order(next(numbers)), timeout=PATIENCE_S)


async def test_answers_of_the_bus_fill_the_askers_share_of_live(shop: Shop) -> None:
    await shop.replace_relay("limits:", "limits:\n  live_bytes: 1MiB\n  bot_share: 20")
    async with shop.bot("order") as greedy, shop.bot("operator") as other:
        asked: list[object] = []
        while not any(isinstance(one, Refused) for one in asked):
            assert len(asked) < 120, (
                "its 140 questions of some 1,500 bytes fill the share themselves"
            )
            asks = (greedy.request("sealbus.grants", {}, timeout=PATIENCE_S) for _ in range(20))
            asked += await asyncio.gather(*asks, return_exceptions=True)
        assert {one.reason for one in asked if isinstance(one, Refused)} == {Reason.QUOTA}
        await other.request("sealbus.grants", {}, timeout=PATIENCE_S)


async def test_parked_messages_fill_the_bots_share_of_quarantine(shop: Shop) -> None:
    """The relay copies no more messages than the share allows.

    The log names each other message, and ACCEPTED keeps it as long as any message.
    """
    await shop.replace_relay("limits:", "limits:\n  quarantine_bytes: 1MiB\n  bot_share: 1")
    log = shop.bus.path / "changed.log"
    bot = shop.bot("inventory")

    @bot.subscribe("orders.placed", start="all", attempts=1)
    async def fail(_: Message) -> None:
        raise ValueError

    def said(event: str) -> int:
        return log.read_text().count(f'"event": "{event}"')

    async def give_up(sender: Bot, numbers: range) -> None:
        # One after the other. Messages that are sealed together have longer seals, so fewer of them
        # would fill the share.
        for number in numbers:
            await sender.publish("orders.placed", order(number))
        await until(
            lambda: said("message.parked") + said("message.not-kept") == numbers.stop,
            "all are given up",
        )

    async with bot, shop.bot("order") as sender:
        # Six fill the share. All twelve may be kept, because those under way still pass.
        await give_up(sender, range(12))
        assert said("message.parked") >= 6
        kept = said("message.parked")
        await give_up(sender, range(12, 16))
        assert said("message.parked") == kept
    assert await shop.stored("QUARANTINE") == said("message.parked")
    assert await shop.stored("ACCEPTED") >= 16
