"""A bot whose clock is right when it connects, and wrong afterwards. Each consequence names it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sealbus import Message, NoReply, Refused
from sealbus.life.clock import Clock
from sealbus.receiving import verifier
from sealbus.sending import sender
from sealbus.testing import TestBus
from sealbus_broker.policy.scaffold import scaffold
from tests.waiting import until

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
