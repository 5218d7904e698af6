"""The rights of an admitted bot in NATS, and the refusals of nats-server itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from nats.aio.msg import Msg

from sealbus.protocol.subjects import consumer_name
from sealbus_broker.nats.config import (
    CONNECTIONS_SUBJECT,
    MAX_BOT_PAYLOAD_BYTES,
    MAX_SUBSCRIPTIONS,
    cluster_subject,
    kick_subject,
    renew_subject,
    routes_subject,
)
from tests.scene import Scene, bot_rule
from tests.waiting import PATIENCE_S, until

OWN = consumer_name("inventory", "orders.>", "stock")
OTHER = consumer_name("order", "orders.>", "stock")


@pytest.mark.parametrize(
    "subject",
    [
        "send.order",
        "call.order",
        "send.thief.orders.placed",
        "send.>",
        "send.*",
        "send",
        "bus.orders.placed",
        "bus.reply.order.0011",
        "inbox.order.0011",
        "inbox.thief.0011",
        "accepted.orders.placed",
        "live.orders.placed",
        "quarantine.size.order",
        "ingress.16.0.order",
        "$JS.API.INFO",
        "$JS.API.STREAM.DELETE.ACCEPTED",
        "$JS.API.STREAM.MSG.GET.ACCEPTED",
        "$JS.API.DIRECT.GET.ACCEPTED",
        "$JS.API.CONSUMER.CREATE.ACCEPTED.thief_x",
        f"$JS.API.CONSUMER.MSG.NEXT.ACCEPTED.{OWN}",
        "$JS.API.CONSUMER.MSG.NEXT.INGRESS.relay-16-0",
        f"$JS.ACK.ACCEPTED.{OWN}.1.1.1.1.0",
        "$JS.ACK.INGRESS.relay-16-0.1.1.1.1.0",
        "$JS.FC.ACCEPTED.x.y",
        "$SYS.REQ.USER.AUTH",
        "$SYS.REQ.SERVER.PING",
        "$SYS.REQ.ACCOUNT.PING.CONNZ",
        CONNECTIONS_SUBJECT,
        kick_subject("NOTHERE"),
        renew_subject("NOTHERE"),
        routes_subject("NOTHERE"),
        cluster_subject("NOTHERE"),
        "_INBOX.abc.def",
        "_R_.abc",
    ],
)
async def test_publishing_where_a_bot_may_not(streams: Scene, subject: str) -> None:
    seen: list[Msg] = []

    async def note(msg: Msg) -> None:
        seen.append(msg)

    if not subject.startswith("$"):
        await streams.relay.subscribe(subject.replace("*", "x").replace(">", "x"), cb=note)
        await streams.relay.flush()
    before = {
        name: await streams.stored(name) for name in ("INGRESS", "ACCEPTED", "LIVE", "QUARANTINE")
    }
    door = await streams.bot("thief", skip_subject_validation=True)
    await door.nc.publish(subject, b"x")
    await door.refused(f'permissions violation for publish to "{subject.lower()}"')
    await streams.relay.flush()
    assert not seen
    assert before == {name: await streams.stored(name) for name in before}


@pytest.mark.parametrize(
    "subject",
    [
        ">",
        "*",
        "bus.>",
        "bus.*.placed",
        "bus.orders.placed",
        "bus.reply.>",
        "bus.reply.order.>",
        "inbox.>",
        "inbox.order.>",
        "inbox.*.x",
        "send.>",
        "send.thief",
        "call.thief",
        "accepted.>",
        "live.>",
        "ingress.>",
        "quarantine.>",
        "$JS.>",
        "$JS.API.>",
        "$JS.EVENT.ADVISORY.>",
        "$SYS.>",
        "$SYS.REQ.USER.AUTH",
        "_INBOX.>",
    ],
)
async def test_listening_where_a_bot_may_not(scene: Scene, subject: str) -> None:
    door = await scene.bot("thief")
    await door.nc.subscribe(subject)
    await door.refused(f'permissions violation for subscription to "{subject.lower()}"')


@pytest.mark.parametrize("queue", ["inventory", "order", "*", ">", "inventory.thief"])
async def test_joining_another_bots_queue_group(scene: Scene, queue: str) -> None:
    """In the group the thief would get every second message of the victim.

    That holds even if the thief has the same grant.
    """
    scene.change(bots={"thief": bot_rule("thief", scene.keys["thief"], subscribe=("orders.>",))})
    thief = await scene.bot("thief")
    await thief.nc.subscribe("bus.orders.placed", queue=queue)
    await thief.refused("permissions violation for subscription")
    await thief.nc.subscribe("bus.orders.placed", queue="thief")
    await thief.nc.subscribe("bus.orders.*")
    await thief.nc.flush()
    assert len(thief.complaints) == 1


@pytest.mark.parametrize("queue", ["", "thief"])
async def test_star_at_the_end_of_a_grant_gives_nothing_below_it(scene: Scene, queue: str) -> None:
    """nats-server lets the session subscribe to more, and sends it no more."""
    grants = ("news.*", "sport.*.results")
    scene.change(bots={"thief": bot_rule("thief", scene.keys["thief"], subscribe=grants)})
    thief = await scene.bot("thief")
    got: list[str] = []

    async def note(msg: Msg) -> None:
        got.append(msg.subject)

    for pattern in ("bus.news.>", "bus.news.a.>", "bus.news.*.*", "bus.sport.>", "bus.sport.*.>"):
        await thief.nc.subscribe(pattern, queue=queue, cb=note)
    await thief.nc.flush()
    for subject in ("news.a.b", "news.a.b.c", "sport.a", "sport.a.b", "sport.a.results.b"):
        await scene.relay.publish(f"bus.{subject}", b"not granted")
    await scene.relay.publish("bus.news.a", b"granted")
    await scene.relay.flush()
    await until(lambda: bool(got), "the granted one comes")
    await thief.nc.flush()
    assert got == ["bus.news.a"]


async def test_denial_below_a_grant_takes_nothing_from_another(scene: Scene) -> None:
    grants = ("news.*", "news.>", "work.*")
    scene.change(bots={"thief": bot_rule("thief", scene.keys["thief"], subscribe=grants)})
    thief = await scene.bot("thief")
    got: list[str] = []

    async def note(msg: Msg) -> None:
        got.append(msg.subject)

    for pattern in ("bus.news.>", "bus.work.*", "bus.reply.thief.*", "inbox.thief.*"):
        await thief.nc.subscribe(pattern, cb=note)
    await thief.nc.flush()
    wanted = ["bus.news.a", "bus.news.a.b", "bus.work.a", "bus.reply.thief.x", "inbox.thief.x"]
    for subject in wanted:
        await scene.relay.publish(subject, b"granted")
    await scene.relay.flush()
    await until(lambda: len(got) >= len(wanted), "all come")
    assert sorted(got) == sorted(wanted)
    assert not thief.complaints


async def test_a_bot_may_publish_and_subscribe_as_granted(streams: Scene) -> None:
    door = await streams.bot("inventory")
    for subject in (
        "bus.orders.>",
        "bus.orders.placed",
        "inbox.inventory.>",
        "bus.reply.inventory.>",
    ):
        await door.nc.subscribe(subject)
    calls = await streams.relay.subscribe("call.*")
    await streams.relay.flush()
    await door.nc.publish("send.inventory", b"stored")
    await door.nc.publish("call.inventory", b"live")
    await door.nc.flush()
    assert (await calls.next_msg(PATIENCE_S)).subject == "call.inventory"

    async def stored() -> bool:
        return await streams.stored("INGRESS") == 1

    await until(stored, "it is in the ingress stream")
    assert not door.complaints


async def pull(
    streams: Scene, name: str, consumer: str, body: dict[str, Any]
) -> tuple[Any, list[Msg], Any]:
    door = await streams.bot(name, consumers=(consumer,))
    inbox = door.nc.new_inbox()
    got: list[Msg] = []

    async def note(msg: Msg) -> None:
        got.append(msg)

    await door.nc.subscribe(inbox, cb=note)
    await door.nc.publish(
        f"$JS.API.CONSUMER.MSG.NEXT.ACCEPTED.{consumer}", json.dumps(body).encode(), reply=inbox
    )
    return door, got, inbox


async def test_durable_subscription_reads_and_acks_on_its_own_consumer(streams: Scene) -> None:
    await streams.make_consumer(OWN)
    for at in range(3):
        await streams.relay.request("accepted.orders.placed", b"%d" % at, PATIENCE_S)
    door, got, _ = await pull(streams, "inventory", OWN, {"batch": 3, "expires": 5_000_000_000})
    await until(lambda: len(got) == 3, "three messages")
    assert [msg.data for msg in got] == [b"0", b"1", b"2"]
    for msg in got:
        await door.nc.publish(msg.reply, b"+ACK")

    async def all_acknowledged() -> bool:
        info = await streams.api(f"CONSUMER.INFO.ACCEPTED.{OWN}")
        return bool(info["num_ack_pending"] == 0 and info["ack_floor"]["consumer_seq"] == 3)

    await until(all_acknowledged, "all acknowledged")
    assert not door.complaints


async def test_the_consumer_of_another_bot_is_out_of_reach(streams: Scene) -> None:
    await streams.make_consumer(OWN)
    await streams.make_consumer(OTHER)
    await streams.relay.request("accepted.orders.placed", b"x", PATIENCE_S)
    door = await streams.bot("inventory", consumers=(OWN,))
    for subject in (
        f"$JS.API.CONSUMER.MSG.NEXT.ACCEPTED.{OTHER}",
        f"$JS.ACK.ACCEPTED.{OTHER}.1.1.1.1.0",
    ):
        await door.nc.publish(subject, b"1", reply=door.nc.new_inbox())
        await door.refused(subject.lower())
    info = await streams.api(f"CONSUMER.INFO.ACCEPTED.{OTHER}")
    assert info["delivered"]["consumer_seq"] == 0


async def test_a_message_over_the_limit_ends_its_connection_unstored(streams: Scene) -> None:
    door = await streams.bot("order")
    await door.nc.publish("send.order", bytes(MAX_BOT_PAYLOAD_BYTES))

    async def stored() -> bool:
        return await streams.stored("INGRESS") == 1

    await until(stored, "the largest is stored")
    await door.nc.publish("send.order", bytes(MAX_BOT_PAYLOAD_BYTES + 1))
    await until(lambda: door.nc.is_closed, "the connection ends")
    assert await streams.stored("INGRESS") == 1


async def test_a_bot_cannot_hold_subscriptions_without_limit(scene: Scene) -> None:
    door = await scene.bot("order")
    for at in range(MAX_SUBSCRIPTIONS):
        await door.nc.subscribe(f"inbox.order.{at}")
    await door.nc.flush()
    assert door.nc.is_connected
    await door.nc.subscribe("inbox.order.more")
    await until(lambda: door.nc.is_closed, "the connection ends")


async def test_an_empty_bots_account_has_no_jetstream(scene: Scene) -> None:
    door = await scene.bot("order")
    await door.nc.publish("$JS.API.INFO", b"", reply=door.nc.new_inbox())
    await door.refused("$js.api.info")
