"""Deliveries of several messages on a bus in memory: one fails, a stop, a redelivery."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sealbus import Bot, Message
from sealbus.life import connecting
from sealbus.receiving import attempts as attempts_module
from sealbus.receiving.parking import Parking
from sealbus.testing import TestBus
from sealbus_broker.policy.scaffold import scaffold
from tests.shells.test_subscription import SUBJECT, Handler, is_settled, listener
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.slow


@pytest.fixture
async def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TestBus]:
    """The bus that ``sealbus init`` makes, whose bots come back soon and try again soon."""
    monkeypatch.setattr(connecting, "BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(attempts_module, "RETRY_FIRST_S", 0.01)
    scaffold(tmp_path / "hello", "hello")
    async with TestBus(tmp_path / "hello") as bus:
        yield bus


async def greet_together(bus: TestBus, *texts: str) -> None:
    """Publish in one envelope."""
    greeter = await bus.bot("greeter")
    stamps = await asyncio.gather(*(greeter.publish(SUBJECT, {"text": text}) for text in texts))
    assert len({stamp.nonce for stamp in stamps}) == 1, "they share an envelope"


class Choosy(Handler):
    """A handler that refuses one text a number of times."""

    bad = "bad"

    async def handle(self, message: Message) -> None:
        self.began.set()
        self.texts.append(message.payload["text"])
        self.attempts.append(message.attempt)
        await self.go.wait()
        if self.fails and message.payload["text"] == self.bad:
            self.fails -= 1
            raise LookupError("not now")


async def choosy(bus: TestBus, fails: int, **options: Any) -> tuple[Bot, Choosy]:
    bot = Bot(bus.credentials("listener"))
    handler = Choosy(bot, **options)
    handler.fails = fails
    await bus.connect(bot)
    return bot, handler


async def test_messages_of_a_burst_come_in_order(bus: TestBus) -> None:
    _, handler = await listener(bus)
    texts = [str(at) for at in range(40)]
    await greet_together(bus, *texts)
    await until(is_settled(bus), "the delivery is acknowledged")
    assert handler.texts == texts


async def test_failing_message_of_a_burst_repeats_no_other(bus: TestBus) -> None:
    _, handler = await choosy(bus, 2)
    await greet_together(bus, "one", "bad", "two")
    await until(lambda: handler.texts.count("bad") == 3, "it came three times")
    await until(is_settled(bus), "the delivery is acknowledged")
    assert sorted(handler.texts) == ["bad", "bad", "bad", "one", "two"]


@pytest.mark.parametrize("answers", [True, False])
async def test_stop_amid_a_burst_gives_back_the_rest(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """Without the relay's note the next process repeats the message that is done."""
    if not answers:
        monkeypatch.setattr(Parking, "note", lambda _, __, ended: ended())
    bot, handler = await listener(bus)
    handler.go.clear()
    texts = ["one", "two", "three", "four"]
    await greet_together(bus, *texts)
    await until(handler.began.is_set, "the first is at work")
    closing = asyncio.create_task(bot.close(timeout=PATIENCE_S))
    await asyncio.sleep(0.05)
    handler.go.set()
    await closing
    assert handler.texts == ["one"]
    _, next_one = await listener(bus)
    await until(is_settled(bus), "the rest is handled")
    assert next_one.texts == (texts[1:] if answers else texts)


async def test_relay_without_note_repeats_nothing_here(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Parking, "note", lambda _, __, ended: ended())
    _, handler = await choosy(bus, 2)
    await greet_together(bus, "one", "bad", "two")
    await until(lambda: handler.texts.count("bad") == 3, "it came three times")
    await until(is_settled(bus), "the delivery is acknowledged")
    assert sorted(handler.texts) == ["bad", "bad", "bad", "one", "two"]


async def test_last_attempt_of_one_message_parks_it_alone(bus: TestBus) -> None:
    _, handler = await choosy(bus, 10, attempts=2)
    await greet_together(bus, "one", "bad", "two")
    await until(is_settled(bus), "the delivery is acknowledged")
    assert sorted(handler.texts) == ["bad", "bad", "one", "two"]
    assert handler.fails == 8
