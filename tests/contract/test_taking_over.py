"""A relay takes a partition over from one that is gone, and drains that of an earlier version."""

from __future__ import annotations

import json

import pytest

from sealbus.nats.acks import ACK
from sealbus.nats.frames import pub
from sealbus_broker.nats.earlier import are_left
from sealbus_broker.nats.provision import provision
from sealbus_broker.nats.streams import (
    EARLIER_PARTITIONS,
    PARTITIONS,
    PRIORITY_GROUP,
    consumer_configs,
    hashed,
    partition_consumer,
    stream_configs,
)
from sealbus_broker.relay.taking_over import take_over
from tests.contract.ground import Ground

pytestmark = pytest.mark.slow

BOT = "e"
"""A name whose messages fall into the first partition."""
CONSUMER = partition_consumer(0)


async def send(bus: Ground, *texts: bytes, bot: str = BOT) -> None:
    """A bot's messages."""
    for text in texts:
        await bus.relay.publish(f"send.{bot}", text)
    await bus.relay.flush()


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
    await send(wide, b"1", b"2", b"3", b"4", b"5")
    first, _, third, _ = await gone.inbox.take(4)
    gone.inbox.client.write([pub(one.reply.encode(), ACK) for one in (first, third)])
    await gone.inbox.client.flush()
    await gone.inbox.client.close()
    await take_over(wide.relay, 0)
    heir = await wide.puller("INGRESS", CONSUMER)
    heir.ask(3, group=PRIORITY_GROUP)
    assert [one.data for one in await heir.inbox.take(3)] == [b"2", b"4", b"5"]


async def test_partition_without_messages_is_taken_over(wide: Ground) -> None:
    gone = await wide.puller("INGRESS", CONSUMER, await wide.login())
    gone.ask(4, group=PRIORITY_GROUP)
    await gone.inbox.client.flush()
    await gone.inbox.client.close()
    await take_over(wide.relay, 0)
    heir = await wide.puller("INGRESS", CONSUMER)
    heir.ask(1, group=PRIORITY_GROUP)
    await wide.relay.flush()
    await send(wide, b"1")
    assert (await heir.next()).data == b"1"


async def test_messages_of_other_partitions_stay_in_hand(wide: Ground) -> None:
    """The sequences of all partitions are mixed in the stream."""
    other = next(name for name in "abcdefgh" if hashed(name) % PARTITIONS != 0)
    at = partition_consumer(hashed(other) % PARTITIONS)
    gone = await wide.puller("INGRESS", CONSUMER, await wide.login())
    there = await wide.puller("INGRESS", at)
    gone.ask(2, group=PRIORITY_GROUP)
    there.ask(1, group=PRIORITY_GROUP)
    await send(wide, b"1")
    await send(wide, b"other", bot=other)
    await send(wide, b"2")
    await gone.inbox.take(2)
    await there.next()
    await gone.inbox.client.close()
    await take_over(wide.relay, 0)
    assert (await there.info())["num_ack_pending"] == 1
    assert (await there.info())["num_redelivered"] == 0


# ---- an earlier version --------------------------------------------------------------------------


async def an_earlier_bus(ground: Ground) -> None:
    """INGRESS and its consumers, as an earlier version made them."""
    (config,) = (one for one in stream_configs(ground.policy) if one["name"] == "INGRESS")
    rule = "ingress.{{partition(4,1)}}.{{wildcard(1)}}"
    transform = {"src": "send.*", "dest": rule}
    body = {key: kept for key, kept in config.items() if kept is not None}
    await ground.done("STREAM.CREATE.INGRESS", body | {"subject_transform": transform})
    first = consumer_configs()[0]
    for partition in range(EARLIER_PARTITIONS):
        name = partition_consumer(PARTITIONS + partition)
        made = {key: kept for key, kept in first.items() if kept is not None}
        made |= {"durable_name": name, "filter_subject": f"ingress.{partition}.*"}
        await ground.done(
            f"CONSUMER.CREATE.INGRESS.{name}", {"stream_name": "INGRESS", "config": made}
        )


async def names(ground: Ground) -> set[str]:
    """The consumers of INGRESS."""
    return set((await ground.done("CONSUMER.NAMES.INGRESS"))["consumers"])


async def test_earlier_messages_are_left_until_judged(ground: Ground) -> None:
    ground.limit(ingress_messages=1000)
    await an_earlier_bus(ground)
    await send(ground, b"1", b"2")
    await provision(ground.relay, ground.policy)
    await send(ground, b"3")
    assert await are_left(ground.relay)
    earlier = partition_consumer(PARTITIONS + hashed(BOT) % EARLIER_PARTITIONS)
    puller = await ground.puller("INGRESS", earlier)
    puller.ask(2, group=PRIORITY_GROUP)
    got = await puller.inbox.take(2)
    assert [one.data for one in got] == [b"1", b"2"]
    await puller.settle(got[0], ACK)
    assert await are_left(ground.relay), "one is in hand"
    await puller.settle(got[1], ACK)
    assert not await are_left(ground.relay)
    assert earlier not in await names(ground)
    new = await ground.puller("INGRESS", CONSUMER)
    new.ask(1, group=PRIORITY_GROUP)
    assert (await new.next()).data == b"3"


async def test_new_bus_has_no_earlier_messages(ground: Ground) -> None:
    await provision(ground.relay, ground.policy)
    assert not await are_left(ground.relay)
    assert len(await names(ground)) == PARTITIONS


async def test_earlier_bus_without_messages_is_changed_at_once(ground: Ground) -> None:
    await an_earlier_bus(ground)
    await provision(ground.relay, ground.policy)
    assert not await are_left(ground.relay)
    assert await names(ground) == {partition_consumer(at) for at in range(PARTITIONS)}
    assert json.dumps(sorted(await names(ground))).count("relay-16-") == PARTITIONS
