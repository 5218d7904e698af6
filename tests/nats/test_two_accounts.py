"""nats-server answers to any ``reply`` that a client names, with the rights of the server.

This is why bots and JetStream have two accounts (ADR 2).
"""

from __future__ import annotations

import json

import pytest
from nats.aio.msg import Msg

from sealbus.nats.records import KEYRING_READ
from sealbus.protocol.subjects import consumer_name
from sealbus_broker.nats.config import kick_subject
from tests.scene import Scene
from tests.waiting import PATIENCE_S, until

OWN = consumer_name("thief", "news.>", "d")
TARGETS = [
    "$JS.API.STREAM.DELETE.ACCEPTED",
    "$JS.API.STREAM.PURGE.ACCEPTED",
    "$JS.API.CONSUMER.DELETE.INGRESS.relay-16-0",
    "accepted.orders.placed",
    "live.orders.placed",
    "send.order",
    "call.order",
    "bus.orders.placed",
    "inbox.order.0011",
    "$SYS.REQ.USER.AUTH",
]


async def prepared(streams: Scene, consumer: str = OWN) -> str:
    """Three messages, one of them delivered to the thief's consumer. Gives its reply subject."""
    await streams.make_consumer(consumer)
    for at in range(3):
        await streams.relay.request("accepted.orders.placed", b"%d" % at, PATIENCE_S)
    ask = json.dumps({"batch": 1, "expires": 5_000_000_000}).encode()
    inbox = await streams.relay.subscribe("here")
    await streams.relay.publish(f"$JS.API.CONSUMER.MSG.NEXT.ACCEPTED.{consumer}", ask, reply="here")
    delivered = await inbox.next_msg(PATIENCE_S)
    assert delivered.data == b"0"
    return delivered.reply


async def test_control_in_one_account_an_ack_deletes_the_stream(streams: Scene) -> None:
    """The reason for two accounts. If this no longer deletes, the tests below prove nothing."""
    ack = await prepared(streams)
    await streams.relay.publish(ack, b"+ACK", reply="$JS.API.STREAM.DELETE.ACCEPTED")

    async def gone() -> bool:
        return "error" in await streams.api("STREAM.INFO.ACCEPTED")

    await until(gone, "the stream is deleted")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "way", ["acknowledge", "next", "pull", "pull nothing", "send", "call", "keyring"]
)
async def test_no_reply_of_a_bots_choice_reaches_the_bus(
    streams: Scene, target: str, way: str
) -> None:
    ack = await prepared(streams)
    seen: list[Msg] = []

    async def note(msg: Msg) -> None:
        seen.append(msg)

    for subject in ("send.order", "call.order", "bus.>", "inbox.>", "accepted.>", "live.>"):
        await streams.relay.subscribe(subject, cb=note)
    await streams.relay.flush()
    thief = await streams.bot("thief", consumers=(OWN,))
    ask = f"$JS.API.CONSUMER.MSG.NEXT.ACCEPTED.{OWN}"
    subject, body = {
        "acknowledge": (ack, b"+ACK"),
        "next": (ack, b'+NXT {"batch":3,"no_wait":true}'),
        "pull": (ask, json.dumps({"batch": 3, "no_wait": True}).encode()),
        "pull nothing": (ask, b"garbage"),
        "send": ("send.thief", b"x"),
        "call": ("call.thief", b"x"),
        "keyring": (KEYRING_READ, b""),
    }[way]
    await thief.nc.publish(subject, body, reply=target)
    await thief.nc.flush()
    await streams.relay.flush()

    async def acknowledged() -> bool:
        return bool(
            (await streams.api(f"CONSUMER.INFO.ACCEPTED.{OWN}"))["ack_floor"]["consumer_seq"] == 1
        )

    # The consumer serves in order. When it has answered this request, it has also done and
    # answered the thief's.
    if way in ("acknowledge", "next"):
        await until(acknowledged, "acknowledged")
    fence = await streams.relay.subscribe("fence")
    await streams.relay.publish(
        ask, json.dumps({"batch": 1, "no_wait": True}).encode(), reply="fence"
    )
    await fence.next_msg(PATIENCE_S)
    await streams.relay.flush()
    await streams.api("STREAM.INFO.ACCEPTED")
    assert await streams.stored("ACCEPTED") == 3
    assert await streams.stored("LIVE") == 0
    if way == "send":

        async def stored() -> bool:
            return await streams.stored("INGRESS") == 1

        await until(stored, "the thief's own message is stored")
    else:
        assert await streams.stored("INGRESS") == 0
    assert "error" not in await streams.api("CONSUMER.INFO.INGRESS.relay-16-0")
    assert not [msg.subject for msg in seen]


async def test_a_pull_can_aim_only_a_stored_message_at_another_bot(streams: Scene) -> None:
    """One possibility is left: an old message, as stored, on a subject that a victim reads.

    So a subscriber compares the stamp's subject with the subject of arrival, and remembers nonces.
    """
    own = consumer_name("thief", "orders.>", "d")
    await prepared(streams, own)
    inventory = await streams.bot("inventory")
    got = await inventory.nc.subscribe("bus.orders.>")
    await inventory.nc.flush()
    thief = await streams.bot("thief", consumers=(own,))
    ask = json.dumps({"batch": 1, "no_wait": True}).encode()
    await thief.nc.publish(
        f"$JS.API.CONSUMER.MSG.NEXT.ACCEPTED.{own}", ask, reply="bus.orders.refunded"
    )
    pushed = await got.next_msg(PATIENCE_S)
    assert pushed.data == b"1"
    assert pushed.reply.startswith(f"$JS.ACK.ACCEPTED.{own}.")
    await inventory.nc.publish(pushed.reply, b"+ACK")
    await inventory.refused("$js.ack.accepted")


async def test_a_stored_message_is_no_request_to_the_server(streams: Scene) -> None:
    """A relay ends connections by messages. A bot must not have the server send one."""
    victim = await streams.bot("inventory")
    kick = kick_subject(streams.relay.server_id)
    body = json.dumps({"cid": victim.nc.client_id}).encode()
    await streams.make_consumer(OWN)
    for _ in range(3):
        await streams.relay.request("accepted.orders.placed", body, PATIENCE_S)
    thief = await streams.bot("thief", consumers=(OWN,))
    ask, one = f"$JS.API.CONSUMER.MSG.NEXT.ACCEPTED.{OWN}", b'{"batch":1,"no_wait":true}'
    await thief.nc.publish(ask, one, reply=kick)
    await thief.nc.flush()
    # The consumer serves in order.
    fence = await streams.relay.subscribe("fence")
    await streams.relay.publish(ask, one, reply="fence")
    assert (await fence.next_msg(PATIENCE_S)).data == body
    await victim.nc.flush()
    assert victim.nc.is_connected
    # The control: the same in the account of the relays.
    await streams.relay.publish(ask, one, reply=kick)
    await until(lambda: victim.nc.is_closed, "the connection is over")
