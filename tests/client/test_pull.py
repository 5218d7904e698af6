"""Asking a consumer for messages: one request at a time, whatever the server says and when."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sealbus import pull as pulling
from sealbus.frames import pub
from sealbus.hardened import HardenedClient
from sealbus.pull import PULL_MESSAGES, Pull
from sealbus_broker.relay.connection import connect
from tests.relay.scene import Scene, raise_curtain
from tests.waiting import PATIENCE_S

STREAM, CONSUMER = "ACCEPTED", "orders"


@pytest.fixture
async def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HardenedClient]:
    """A connection to a server with a stream and a consumer; requests wait a quarter of a second there."""
    monkeypatch.setattr(pulling, "PULL_S", 0.25)
    scene: Scene = await raise_curtain(tmp_path)

    async def ignore(_: Exception) -> None:
        pass

    made = await connect([scene.url], scene.secrets.relay.seed_text, name="test", on_error=ignore)
    await api(made, f"STREAM.CREATE.{STREAM}", {"name": STREAM, "subjects": ["accepted.>"], "storage": "memory"})
    yield made
    await made.close()
    await scene.close()


async def api(client: HardenedClient, call: str, body: Any = None) -> Any:
    answer = json.loads((await client.request(f"$JS.API.{call}", json.dumps(body).encode() if body else b"")).data)
    assert "error" not in answer, answer
    return answer


async def make_consumer(client: HardenedClient, **fields: Any) -> None:
    config = {"durable_name": CONSUMER, "ack_policy": "explicit", **fields}
    request = {"stream_name": STREAM, "config": config, "action": "create"}
    await api(client, f"CONSUMER.CREATE.{STREAM}.{CONSUMER}", request)


async def test_there_is_never_more_than_one_request_nor_more_in_hand_than_was_said(client: HardenedClient) -> None:
    await make_consumer(client)
    pull, stop = Pull(client, CONSUMER, "inbox.order.secret"), asyncio.create_task(asyncio.Event().wait())
    await pull.open(stop)
    sent, taken, requests = 0, 0, []
    for round_ in range(12):
        more = 70 if round_ % 2 else 1
        client.write([pub(b"accepted.orders", b"%d" % at) for at in range(more)])
        sent, looks, end = sent + more, 0, time.monotonic() + PATIENCE_S
        while taken < sent or looks < 8:
            assert time.monotonic() < end, f"{taken} of {sent} came"
            pull.ask()
            await asyncio.sleep(0.02)
            looks += 1
            assert len(pull.waiting) + pull.outstanding <= PULL_MESSAGES
            while pull.waiting:
                _, reply, _ = pull.waiting.popleft()
                client.write([pub(reply, b"+ACK")])
                taken += 1
        requests.append((await api(client, f"CONSUMER.INFO.{STREAM}.{CONSUMER}"))["num_waiting"])
    assert taken == 6 * 71
    assert max(requests) == 1
    await pull.close()
    stop.cancel()


async def test_a_request_that_the_server_will_not_have_is_not_repeated_at_once(client: HardenedClient) -> None:
    await make_consumer(client, max_waiting=1)
    pull, stop = Pull(client, CONSUMER, "inbox.order.secret"), asyncio.create_task(asyncio.Event().wait())
    await pull.open(stop)
    await client.subscribe_direct("somebody.else", lambda *_: None)
    next_one = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{CONSUMER}".encode()
    client.write([pub(next_one, b'{"batch": 1, "expires": 60000000000}', b"somebody.else")])
    await client.flush()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    pull.ask()
    async with asyncio.timeout(PATIENCE_S):
        while pull.outstanding:
            await pull.changed()
    # The server answers at once that one request waits already; without it the time of this one would be over sooner.
    assert loop.time() - begun > pulling.REFUSED_S * 0.9
    await pull.close()
    stop.cancel()


async def test_what_is_said_of_an_earlier_request_does_not_end_this_one(client: HardenedClient) -> None:
    await make_consumer(client)
    pull, stop = Pull(client, CONSUMER, "inbox.order.secret"), asyncio.create_task(asyncio.Event().wait())
    await pull.open(stop)
    pull.ask()
    pull._receive(b"inbox.order.secret.0.pull", b"", b"NATS/1.0 408 Request Timeout\r\n\r\n", b"")
    assert pull.outstanding == PULL_MESSAGES
    pull._receive(b"inbox.order.secret.1.pull", b"", b"NATS/1.0 408 Request Timeout\r\n\r\n", b"")
    assert pull.outstanding == 0
    await pull.close()
    stop.cancel()
