"""nats-server asks bots to leave, and messages go on through each renewal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sealbus import Bot, Message
from sealbus.life import session as session_module
from sealbus.nats.client import HardenedClient
from sealbus_broker.nats.config import renew_subject
from tests.e2e.shop import Shop, order
from tests.waiting import PATIENCE_S, until

RENEWALS = 10


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    """The example shop."""
    async with Shop(tmp_path / "shop") as running:
        await running.start_relay()
        yield running


async def ask(relay: HardenedClient, bot: Bot) -> None:
    """Have nats-server ask ``bot`` to leave, and wait until its next connection is in use."""
    client = await bot._session.client()
    request = json.dumps({"cid": client.client_id}).encode()
    answer = await relay.request(renew_subject(client.server_id), request, PATIENCE_S)
    assert "error" not in json.loads(answer.data)
    await until(lambda: bot._session._client not in (None, client), "it was renewed")


async def test_steady_publisher_loses_nothing_over_ten_renewals(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "APART_S", 0.2)
    sender, listener = shop.bot("order"), shop.bot("inventory")
    got: list[str] = []
    lost: list[str] = []
    before: list[int] = []
    sent = 0
    is_over = False

    @listener.subscribe("orders.placed", start="all", durable="d")
    async def take(message: Message) -> None:
        got.append(message.payload["order_id"])

    for bot in (sender, listener):
        bot.on_lost(lambda bot: lost.append(bot.name))

    async def publish() -> None:
        nonlocal sent
        while not is_over:
            await sender.publish("orders.placed", order(sent))  # raises for a refusal
            sent += 1

    async with listener, sender:
        relay = await shop.nats()
        publishing = asyncio.create_task(publish())
        for _ in range(RENEWALS):
            before.append(sent)
            await asyncio.gather(ask(relay, sender), ask(relay, listener))
            await until(lambda: sent > before[-1], "messages go on")
        is_over = True
        await publishing
        await until(lambda: len(got) >= sent, "all have come")
        await relay.close()
    assert got == [order(number)["order_id"] for number in range(sent)]
    assert sender.refused_deliveries == listener.refused_deliveries == {}
    assert lost == []
    assert await shop.stored("QUARANTINE") == 0
