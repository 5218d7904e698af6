"""Headers that nats-server obeys, sent by a bot to the ingress stream.

None may touch a message of another bot. The list has every header that nats-server 2.15 reads from
a publish, in ``stream.go``, ``scheduler.go``, ``msgtrace.go`` and ``accounts.go``.
"""

from __future__ import annotations

import base64
import json
from functools import partial

import pytest
from nats.aio.msg import Msg

from sealbus_broker.nats.jetstream import time_ms
from sealbus_broker.nats.provision import provision
from sealbus_broker.relay.ingress.rereading import Rereading
from sealbus_broker.relay.ingress.waiting import Pulled
from sealbus_broker.relay.judging.arrivals import Place
from tests.scene import Scene
from tests.waiting import patiently, until

STORED, REFUSED, UNSENT = "stored", "refused", "unsent"

HEADERS: list[tuple[dict[str, str], str]] = [
    ({"Nats-Msg-Id": "1"}, STORED),
    ({"Nats-Rollup": "all"}, REFUSED),
    ({"Nats-Rollup": "sub"}, REFUSED),
    ({"Nats-Rollup": "nonsense"}, REFUSED),
    ({"Nats-TTL": "1s"}, REFUSED),
    ({"Nats-TTL": "never"}, REFUSED),
    ({"Nats-Expected-Stream": "ACCEPTED"}, REFUSED),
    ({"Nats-Expected-Stream": "INGRESS"}, STORED),
    ({"Nats-Expected-Last-Sequence": "0"}, REFUSED),
    ({"Nats-Expected-Last-Subject-Sequence": "7"}, REFUSED),
    (
        {
            "Nats-Expected-Last-Subject-Sequence": "0",
            "Nats-Expected-Last-Subject-Sequence-Subject": "ingress.16.0.order",
        },
        STORED,
    ),
    ({"Nats-Expected-Last-Subject-Sequence-Subject": "ingress.>"}, REFUSED),
    ({"Nats-Expected-Last-Msg-Id": "x"}, REFUSED),
    ({"Nats-Incr": "+1"}, REFUSED),
    ({"Nats-Incr": "nonsense"}, REFUSED),
    ({"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1"}, REFUSED),
    ({"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1"}, REFUSED),
    ({"Nats-Batch-Id": "b"}, REFUSED),
    (
        {"Nats-Schedule": "@at 2020-01-01T00:00:00Z", "Nats-Schedule-Target": "ingress.16.0.order"},
        REFUSED,
    ),
    (
        {
            "Nats-Schedule": "@every 1s",
            "Nats-Schedule-Target": "send.order",
            "Nats-Schedule-TTL": "1s",
        },
        REFUSED,
    ),
    ({"Nats-Schedule": "nonsense"}, REFUSED),
    ({"Nats-Schedule-Next": "purge", "Nats-Scheduler": "ingress.16.0.order"}, REFUSED),
    (
        {"Nats-Schedule-Next": "2020-01-01T00:00:00Z", "Nats-Scheduler": "ingress.16.0.order"},
        REFUSED,
    ),
    ({"Nats-Scheduler": "ingress.16.0.order"}, REFUSED),
    ({"Nats-Stream-Source": "ACCEPTED 1 > >"}, REFUSED),
    ({"Nats-Counter-Sources": "{}"}, STORED),
    ({"Nats-Required-Api-Level": "99"}, STORED),
    ({"Nats-Marker-Reason": "MaxAge"}, STORED),
    ({"Nats-Request-Info": '{"acc":"BUS"}'}, STORED),
    ({"Nats-Pin-Id": "mine"}, STORED),
    (
        {"Nats-Sequence": "1", "Nats-Stream": "ACCEPTED", "Nats-Subject": "accepted.orders.placed"},
        STORED,
    ),
    ({"Nats-Trace-Dest": "bus.orders.placed"}, UNSENT),
    ({"Nats-Trace-Dest": "accepted.orders.placed", "Nats-Trace-Only": "true"}, UNSENT),
    ({"Nats-Trace-Only": "true"}, STORED),
    ({"Nats-Trace-Dest": "not a subject"}, STORED),
    ({"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, STORED),
]


async def ingress(streams: Scene) -> dict[str, int]:
    """The number of messages in INGRESS, by bot."""
    info = await streams.api("STREAM.INFO.INGRESS", {"subjects_filter": ">"})
    counts: dict[str, int] = {}
    for subject, count in (info["state"].get("subjects") or {}).items():
        assert subject.startswith("ingress."), f"no relay reads {subject}"
        counts[subject.split(".")[3]] = count
    return counts


@pytest.mark.parametrize(
    ("headers", "fate"), HEADERS, ids=[json.dumps(headers) for headers, _ in HEADERS]
)
async def test_a_header_touches_its_own_message_alone(
    streams: Scene, headers: dict[str, str], fate: str
) -> None:
    seen: list[Msg] = []

    async def note(msg: Msg) -> None:
        seen.append(msg)

    order, thief = await streams.bot("order"), await streams.bot("thief")
    for subject in ("bus.>", "inbox.>", "accepted.>", "live.>", "quarantine.>"):
        await streams.relay.subscribe(subject, cb=note)
    await streams.relay.flush()
    for at in range(2):
        await order.nc.publish("send.order", b"before %d" % at)

    async def before() -> bool:
        return (await ingress(streams)).get("order") == 2

    await until(before, "honest messages are stored")
    await thief.nc.publish("send.thief", b"", headers=headers, reply="accepted.orders.placed")
    await thief.nc.publish("send.thief", b"last")
    await thief.nc.flush()
    await order.nc.publish("send.order", b"after")

    async def last() -> bool:
        found = await streams.api("STREAM.MSG.GET.INGRESS", {"last_by_subj": "ingress.*.*.thief"})
        return (
            "error" not in found and base64.b64decode(found["message"].get("data", "")) == b"last"
        )

    async def after() -> bool:
        return (await ingress(streams)).get("order") == 3

    # The thief's two messages are handled in order. So when the last one is stored, the first one
    # has its outcome.
    await until(last, "the thief's last message is stored")
    await until(after, "the honest message after it is stored")
    assert (await ingress(streams))["thief"] == (2 if fate == STORED else 1)
    assert [await streams.stored(name) for name in ("ACCEPTED", "LIVE", "QUARANTINE")] == [0, 0, 0]
    assert not [msg.subject for msg in seen]
    await provision(streams.relay, streams.policy)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Status": "503"},
        {"Nats-Subject": "ingress.16.0.another"},
        {"Nats-Time-Stamp": "never"},
        {"x": "y" * 60_000},  # JetStream takes 64 KiB at most
    ],
    ids=["none", "no answer", "another bot", "no time", "many"],
)
async def test_message_is_read_again_whatever_headers_it_has(
    streams: Scene, headers: dict[str, str]
) -> None:
    """A relay that waits for it for ever would take no other message of the partition."""
    thief = await streams.bot("thief")
    await thief.nc.publish("send.thief", b"it", headers=headers)
    await until(partial(has_one, streams), "the message is stored")
    stored = (await streams.api("STREAM.MSG.GET.INGRESS", {"seq": 1}))["message"]
    place = Place("thief", 1, 1, time_ms(stored["time"]))
    block = base64.b64decode(stored.get("hdrs", ""))
    pulled = Pulled.of(stored["subject"].encode(), b"", b"", place, 0.0, block)
    assert await patiently(Rereading(streams.relay).read(pulled)) == b"it"


