"""A partition is paused while its messages are given back, and only its holder gives them back."""

from __future__ import annotations

import time

import pytest
from structlog.testing import capture_logs

from sealbus.protocol.streams import INGRESS
from sealbus_broker.memory import consumer as memory_consumer
from sealbus_broker.memory.times import NS_PER_S
from sealbus_broker.nats.streams import PRIORITY_GROUP
from sealbus_broker.relay.ingress import pulling
from sealbus_broker.relay.ingress.giving_back import PAUSE_S, call, give_back, pause
from sealbus_broker.relay.partitions.taking_over import take_over
from tests.contract.ground import Puller, Received
from tests.contract.test_pins import pin, pins_last
from tests.shells.stage import Stage
from tests.shells.working import FIRST, Worker, hold_up, send
from tests.waiting import PATIENCE_S, until


@pytest.mark.parametrize("ahead_s", [-3600, 3600])
async def test_pause_ends_by_the_clock_of_the_server(
    bus: Stage, monkeypatch: pytest.MonkeyPatch, ahead_s: int
) -> None:
    """The relay's clock may differ by half of ``clock_skew``."""

    def server_ns() -> int:
        return time.time_ns() + ahead_s * NS_PER_S

    monkeypatch.setattr(memory_consumer, "now_ns", server_ns)
    earliest_us = server_ns() // 1000
    await pause(bus.relay, FIRST, await call(bus.relay, FIRST, "INFO", {}))
    latest_us = server_ns() // 1000
    paused = bus.server.jetstream.streams[INGRESS].consumers[FIRST.consumer]
    until_us = paused._paused_until_ns // 1000
    assert earliest_us <= until_us - PAUSE_S * 1_000_000 <= latest_us


async def holder(bus: Stage, *texts: bytes) -> tuple[Puller, list[Received]]:
    """Another relay, which has the partition, and these messages in hand."""
    await pins_last(bus)
    one = await bus.puller(INGRESS, FIRST.consumer, await bus.login())
    one.ask(len(texts), group=PRIORITY_GROUP)
    await one.inbox.client.flush()
    await send(bus, *texts)
    return one, await one.inbox.take(len(texts))


async def test_note_is_written_while_nothing_is_delivered(bus: Stage) -> None:
    """It may take as long as the pin lasts. Then the next relay would get newer messages first."""
    one, in_hand = await holder(bus, b"1", b"2")
    paused: list[bool] = []

    async def note() -> None:
        paused.append((await one.info())["paused"])

    replies = [message.reply.encode() for message in in_hand]
    await give_back(bus.relay, FIRST, replies, pin=pin(in_hand[0]), note=note)
    assert paused == [True]
    assert not (await one.info())["paused"]
    one.ask(2, group=PRIORITY_GROUP)
    assert [message.data for message in await one.inbox.take(2)] == [b"1", b"2"]


async def test_stop_takes_nothing_from_the_relay_that_took_over(
    bus: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay was frozen, and is told to stop when it wakes."""
    monkeypatch.setattr(pulling, "RENEW_S", PATIENCE_S)
    await pins_last(bus)
    woken = Worker(bus, await bus.login())
    await hold_up(bus, woken, monkeypatch)
    await until(lambda: not woken.worker._pulling.is_under_way, "it hears nothing of its pin")
    other = await bus.login()
    await take_over(other, FIRST, lambda: True)
    heir = await bus.puller(INGRESS, FIRST.consumer, other)
    heir.ask(3, group=PRIORITY_GROUP)
    in_hand = await heir.inbox.take(3)
    with capture_logs() as log:
        await woken.stop()
    assert [line["messages"] for line in log if line["event"] == "partition.lost"] == [2]
    heir.ask(1, group=PRIORITY_GROUP, id=pin(in_hand[0]))
    await send(bus, b"4")
    assert (await heir.next()).data == b"4"


async def test_relay_that_is_back_keeps_its_messages(bus: Stage) -> None:
    """Another one was about to take over from it."""
    back, in_hand = await holder(bus, b"1")
    await take_over(bus.relay, FIRST, lambda: False)
    assert not (await back.info())["paused"]
    back.ask(1, group=PRIORITY_GROUP, id=pin(in_hand[0]))
    await send(bus, b"2")
    assert (await back.next()).data == b"2"
