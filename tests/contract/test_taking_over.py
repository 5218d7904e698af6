"""A relay takes a partition over from one that is gone, and the number of partitions changes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from sealbus.nats.acks import ACK
from sealbus.supervision import Supervisor
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.gate.verdict import Arrival
from sealbus_broker.nats import numbers
from sealbus_broker.nats.numbers import Numbers
from sealbus_broker.nats.provision import provision
from sealbus_broker.nats.streams import (
    EARLIER,
    PARTITIONS,
    PRIORITY_GROUP,
    Partition,
    hashed,
    partition_consumer,
    partition_of,
    partitions,
    stream_configs,
    transform,
)
from sealbus_broker.relay.ingress.worker import IngressWorker
from sealbus_broker.relay.judging.pipeline import Refusals
from sealbus_broker.relay.judging.turn import Turn
from sealbus_broker.relay.partitions.taking_over import take_over
from tests.contract.ground import Ground
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.slow

BOT = "e"
"""A name whose messages fall into the first partition."""
FIRST = Partition(PARTITIONS, 0)
CONSUMER = FIRST.consumer


@pytest.fixture
async def wide(ground: Ground) -> Ground:
    """A bus on which many messages of one bot may wait."""
    ground.limit(ingress_messages=1000)
    await provision(ground.relay, ground.policy)
    return ground


async def test_messages_in_hand_come_in_their_order(wide: Ground) -> None:
    gone = await wide.puller("INGRESS", CONSUMER, await wide.login())
    gone.ask(4, group=PRIORITY_GROUP)
    await gone.inbox.client.flush()
    await wide.send(BOT, b"1", b"2", b"3", b"4", b"5")
    first, _, third, _ = await gone.inbox.take(4)
    for one in (first, third):
        await gone.settle(one, ACK)
    await gone.inbox.client.close()
    await take_over(wide.relay, FIRST, lambda: True)
    heir = await wide.puller("INGRESS", CONSUMER)
    heir.ask(3, group=PRIORITY_GROUP)
    assert [one.data for one in await heir.inbox.take(3)] == [b"2", b"4", b"5"]


async def test_refused_call_is_told(wide: Ground) -> None:
    await wide.done(f"CONSUMER.DELETE.INGRESS.{CONSUMER}")
    with capture_logs() as lines:
        await take_over(wide.relay, FIRST, lambda: True)
    refused = [line for line in lines if line["event"] == "partition.call-refused"]
    assert [line["call"] for line in refused] == ["INFO", "INFO", "UNPIN", "INFO", "PAUSE"]
    assert refused[0]["because"] == "consumer not found"


async def test_partition_without_messages_is_taken_over(wide: Ground) -> None:
    gone = await wide.puller("INGRESS", CONSUMER, await wide.login())
    gone.ask(4, group=PRIORITY_GROUP)
    await gone.inbox.client.flush()
    await gone.inbox.client.close()
    await take_over(wide.relay, FIRST, lambda: True)
    heir = await wide.puller("INGRESS", CONSUMER)
    heir.ask(1, group=PRIORITY_GROUP)
    await wide.relay.flush()
    await wide.send(BOT, b"1")
    assert (await heir.next()).data == b"1"


async def test_messages_of_other_partitions_stay_in_hand(wide: Ground) -> None:
    """The sequences of all partitions are mixed in the stream."""
    other = next(name for name in "abcdefgh" if hashed(name) % PARTITIONS != 0)
    at = partition_consumer(hashed(other) % PARTITIONS)
    gone = await wide.puller("INGRESS", CONSUMER, await wide.login())
    there = await wide.puller("INGRESS", at)
    gone.ask(2, group=PRIORITY_GROUP)
    there.ask(1, group=PRIORITY_GROUP)
    await wide.send(BOT, b"1")
    await wide.send(other, b"other")
    await wide.send(BOT, b"2")
    await gone.inbox.take(2)
    await there.next()
    await gone.inbox.client.close()
    await take_over(wide.relay, FIRST, lambda: True)
    assert (await there.info())["num_ack_pending"] == 1
    assert (await there.info())["num_redelivered"] == 0


async def test_large_messages_in_hand_come_in_their_order(wide: Ground) -> None:
    """They are more than one request with a bound may bring. nats-server puts a message that does
    not fit behind the others."""
    texts = [bytes([number]) * (300_000 if number % 2 else 10) for number in range(1, 12)]
    judged: list[bytes] = []
    go, stopping = asyncio.Event(), asyncio.Event()

    async def note(arrivals: Sequence[Arrival], turn: Turn) -> Refusals:
        async with turn.judging:
            if not go.is_set():
                # The first relay stops with two batches under way, and with no request.
                await until(lambda: stopping.is_set() and not first._pulling.is_under_way)
            judged.extend(arrival.data for arrival in arrivals)
        return Refusals([], lambda _: None)

    async def relay(stop: asyncio.Event) -> tuple[IngressWorker, asyncio.Task[None]]:
        nc = await wide.login()
        one = IngressWorker(nc=nc, partition=FIRST, process=note, supervisor=Supervisor("a test"))
        return one, asyncio.create_task(one.run(stop))

    first, running = await relay(stopping)
    await wide.send(BOT, *texts)
    await until(lambda: len(first._received) > 4, "it has several large ones in hand")
    stopping.set()
    async with asyncio.timeout(PATIENCE_S):
        await running
    assert len(judged) < len(texts)
    go.set()
    end = asyncio.Event()
    _, running = await relay(end)
    await until(lambda: len(judged) >= len(texts), "the next one has the rest")
    end.set()
    async with asyncio.timeout(PATIENCE_S):
        await running
    assert judged == texts


# ---- another number of partitions ----------------------------------------------------------------


async def names(ground: Ground) -> set[str]:
    """The consumers of INGRESS."""
    return set((await ground.done("CONSUMER.NAMES.INGRESS"))["consumers"])


def consumers(number: int) -> set[str]:
    return {one.consumer for one in partitions(number)}


async def with_number(ground: Ground, number: int) -> None:
    """A bus with ``number`` partitions, whose policy asks for the default."""
    ground.limit(ingress_messages=1000)
    (config,) = (one for one in stream_configs(ground.policy) if one["name"] == "INGRESS")
    body = {key: kept for key, kept in config.items() if kept is not None}
    await ground.done("STREAM.CREATE.INGRESS", body | {"subject_transform": transform(number)})
    await provision(ground.relay, ground.policy)


@pytest.mark.parametrize("number", [EARLIER, 1, 8, 24])
async def test_older_messages_are_due_until_they_are_judged(ground: Ground, number: int) -> None:
    await with_number(ground, number)
    assert await names(ground) == consumers(number), "a start changes no number"
    await ground.send(BOT, b"1", b"2")
    await numbers.change(ground.relay, PARTITIONS)
    await ground.send(BOT, b"3")
    assert await numbers.look(ground.relay) == Numbers(number, PARTITIONS)
    puller = await ground.puller("INGRESS", Partition(number, partition_of(BOT, number)).consumer)
    puller.ask(2, group=PRIORITY_GROUP)
    got = await puller.inbox.take(2)
    assert [one.data for one in got] == [b"1", b"2"]
    await puller.settle(got[0], ACK)
    assert (await numbers.look(ground.relay)).due == number, "one is in hand"
    await puller.settle(got[1], ACK)
    assert await numbers.look(ground.relay) == Numbers(PARTITIONS, PARTITIONS)
    await numbers.remove(ground.relay, {number})
    assert await names(ground) == consumers(PARTITIONS)
    new = await ground.puller("INGRESS", CONSUMER)
    new.ask(1, group=PRIORITY_GROUP)
    assert (await new.next()).data == b"3"


async def test_number_does_not_change_while_an_older_one_is_due(ground: Ground) -> None:
    """Two relays may each believe that they should change it."""
    await with_number(ground, 4)
    await ground.send(BOT, b"1")
    await numbers.change(ground.relay, PARTITIONS)
    await ground.send(BOT, b"2")
    await numbers.change(ground.relay, 4)
    assert await numbers.look(ground.relay) == Numbers(4, PARTITIONS)


async def test_missing_consumer_is_made_again_during_a_change(ground: Ground) -> None:
    """The consumers of the other number are there too."""
    await with_number(ground, 4)
    await ground.send(BOT, b"1")
    await numbers.change(ground.relay, PARTITIONS)
    lost = Partition(4, partition_of(BOT, 4)).consumer
    await ground.done(f"CONSUMER.DELETE.INGRESS.{lost}")
    assert (await numbers.look(ground.relay)).due == 4
    assert await names(ground) == consumers(4) | consumers(PARTITIONS)
    puller = await ground.puller("INGRESS", lost)
    puller.ask(1, group=PRIORITY_GROUP)
    assert (await puller.next()).data == b"1"


async def test_each_bot_has_the_partition_that_the_server_computes(ground: Ground) -> None:
    await with_number(ground, 7)
    for bot in ("order", "shop", "stock-2"):
        await ground.send(bot, b"1")
        body = {"last_by_subj": f"ingress.7.{partition_of(bot, 7)}.{bot}"}
        assert (await ground.done("STREAM.MSG.GET.INGRESS", body))["message"]["seq"]


async def test_number_without_messages_is_due_at_once(ground: Ground) -> None:
    await with_number(ground, 4)
    assert await numbers.look(ground.relay) == Numbers(4, 4)
    await numbers.change(ground.relay, PARTITIONS)
    assert await numbers.look(ground.relay) == Numbers(PARTITIONS, PARTITIONS)


async def test_transform_of_somebody_else_is_refused(ground: Ground) -> None:
    await with_number(ground, PARTITIONS)
    config = (await ground.done("STREAM.INFO.INGRESS"))["config"]
    other = {"src": "send.*", "dest": "ingress.16.0.{{wildcard(1)}}"}
    await ground.done("STREAM.UPDATE.INGRESS", config | {"subject_transform": other})
    with pytest.raises(StreamsUnusable, match="another subject transform"):
        await numbers.look(ground.relay)
    with pytest.raises(StreamsUnusable, match="not as the bus needs it: subject_transform"):
        await provision(ground.relay, ground.policy)
