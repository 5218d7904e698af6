"""Messages in hand: the server hears of them, copies come, and a run fails."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sealbus.nats.acks import IN_PROGRESS, NAK
from sealbus.nats.frames import pub
from sealbus_broker.nats.streams import ACK_WAIT_S, PARTITIONS
from sealbus_broker.relay.ingress import holding
from sealbus_broker.relay.ingress import waiting as ingress_waiting
from sealbus_broker.relay.ingress import worker as ingress_module
from sealbus_broker.relay.partitions.workers import Workers
from tests.shells.stage import Stage
from tests.shells.working import FIRST, Worker, hold_up, left, send
from tests.waiting import patiently, until


def prolong_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is told at once of messages in hand, and again and again."""
    monkeypatch.setattr(holding, "PROLONG_S", 0.01)
    monkeypatch.setattr(holding, "YOUNG_S", 0.0)


async def test_server_is_told_of_messages_in_hand(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is being judged, one waits for its turn, and one waits to be judged alone."""
    prolong_often(monkeypatch)
    await hold_up(bus, worker, monkeypatch)
    worker.suspect()
    in_hand = worker.worker._holding.in_order()
    assert len(in_hand) == 3
    before = [one.asked for one in in_hand]

    def are_prolonged() -> bool:
        return all(one.asked > then for one, then in zip(in_hand, before, strict=True))

    await until(are_prolonged, "the server knows that they are still here")


async def test_server_is_not_told_of_a_batch_that_is_stuck(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another relay has to try its messages."""
    prolong_often(monkeypatch)
    monkeypatch.setattr(holding, "BEGUN_S", 1e-6)
    await hold_up(bus, worker, monkeypatch)
    stuck, *waiting = worker.worker._holding.in_order()
    before = stuck.asked
    await until(lambda: all(one.asked > before + 0.05 for one in waiting), "the others are told")
    assert stuck.asked == before


async def test_copy_of_a_message_in_hand_is_not_judged(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time was over at the server. The copy that waits is judged as one that came again."""
    await hold_up(bus, worker, monkeypatch)
    monkeypatch.setattr(ingress_waiting, "WAITING", 10)
    worker.worker._changed.set()
    begun, waiting, _ = worker.worker._holding.in_order()
    bus.relay.write([pub(one.reply, NAK) for one in (begun, waiting)])
    await until(lambda: waiting.place.deliveries == 2, "both came again")
    assert begun.place.deliveries == 1
    worker.go.set()
    await until(lambda: worker.worker._under_way == 0 and len(worker.judged) >= 3, "all are judged")
    assert worker.judged == [b"1", b"2", b"3"]
    assert await left(bus) == 0


@pytest.mark.parametrize("why", ["the connection is lost", "its time is over"])
async def test_prolonging_makes_no_message_sure_again(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """Another relay may have taken the message over, and may accept it. So no refusal is told."""
    monkeypatch.setattr(ingress_module, "IN_HAND", 1)
    prolong_often(monkeypatch)
    worker.refuses = True
    worker.go.clear()
    await send(bus, b"1")
    await until(lambda: worker.judged == [b"1"], "the first is being judged")
    await send(bus, b"2")
    await until(lambda: len(worker.worker._received) == 1, "the second waits here")
    for one in worker.worker._holding.in_order():
        if why == "its time is over":
            one.asked -= ACK_WAIT_S
    if why == "the connection is lost":
        worker.worker.on_lost()
    told: list[bytes] = []
    request = bus.relay.request

    async def telling(*arguments: Any, **options: Any) -> Any:
        answer = await request(*arguments, **options)
        told.append(arguments[1])
        return answer

    monkeypatch.setattr(bus.relay, "request", telling)
    await until(lambda: told.count(IN_PROGRESS) > 1, "the server knows that they are still here")
    worker.go.set()
    await until(lambda: worker.judged == [b"1", b"2"], "it is judged")
    await until(lambda: worker.worker._under_way == 0, "it is settled")
    assert await left(bus) == 0
    assert not worker.told.is_set()


async def fail(bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker makes a mistake in a batch. The next batch may have begun, and the third message
    waits."""
    monkeypatch.setattr(ingress_module, "CROWDED", 1)
    await hold_up(bus, worker, monkeypatch)
    worker.fails = True
    worker.go.set()
    with pytest.raises(ExceptionGroup):
        await patiently(worker.running)
    worker.fails = False


async def test_worker_that_failed_goes_on_with_its_messages(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fail(bus, worker, monkeypatch)
    worker.running = asyncio.create_task(worker.worker.run(worker.stopping))
    await until(lambda: b"3" in worker.judged, "it goes on with those that waited")


async def test_worker_that_failed_long_ago_forgets_its_messages(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another relay has had them meanwhile. Their bytes make room for others."""
    await fail(bus, worker, monkeypatch)
    received = worker.worker._received
    assert received._bodies.size > 0
    for one in received:
        one.asked -= ACK_WAIT_S
    worker.running = asyncio.create_task(worker.worker.run(worker.stopping))
    await until(lambda: len(received) == 0, "they are forgotten")
    assert received._bodies.size == 0
    await worker.stop()
    assert b"3" not in worker.judged


async def test_partitions_of_another_number_keep_no_bytes(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fail(bus, worker, monkeypatch)
    workers = Workers(lambda _: worker.worker)
    workers.of(FIRST)
    workers.forget(PARTITIONS + 1)
    assert worker.worker._received._bodies.size == 0
    worker.running = asyncio.create_task(worker.worker.run(worker.stopping))
