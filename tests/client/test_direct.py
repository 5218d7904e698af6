"""The short ways through a connection: handed over by the reading loop, written once a turn of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.errors import ConnectionClosedError

from sealbus.frames import hpub, pub
from sealbus.hardened import HardenedClient
from sealbus_broker.relay.connection import connect
from tests.relay.scene import Scene, raise_curtain


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    made = await raise_curtain(tmp_path)
    yield made
    await made.close()


async def a_client(scene: Scene) -> HardenedClient:
    async def ignore(_: Exception) -> None:
        pass

    return await connect([scene.url], scene.secrets.relay.seed_text, name="test", on_error=ignore)


async def test_frames_arrive_as_they_were_meant(scene: Scene) -> None:
    client, heard = await a_client(scene), list[tuple[bytes, bytes, bytes, bytes]]()
    await client.subscribe_direct("x.*", lambda *message: heard.append(message))
    client.write([pub(b"x.a", b""), pub(b"x.b", b"\r\nPUB x.c 0\r\n", b"y"), hpub(b"x.d", b"body", b"A: 1\r\n", b"z")])
    await client.publish("x.e", b"after")
    await client.flush()
    assert heard == [
        (b"x.a", b"", b"", b""),
        (b"x.b", b"y", b"", b"\r\nPUB x.c 0\r\n"),
        (b"x.d", b"z", b"NATS/1.0\r\nA: 1\r\n\r\n", b"body"),
        (b"x.e", b"", b"", b"after"),
    ]
    await client.close()


async def test_what_is_unsubscribed_is_heard_no_more_and_not_kept(scene: Scene) -> None:
    client, heard = await a_client(scene), list[bytes]()
    one = await client.subscribe_direct("x", lambda *message: heard.append(message[3]))
    await client.subscribe_direct("x", lambda *message: heard.append(message[3].upper()))
    client.write([pub(b"x", b"a")])
    await client.flush()
    await one.unsubscribe()
    client.write([pub(b"x", b"b")])
    await client.flush()
    assert sorted(heard[:2]) == [b"A", b"a"]
    assert heard[2:] == [b"B"]
    assert len(client._direct) == 1
    await client.close()


async def test_a_receiver_that_fails_loses_one_message_and_no_more(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    client, heard = await a_client(scene), list[bytes]()

    def receive(_: bytes, __: bytes, ___: bytes, data: bytes) -> None:
        if data == b"bad":
            raise ValueError(data)
        heard.append(data)

    await client.subscribe_direct("x", receive)
    client.write([pub(b"x", b"bad"), pub(b"x", b"good")])
    await client.flush()
    assert heard == [b"good"]
    assert "could not be taken: ValueError" in caplog.text
    assert "bad" not in caplog.text
    await client.close()


async def test_nothing_is_written_where_there_is_no_connection(scene: Scene) -> None:
    client, told = await a_client(scene), asyncio.Event()
    client.when_closed.add(told.set)
    await client.close()
    assert told.is_set()
    with pytest.raises(ConnectionClosedError):
        client.write([pub(b"x", b"")])


async def test_direct_subscriptions_come_back_with_the_connection(scene: Scene) -> None:
    client, heard = await a_client(scene), asyncio.Event()
    await client.subscribe_direct("x", lambda *_: heard.set())
    await client.force_reconnect()
    async with asyncio.timeout(10):
        while not heard.is_set():
            if client.is_connected:
                client.write([pub(b"x", b"")])
            await asyncio.sleep(0.02)
    await client.close()
