"""A stop while a login or a request of the bot has no answer, on a server in memory."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sealbus import Bot, BotState, Message, Refused
from sealbus.grants import GrantedRate
from sealbus.life import connecting
from sealbus.testing import TestBus
from tests.policy.folder import Folder
from tests.waiting import PATIENCE_S, patiently, until

pytestmark = pytest.mark.slow


@pytest.fixture
def bus(hello: TestBus, monkeypatch: pytest.MonkeyPatch) -> TestBus:
    """A bus on which no attempt to connect ends by itself."""
    monkeypatch.setattr(connecting, "ATTEMPT_S", 10 * PATIENCE_S)
    return hello


def by_signal(_: Bot) -> None:
    """Stop the bot as a service manager does."""
    signal.raise_signal(signal.SIGTERM)


async def hangs(bus: TestBus) -> None:
    """Wait for a connection of which the server reads nothing."""
    await until(lambda: any(one.grant is None for one in bus._server._connections.values()))


@pytest.mark.parametrize("stop", [by_signal, Bot.stop])
async def test_stop_ends_a_bot_whose_renewal_hangs(
    bus: TestBus, stop: Callable[[Bot], None]
) -> None:
    bot = Bot(bus.credentials("listener"))
    running = asyncio.create_task(bot.run())
    await until(lambda: bot.state is BotState.CONNECTED)
    bus._server._stalled = True  # new connections only
    bot._session.replace_key(bot._session.key)
    await hangs(bus)
    stop(bot)
    await patiently(running)
    assert bot.state is BotState.CLOSED
    await until(lambda: "listener" not in bus._server.names)


@pytest.mark.parametrize("stop", [by_signal, Bot.stop])
async def test_stop_ends_a_bot_that_is_not_admitted_yet(
    bus: TestBus, stop: Callable[[Bot], None]
) -> None:
    bot = Bot(bus.credentials("listener"))
    bus._server._stalled = True  # new connections only
    running = asyncio.create_task(bot.run())
    await hangs(bus)
    await until(lambda: bot.state is BotState.CONNECTING)
    stop(bot)
    await patiently(running)
    assert bot.state is BotState.CLOSED


# ---- requests ------------------------------------------------------------------------------------

POLICY = """\
version: 1
bus: shop
bots:
  asker:
    publish: [stock.check]
  teller:
    subscribe: [stock.check]
subjects:
  stock.check:
    delivery: live
    schema: order.v1
    reply: order.v1
    rate: 1000/s
"""


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[TestBus]:
    """A bus on which a bot asks another one."""
    Folder(tmp_path / "shop").write("policy.yaml", POLICY)
    async with TestBus(tmp_path / "shop") as bus:
        yield bus


async def test_close_waits_for_the_answer_to_a_request_sent_late(shop: TestBus) -> None:
    """The request waits for its turn when close() begins. It has no nonce yet."""
    asker, teller = await shop.bot("asker"), Bot(shop.credentials("teller"))

    @teller.reply("stock.check")
    async def tell(message: Message) -> Any:
        if message.payload["id"] == 2:
            await until(lambda: not asker._publisher.verdicts(), "the request has its verdict")
        return message.payload

    await shop.connect(teller)
    await asker.request("stock.check", {"id": 1}, timeout=PATIENCE_S)
    pace = asker._publisher._paces["stock.check"]
    pace.set_rate(GrantedRate(0.001, 1))
    pace.hold_back()
    asking = asyncio.create_task(asker.request("stock.check", {"id": 2}, timeout=PATIENCE_S))
    await until(lambda: len(pace._waiting) == 1, "it waits for its turn")
    closing = asyncio.create_task(asker.close(timeout=PATIENCE_S))
    await until(lambda: asker.state is BotState.CLOSING)
    pace.set_rate(None)
    assert (await patiently(asking)).payload == {"id": 2}
    await patiently(closing)


async def test_close_waits_for_no_answer_to_a_refused_request(
    shop: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request has no verdict when close() begins."""
    asker = await shop.bot("asker")
    held: list[tuple[Any, ...]] = []
    receive = asker._publisher.receive
    monkeypatch.setattr(asker._publisher, "receive", lambda *receipt: held.append(receipt))
    asking = asyncio.create_task(asker.request("stock.check", ["no object"], timeout=PATIENCE_S))
    await until(lambda: held != [], "the relay has refused it")
    closing = asyncio.create_task(asker.close(timeout=10 * PATIENCE_S))
    await until(lambda: asker.state is BotState.CLOSING)
    for receipt in held:
        receive(*receipt)
    with pytest.raises(Refused, match="schema"):
        await patiently(asking)
    await patiently(closing)
