"""The refused payloads of an envelope, where another policy is in force than when it was stored.

The stamp under which it is stored says which they are: to the sender, and to the quarantine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import Stamp, open_stamp
from sealbus_broker.gate.policy import DeliveryClass, Policy
from sealbus_broker.gate.verdict import Arrival
from sealbus_broker.relay.judging.counters import VerdictCounters
from sealbus_broker.relay.judging.pipeline import Pipeline
from sealbus_broker.relay.judging.turn import Turn
from sealbus_broker.relay.store import storing
from sealbus_broker.relay.store.quarantine import RECORD_HEADER, Record
from sealbus_broker.relay.store.stream_store import Stored, StreamMessage
from tests.gate.world import BUS_KEY, BUS_KEYS, NOW, ORDER, POLICY, burst
from tests.relay.shelf import Attempt, Shelf

LONG = {**ORDER, "note": "x" * 200}


def within(max_bytes: int, digest: bytes) -> Policy:
    """The policy with another budget for an order."""
    rules = [
        replace(rule, max_bytes=max_bytes) if rule.pattern == "orders.placed" else rule
        for rule in POLICY.subjects
    ]
    return replace(POLICY, digest=digest, subjects=tuple(rules))


NARROW = within(150, bytes(32))
"""Refuses the long order too."""
NOTHING = within(0, bytes([1]) * 32)
"""Refuses each order."""


class Place:
    """A relay's stream store and connection, on a shelf, with a quarantine."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self.persist, self.attempt = shelf.persist, shelf.attempt
        self.records: list[Record] = []
        self.frames: list[bytes] = []
        self.counters = VerdictCounters(lambda: 0.0)

    async def store(self, entries: Sequence[StreamMessage]) -> list[Stored]:
        self.records += [Record.from_header(entry.headers[RECORD_HEADER]) for entry in entries]
        return [Stored("QUARANTINE", at + 1, duplicate=False) for at, _ in enumerate(entries)]

    def write(self, frames: Sequence[bytes]) -> None:
        self.frames += frames

    async def process(self, data: bytes, *, position: int = 7, redelivered: bool = False) -> None:
        """Have a relay take a message up, from its arrival to its receipt."""
        shelf = self._shelf
        given = cast("Any", self)
        relay = Pipeline(
            nc=given,
            stream_store=given,
            ledgers={DeliveryClass.STREAM: cast("Any", shelf)},
            policy=lambda: shelf.in_force or shelf.policy,
            key=BUS_KEY,
            relay="relay-1",
            services=cast("Any", frozenset()),
            counters=self.counters,
            now_ms=lambda: shelf.clocks.wall_ms,
            reads=[],
        )
        arrival = Arrival("order", data, DeliveryClass.STREAM, NOW, position, redelivered)
        (await relay.process([arrival], Turn())).tell()

    @property
    def receipts(self) -> list[Stamp]:
        """The stamps that the sender got."""
        return [
            open_stamp(frame.partition(b"\r\n")[2][:-2], BUS_KEYS, Verifier())
            for frame in self.frames
        ]


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    shelf = Shelf()
    monkeypatch.setattr(storing, "time", shelf.clocks)
    return shelf


def change_to(shelf: Shelf, policy: Policy) -> None:
    shelf.in_force = policy


@pytest.mark.parametrize("newer", [NARROW, NOTHING])
async def test_policy_that_changes_before_the_answer_refuses_no_part(
    shelf: Shelf, newer: Policy
) -> None:
    """The answer of the server is lost. The message is judged anew, and found to be stored."""
    place = Place(shelf)
    shelf.attempts.append(Attempt(answers=False, then=lambda: change_to(shelf, newer)))
    await place.process(burst(ORDER, {}, LONG))
    is_as_stored(place)


@pytest.mark.parametrize("newer", [NARROW, NOTHING])
async def test_relay_that_takes_over_keeps_the_same_record(shelf: Shelf, newer: Policy) -> None:
    """The first relay died between the store and the quarantine."""
    place, died = Place(shelf), Place(shelf)
    data = burst(ORDER, {}, LONG)
    await died.process(data)
    change_to(shelf, newer)
    shelf.clocks.tick(100)
    await place.process(data, redelivered=True)
    is_as_stored(place)
    assert place.records == died.records


async def test_retry_under_a_newer_policy_refuses_nothing_more(shelf: Shelf) -> None:
    """Its sender has lost the receipt, and gets the stored one."""
    place, retry = Place(shelf), Place(shelf)
    await place.process(burst(ORDER, {}, LONG))
    change_to(shelf, NARROW)
    await retry.process(burst(ORDER, {}, LONG, issued_at_ms=NOW + 1), position=8)
    assert retry.receipts == place.receipts
    assert retry.records == []


def is_as_stored(place: Place) -> None:
    """Whether the sender and the quarantine got the part that the first policy refuses."""
    (receipt,) = place.receipts
    (record,) = place.records
    assert receipt.policy == POLICY.digest
    assert [(one.index, one.reason) for one in receipt.refused] == [(1, Reason.SCHEMA)]
    assert (record.reason, record.payloads) == ("schema", [1])
    assert (record.policy, record.judged_at_ms) == (POLICY.digest.hex(), receipt.judged_at_ms)
    assert record.detail == receipt.refused[0].detail
    assert +place.counters.counts == {"accepted": 2, "quarantined": 1, "quarantined.schema": 1}
