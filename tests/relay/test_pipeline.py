"""What a pipeline does when the ledger is lost between a verdict and its storing. Judge, seal and ledger are real; NATS is not here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, cast
from unittest.mock import sentinel

from sealbus.keys import SigningKey
from sealbus.reason import Reason
from sealbus.seal import Verifier
from sealbus.stamp import Verdict, open_stamp
from sealbus_broker.gate.policy import Delivery
from sealbus_broker.gate.verdict import Arrival
from sealbus_broker.relay.journal import Entry, Stored
from sealbus_broker.relay.ledger import Ledger
from sealbus_broker.relay.pipeline import Pipeline
from sealbus_broker.relay.tally import Tally
from tests.gate.world import BUS_KEY, BUS_KEYS, NOW, PLACED, POLICY, envelope
from tests.waiting import until


class Kept:
    """A journal and a connection that keep what they are given."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.frames: list[bytes] = []
        self.sequence = 20
        """Of the last entry."""

    async def store(self, entries: Sequence[Entry]) -> list[Stored]:
        self.entries += entries
        first = self.sequence + 1
        self.sequence += len(entries)
        return [Stored("ACCEPTED", first + at, duplicate=False) for at in range(len(entries))]

    async def attempt(self, entries: Sequence[Entry]) -> tuple[list[Stored | None], str | None]:
        return [*await self.store(entries)], None

    async def persist(self, attempt: Callable[[], Awaitable[str | None]]) -> None:
        assert await attempt() is None

    def write(self, frames: Sequence[bytes]) -> None:
        self.frames += frames


def a_pipeline(kept: Kept, ledger: Ledger) -> Pipeline:
    key: SigningKey = BUS_KEY
    return Pipeline(
        *(cast("Any", kept), cast("Any", kept), {Delivery.STREAM: ledger}, lambda: POLICY, key, "relay-1"),
        *(cast("Any", frozenset()), Tally(lambda: 0.0), lambda: NOW),
    )


def the_stamp(kept: Kept) -> Any:
    (frame,) = kept.frames
    return open_stamp(frame.partition(b"\r\n")[2][:-2], BUS_KEYS, Verifier())


async def test_what_was_judged_by_a_ledger_that_has_been_lost_is_judged_again() -> None:
    kept, ledger, turn = Kept(), Ledger(sentinel.unused, "ACCEPTED", "accepted"), asyncio.Lock()
    ledger.begin(None, 100, NOW)
    arrival = Arrival("order", envelope(PLACED), Delivery.STREAM, NOW, 7)
    async with turn:  # others are being stored
        processing = asyncio.create_task(a_pipeline(kept, ledger).process([arrival], turn))
        await until(lambda: bool(turn._waiters), "it waits for its turn, judged")
        ledger.doubt()
        ledger.begin(None, 50, NOW)
    (await processing).tell()
    assert the_stamp(kept).reason is Reason.STALE
    assert not [entry for entry in kept.entries if entry.subject.startswith("accepted.")]


async def test_what_was_judged_by_the_ledger_as_it_is_stands() -> None:
    kept, ledger = Kept(), Ledger(sentinel.unused, "ACCEPTED", "accepted")
    ledger.begin(None, 100, NOW)
    arrival = Arrival("order", envelope(PLACED), Delivery.STREAM, NOW, 7)
    await a_pipeline(kept, ledger).process([arrival], asyncio.Lock())
    assert the_stamp(kept).reason is None
    assert [entry.subject for entry in kept.entries] == ["accepted.orders.placed"]


async def test_a_refusal_is_stamped_with_its_record_in_the_quarantine() -> None:
    kept, ledger = Kept(), Ledger(sentinel.unused, "ACCEPTED", "accepted")
    ledger.begin(None, 100, NOW)
    wrong = Arrival("order", envelope(PLACED, payload={}), Delivery.STREAM, NOW, 7)
    (await a_pipeline(kept, ledger).process([wrong], asyncio.Lock())).tell()
    assert [entry.subject for entry in kept.entries] == ["quarantine.schema.order"]
    assert (the_stamp(kept).reason, the_stamp(kept).record) == (Reason.SCHEMA, kept.sequence)


async def test_a_message_that_is_dropped_has_no_record() -> None:
    kept, ledger = Kept(), Ledger(sentinel.unused, "ACCEPTED", "accepted")
    ledger.begin(None, 100, NOW)
    header = replace(PLACED, bot="inventory", subject="stock.reserved")
    wrong = Arrival("inventory", envelope(header, payload={}), Delivery.STREAM, NOW, 7)
    (await a_pipeline(kept, ledger).process([wrong], asyncio.Lock())).tell()
    assert not kept.entries
    assert (the_stamp(kept).verdict, the_stamp(kept).record) == (Verdict.DROPPED, None)
