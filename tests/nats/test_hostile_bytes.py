"""Bytes that a bot writes without a client library, at the relay's connection and another bot's.

nats-server passes on all of them. At most of them plain nats-py goes deaf or reconnects: see
``sealbus.nats.client``.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from sealbus.nats.client import HardenedClient
from sealbus.protocol.seal import sign_connect
from sealbus.protocol.subjects import consumer_name
from tests.scene import Scene
from tests.waiting import PATIENCE_S, patiently, until

HEADER_BLOCKS = [
    b"xx",
    b"NATS/1.0",
    b"NATS/1.0\r\n",
    b"NATS/1.0\r\n\r\n",
    b"NATS/1.0 \xff\xff\xff\r\n\r\n",
    b"NATS/1.0 503 \xff\r\n\r\n",
    b"NATS/1.0 100 Idle Heartbeat\r\n\r\n",
    b"NATS/1.0 503\r\n\r\n",
    b"NATS/1.0 423 Nats-Pin-Id mismatch\r\n\r\n",
    b"NATS/1.0\r\n\xff: \xff\r\n\r\n",
    b"NATS/1.0\r\nno colon\r\n\r\n",
    b"NATS/1.0\r\n: no name\r\n\r\n",
    b"NATS/1.0\r\nStatus: 503\r\n\r\n",
    b"NATS/1.0\r\nNats-Pin-Id: mine\r\n\r\n",
    b"NATS/1.0\r\nX: y\r\nNats-Pin-Id: ",
    b"\x00" * 64,
    b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
]
REPLIES = [
    b"\xff",
    b"a\x0bb",
    b"a\x0cb",
    b"a\x0b1",
    b"\x00",
    b"a..b",
    b"*",
    b">",
    b"\xe2\x80\xa8",
    b"x" * 3000,
]


@dataclass(slots=True)
class Wire:
    """A bot's admitted session, written byte by byte."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, data: bytes) -> bytes:
        """Send ``data`` and a PING, and return the server's bytes up to its PONG."""
        self.writer.write(data + b"PING\r\n")
        await self.writer.drain()
        said = b""
        while not said.endswith(b"PONG\r\n"):
            line = await patiently(self.reader.readline())
            assert line, f"the server hung up after {said!r}"
            said += line
        return said

    def publish(
        self, subject: bytes, body: bytes = b"hi", *, reply: bytes = b"", headers: bytes = b""
    ) -> bytes:
        """A PUB, or an HPUB if there are ``headers``."""
        place = subject + (b" " + reply if reply else b"")
        if headers:
            sizes = b"%d %d" % (len(headers), len(headers) + len(body))
            return b"HPUB %s %s\r\n%s%s\r\n" % (place, sizes, headers, body)
        return b"PUB %s %d\r\n%s\r\n" % (place, len(body), body)


async def admit(scene: Scene, name: str, *consumers: str) -> Wire:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(scene.url.rpartition(":")[2]))
    info = json.loads((await reader.readline()).removeprefix(b"INFO "))
    key = scene.keys[name]
    text = " ".join(("sealbus/1", name, key.public.text, "-", *consumers))
    signature = sign_connect(key, info["nonce"].encode(), text.encode())
    connect = {
        "verbose": False,
        "headers": True,
        "name": f"{name} {key.public.text}",
        "auth_token": text,
        "sig": base64.b64encode(signature).decode(),
    }
    wire = Wire(reader, writer)
    writer.write(b"CONNECT " + json.dumps(connect).encode() + b"\r\n")
    await wire.say(b"")
    return wire


@pytest.fixture
async def wire(streams: Scene) -> AsyncIterator[Wire]:
    made = await admit(streams, "thief")
    yield made
    made.writer.close()


@pytest.fixture
async def heard(streams: Scene) -> list[Msg]:
    """The messages that the relay hears on the live subjects."""
    messages: list[Msg] = []

    async def note(msg: Msg) -> None:
        messages.append(msg)

    await streams.relay.subscribe("call.*", cb=note)
    await streams.relay.flush()
    return messages


async def still_listens(streams: Scene, wire: Wire, heard: list[Msg]) -> None:
    before = len(heard)
    await wire.say(wire.publish(b"call.thief", b"honest"))
    after = "the relay hears the next message"
    await until(lambda: b"honest" in [msg.data for msg in heard[before:]], after)
    assert not streams.complaints
    assert await streams.stored("ACCEPTED") == 0


@pytest.mark.parametrize("headers", HEADER_BLOCKS)
async def test_no_header_block_silences_the_relay(
    streams: Scene, wire: Wire, heard: list[Msg], headers: bytes
) -> None:
    await wire.say(wire.publish(b"call.thief", headers=headers))
    await until(lambda: bool(heard), "it is heard")
    assert heard[0].data == b"hi"
    await still_listens(streams, wire, heard)


@pytest.mark.parametrize("reply", REPLIES)
async def test_no_reply_subject_silences_the_relay(
    streams: Scene, wire: Wire, heard: list[Msg], reply: bytes
) -> None:
    await wire.say(wire.publish(b"call.thief", reply=reply))
    await until(lambda: bool(heard), "it is heard")
    assert heard[0].data == b"hi"
    assert heard[0].subject == "call.thief"
    await still_listens(streams, wire, heard)


