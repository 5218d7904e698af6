"""Notes of progress and parked messages, as the relay serves them to a bot that asks by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sealbus import Bot, RequestFailed
from sealbus.own import PARK, PROGRESS, QUARANTINE_SHOW, SUBSCRIPTIONS_LIST
from sealbus.protocol.subjects import consumer_name
from sealbus.testing import TestBus
from sealbus_broker.gate import policy as policy_module
from sealbus_broker.memory import headers
from sealbus_broker.memory.accounts import Target
from sealbus_broker.memory.errors import ApiError
from sealbus_broker.memory.wire import Message
from sealbus_broker.policy.scaffold import scaffold
from tests.shells.test_bursts import greet_together
from tests.shells.test_subscription import SUBJECT, listener
from tests.waiting import until

pytestmark = pytest.mark.slow

CONSUMER = consumer_name("listener", SUBJECT, "d")


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[TestBus]:
    scaffold(tmp_path / "hello", "hello")
    async with TestBus(tmp_path / "hello") as bus:
        yield bus


@asynccontextmanager
async def holding(bus: TestBus) -> AsyncIterator[tuple[Bot, int]]:
    """A bot with two messages of one envelope in its hand, and the delivery's sequence."""
    bot, handler = await listener(bus, durable="d", start="all")
    handler.go.clear()
    await greet_together(bus, "one", "two")
    await until(handler.began.is_set, "the first is at work")
    stream = bus._server.jetstream.streams["ACCEPTED"]
    yield bot, stream.consumers[CONSUMER].info()["delivered"]["stream_seq"]
    handler.go.set()  # otherwise the end of the bus would wait for it


async def note(bot: Bot, sequence: int, done: str = "0", stored: int = 1) -> str:
    """The note, once ``done`` is in it."""
    ask = {"consumer": CONSUMER, "sequence": sequence, "stored": stored}
    answer = await bot.request(PROGRESS, {**ask, "done": done, "given_back": 0})
    noted: str = answer.payload["done"]
    return noted


async def test_note_is_about_one_stored_message(bus: TestBus) -> None:
    """A stream that lost messages has their sequences again."""
    async with holding(bus) as (bot, sequence):
        assert await note(bot, sequence, "2") == "2"
        assert await note(bot, sequence, "1") == "3"
        assert await note(bot, sequence, stored=2) == "0"


async def test_note_ends_with_its_consumer(bus: TestBus) -> None:
    """One that is made again begins from the start, and has the name of the last one."""
    async with holding(bus) as (bot, sequence):
        assert await note(bot, sequence, "3") == "3"
        await bot.close(timeout=0)
        bus._server.jetstream.streams["ACCEPTED"].consumers.pop(CONSUMER).end()
        again, handler = await listener(bus, durable="d", start="all")
        handler.go.clear()
        await until(handler.began.is_set, "it comes again")
        assert await note(again, sequence) == "0"
        handler.go.set()


async def test_bot_fills_its_share_of_notes_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(policy_module, "PROGRESS_BYTES", 5_000)
    scaffold(tmp_path / "hello", "hello")
    async with TestBus(tmp_path / "hello") as bus, holding(bus) as (bot, sequence):
        for stored in range(2):
            await note(bot, sequence, "1", stored)
        with pytest.raises(RequestFailed, match="has noted too much within 10 min"):
            await note(bot, sequence, "1", 2)
        assert await note(bot, sequence, "0", 0) == "1", "reading is free"


@pytest.mark.parametrize("index", [2, 255])
async def test_no_payload_but_one_of_the_delivery_is_parked(bus: TestBus, index: int) -> None:
    async with holding(bus) as (bot, sequence):
        ask = {"consumer": CONSUMER, "sequence": sequence, "attempt": 1, "error": "E"}
        with pytest.raises(RequestFailed, match=f"has no payload {index}"):
            await bot.request(PARK, {**ask, "index": index})
        assert (await bot.request(PARK, {**ask, "index": 1})).payload["record"] == 1


