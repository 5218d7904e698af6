"""A client uses its grants on a running bus: delivery classes, rates and the clock."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import pytest

from sealbus import ConnectionFailed, InvalidInput, Message, Reason, Refused
from sealbus.grants import GrantedRate
from sealbus.sending import sender
from tests.e2e.shop import Shop, order
from tests.waiting import PATIENCE_S, until

SCRAPED = {"source": "https://a.example/", "sku": "ABC-0001", "price_cents": 250}


async def test_more_than_the_burst_at_once_is_all_accepted(shop: Shop) -> None:
    """The rate is 50 messages a second, with a burst of 100.

    The last message leaves after five seconds. That wait does not count for its timeout.
    """
    async with shop.bot("scraper") as scraper:
        stamps = await asyncio.gather(
            *(scraper.publish("metrics.scraped", SCRAPED, timeout=4) for _ in range(350))
        )
    assert [stamp.reason for stamp in stamps] == [None] * 350
    assert (
        max(stamp.judged_at_ms for stamp in stamps) - min(stamp.judged_at_ms for stamp in stamps)
        > 4000
    )


async def test_two_processes_of_one_bot_share_the_rate(shop: Shop) -> None:
    async with shop.bot("scraper") as one, shop.bot("scraper") as other:
        both = (one, other)
        stamps = await asyncio.gather(
            *(bot.publish("metrics.scraped", SCRAPED) for bot in both for _ in range(90))
        )
    assert len(stamps) == 180
    assert not any(stamp.reason for stamp in stamps)


async def test_the_class_of_a_subject_need_not_be_said(shop: Shop) -> None:
    seen: list[Message] = []
    inventory = shop.bot("inventory")

    @inventory.reply("stock.check")
    async def level(message: Message) -> dict[str, Any]:
        seen.append(message)
        return {"sku": message.payload["sku"], "available": 3}

    async with inventory, shop.bot("order") as sender, shop.bot("scraper") as scraper:
        assert (await sender.publish("orders.placed", order(1))).position is not None
        assert (await scraper.publish("metrics.scraped", SCRAPED)).position is None
        assert (await sender.publish("stock.check", {"sku": "ABC-0001"})).position is None
        await until(lambda: bool(seen))


async def test_a_wrong_class_is_refused_by_the_client(shop: Shop) -> None:
    async with shop.bot("order") as sender, shop.bot("scraper") as scraper:
        with pytest.raises(InvalidInput, match=r"live=True is wrong for orders.placed") as wrong:
            await sender.publish("orders.placed", order(1), live=True)
        assert "leave `live` out" in str(wrong.value.hint)
        with pytest.raises(InvalidInput, match=r"live=False is wrong for metrics.scraped"):
            await scraper.publish("metrics.scraped", SCRAPED, live=False)
        assert (await sender.publish("orders.placed", order(1), live=False)).reason is None
    assert await shop.stored("QUARANTINE") == 0


@pytest.mark.parametrize("given", [{"durable": "d"}, {"start": "all"}, {"attempts": 3}], ids=str)
async def test_a_place_on_a_live_subject_is_refused(shop: Shop, given: dict[str, Any]) -> None:
    inventory = shop.bot("inventory")

    @inventory.subscribe("stock.check", **given)
    async def listen(_: Message) -> None: ...

    with pytest.raises(InvalidInput, match="has no meaning for a live subscription"):
        await inventory.connect()


async def test_a_bot_can_see_its_grants(shop: Shop) -> None:
    async with shop.bot("scraper") as scraper:
        grants = await scraper.grants()
    declared = grants.find("metrics.scraped")
    assert declared is not None
    assert (declared.live, declared.rate, declared.reply) == (True, GrantedRate(50, 100), False)
    assert "metrics.scraped" in grants.publish
    assert grants.limits.attempts == 10


async def test_a_request_on_a_subject_without_answers_fails_at_once(shop: Shop) -> None:
    async with shop.bot("order") as sender:
        with pytest.raises(InvalidInput, match=r"orders.placed takes no requests"):
            await sender.request("orders.placed", order(1))


async def test_the_relay_refuses_a_subject_without_a_grant(shop: Shop) -> None:
    async with shop.bot("scraper") as scraper:
        for subject, reason in (
            ("orders.placed", Reason.NOT_GRANTED),
            ("no.such", Reason.UNDECLARED_SUBJECT),
        ):
            with pytest.raises(Refused) as refused:
                await scraper.publish(subject, order(1))
            assert refused.value.reason is reason


def set_clock(monkeypatch: pytest.MonkeyPatch, ahead_s: float) -> None:
    """Set the client's clock ahead. The relay is another process and keeps the right time."""
    real = time.time_ns

    class Clock:
        @staticmethod
        def time_ns() -> int:
            return real() + int(ahead_s * 1e9)

    monkeypatch.setattr(sender, "time", Clock)


def said_ahead_s(text: object) -> int:
    """The seconds by which ``text`` says that this machine's clock is ahead of the bus."""
    found = re.search(r"this machine's clock is (\d+) s (ahead of|behind) the bus's", str(text))
    assert found is not None, text
    return int(found[1]) if found[2] == "ahead of" else -int(found[1])


MESSAGE_S = 10
"""The largest error of the difference, because it contains the time of a message to the relay.

That time is milliseconds, and more on a busy machine.
"""


@pytest.mark.parametrize("ahead_s", [-3600, -45, 90])
async def test_a_clock_that_is_off_is_named_when_connecting(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    set_clock(monkeypatch, ahead_s)
    with pytest.raises(ConnectionFailed) as failed:
        await shop.bot("order").connect(timeout=PATIENCE_S)
    assert abs(said_ahead_s(failed.value) - ahead_s) <= MESSAGE_S
    assert "NTP" in str(failed.value.hint)


@pytest.mark.parametrize("ahead_s", [-3600, -45, 90])
async def test_a_clock_that_jumps_is_named_by_the_next_refusal(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    async with shop.bot("order") as sender:
        await sender.publish("orders.placed", order(1))
        set_clock(monkeypatch, ahead_s)
        with pytest.raises(Refused) as refused:
            # The timeout is shorter than the time by which the clock is behind. So the client does
            # not wait until its clock has passed the beginning of the ledger.
            await sender.publish("orders.placed", order(2), timeout=30)
    assert abs(said_ahead_s(refused.value) - ahead_s) <= MESSAGE_S
    assert said_ahead_s(refused.value.clock) == said_ahead_s(refused.value)


async def test_a_clock_that_is_a_little_slow_is_no_problem(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock(monkeypatch, -1.5)
    async with shop.bot("order") as sender:
        assert (await sender.publish("orders.placed", order(1))).reason is None


async def test_the_grants_are_asked_for_again_when_the_policy_changes(shop: Shop) -> None:
    """Relays of both policies run for a time. A stamp by the new policy tells the client."""
    async with shop.bot("scraper") as scraper:
        known = scraper._known  # no public name shows it
        before = await known.get()
        text = (shop.bus.path / "policy.yaml").read_text()
        (shop.bus.path / "policy.yaml").write_text(text.replace("50/s burst 100", "51/s burst 102"))
        shop.relays[0].terminate()
        await shop.relays[0].wait()
        await shop.start_relay("other")
        while known.grants is before:
            with pytest.MonkeyPatch.context():
                await scraper.publish("metrics.scraped", SCRAPED)
            await asyncio.sleep(0.1)
        declared = known.find("metrics.scraped")
    assert declared is not None
    assert declared.rate == GrantedRate(51, 102)