@pytest.mark.parametrize(
    "subject",
    [
        b"call.thief\xff",
        b"call.thief\x0b7",
        b"call.thief.\xff",
        b"call.*",
        b"call.>",
        b"call.thief.*",
        b"call.thief.>",
        b"\xff",
    ],
)
async def test_a_subject_with_a_bots_own_bytes_is_refused_by_nats(
    streams: Scene, wire: Wire, heard: list[Msg], subject: bytes
) -> None:
    for prefix in (subject, subject.replace(b"call", b"send")):
        assert b"Permissions Violation for Publish" in await wire.say(wire.publish(prefix))
    assert not heard
    await still_listens(streams, wire, heard)
    assert await streams.stored("INGRESS") == 0


@pytest.mark.parametrize("headers", HEADER_BLOCKS)
async def test_any_header_block_is_delivered_with_the_servers_own_pin(
    streams: Scene, wire: Wire, headers: bytes
) -> None:
    """A partition's worker reads its pin from a header, which the server adds after the bot's."""
    await wire.say(wire.publish(b"send.thief", headers=headers))
    await wire.say(wire.publish(b"send.thief", b"last"))

    async def stored() -> bool:
        return await streams.stored("INGRESS") == 2

    await until(stored, "both are stored")
    info = await streams.api("STREAM.INFO.INGRESS", {"subjects_filter": ">"})
    where = next(iter(info["state"]["subjects"])).split(".")[2]
    inbox = await streams.relay.subscribe("here")
    ask = b'{"batch":2,"expires":60000000000,"group":"relay"}'
    await streams.relay.publish(
        f"$JS.API.CONSUMER.MSG.NEXT.INGRESS.relay-16-{where}", ask, reply="here"
    )
    first, last = await inbox.next_msg(PATIENCE_S), await inbox.next_msg(PATIENCE_S)
    assert (first.data, last.data) == (b"hi", b"last")
    assert first.subject == last.subject == f"ingress.16.{where}.thief"
    assert first.headers is not None
    assert last.headers is not None
    assert first.headers["Nats-Pin-Id"] == last.headers["Nats-Pin-Id"] != "mine"


@pytest.mark.parametrize("tail", REPLIES)
async def test_an_answer_aimed_at_another_bot_does_not_silence_it(
    streams: Scene, tail: bytes
) -> None:
    """The answer to a pull or an acknowledgement goes to any subject of the account BOTS.

    A victim may read that subject.
    """
    own = consumer_name("thief", "news.>", "d")
    config = {"durable_name": own, "ack_policy": "explicit", "filter_subject": "accepted.news.>"}
    await streams.api(
        f"CONSUMER.CREATE.ACCEPTED.{own}",
        {"stream_name": "ACCEPTED", "config": config, "action": "create"},
    )
    victim, key = HardenedClient(), streams.keys["inventory"]
    text = f"sealbus/1 inventory {key.public.text} -"
    streams.open.append(victim)
    await victim.connect(
        streams.url,
        name=f"inventory {key.public.text}",
        token=text,
        signature_cb=lambda nonce: base64.b64encode(
            sign_connect(key, str(nonce).encode(), text.encode())
        ),
        allow_reconnect=False,
    )
    got: list[Msg] = []

    async def note(msg: Msg) -> None:
        got.append(msg)

    await victim.subscribe("bus.orders.>", cb=note)
    await victim.flush()
    wire = await admit(streams, "thief", own)
    ask = f"$JS.API.CONSUMER.MSG.NEXT.ACCEPTED.{own}".encode()
    await wire.say(wire.publish(ask, b'{"batch":1,"no_wait":true}', reply=b"bus.orders." + tail))
    wire.writer.close()
    # The consumer serves in order. When it has answered this request, it has also answered the
    # thief's, and the honest message comes after that.
    fence = await streams.relay.subscribe("fence")
    await streams.relay.publish(ask.decode(), b'{"batch":1,"no_wait":true}', reply="fence")
    await fence.next_msg(PATIENCE_S)
    await streams.relay.request("accepted.orders.placed", b"honest", PATIENCE_S)
    await until(lambda: b"honest" in [msg.data for msg in got], "the victim hears the next message")
    assert victim.is_connected


async def test_control_plain_nats_py_goes_deaf(streams: Scene, wire: Wire) -> None:
    """The reason for the hardened client. This test fails when nats-py fixes it."""
    plain = Client()
    streams.open.append(plain)
    await plain.connect(
        streams.url, nkeys_seed_str=streams.secrets.relay.seed_text, allow_reconnect=False
    )
    inbox = await plain.subscribe("call.*")
    await plain.flush()
    await plain.flush()  # nats-py's first PING may overtake the SUB
    await wire.say(wire.publish(b"call.thief", reply=b"\xff"))
    await wire.say(wire.publish(b"call.thief", b"honest"))
    with pytest.raises(TimeoutError):
        await inbox.next_msg(0.5)
    assert plain.is_connected
