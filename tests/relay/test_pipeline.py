"""A pipeline whose ledger is lost between a verdict and its storing.

Judge, seal and ledger are real. NATS is not here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, cast
from unittest.mock import AsyncMock, sentinel

import pytest

from sealbus.protocol.delivery import split_delivery
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.keys import SigningKey
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import Verdict, open_stamp
from sealbus_broker.gate.policy import DeliveryClass, Policy
from sealbus_broker.gate.verdict import Arrival
from sealbus_broker.relay.judging import pipeline
from sealbus_broker.relay.judging.counters import VerdictCounters
from sealbus_broker.relay.judging.pipeline import Pipeline
from sealbus_broker.relay.judging.turn import Turn
from sealbus_broker.relay.store.ledger import Ledger
from sealbus_broker.relay.store.stream_store import Stored, StreamMessage
from tests.gate.world import BUS_KEY, BUS_KEYS, HOUR, NOW, PLACED, POLICY, envelope
from tests.waiting import until


class Kept:
    """A stream store and a connection that keep everything they are given."""

    def __init__(self) -> None:
        self.entries: list[StreamMessage] = []
        self.frames: list[bytes] = []
        self.sequence = 20
        """The sequence of the last entry."""

    async def store(self, entries: Sequence[StreamMessage]) -> list[Stored]:
        self.entries += entries
        first = self.sequence + 1
        self.sequence += len(entries)
        return [Stored("ACCEPTED", first + at, duplicate=False) for at in range(len(entries))]

    async def attempt(
        self, entries: Sequence[StreamMessage]
    ) -> tuple[list[Stored | None], str | None]:
        return [*await self.store(entries)], None

    async def persist(self, attempt: Callable[[], Awaitable[str | None]]) -> None:
        assert await attempt() is None

    def write(self, frames: Sequence[bytes]) -> None:
        self.frames += frames


class Reading:
    """A connection that is behind for some turns of the event loop."""

    def __init__(self, turns: int = 0) -> None:
        self._turns = turns

    @property
    def is_behind(self) -> bool:
        self._turns -= 1
        return self._turns >= 0


def a_pipeline(
    kept: Kept,
    ledger: Ledger,
    now_ms: Callable[[], int] = lambda: NOW,
    policy: Callable[[], Policy] = lambda: POLICY,
    reads: Sequence[Reading] = (),
) -> Pipeline:
    key: SigningKey = BUS_KEY
    return Pipeline(
        nc=cast("Any", kept),
        stream_store=cast("Any", kept),
        ledgers={DeliveryClass.STREAM: ledger},
        policy=policy,
        key=key,
        relay="relay-1",
        services=cast("Any", frozenset()),
        counters=VerdictCounters(lambda: 0.0),
        now_ms=now_ms,
        reads=cast("Any", reads),
    )


def a_ledger() -> Ledger:
    ledger = Ledger(sentinel.unused, "ACCEPTED")
    ledger.set_state(None, 100, NOW)
    return ledger


def orders(*numbers: int) -> list[Arrival]:
    """Honest orders, each with its own nonce."""
    nonces = [PLACED.nonce[:12] + number.to_bytes(4) for number in numbers]
    return [
        Arrival("order", envelope(PLACED, nonce=nonce), DeliveryClass.STREAM, NOW, 7)
        for nonce in nonces
    ]


def stored(kept: Kept) -> list[int]:
    """The numbers of the orders that were stored, in order."""
    deliveries = [entry.data for entry in kept.entries if entry.subject == "accepted.orders.placed"]
    return [
        int.from_bytes(Envelope.decode(split_delivery(data)[0]).header.nonce[12:])
        for data in deliveries
    ]


def the_stamp(kept: Kept) -> Any:
    (frame,) = kept.frames
    return open_stamp(frame.partition(b"\r\n")[2][:-2], BUS_KEYS, Verifier())


async def test_a_message_judged_by_a_lost_ledger_is_judged_again() -> None:
    kept, ledger, turn = Kept(), Ledger(sentinel.unused, "ACCEPTED"), Turn()
    ledger.set_state(None, 100, NOW)
    arrival = Arrival("order", envelope(PLACED), DeliveryClass.STREAM, NOW, 7)
    async with turn.storing:  # other messages are being stored
        processing = asyncio.create_task(a_pipeline(kept, ledger).process([arrival], turn))
        await until(lambda: bool(turn.storing._waiters), "it waits for its turn, judged")
        ledger.invalidate()
        ledger.set_state(None, 50, NOW)
    (await processing).tell()
    assert the_stamp(kept).reason is Reason.STALE
    assert not [entry for entry in kept.entries if entry.subject.startswith("accepted.")]


async def test_policy_and_clock_are_read_after_the_wait() -> None:
    """The ledger may be invalid for hours, and the policy may be another one by then."""
    kept, ledger = Kept(), Ledger(sentinel.unused, "ACCEPTED")
    policy, now_ms = POLICY, NOW - HOUR
    one = a_pipeline(kept, ledger, lambda: now_ms, lambda: policy)
    processing = asyncio.create_task(one.process(orders(1), Turn()))
    await until(lambda: bool(ledger._valid._waiters), "it waits for the ledger")
    policy, now_ms = replace(POLICY, digest=bytes(32)), NOW
    ledger.set_state(None, 100, NOW)
    await processing
    assert (the_stamp(kept).policy, the_stamp(kept).judged_at_ms) == (bytes(32), NOW)


async def test_a_judgment_by_the_present_ledger_stands() -> None:
    kept, ledger = Kept(), Ledger(sentinel.unused, "ACCEPTED")
    ledger.set_state(None, 100, NOW)
    arrival = Arrival("order", envelope(PLACED), DeliveryClass.STREAM, NOW, 7)
    await a_pipeline(kept, ledger).process([arrival], Turn())
    assert the_stamp(kept).reason is None
    assert [entry.subject for entry in kept.entries] == ["accepted.orders.placed"]


async def test_a_refusal_is_stamped_with_its_record_in_the_quarantine() -> None:
    kept, ledger = Kept(), Ledger(sentinel.unused, "ACCEPTED")
    ledger.set_state(None, 100, NOW)
    wrong = Arrival("order", envelope(PLACED, payload={}), DeliveryClass.STREAM, NOW, 7)
    (await a_pipeline(kept, ledger).process([wrong], Turn())).tell()
    assert [entry.subject for entry in kept.entries] == ["quarantine.schema.order"]
    assert (the_stamp(kept).reason, the_stamp(kept).record) == (Reason.SCHEMA, kept.sequence)


async def test_a_message_that_is_dropped_has_no_record() -> None:
    kept, ledger = Kept(), Ledger(sentinel.unused, "ACCEPTED")
    ledger.set_state(None, 100, NOW)
    header = replace(PLACED, bot="inventory", subject="stock.reserved")
    wrong = Arrival("inventory", envelope(header, payload={}), DeliveryClass.STREAM, NOW, 7)
    (await a_pipeline(kept, ledger).process([wrong], Turn())).tell()
    assert not kept.entries
    assert (the_stamp(kept).verdict, the_stamp(kept).record) == (Verdict.DROPPED, None)


@pytest.fixture
def giving_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each message seems to take long to judge."""
    monkeypatch.setattr(pipeline, "GIVE_WAY_S", -1)


