"""A relay's worker of one partition: draining, giving back, loss, and when refusals are told."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from sealbus.nats.acks import ACK
from sealbus_broker.nats.provision import provision
from sealbus_broker.nats.streams import partition_consumer
from sealbus_broker.relay.ingress import holding, pulling
from sealbus_broker.relay.ingress import waiting as ingress_waiting
from sealbus_broker.relay.ingress import worker as ingress_module
from tests.shells.stage import Stage
from tests.shells.working import BOT, OTHER, Worker, hold_up, is_given_back, left, send
from tests.waiting import PATIENCE_S, patiently, until


async def test_judged_messages_leave_the_stream(bus: Stage, worker: Worker) -> None:
    await send(bus, b"1", b"2", b"3")

    async def is_empty() -> bool:
        return await left(bus) == 0

    await until(is_empty, "all are acknowledged")
    assert worker.judged == [b"1", b"2", b"3"]


async def test_stop_finishes_and_gives_back_in_order(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where requests follow that only keep the partition until its batch is done."""
    await hold_up(bus, worker, monkeypatch)
    requests = worker.worker._pulling.requests
    made = requests.made
    worker.stopping.set()
    await until(lambda: requests.made > made + 1, "another request keeps the partition")
    await worker.stop()
    assert worker.judged == [b"1"]
    assert await left(bus) == 2
    await is_given_back(bus, b"2", b"3")


