"""The in-memory bus for bot authors: its life, its bots, and its view of messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sealbus import (
    Bot,
    BotState,
    InvalidInput,
    Message,
    NoReply,
    Reason,
    Refused,
    RequestFailed,
    Stamp,
)
from sealbus.nats import in_process
from sealbus.testing import TestBus, expect_refused
from sealbus_broker.policy.scaffold import scaffold
from sealbus_broker.relay.ingress import pulling
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder that ``sealbus init`` writes."""
    scaffold(tmp_path / "hello", "hello")
    return tmp_path / "hello"


@pytest.fixture
async def bus(folder: Path) -> AsyncIterator[TestBus]:
    async with TestBus(folder) as bus:
        yield bus


def files(folder: Path) -> list[Path]:
    """Everything in a folder."""
    return sorted(folder.rglob("*"))


async def test_bus_leaves_nothing_behind(folder: Path) -> None:
    before = files(folder)
    async with TestBus(folder) as bus:
        greeter = await bus.bot("greeter")
        await greeter.publish("greetings.sent", {"text": "hello"})
        host = bus.credentials("greeter").servers[0].split("/")[2].split(":")[0]
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert files(folder) == before
    assert greeter.state is BotState.CLOSED
    with pytest.raises(ConnectionRefusedError):
        in_process.connect(host, 1024)


