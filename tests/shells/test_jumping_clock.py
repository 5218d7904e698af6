"""A bot whose clock is wrong for a time. Each consequence names it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sealbus import Bot, ConnectionFailed, Message, NoReply, Refused, asking
from sealbus.grants import GRANTS
from sealbus.life.clock import Clock
from sealbus.own import SUBSCRIBE
from sealbus.protocol.envelope import Header
from sealbus.receiving import verifier
from sealbus.sending import sender
from sealbus.sending.speaking import Speaker
from sealbus.testing import TestBus
from sealbus_broker.policy.scaffold import scaffold
from tests.refusal import refusal
from tests.waiting import PATIENCE_S, patiently, until

pytestmark = pytest.mark.slow


class Jump:
    """The clock of the bots, which a test moves. The relay's clock stays right."""

    def __init__(self) -> None:
        self.by_s = 0

    def time_ns(self) -> int:
        return time.time_ns() + self.by_s * 1_000_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Jump:
    jump = Jump()
    for module in (sender, verifier):
        monkeypatch.setattr(module, "time", SimpleNamespace(time_ns=jump.time_ns))
    return jump


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[TestBus]:
    scaffold(tmp_path / "hello", "hello")
    async with TestBus(tmp_path / "hello") as bus:
        yield bus


async def ignore(_: Message) -> None:
    """A handler that does nothing."""


@pytest.mark.parametrize("subject", [GRANTS, SUBSCRIBE])
async def test_clock_that_is_set_right_at_the_start_ends_no_bot(
    bus: TestBus,
    clock: Jump,
    subject: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The clock is behind when the bot asks its first question on ``subject``."""
    monkeypatch.setattr(asking, "WRONG_CLOCK_S", PATIENCE_S)
    asked = wrong_from(subject, clock, monkeypatch)
    listener = Bot(bus.credentials("listener"))
    listener.subscribe("greetings.sent")(ignore)
    connecting = asyncio.create_task(listener.connect(timeout=PATIENCE_S))
    await until(lambda: "3600 s behind the bus's" in caplog.text)
    clock.by_s = 0
    await patiently(connecting)
    assert asked.count(subject) > 1
    await listener.close()


@pytest.mark.parametrize("subject", [GRANTS, SUBSCRIBE])
async def test_clock_that_stays_wrong_at_the_start_ends_the_bot(
    bus: TestBus, clock: Jump, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "WRONG_CLOCK_S", 0.1)
    asked = wrong_from(subject, clock, monkeypatch)
    listener = Bot(bus.credentials("listener"))
    listener.subscribe("greetings.sent")(ignore)
    with pytest.raises(ConnectionFailed, match="3600 s behind the bus's") as failed:
        await patiently(listener.run())
    assert failed.value.what.startswith(f"listener is admitted and cannot speak: {subject} refused")
    assert asked.count(subject) > 1


@pytest.mark.parametrize("subject", [GRANTS, SUBSCRIBE])
async def test_deadline_of_a_start_names_the_last_refusal(
    bus: TestBus, clock: Jump, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "WRONG_CLOCK_S", 10 * PATIENCE_S)
    wrong_from(subject, clock, monkeypatch)
    listener = Bot(bus.credentials("listener"))
    listener.subscribe("greetings.sent")(ignore)
    error = await refusal(listener, f"cannot speak: {subject} refused")
    assert "3600 s behind the bus's" in error.what
    assert error.hint == "set this machine's clock, and keep it right with NTP"


def wrong_from(subject: str, clock: Jump, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Set the clock back when a bot asks its first question on ``subject``. Returns the subjects
    of all questions."""
    asked: list[str] = []
    draft = Speaker.draft

    def drafted(
        self: Speaker, about: str, payload: Any, schema: str | None = None
    ) -> tuple[Header, bytes]:
        if about == subject and about not in asked:
            clock.by_s = -3600
        asked.append(about)
        return draft(self, about, payload, schema)

    monkeypatch.setattr(Speaker, "draft", drafted)
    return asked


@pytest.mark.parametrize(
    ("by_s", "told"), [(90, "90 s ahead of the bus's"), (-3600, "3600 s behind the bus's")]
)
async def test_refusal_after_a_jump_names_the_clock(
    bus: TestBus, clock: Jump, by_s: int, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    greeter = await bus.bot("greeter")
    await greeter.publish("greetings.sent", {"text": "in time"})
    clock.by_s = by_s
    with pytest.raises(Refused) as refused:
        await greeter.publish("greetings.sent", {"text": "out of time"})
    assert f"this machine's clock is {told}" in refused.value.what
    assert any(f"greeter: this machine's clock is {told}" in line for line in caplog.messages)


async def test_live_subscriber_that_is_ahead_is_told(
    bus: TestBus, clock: Jump, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It hears nothing. The first line cannot tell the cause yet, and the next ones name it."""
    greeter, listener = await bus.bot("greeter"), await bus.bot("listener")
    ahead = Jump()
    ahead.by_s = 90
    ask = listener._opener._on_late
    assert ask is not None

    def on_late() -> None:
        # The bots share one clock here. The message has left, so the listener may have it alone.
        clock.by_s = 90
        ask()

    def told(text: str) -> bool:
        return any(text in line for line in caplog.messages)

    monkeypatch.setattr(listener._opener, "_on_late", on_late)
    async with listener.messages("greetings.sent", live=True):
        with monkeypatch.context() as patch:
            patch.setattr(verifier, "time", SimpleNamespace(time_ns=ahead.time_ns))
            await greeter.publish("greetings.sent", {"text": "hello"})
            await until(lambda: told("held back, or this machine's clock is ahead of the bus's"))
            line = "listener: this machine's clock is 90 s ahead of the bus's"
            await until(lambda: told(line), "the listener's own question has shown it")
            clock.by_s = 0
            await greeter.publish("greetings.sent", {"text": "hello again"})
            await until(lambda: told("ms ago; this machine's clock is 90 s ahead"))


async def test_late_messages_cause_few_questions(bus: TestBus) -> None:
    """A bus that is busy must not be asked for each late message."""
    listener = await bus.bot("listener")
    asked = 0
    known = listener._known

    def renew() -> None:
        nonlocal asked
        asked += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known, "renew", renew)
        for _ in range(100):
            known.notice_late()
    assert asked == 1


async def test_answer_that_seems_late_is_not_put_down_to_the_other_bot(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, clock_bot = await bus.bot("listener"), await bus.bot("clock")
    # A clock of its own, because the receipts in this process are right.
    listener._opener.clock = Clock("listener")
    listener._opener.clock.learn(judged_at_ms=0, sealed_at_ms=90_000, received_at_ms=90_000)

    @clock_bot.reply("clock.ask")
    async def answer(_: Message) -> dict[str, str]:
        ahead = Jump()
        ahead.by_s = 90
        monkeypatch.setattr(verifier, "time", SimpleNamespace(time_ns=ahead.time_ns))
        return {"time": "2026-11-26T08:00:00Z"}

    await until(lambda: bool(clock_bot._listener._live))
    with pytest.raises(NoReply) as error:
        await listener.request("clock.ask", {"zone": "UTC"}, timeout=3)
    assert error.value.hint == "this machine's clock is 90 s ahead of the bus's"