async def test_bytes_that_are_not_kept_are_read_again(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the stream, beside others that are kept."""
    await provision(bus.relay, bus.policy)
    monkeypatch.setattr(ingress_waiting, "BODIES_BYTES", 0)
    monkeypatch.setattr(ingress_waiting, "SMALL_BYTES", 10)
    texts = [b"%d" % number * (100 if number % 3 else 1) for number in range(300)]
    worker.go.clear()
    await send(bus, *texts)
    received = worker.worker._received
    await until(lambda: len(received) > 200, "most of them wait here")
    assert sum(one.data is None for one in received) > 100
    worker.go.set()
    await until(lambda: len(worker.judged) >= len(texts), "all are judged")
    assert worker.judged == texts

    async def is_empty() -> bool:
        return await left(bus) == 0

    await until(is_empty, "all are acknowledged")


async def test_message_that_is_gone_is_not_judged(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another relay has settled it. Or the stream began anew, with another message in its place."""
    await provision(bus.relay, bus.policy)
    monkeypatch.setattr(ingress_waiting, "BODIES_BYTES", 0)
    monkeypatch.setattr(ingress_waiting, "SMALL_BYTES", 0)
    monkeypatch.setattr(ingress_module, "IN_HAND", 1)
    worker.go.clear()
    await send(bus, b"1")
    await until(lambda: worker.judged == [b"1"], "the first is being judged")
    await send(bus, b"2", b"3", b"4")
    received = worker.worker._received
    await until(lambda: len(received) == 3, "the others wait here")
    _, third, fourth = received
    await bus.relay.request(third.reply.decode(), ACK, PATIENCE_S)
    fourth.place = replace(fourth.place, stored_ms=fourth.place.stored_ms - 1)
    worker.go.set()
    await send(bus, b"5")
    await until(lambda: b"5" in worker.judged, "the next one is judged")
    assert worker.judged == [b"1", b"2", b"5"]
    await until(lambda: worker.worker._under_way == 0, "all are settled")
    assert await left(bus) == 1, "another message is in the place of the fourth"


async def test_stop_goes_on_until_the_request_is_over(bus: Stage, worker: Worker) -> None:
    """nats-server would take a message out of its queue for an inbox that is gone. And the messages
    of the last request would wait here for its end."""
    await send(bus, b"1")
    await until(lambda: worker.judged == [b"1"], "it has the partition")
    await until(lambda: worker.worker._pulling.is_under_way, "and asks for more")
    stopping = asyncio.create_task(worker.stop())
    await until(worker.stopping.is_set)
    await send(bus, b"2", b"3")
    await until(lambda: worker.judged == [b"1", b"2", b"3"], "they are judged in spite of the stop")
    await stopping
    assert await left(bus) == 0
    second = Worker(bus, await bus.login())
    await send(bus, b"4")
    await until(lambda: second.judged == [b"4"], "the next relay has the partition at once")
    await second.stop()


async def test_refusal_is_not_told_after_a_lost_connection(bus: Stage, worker: Worker) -> None:
    """Another relay may have taken the message over."""
    worker.refuses = True
    worker.go.clear()
    await send(bus, b"1")
    await until(lambda: worker.judged == [b"1"], "it is being judged")
    worker.worker.on_lost()
    worker.go.set()
    await until(lambda: worker.worker._under_way == 0, "it is settled")
    assert await left(bus) == 0
    assert not worker.told.is_set()


async def test_second_relay_waits_for_the_pin(bus: Stage, worker: Worker) -> None:
    await send(bus, b"1")
    await until(lambda: worker.judged == [b"1"])
    second = Worker(bus, await bus.login())
    await send(bus, b"2")
    await until(lambda: worker.judged == [b"1", b"2"], "the first has the pin")
    assert second.judged == []
    await worker.stop()
    await send(bus, b"3")
    await until(lambda: second.judged == [b"3"], "it was given up")
    await second.stop()


async def test_worker_goes_on_after_a_lost_connection(
    bus: Stage,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pulling, "SILENCE_S", PATIENCE_S)
    await send(bus, b"1")
    await until(lambda: worker.judged == [b"1"])
    await bus.restart()
    worker.worker.on_back()
    await send(bus, b"2")
    await until(lambda: worker.judged == [b"1", b"2"], "it goes on")


async def test_request_that_nobody_takes_is_not_repeated_at_once(
    bus: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer without a leader takes none, and the server says so at once."""
    await send(bus, b"1")
    await until(lambda: worker.judged == [b"1"])
    requests = worker.worker._pulling.requests
    with monkeypatch.context() as patch:
        patch.setattr(pulling, "REFUSED_S", PATIENCE_S)
        await bus.done(f"CONSUMER.DELETE.INGRESS.{partition_consumer(0)}")
        made = requests.made
        worker.worker.on_back()
        await until(lambda: requests.made > made, "it asks")
        for _ in range(10):
            await bus.relay.flush()
        assert requests.made == made + 1
    await provision(bus.relay, bus.policy)
    worker.worker.on_back()
    await send(bus, b"2")
    await until(lambda: worker.judged == [b"1", b"2"], "it goes on")


async def test_refusal_is_told_once_it_is_confirmed(bus: Stage, worker: Worker) -> None:
    worker.refuses = True
    await send(bus, b"1")
    await patiently(worker.told.wait())
    assert await left(bus) == 0


async def test_unconfirmed_refusal_is_not_told(
    bus: Stage,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(holding, "ACK_WAIT_S", 0.05)
    monkeypatch.setattr(ingress_module, "CONFIRM_LEAST_S", 0.05)
    worker.refuses = True
    worker.go.clear()
    await send(bus, b"1")
    await until(lambda: worker.judged == [b"1"], "it is being judged")
    bus.server.stall()
    worker.go.set()
    await until(lambda: worker.worker._under_way == 0, "it gave up")
    assert not worker.told.is_set()
    bus.server.stall(False)


async def test_a_bot_has_its_turn_beside_a_backlog(bus: Stage, worker: Worker) -> None:
    await provision(bus.relay, bus.policy)
    worker.note_neighbours(**{BOT: 9, OTHER: 1})
    worker.go.clear()
    await send(bus, *(b"g" * 300 for _ in range(700)))
    await until(lambda: len(worker.worker._received) > 500, "the relay pulls ahead")
    await bus.relay.publish(f"send.{OTHER}", b"honest")
    await until(lambda: OTHER in worker.worker._received._bots, "it is here, behind the others")
    worker.go.set()
    await until(lambda: b"honest" in worker.judged, "it has its turn")
    place = worker.judged.index(b"honest")
    # The two batches that were taken before.
    assert place <= 2 * ingress_waiting.SHARE