async def turns_of_others(*reads: Reading) -> tuple[int, int]:
    """The turns of the event loop that other work has while twenty messages are judged, and how
    many of them it has while no other batch may be judged."""
    kept = Kept()
    one, turns, held = a_pipeline(kept, a_ledger(), reads=reads), 0, 0

    async def another() -> None:
        nonlocal turns, held
        while not kept.entries:
            turns += 1
            held += one._judging.locked()
            await asyncio.sleep(0)

    working = asyncio.create_task(another())
    await asyncio.sleep(0)
    await one.process(orders(*range(20)), Turn())
    await working
    return turns, held


@pytest.mark.usefixtures("giving_way")
async def test_a_slow_batch_gives_way_between_two_messages() -> None:
    turns, held = await turns_of_others(Reading(), Reading())
    assert 20 <= turns < 40
    assert held == 0


@pytest.mark.usefixtures("giving_way")
@pytest.mark.parametrize("behind", [0, 1])
@pytest.mark.parametrize(
    ("turns_behind", "turns_more"), [(15, 15), (1_000_000, 20 * pipeline.CATCH_UP_TURNS)]
)
async def test_each_connection_that_is_behind_has_more_turns(
    behind: int, turns_behind: int, turns_more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "CATCH_UP_S", 60)
    reads = [Reading(), Reading()]
    reads[behind] = Reading(turns_behind)
    turns, held = await turns_of_others(*reads)
    assert turns >= held == turns_more


@pytest.mark.usefixtures("giving_way")
async def test_a_flood_that_is_read_does_not_end_judging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "CATCH_UP_S", -1)
    _, held = await turns_of_others(Reading(1_000_000))
    assert held == 0


@pytest.mark.usefixtures("giving_way")
async def test_a_batch_that_began_later_is_stored_later() -> None:
    """This holds although the batch before it gives way while it is judged."""
    kept, turn = Kept(), Turn()
    one = a_pipeline(kept, a_ledger())
    await asyncio.gather(one.process(orders(1, 2, 3), turn), one.process(orders(4), turn))
    assert stored(kept) == [1, 2, 3, 4]


async def test_a_batch_that_takes_long_is_stored_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part is judged by its own time, and a later batch is stored after all of them.

    The sender of each refused message is told.
    """
    monkeypatch.setattr(pipeline, "PART_S", -1)
    kept, turn, clock = Kept(), Turn(), count(NOW)
    one = a_pipeline(kept, a_ledger(), clock.__next__)
    wrong = Arrival("order", envelope(PLACED, payload={}), DeliveryClass.STREAM, NOW, 7)
    first, second = await asyncio.gather(
        one.process([wrong, *orders(1, 2, 3), wrong], turn), one.process(orders(4), turn)
    )
    assert stored(kept) == [1, 2, 3, 4]
    deliveries = [entry.data for entry in kept.entries if entry.subject == "accepted.orders.placed"]
    stamps = [open_stamp(split_delivery(data)[1], BUS_KEYS, Verifier()) for data in deliveries]
    assert len({stamp.judged_at_ms for stamp in stamps}) == 4
    assert (len(first._items), len(second._items)) == (2, 0)
    assert (turn.judging.locked(), turn.storing.locked()) == (False, False)


async def test_a_batch_that_cannot_be_stored_gives_its_place_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for part_s in (0.5, -1):
        monkeypatch.setattr(pipeline, "PART_S", part_s)
        kept, turn = Kept(), Turn()
        monkeypatch.setattr(kept, "store", AsyncMock(side_effect=OSError("no store")))
        with pytest.raises(OSError, match="no store"):
            await a_pipeline(kept, a_ledger()).process(orders(1, 2), turn)
        assert (turn.judging.locked(), turn.storing.locked()) == (False, False)
