"""Messages that are judged alone: the time in which they are, and their marks.

Judge, pipeline and ledgers are real. NATS is not here.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import sentinel

import pytest

from sealbus.own import UNJUDGEABLE
from sealbus.protocol.streams import HEALTH_PREFIX
from sealbus_broker.gate.judge import judge
from sealbus_broker.gate.policy import DeliveryClass
from sealbus_broker.gate.verdict import Arrival, Judgment
from sealbus_broker.nats.jetstream import NO_MESSAGE
from sealbus_broker.nats.streams import PARTITIONS, Partition
from sealbus_broker.relay.ingress.last_try import LAST_DELIVERIES, LastTry, Suspect, mark_subject
from sealbus_broker.relay.judging import pipeline
from sealbus_broker.relay.judging.counters import VerdictCounters
from sealbus_broker.relay.judging.pipeline import Pipeline, Refusals
from sealbus_broker.relay.judging.turn import Turn
from sealbus_broker.relay.store.ledger import Ledger
from sealbus_broker.relay.store.stream_store import Stored, StreamMessage
from tests.gate.world import BUS_KEY, NOW, PLACED, POLICY, envelope
from tests.relay.test_pipeline import Kept, orders
from tests.waiting import patiently, until

PARTITION = Partition(PARTITIONS, 0)

POSITION = 99
"""The place of the suspect in INGRESS."""


class Streams(Kept):
    """A stream store, and the connection that reads its marks."""

    def __init__(self) -> None:
        super().__init__()
        self.has_room = asyncio.Event()
        """Whether the ledgers have room. HEALTH and QUARANTINE always have."""
        self.has_room.set()
        self.fails = False
        """Whether the storing fails after the judging."""
        self.refused_mark: bytes | None = None
        """The mark that HEALTH does not take, until :attr:`takes_marks` is set."""
        self.takes_marks = asyncio.Event()
        self.has_refused = asyncio.Event()

    async def persist(self, attempt: Callable[[], Awaitable[str | None]]) -> None:
        why = await attempt()
        while why is not None:
            await asyncio.sleep(0)
            why = await attempt()
        if self.fails and self.mark == b"done":
            raise ZeroDivisionError

    async def attempt(
        self, entries: Sequence[StreamMessage]
    ) -> tuple[list[Stored | None], str | None]:
        if self._refuses(entries):
            return [None] * len(entries), "no leader"
        if not entries[0].subject.startswith(HEALTH_PREFIX):
            await self.has_room.wait()
        return [*await self.store(entries)], None

    async def store(self, entries: Sequence[StreamMessage]) -> list[Stored]:
        if self._refuses(entries):
            await self.takes_marks.wait()
        # As an answer takes its time.
        await asyncio.sleep(0)
        stored = await super().store(entries)
        await asyncio.sleep(0)
        return stored

    def _refuses(self, entries: Sequence[StreamMessage]) -> bool:
        is_refused = any(entry.data == self.refused_mark for entry in entries)
        if is_refused and not self.takes_marks.is_set():
            self.has_refused.set()
            return True
        return False

    @property
    def mark(self) -> bytes | None:
        """The mark of the suspect."""
        subject = mark_subject(PARTITION, POSITION)
        return next((one.data for one in self.entries[::-1] if one.subject == subject), None)

    async def request(self, *_: Any, **__: Any) -> Any:
        if self.mark is None:
            answer: Any = {"error": {"code": 404, "err_code": NO_MESSAGE}}
        else:
            answer = {"message": {"data": base64.b64encode(self.mark).decode()}}
        return SimpleNamespace(data=json.dumps(answer).encode())


class Relay:
    """The judging of a relay, for the live queue and several partitions."""

    def __init__(self) -> None:
        self.streams = Streams()
        given = cast("Any", self.streams)
        self.ledgers = {
            DeliveryClass.STREAM: Ledger(sentinel.unused, "ACCEPTED"),
            DeliveryClass.LIVE: Ledger(sentinel.unused, "LIVE", in_memory=True),
        }
        for ledger in self.ledgers.values():
            ledger.set_state(None, 1, NOW)
        counters = VerdictCounters(lambda: 0.0)
        self._pipeline = Pipeline(
            nc=given,
            stream_store=given,
            ledgers=self.ledgers,
            policy=lambda: POLICY,
            key=BUS_KEY,
            relay="relay-1",
            services=cast("Any", frozenset()),
            counters=counters,
            now_ms=lambda: NOW,
            reads=(),
        )
        self._last_try = LastTry(
            nc=given,
            stream_store=given,
            process=self._pipeline.process,
            policy=lambda: POLICY,
            relay="relay-1",
            counters=counters,
            now_ms=lambda: NOW,
        )

    def batch(self, arrivals: Sequence[Arrival]) -> asyncio.Task[Refusals]:
        """A batch of a queue of its own."""
        return asyncio.create_task(self._last_try.process(arrivals, Turn()))

    def live(self) -> asyncio.Task[Refusals]:
        """A batch of the live queue."""
        arrival = Arrival("order", envelope(PLACED), DeliveryClass.LIVE, NOW, None)
        return self.batch([arrival])

    def suspect(self) -> asyncio.Task[Refusals | None]:
        """A message that came often."""
        data = envelope(PLACED, nonce=bytes(16))
        arrival = Arrival("order", data, DeliveryClass.STREAM, NOW, POSITION)
        suspect = Suspect("order", POSITION, LAST_DELIVERIES, NOW, data)
        judging = self._last_try.judge(suspect, PARTITION, lambda: [arrival], Turn())
        return asyncio.create_task(judging)


async def test_stuck_live_messages_hold_up_no_suspect() -> None:
    """Their ledger has no leader. The messages of the partitions have another one."""
    relay = Relay()
    relay.ledgers[DeliveryClass.LIVE].invalidate()
    live = relay.live()
    await asyncio.sleep(0)
    suspect = relay.suspect()
    await patiently(suspect)
    await patiently(relay.batch(orders(1)))
    assert not live.done()
    relay.ledgers[DeliveryClass.LIVE].set_state(None, 1, NOW)
    await patiently(live)


async def test_stuck_batch_holds_up_no_suspect() -> None:
    """Its messages are judged, and their stream is full."""
    relay = Relay()
    relay.streams.has_room.clear()
    batch = relay.batch(orders(1))
    suspect = relay.suspect()
    await until(lambda: relay.streams.mark == b"done", "the suspect is judged")
    assert not batch.done()
    relay.streams.has_room.set()
    await patiently(asyncio.gather(batch, suspect))


async def test_stuck_suspect_holds_up_no_live_message() -> None:
    relay = Relay()
    relay.ledgers[DeliveryClass.STREAM].invalidate()
    suspect = relay.suspect()
    await until(lambda: relay.streams.mark is not None, "it is tried")
    live = relay.live()
    await patiently(live)
    assert not suspect.done()
    assert relay.streams.mark == b"done", "a relay that ends now has done no harm by it"
    relay.ledgers[DeliveryClass.STREAM].set_state(None, 1, NOW)
    await patiently(suspect)


@pytest.mark.parametrize("mark", [b"begun", b"done"])
async def test_mark_that_cannot_be_stored_holds_up_no_other(mark: bytes) -> None:
    """HEALTH has no leader."""
    relay = Relay()
    relay.streams.refused_mark = mark
    suspect = relay.suspect()
    await patiently(relay.streams.has_refused.wait())
    await patiently(asyncio.gather(relay.live(), relay.batch(orders(1))))
    assert not suspect.done()
    relay.streams.takes_marks.set()
    await patiently(suspect)
    assert relay.streams.mark == b"done"


async def test_suspect_is_judged_alone_and_with_its_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "GIVE_WAY_S", -1.0)  # after each message
    relay = Relay()
    order_of_events: list[tuple[int | None, bytes | None]] = []

    def noted(arrival: Arrival, *arguments: Any) -> Judgment:
        order_of_events.append((arrival.position, relay.streams.mark))
        return judge(arrival, *arguments)

    monkeypatch.setattr(pipeline, "judge", noted)
    before = relay.batch(orders(*range(100)))
    await patiently(asyncio.gather(relay.suspect(), relay.batch(orders(*range(100, 200))), before))
    assert order_of_events.count((POSITION, b"begun")) == 1
    others = [mark for position, mark in order_of_events if position != POSITION]
    assert len(others) == 200
    assert b"begun" not in others


async def test_suspect_that_fails_after_its_judging_is_set_aside() -> None:
    """By a mistake in Sealbus. It would end each run of its partition."""
    relay = Relay()
    relay.streams.fails = True
    with pytest.raises(ZeroDivisionError):
        await patiently(relay.suspect())
    assert relay.streams.mark == b"begun"
    assert await patiently(relay.suspect()) is None
    assert UNJUDGEABLE in relay.streams.entries[-1].subject
