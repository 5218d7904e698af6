"""A stop while a login of the bot has no answer, on a server in memory."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import pytest

from sealbus import Bot, BotState
from sealbus.life import connecting
from sealbus.testing import TestBus
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
