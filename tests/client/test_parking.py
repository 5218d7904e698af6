"""Parking: a message is done when the relay has it, and goes back when it has not."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from sealbus.errors import SealbusError
from sealbus.nats.acks import Ack
from sealbus.receiving import parking as module
from sealbus.receiving.attempts import RETRY_MOST_S
from sealbus.receiving.durable_message import Delivery
from sealbus.receiving.parking import PARKING, Parking
from sealbus.receiving.place import Note, RememberedPlace
from sealbus.supervision import Supervisor
from tests.waiting import PATIENCE_S, until

STORED_MS = 1_700_000_000_000


class Relay:
    """Parks messages as a test says, and remembers the rest."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int | None, int, str]] = []
        self.noted: list[tuple[int, int, Note]] = []
        self.ends: list[float | None] = []
        self.asking = asyncio.Event()
        self.release = asyncio.Event()
        self.answers = asyncio.Event()
        """Whether it answers requests about notes."""
        self.answers.set()
        self.error: SealbusError | None = None
        self.stop = asyncio.Event()
        self.parking = Parking(
            place=RememberedPlace("order", "order_a", 3, self._park, self._progress, self._remake),
            supervisor=Supervisor("test"),
            stop=self.stop,
        )

    async def _park(self, sequence: int, index: int | None, attempt: int, error: str) -> int | None:
        self.asked.append((sequence, index, attempt, error))
        self.asking.set()
        await self.release.wait()
        if self.error is not None:
            raise self.error
        return 1

    async def _remake(self) -> None:
        raise AssertionError

    async def _progress(self, sequence: int, stored_ms: int, note: Note) -> Note:
        self.noted.append((sequence, stored_ms, note))
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        return note

    def start(self, sequence: int) -> None:
        held = delivery(sequence)
        self.parking.park(held, 1, attempt=3, error="Poison", ended=self.ends.append)


def delivery(sequence: int) -> Delivery:
    ack = Ack(b"ACCEPTED", b"order_a", 3, sequence, STORED_MS)
    return Delivery(subject=b"s", reply=b"r", ack=ack, data=b"", now=0.0)


async def test_a_parked_message_is_done() -> None:
    relay = Relay()
    relay.release.set()
    relay.start(7)
    await relay.parking.close()
    assert (relay.asked, relay.ends) == ([(7, 1, 3, "Poison")], [None])


@pytest.mark.parametrize(("stops", "again_s"), [(False, RETRY_MOST_S), (True, 0.0)])
async def test_a_message_that_is_not_parked_goes_back(stops: bool, again_s: float) -> None:
    """At once where the process stops: the next one need not wait for a minute."""
    relay = Relay()
    relay.error = SealbusError("no room")
    relay.release.set()
    if stops:
        relay.stop.set()
    relay.start(7)
    await relay.parking.close()
    assert relay.ends == [again_s]


async def test_a_stop_gives_back_messages_that_are_not_parked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PARKED_S", 0.0)
    relay = Relay()
    relay.start(7)
    await relay.asking.wait()
    await relay.parking.close()
    assert relay.ends == [0.0]


async def test_only_so_many_are_parked_at_once() -> None:
    relay = Relay()
    full = []
    for sequence in range(PARKING):
        full.append(relay.parking.is_full)
        relay.start(sequence)
    full.append(relay.parking.is_full)
    relay.release.set()
    await relay.parking.one_ended()
    full.append(relay.parking.is_full)
    await relay.parking.close()
    assert full == [False] * PARKING + [True, False]


async def test_waiting_for_one_to_end_where_all_have_ended() -> None:
    """All answers came in one read, before whoever waits had its turn."""
    relay = Relay()
    relay.release.set()
    for sequence in range(PARKING):
        relay.start(sequence)
    assert relay.parking.is_full
    waiting = relay.parking.one_ended()
    await relay.parking.close()
    async with asyncio.timeout(PATIENCE_S):
        await waiting


@pytest.mark.parametrize("fails", [False, True])
async def test_the_end_of_a_note_is_told_whatever_it_is(fails: bool) -> None:
    relay = Relay()
    relay.error = SealbusError("no answer") if fails else None
    ends: list[bool] = []
    note = Note(0b101, given_back=2)
    relay.parking.note(delivery(7), note, ends.append)
    await relay.parking.close()
    assert (relay.noted, ends) == ([(7, STORED_MS, note)], [not fails])


async def test_notes_of_a_delivery_do_not_overtake_each_other() -> None:
    """A relay takes several requests at a time, and the last note that it stores counts."""
    relay = Relay()
    relay.answers.clear()
    held = delivery(7)
    ends: list[tuple[int, bool]] = []

    def end(done: int, is_noted: bool) -> None:
        ends.append((done, is_noted))

    relay.parking.note(held, Note(0b1), partial(end, 0b1))
    await until(lambda: bool(relay.noted), "the relay is asked")
    for done in (0b11, 0b111):
        relay.parking.note(held, Note(done), partial(end, done))
    for _ in range(10):  # turns of the event loop, in which the others might be sent
        await asyncio.sleep(0)
    assert [note.done for _, _, note in relay.noted] == [0b1]
    relay.answers.set()
    await relay.parking.close()
    assert [note.done for _, _, note in relay.noted] == [0b1, 0b111], "the newest one is enough"
    assert ends == [(0b1, True), (0b11, False), (0b111, True)]


async def test_note_of_a_delivery_that_is_done_is_no_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The relay refuses it then: the delivery is in nobody's hand any more."""
    relay = Relay()
    relay.answers.clear()
    relay.error = SealbusError("not in the hand")
    held = delivery(7)
    relay.parking.note(held, Note(0b1), lambda _: None)
    await until(lambda: bool(relay.noted), "the relay is asked")
    relay.parking.note(held, Note(0b11), lambda _: None)
    held.note = None
    relay.answers.set()
    await relay.parking.close()
    assert len(relay.noted) == 1
    assert caplog.text == ""
