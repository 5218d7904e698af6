"""The fast paths of a connection: receiving in the reading loop, and one write a turn of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from nats.errors import BadSubjectError, ConnectionClosedError
from structlog.testing import capture_logs

from sealbus.nats.client import HardenedClient
from sealbus.nats.frames import hpub, pub
from sealbus_broker.nats.connection import connect
from sealbus_broker.relay.store import stream_store
from sealbus_broker.relay.store.stream_store import StreamMessage, StreamStore
from tests.listening import listening
from tests.scene import Scene
from tests.waiting import PATIENCE_S, until


async def a_client(scene: Scene) -> HardenedClient:
    async def ignore(_: Exception) -> None:
        pass

    return await connect([scene.url], scene.secrets.relay.seed_text, name="test", on_error=ignore)


async def test_frames_arrive_as_they_were_meant(scene: Scene) -> None:
    client, heard = await a_client(scene), list[tuple[bytes, bytes, bytes, bytes]]()
    await client.subscribe_direct("x.*", lambda *message: heard.append(message))
    client.write(
        [
            pub(b"x.a", b""),
            pub(b"x.b", b"\r\nPUB x.c 0\r\n", b"y"),
            hpub(b"x.d", b"body", headers=b"A: 1\r\n", reply=b"z"),
        ]
    )
    await client.publish("x.e", b"after")
    await client.flush()
    assert heard == [
        (b"x.a", b"", b"", b""),
        (b"x.b", b"y", b"", b"\r\nPUB x.c 0\r\n"),
        (b"x.d", b"z", b"NATS/1.0\r\nA: 1\r\n\r\n", b"body"),
        (b"x.e", b"", b"", b"after"),
    ]
    await client.close()


async def test_bytes_for_a_connection_that_is_closing_are_kept(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvloop refuses them before nats-py knows of the end."""
    client = await a_client(scene)
    assert client._transport is not None

    def closed(_: object) -> None:
        raise RuntimeError("the handler is closed")

    with monkeypatch.context() as patch:
        patch.setattr(client._transport, "writelines", closed)
        client.write([pub(b"x", b"a")])
        client._leave()
    assert client._pending == [pub(b"x", b"a")]
    await client.close()


async def test_an_ended_subscription_hears_and_keeps_nothing(scene: Scene) -> None:
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
    async with asyncio.timeout(PATIENCE_S):
        while not heard.is_set():
            if client.is_connected:
                client.write([pub(b"x", b"")])
            await asyncio.sleep(0.02)
    await client.close()


async def test_a_subscription_that_fails_leaves_no_receiver_behind(scene: Scene) -> None:
    client = await a_client(scene)
    with pytest.raises(BadSubjectError):
        await client.subscribe_direct("not a subject", lambda *_: None)
    assert not client._direct
    await client.close()


@contextlib.asynccontextmanager
async def a_server(
    then: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """Greet like nats-server, answer the first PING, and go on with ``then``."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeting = {"server_id": "test", "version": "2.15.0", "max_payload": 2**20, "headers": True}
        writer.write(b"INFO " + json.dumps(greeting).encode() + b"\r\n")
        await reader.readuntil(b"PING\r\n")
        writer.write(b"PONG\r\n")
        await writer.drain()
        await then(reader, writer)

    async with listening(serve) as port:
        yield port


async def test_a_connection_reset_during_a_write_is_closed_and_says_so() -> None:
    async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        writer.transport.abort()

    closed, told, client = asyncio.Event(), asyncio.Event(), HardenedClient()

    async def on_closed() -> None:
        closed.set()

    async with a_server(reset) as port:
        await client.connect(f"nats://127.0.0.1:{port}", allow_reconnect=False, closed_cb=on_closed)
        client.when_closed.add(told.set)
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionClosedError):
                while True:
                    client.write([pub(b"x", bytes(1000))])
                    await asyncio.sleep(0)
            await closed.wait()
            await told.wait()


async def test_bytes_that_a_server_does_not_read_do_not_pile_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream_store, "UNSENT_BYTES", 100_000)
    monkeypatch.setattr(stream_store, "QUIET_S", 0.0)
    for pause in ("ACK_TIMEOUT_S", "RETRY_FIRST_S", "RETRY_MOST_S"):
        monkeypatch.setattr(stream_store, pause, 0.02)
    done = asyncio.Event()

    async def read_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]  # until the test is over
        await done.wait()
        writer.transport.abort()

    client = HardenedClient()
    async with a_server(read_nothing) as port:
        await client.connect(f"nats://127.0.0.1:{port}", allow_reconnect=False)
        kept = StreamStore(client)
        storing = asyncio.create_task(
            kept.store([StreamMessage("accepted.x", bytes(500_000), {"Nats-Msg-Id": "1"})] * 20)
        )
        with capture_logs() as logs:
            await until(lambda: len(logs) >= 10, "it has tried again and again")
        assert {entry["event"] for entry in logs} == {"stream-store.retried"}
        assert 100_000 < client.unsent_bytes < 20 * 501_000  # written once
        assert not storing.done()
        storing.cancel()
        done.set()
        await client.close()
