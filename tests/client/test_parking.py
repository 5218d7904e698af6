"""Parking: the message is acknowledged when the relay has it, and goes back when it has not."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from sealbus.errors import SealbusError
from sealbus.nats.acks import ACK, NAK, Ack, nak
from sealbus.receiving import parking as module
from sealbus.receiving.attempts import RETRY_MOST_S
from sealbus.receiving.durable_message import DurableMessage
from sealbus.receiving.parking import PARKING, Parking
from sealbus.receiving.place import Place
from sealbus.supervision import Supervisor
from tests.waiting import PATIENCE_S


class Relay:
    """Parks messages as a test says, and remembers the rest."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, str]] = []
        self.answers: list[bytes] = []
        self.ends: list[bool] = []
        self.asking = asyncio.Event()
        self.release = asyncio.Event()
        self.error: SealbusError | None = None
        self.stop = asyncio.Event()
        self.parking = Parking(
            place=Place("order", "order_a", 3, self._park, cast("Any", None)),
            supervisor=Supervisor("test"),
            stop=self.stop,
            answer=lambda _, text: self.answers.append(text),
        )

    async def _park(self, sequence: int, attempt: int, error: str) -> int | None:
        self.asked.append((sequence, attempt, error))
        self.asking.set()
        await self.release.wait()
        if self.error is not None:
            raise self.error
        return 1

    def start(self, sequence: int) -> None:
        ack = Ack(b"ACCEPTED", b"order_a", 3, sequence, 0)
        nobody = cast("Any", None)
        held = DurableMessage(nobody, subject=b"s", reply=b"r", ack=ack, data=b"", now=0.0)
        self.parking.start(held, attempt=3, error="Poison", ended=self.ends.append)


async def test_a_parked_message_is_acknowledged() -> None:
    relay = Relay()
    relay.release.set()
    relay.start(7)
    await relay.parking.close()
    assert (relay.asked, relay.answers, relay.ends) == ([(7, 3, "Poison")], [ACK], [True])


@pytest.mark.parametrize(("stops", "answer"), [(False, nak(RETRY_MOST_S)), (True, NAK)])
async def test_a_message_that_is_not_parked_goes_back(stops: bool, answer: bytes) -> None:
    """At once where the process stops: the next one need not wait for a minute."""
    relay = Relay()
    relay.error = SealbusError("no room")
    relay.release.set()
    if stops:
        relay.stop.set()
    relay.start(7)
    await relay.parking.close()
    assert (relay.answers, relay.ends) == ([answer], [False])


async def test_a_stop_gives_back_messages_that_are_not_parked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PARKED_S", 0.0)
    relay = Relay()
    relay.start(7)
    await relay.asking.wait()
    await relay.parking.close()
    assert (relay.answers, relay.ends) == ([NAK], [False])


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