class Replica:
    """The replica that answers direct questions. It has no messages, or cannot read a question."""

    def __init__(self, bus: TestBus, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
        self._server = bus._server.jetstream
        self._status = status
        monkeypatch.setattr(self._server, "_direct", self._answer)

    def _answer(self, _: str, __: bytes, answer_to: Target) -> bool:
        block = headers.status(self._status, "Not a Message")
        self._server._accounts.answer(answer_to, Message(answer_to.subject, headers=block))
        return True


async def park(bot: Bot, sequence: int) -> int | None:
    """Give the first message of the delivery up. Return its place in the quarantine."""
    ask = {"consumer": CONSUMER, "sequence": sequence, "index": 0, "attempt": 1, "error": "E"}
    record: int | None = (await bot.request(PARK, ask)).payload["record"]
    return record


@pytest.mark.parametrize("status", [404, 408])
async def test_message_that_a_replica_lacks_is_parked_and_shown(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """A client acknowledges a message that the relay calls gone, so it would be lost."""
    async with holding(bus) as (bot, sequence):
        Replica(bus, monkeypatch, status)
        assert await park(bot, sequence) == 1
        operator = await bus.bot("operator")
        shown = (await operator.request(QUARANTINE_SHOW, {"sequence": 1})).payload
        assert shown["record"]["position"] == sequence


def no_leader(*_: Any) -> Any:
    raise ApiError(503, 10008, "JetStream system temporarily unavailable")


async def test_only_the_leader_says_that_a_message_is_gone(
    bus: TestBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = await bus.bot("operator")
    async with holding(bus) as (bot, sequence):
        Replica(bus, monkeypatch, 404)
        monkeypatch.setitem(bus._server.jetstream._api._calls, "STREAM.MSG.GET", no_leader)
        with pytest.raises(RequestFailed, match="cannot reach JetStream; try again"):
            await park(bot, sequence)
        with pytest.raises(RequestFailed, match="cannot reach JetStream; try again"):
            await operator.request(QUARANTINE_SHOW, {"sequence": 1})
        monkeypatch.undo()
        # As where it goes while the relay asks: its consumer still has it in hand.
        del bus._server.jetstream.streams["ACCEPTED"]._messages[sequence]
        assert await park(bot, sequence) is None
        with pytest.raises(RequestFailed, match="the quarantine holds nothing at 1"):
            await operator.request(QUARANTINE_SHOW, {"sequence": 1})


async def test_whole_float_is_served_as_the_integer_it_is(bus: TestBus) -> None:
    """JSON Schema takes 2.0 for an integer. A note with "2.0" in it could not be read again."""
    async with holding(bus) as (bot, sequence):
        ask = {"consumer": CONSUMER, "sequence": float(sequence)}
        noted = {**ask, "stored": 1.0, "done": "1", "given_back": 2.0}
        for _ in range(2):
            answer = (await bot.request(PROGRESS, noted)).payload
            assert repr(answer) == "{'done': '1', 'given_back': 2}"
        assert await note(bot, sequence, stored=1) == "1", "it is the same note"
        parked = {**ask, "index": 0.0, "attempt": 1.0, "error": "E"}
        assert (await bot.request(PARK, parked)).payload["record"] == 1
        operator = await bus.bot("operator")
        shown = (await operator.request(QUARANTINE_SHOW, {"sequence": 1.0, "offset": 0.0})).payload
        assert repr(shown["record"]["position"]) == repr(sequence)
        page = {"offset": 0.0, "limit": 1.0}
        assert (await operator.request(SUBSCRIPTIONS_LIST, page)).payload["total"] == 1


async def test_number_beyond_the_longest_integer_is_not_served(bus: TestBus) -> None:
    async with holding(bus) as (bot, sequence):
        ask = {"consumer": CONSUMER, "sequence": sequence, "stored": 1, "done": "1"}
        with pytest.raises(RequestFailed, match="not-served: given_back is more than 2"):
            await bot.request(PROGRESS, {**ask, "given_back": 1e300})
