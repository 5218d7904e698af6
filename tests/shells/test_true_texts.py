"""Lines of the log, errors and hints that have to be true in each way of using a bot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import Context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sealbus import (
    Bot,
    InvalidInput,
    Message,
    NotConnected,
    RequestFailed,
    SubscriptionDenied,
    Unresolved,
)
from sealbus.protocol.answer import ANSWER_REFUSED
from sealbus.receiving.parking import Parking
from sealbus.testing import TestBus
from sealbus_broker.policy.scaffold import scaffold
from tests.waiting import PATIENCE_S, patiently, until

pytestmark = pytest.mark.slow


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[TestBus]:
    scaffold(tmp_path / "hello", "hello")
    async with TestBus(tmp_path / "hello") as bus:
        yield bus


async def handler(_: Message) -> None:
    """Does nothing."""


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("runs", [False, True])
async def test_denied_live_handler_says_what_follows(
    bus: TestBus, runs: bool, hooked: bool, caplog: pytest.LogCaptureFixture
) -> None:
    bot = Bot(bus.credentials("listener"))
    bot.subscribe("greetings.sent", live=True)(handler)
    denied: list[SubscriptionDenied] = []
    if hooked:
        bot.on_denied(denied.append)
    running = asyncio.create_task(bot.run() if runs else bot.connect())
    await until(lambda: any(live.placed for live in bot._listener._live))
    bot._listener.deny("greetings.sent")
    said = [line for line in caplog.messages if "does not let listener subscribe" in line]
    if hooked:
        assert [line.endswith("asked for again with the next session") for line in said] == [True]
    else:
        then = "cannot go on" if runs else "goes on without this subscription"
        assert [line.startswith(f"listener {then}: ") for line in said] == [True]
    if runs and not hooked:
        with pytest.raises(SubscriptionDenied):
            await running
    await bot.close()


async def test_close_within_a_loop_counts_no_handlers(
    bus: TestBus, caplog: pytest.LogCaptureFixture
) -> None:
    listener = await bus.bot("listener")
    async with listener.messages("greetings.sent"):
        # Somebody else closes it, who is no part of the block.
        await asyncio.create_task(listener.close(timeout=0), context=Context())
        assert not any("were cut short" in line for line in caplog.messages)
        assert (
            "listener is closed before the program has left its messages(): 1 blocks get no more "
            "messages" in caplog.messages
        )


async def test_message_that_nobody_keeps_is_not_said_to_be_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def park(*_: object) -> None:
        return None

    delivery: Any = SimpleNamespace(subject=b"accepted.orders.placed", sequence=7)
    place: Any = SimpleNamespace(park=park)
    supervisor: Any = None
    parked = Parking(place=place, supervisor=supervisor, stop=asyncio.Event())
    assert await parked._park(delivery, 0, 10, "KeyError") is None
    assert "the quarantine does not have it" in caplog.text
    assert "number in the quarantine" not in caplog.text


async def test_request_without_verdict_advises_no_resume(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed request would have no answer, and ``sealbus request`` cannot resume one."""
    listener = await bus.bot("listener")

    # The verdict and the answer get lost.
    monkeypatch.setattr(listener._publisher, "receive", lambda *_: None)
    monkeypatch.setattr(listener._opener, "open", lambda *_: [])
    with pytest.raises(Unresolved) as error:
        await listener.request("clock.ask", {"zone": "UTC"}, timeout=0.5)
    hint = str(error.value.hint)
    assert "ask again if a second request does no harm" in hint
    assert "resume" not in hint
    assert "disk" not in hint


async def test_handler_after_close_was_not_called(bus: TestBus) -> None:
    listener = await bus.bot("listener")
    await listener.close()
    with pytest.raises(NotConnected) as error:
        listener.subscribe("greetings.sent")(handler)
    assert error.value.what == (
        "a handler for greetings.sent needs an open bot, and listener is closed"
    )


async def test_second_run_is_not_called_connect(bus: TestBus) -> None:
    bot = Bot(bus.credentials("listener"))
    connecting = asyncio.create_task(bot.connect())
    await asyncio.sleep(0)
    with pytest.raises(InvalidInput) as error:
        async with bot:
            raise AssertionError("connected twice")
    assert error.value.what == "listener cannot connect: it is connecting already"
    await connecting
    await bot.close()


async def test_answer_without_verdict_may_have_arrived(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = await bus.bot("clock")
    answered = asyncio.Event()

    async def publish(*_: object, **__: object) -> None:
        answered.set()
        raise Unresolved("no verdict on reply.x within 5 s", nonce=bytes(16))

    monkeypatch.setattr(clock._publisher, "publish", publish)
    clock.reply("clock.ask")(_say)
    await until(lambda: any(live.placed for live in clock._listener._live))
    listener = await bus.bot("listener")
    asking = asyncio.create_task(listener.request("clock.ask", {"zone": "UTC"}, timeout=0.5))
    await patiently(answered.wait())
    await asyncio.wait([asking])
    assert isinstance(asking.exception(), Exception)
    assert "the asker may not have got the answer: no verdict on reply.x" in caplog.text


NO_TEXT: Any = ValueError("no zone")
"""In place of a text, which is a mistake that authors make."""


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        (
            {"time": "x" * 600_000},
            ANSWER_REFUSED,
            "a payload of 600011 bytes makes an envelope of more than 524288 bytes",
        ),
        (RequestFailed("no file \udcff", error="lost\udcff"), "lost?", "no file ?"),
        (RequestFailed(NO_TEXT), "failed", "no zone"),
    ],
    ids=["too large", "surrogate", "exception"],
)
async def test_answer_that_cannot_be_sent_is_told_at_once(
    bus: TestBus, made: Any, error: str, message: str
) -> None:
    clock = await bus.bot("clock")

    async def answer(_: Message) -> Any:
        if isinstance(made, Exception):
            raise made
        return made

    clock.reply("clock.ask")(answer)
    await until(lambda: any(live.placed for live in clock._listener._live))
    listener = await bus.bot("listener")
    with pytest.raises(RequestFailed) as failed:
        await listener.request("clock.ask", {"zone": "UTC"}, timeout=PATIENCE_S)
    assert (failed.value.error, failed.value.message) == (error, message)


async def _say(_: Message) -> dict[str, str]:
    return {"time": "2026-11-26T08:00:00Z"}
