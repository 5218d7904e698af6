"""Live subscriptions on a bus in memory."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sealbus import Bot
from sealbus.nats.client import HardenedClient
from sealbus.supervision import end
from sealbus.testing import TestBus
from sealbus_broker.policy.scaffold import scaffold
from tests.waiting import patiently

pytestmark = pytest.mark.slow


async def test_subscribing_that_is_given_up_leaves_no_subscription(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its messages would wait for nobody until the session is renewed."""
    waiting = asyncio.Event()

    async def no_answer(*_: object) -> None:
        waiting.set()
        await asyncio.Event().wait()

    async def listen(bot: Bot) -> None:
        async with bot.messages("greetings.sent", live=True):
            raise AssertionError("the server answered")

    scaffold(tmp_path / "hello", "hello")
    async with TestBus(tmp_path / "hello") as bus:
        bot = Bot(bus.credentials("listener"))
        await bus.connect(bot)
        client = await bot._session.client()
        before = set(client._subs)
        with monkeypatch.context() as patch:
            patch.setattr(HardenedClient, "flush", no_answer)
            listening = asyncio.create_task(listen(bot))
            await patiently(waiting.wait())
            assert len(client._subs) == len(before) + 1
            await end(listening)
        assert set(client._subs) == before