async def test_bus_ends_after_a_failed_test(folder: Path) -> None:
    async def failing() -> None:
        async with TestBus(folder) as bus:
            await bus.bot("greeter")
            raise KeyError("the test's own")

    with pytest.raises(KeyError):
        await failing()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_end_does_not_wait_for_messages(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay waits for the messages that it has asked for. Here it would give up."""
    for name in ("PULL_EXPIRES_S", "SILENCE_S"):
        monkeypatch.setattr(pulling, name, 2 * PATIENCE_S)
    with capture_logs() as log:
        async with TestBus(folder):
            pass
    assert [line for line in log if line["event"] == "relay.unfinished"] == []


async def test_two_buses_know_nothing_of_each_other(folder: Path) -> None:
    async with TestBus(folder) as one, TestBus(folder) as two:
        with expect_refused("schema"):
            await (await one.bot("greeter")).publish("greetings.sent", {})
        assert len(await one.quarantine()) == 1
        assert await two.quarantine() == []


async def test_bus_may_be_made_again(folder: Path) -> None:
    for _ in range(3):
        async with TestBus(folder) as bus:
            await (await bus.bot("greeter")).publish("greetings.sent", {"text": "hello"})


def test_broken_policy_is_told(folder: Path) -> None:
    (folder / "schemas" / "greetings.sent.v1.json").unlink()
    with pytest.raises(InvalidInput, match=r"(?s)policy\.yaml:\d+:\d+.*greetings\.sent\.v1"):
        TestBus(folder)


def test_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is not a folder"):
        TestBus(tmp_path / "nothing")


async def test_unknown_bot_is_told(bus: TestBus) -> None:
    with pytest.raises(InvalidInput, match="no bot 'greeters'") as told:
        await bus.bot("greeters")
    assert told.value.hint is not None
    assert "greeter" in told.value.hint


async def test_unknown_bot_cannot_be_cut(bus: TestBus) -> None:
    """The test would wait in vain, or pass without a cut."""
    with pytest.raises(InvalidInput, match="no bot 'greeters'") as told:
        bus.cut("greeters")
    assert told.value.hint == "did you mean greeter?"
    with pytest.raises(InvalidInput, match="no bot 'x'") as told:
        bus.cut("x")
    assert told.value.hint == "policy.yaml has: clock, greeter, listener, operator"


async def test_unknown_reason_has_no_records(bus: TestBus) -> None:
    """A test that expects no record would pass whatever was refused."""
    for ask in (bus.quarantine, bus.quarantined):
        with pytest.raises(InvalidInput, match="no reason 'shema'") as told:
            await ask("shema")
        assert told.value.hint == "did you mean schema?"
    for reason in (None, *Reason, "undeliverable", "unjudgeable", "flooding"):
        assert await bus.quarantine(reason) == []


async def test_bot_may_come_from_the_environment(
    bus: TestBus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, text in bus.environment("greeter").items():
        monkeypatch.setenv(name, text)
    async with Bot.from_environment() as greeter:
        stamp = await greeter.publish("greetings.sent", {"text": "hello"})
    assert (stamp.bot, stamp.reason) == ("greeter", None)


async def test_request_is_answered(bus: TestBus) -> None:
    clock = Bot(bus.credentials("clock"))

    @clock.reply("clock.ask")
    async def tell(_: Message) -> dict[str, str]:
        return {"time": "2026-11-26T08:00:00Z"}

    await bus.connect(clock)
    listener = await bus.bot("listener")
    answer = await listener.request("clock.ask", {"zone": "UTC"})
    assert (answer.bot, answer.payload["time"]) == ("clock", "2026-11-26T08:00:00Z")


async def test_request_without_listener_fails_at_once(bus: TestBus) -> None:
    listener = await bus.bot("listener")
    with pytest.raises((NoReply, RequestFailed)):
        await listener.request("clock.ask", {"zone": "UTC"}, timeout=PATIENCE_S)


async def test_message_waits_for_a_subscriber(bus: TestBus) -> None:
    await (await bus.bot("greeter")).publish("greetings.sent", {"text": "early"})
    listener = await bus.bot("listener")
    async with listener.messages("greetings.sent", start="all") as messages:
        async for message in messages:
            assert message.payload == {"text": "early"}
            break


async def test_refused_messages_of_an_envelope_share_a_record(bus: TestBus) -> None:
    greeter = await bus.bot("greeter")
    payloads = [{"text": 1}, {"text": "hello"}, {"txt": 2}]
    told = await greeter.publish_many("greetings.sent", payloads)
    assert [isinstance(one, Refused) for one in told] == [True, False, True]
    (kept,) = await bus.quarantine("schema")
    assert kept.payloads == [{"text": 1}, {"txt": 2}]
    assert kept.payload == {"text": 1}


async def test_payload_that_cannot_be_written_harms_no_other(bus: TestBus) -> None:
    """The first of all datetimes is before it in UTC."""
    greeter = await bus.bot("greeter")
    early = datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))
    payloads = [{"text": "one"}, {"text": early}, {"text": "two"}]
    told = await greeter.publish_many("greetings.sent", payloads)
    assert [type(one) for one in told] == [Stamp, InvalidInput, Stamp]


async def test_sender_may_be_pinned(bus: TestBus) -> None:
    """docs/testing.md says how, and that no sender is pinned without that."""
    with pytest.raises(InvalidInput, match="the credentials name none"):
        async with (await bus.bot("listener")).messages("greetings.sent", verify="sender"):
            pass
    key = bus.credentials("greeter").key.public
    pinned = replace(bus.credentials("listener"), senders={"greeter": frozenset([key.raw])})
    listener = Bot(pinned)
    await bus.connect(listener)
    await (await bus.bot("greeter")).publish("greetings.sent", {"text": "sealed"})
    async with listener.messages("greetings.sent", start="all", verify="sender") as messages:
        async for message in messages:
            assert message.payload == {"text": "sealed"}
            break


async def test_given_up_message_is_quarantined(bus: TestBus) -> None:
    listener = Bot(bus.credentials("listener"))

    @listener.subscribe("greetings.sent", attempts=1)
    async def fail(_: Message) -> None:
        raise LookupError("the database is away")

    await bus.connect(listener)
    greeter = await bus.bot("greeter")
    await greeter.publish("greetings.sent", {"text": "unlucky"})
    kept = await bus.quarantined("undeliverable", within_s=PATIENCE_S)
    assert (kept.bot, kept.subject) == ("listener", "greetings.sent")
    assert kept.payload == {"text": "unlucky"}
    assert kept.detail is not None
    assert "LookupError" in kept.detail


async def test_missing_record_is_told(bus: TestBus) -> None:
    with pytest.raises(AssertionError, match="no message was kept as schema"):
        await bus.quarantined("schema", within_s=0.01)


async def test_cut_bot_comes_back(bus: TestBus) -> None:
    greeter = await bus.bot("greeter")
    lost = asyncio.Event()
    greeter.on_lost(lost.set)
    bus.cut("greeter")
    async with asyncio.timeout(PATIENCE_S):
        await lost.wait()
        await greeter.publish("greetings.sent", {"text": "again"})
    await until(lambda: greeter.state is BotState.CONNECTED)


async def test_expected_refusal_is_kept(bus: TestBus) -> None:
    greeter = await bus.bot("greeter")
    with expect_refused(Reason.SCHEMA) as refused:
        await greeter.publish("greetings.sent", {"text": 7})
    assert refused.error.faults == ("/text: type",)


async def test_refusal_for_another_reason_fails(bus: TestBus) -> None:
    greeter = await bus.bot("greeter")
    failing = pytest.raises(AssertionError, match="refused for schema; expected stale")
    with failing, expect_refused("stale"):
        await greeter.publish("greetings.sent", {"text": 7})


async def test_missing_refusal_fails(bus: TestBus) -> None:
    greeter = await bus.bot("greeter")
    failing = pytest.raises(AssertionError, match="nothing was refused; expected schema")
    with failing, expect_refused("schema"):
        await greeter.publish("greetings.sent", {"text": "hello"})


def test_other_errors_pass_through() -> None:
    with pytest.raises(KeyError), expect_refused("schema"):
        raise KeyError("the test's own")


def test_unknown_reason_is_told() -> None:
    with pytest.raises(InvalidInput, match="no reason 'schemas'"):
        expect_refused("schemas")