async def has_one(streams: Scene) -> bool:
    return await ingress(streams) == {"thief": 1}


@pytest.mark.parametrize(
    "reply",
    [
        "accepted.batch.10.ok.1.0.$FI",
        "bus.b.10.fail.1.2.$FI",
        "inbox.order.x.1.ok.1.3.$FI",
        "x.$FI",
        ".$FI",
    ],
)
async def test_a_reply_for_a_batch_is_neither_obeyed_nor_answered(
    streams: Scene, reply: str
) -> None:
    """The reply subject asks for a fast batch, and the server sends flow control to it."""
    seen: list[Msg] = []

    async def note(msg: Msg) -> None:
        seen.append(msg)

    for subject in ("bus.>", "inbox.>", "accepted.>"):
        await streams.relay.subscribe(subject, cb=note)
    inventory, thief = (
        await streams.bot("inventory"),
        await streams.bot("thief", skip_subject_validation=True),
    )
    await inventory.nc.subscribe("bus.orders.>", cb=note)
    await inventory.nc.flush()
    await thief.nc.publish("send.thief", b"1", reply=reply)
    await thief.nc.publish("send.thief", b"last")

    async def stored() -> bool:
        return (await ingress(streams)).get("thief", 0) >= 1

    await until(stored, "the last is stored")
    await streams.relay.flush()
    await inventory.nc.flush()
    assert not [msg.subject for msg in seen]
    assert await streams.stored("ACCEPTED") == 0


async def test_control_a_stream_that_allows_it_is_emptied_by_a_header(scene: Scene) -> None:
    """If this fails, the tests above prove nothing about roll-ups."""
    open_stream = {
        "name": "OPEN",
        "subjects": ["send.*"],
        "no_ack": True,
        "allow_rollup_hdrs": True,
    }
    assert "error" not in await scene.api("STREAM.CREATE.OPEN", open_stream)
    order, thief = await scene.bot("order"), await scene.bot("thief")
    await order.nc.publish("send.order", b"honest")
    await order.nc.flush()

    async def holds(count: int) -> bool:
        return await scene.stored("OPEN") == count

    await until(lambda: holds(1), "stored")
    await order.nc.publish("send.order", b"honest")
    await until(lambda: holds(2), "stored")
    await thief.nc.publish("send.thief", b"", headers={"Nats-Rollup": "all"})
    await until(lambda: holds(1), "only the thief's message is left")
