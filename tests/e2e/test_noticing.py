"""Half-open connections, blocked event loops, and messages that were under way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from sealbus import Bot, Message
from sealbus.nats import silence
from sealbus.sending import sender as sender_module
from sealbus_broker.nats import config
from sealbus_broker.relay.services.crowd import LOGIN_MS
from tests.cable import Cable
from tests.e2e.shop import Shop, order
from tests.waiting import PATIENCE_S, patiently, until

WAYS = {"both": (True, True), "to the server": (True, False), "to the client": (False, True)}


@pytest.fixture(autouse=True)
def patient_server() -> None:
    """Leave the server as it is: these tests are about silent clients."""


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    """The example shop."""
    async with Shop(tmp_path / "shop") as running:
        await running.start_relay()
        yield running


def far_bot(shop: Shop, name: str, cable: Cable) -> Bot:
    """A bot at the other end of ``cable``."""
    return Bot(replace(shop.credentials(name), servers=(cable.url,)))


@pytest.mark.parametrize("way", WAYS)
async def test_half_open_connection_is_left_by_both_sides(shop: Shop, way: str) -> None:
    up, down = WAYS[way]
    async with Cable.to(shop.port) as cable, far_bot(shop, "order", cable) as bot:
        before = await bot._session.client()
        [strand] = cable.cut(up=up, down=down)
        await until(lambda: bot._session._client not in (None, before), "the session is replaced")
        # The old session takes no place for long.
        await until(lambda: bool(strand.server_closed or strand.client_closed), "both have left")
        await until(lambda: strand.server_closed is not None or not up, "the server has left")
        await bot.publish("orders.placed", order(1), timeout=PATIENCE_S)


async def test_publish_in_flight_is_resent_without_a_timer(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "RETRY_FIRST_S", 10_000.0)
    before = await shop.stored("ACCEPTED")
    async with Cable.to(shop.port) as cable, far_bot(shop, "order", cable) as bot:
        for up, down in WAYS.values():
            cable.cut(up=up, down=down)
            # It goes into a connection that is dead already, or its receipt does.
            await patiently(bot.publish("orders.placed", order(1), timeout=PATIENCE_S))
    # Each once, although the third was accepted before its receipt was lost.
    assert await shop.stored("ACCEPTED") == before + len(WAYS)


async def test_request_in_flight_is_resent_without_a_timer(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "RETRY_FIRST_S", 10_000.0)
    async with Cable.to(shop.port) as cable, far_bot(shop, "order", cable) as bot:
        cable.cut(down=False)
        answer = await patiently(bot.request("sealbus.grants", {}, timeout=PATIENCE_S))
        assert answer.payload["spread"] >= LOGIN_MS


async def test_blocked_loop_is_not_taken_for_a_silent_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "PING_INTERVAL", "1h")  # here the server is patient
    monkeypatch.setattr(silence, "PING_S", 0.5)  # the server may be late by 1 s
    async with Shop(tmp_path / "shop") as shop:
        await shop.start_relay()
        async with shop.bot("order") as bot:
            before = await bot._session.client()
            for _ in range(2):
                time.sleep(2 * silence.MOST_SILENT * silence.PING_S)  # noqa: ASYNC251  # the fault
                await asyncio.sleep(silence.PING_S)
            await bot.publish("orders.placed", order(1), timeout=PATIENCE_S)
            assert bot._session._client is before


async def test_bot_that_was_cut_for_a_blocked_loop_handles_once(shop: Shop) -> None:
    """The message in hand is acknowledged in the next session, and the others follow."""
    listener, sender = shop.bot("inventory"), shop.bot("order")
    got: list[str] = []
    lost: list[bool] = []
    listener.on_lost(lambda: lost.append(True))

    @listener.subscribe("orders.placed", start="all", durable="d")
    async def take(message: Message) -> None:
        if not got:
            time.sleep(8)  # noqa: ASYNC251  # this is the fault; the server waits for 4.75 s
            await until(lambda: bool(lost), "the server has ended the session")
        got.append(message.payload["order_id"])

    async with listener, sender:
        for number in range(3):
            await sender.publish("orders.placed", order(number), timeout=PATIENCE_S)
        await until(lambda: len(got) >= 3, "all have come")
        await sender.publish("orders.placed", order(3), timeout=PATIENCE_S)
        await until(lambda: len(got) >= 4, "messages go on")
    assert got == [order(number)["order_id"] for number in range(4)]
