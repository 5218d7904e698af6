"""Requests of a pull consumer: one at a time, for every answer of the server and at every time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sealbus.nats import pull as pulling
from sealbus.nats.client import HardenedClient
from sealbus.nats.frames import pub
from sealbus.nats.pull import End, Pull
from sealbus.protocol.limits import MAX_PULL
from sealbus.supervision import Supervisor
from sealbus_broker.nats.connection import connect
from tests.scene import Scene, raise_curtain
from tests.waiting import PATIENCE_S, until

STREAM, CONSUMER = "ACCEPTED", "orders"


@pytest.fixture
async def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HardenedClient]:
    """A connection to a server with a stream and a consumer. Requests last 0.25 s there."""
    monkeypatch.setattr(pulling, "PULL_S", 0.25)
    scene: Scene = await raise_curtain(tmp_path)

    async def ignore(_: Exception) -> None:
        pass

    made = await connect([scene.url], scene.secrets.relay.seed_text, name="test", on_error=ignore)
    await api(
        made,
        f"STREAM.CREATE.{STREAM}",
        {"name": STREAM, "subjects": ["accepted.>"], "storage": "memory"},
    )
    yield made
    await made.close()
    await scene.close()


async def api(client: HardenedClient, call: str, body: Any = None) -> Any:
    request = json.dumps(body).encode() if body else b""
    answer = json.loads((await client.request(f"$JS.API.{call}", request, PATIENCE_S)).data)
    assert "error" not in answer, answer
    return answer


async def make_consumer(client: HardenedClient, **fields: Any) -> None:
    config = {"durable_name": CONSUMER, "ack_policy": "explicit", **fields}
    request = {"stream_name": STREAM, "config": config, "action": "create"}
    await api(client, f"CONSUMER.CREATE.{STREAM}.{CONSUMER}", request)


class Puller:
    """A pull, with the messages and the ends that it brought."""

    def __init__(self, client: HardenedClient, inbox: str = "inbox.order.secret") -> None:
        self.replies: list[bytes] = []
        self.ends: list[End] = []
        self.pull = Pull(
            client,
            CONSUMER,
            inbox,
            supervisor=Supervisor("test"),
            take=self._take,
            ended=self.ends.append,
        )

    def _take(self, _: bytes, reply: bytes, __: bytes) -> None:
        self.replies.append(reply)

    def has_ends(self, number: int) -> bool:
        """Whether so many requests have ended."""
        return len(self.ends) == number

    @property
    def sequences(self) -> list[int]:
        return [int(reply.split(b".")[5]) for reply in self.replies]


async def test_a_request_brings_so_many_bytes_and_the_next_the_rest(client: HardenedClient) -> None:
    """A request ends when its bytes are used up. That is no refusal, and the next comes at once."""
    await make_consumer(client)
    client.write([pub(b"accepted.orders", bytes(300_000)) for _ in range(5)])
    await client.flush()
    puller = Puller(client)
    await puller.pull.open()
    for asked in (1, 2):
        puller.pull.ask(5)
        await until(partial(puller.has_ends, asked))
    assert pulling.PULL_BYTES // 300_000 == 3
    assert (puller.sequences, puller.ends) == ([1, 2, 3, 4, 5], [End.OVER, End.OVER])


async def test_a_message_that_no_request_may_bring_makes_no_tight_loop(
    client: HardenedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message is so large only if somebody else stored it."""
    monkeypatch.setattr(pulling, "PULL_BYTES", 100)
    await make_consumer(client)
    client.write([pub(b"accepted.orders", bytes(1000))])
    await client.flush()
    puller = Puller(client)
    await puller.pull.open()
    puller.pull.ask(1)
    await until(lambda: bool(puller.ends))
    assert (puller.sequences, puller.ends) == ([], [End.REFUSED])


async def test_no_request_asks_for_more_than_it_may(client: HardenedClient) -> None:
    await make_consumer(client, max_batch=MAX_PULL)
    client.write([pub(b"accepted.orders", b"x") for _ in range(MAX_PULL + 1)])
    await client.flush()
    puller = Puller(client)
    await puller.pull.open()
    puller.pull.ask(10 * MAX_PULL)
    await until(lambda: bool(puller.ends))
    assert (len(puller.sequences), puller.ends) == (MAX_PULL, [End.OVER])


async def test_a_request_brings_as_many_as_it_asked_for(client: HardenedClient) -> None:
    await make_consumer(client)
    puller = Puller(client)
    await puller.pull.open()
    puller.pull.ask(3)
    client.write([pub(b"accepted.orders", b"%d" % at) for at in range(5)])
    await until(lambda: bool(puller.ends))
    assert (puller.sequences, puller.ends, puller.pull.outstanding) == ([1, 2, 3], [End.OVER], 0)
    puller.pull.ask(3)
    await until(lambda: len(puller.ends) == 2)
    assert (puller.sequences, puller.ends) == ([1, 2, 3, 4, 5], [End.OVER, End.OVER])


async def test_a_refused_request_is_not_over_at_once(client: HardenedClient) -> None:
    await make_consumer(client, max_waiting=1)
    puller = Puller(client)
    await puller.pull.open()
    await client.subscribe_direct("somebody.else", lambda *_: None)
    next_one = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{CONSUMER}".encode()
    client.write([pub(next_one, b'{"batch": 1, "expires": 60000000000}', b"somebody.else")])
    await client.flush()
    puller.pull.ask(1)
    await client.flush()
    # The server has already answered that one request waits.
    assert puller.pull.outstanding == 1
    await until(lambda: bool(puller.ends))
    assert puller.ends == [End.REFUSED]


async def test_a_consumer_that_is_gone_is_told_apart(
    client: HardenedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_consumer(client)
    puller = Puller(client)
    await puller.pull.open()
    monkeypatch.setattr(pulling, "PULL_S", PATIENCE_S)  # the deletion ends it, and not its time
    puller.pull.ask(1)

    async def waits() -> bool:
        return bool((await api(client, f"CONSUMER.INFO.{STREAM}.{CONSUMER}"))["num_waiting"])

    await until(waits)
    await api(client, f"CONSUMER.DELETE.{STREAM}.{CONSUMER}")
    await until(lambda: bool(puller.ends))
    monkeypatch.setattr(pulling, "PULL_S", 0.25)
    puller.pull.ask(1)
    await until(lambda: len(puller.ends) == 2)
    assert puller.ends[0] is End.GONE
    assert puller.ends[1] in (End.GONE, End.LOST)


async def test_a_status_of_an_earlier_request_ends_nothing(client: HardenedClient) -> None:
    await make_consumer(client)
    puller = Puller(client)
    await puller.pull.open()
    puller.pull.ask(7)
    puller.pull._receive(
        b"inbox.order.secret.0.pull", b"", b"NATS/1.0 408 Request Timeout\r\n\r\n", b""
    )
    assert puller.pull.outstanding == 7
    puller.pull._receive(
        b"inbox.order.secret.1.pull", b"", b"NATS/1.0 408 Request Timeout\r\n\r\n", b""
    )
    assert puller.pull.outstanding == 0


async def test_after_its_end_a_request_brings_nothing_more(client: HardenedClient) -> None:
    """Otherwise the server would send messages to a dead inbox, and again only after 30 s."""
    await make_consumer(client)
    taken = 0
    for round_ in range(10):
        puller = Puller(client, f"inbox.order.{round_}")
        await puller.pull.open()
        puller.pull.ask(100)
        client.write([pub(b"accepted.orders", b"") for _ in range(10)])
        await puller.pull.over()
        await puller.pull.close()
        taken += len(puller.replies)
        state = await api(client, f"CONSUMER.INFO.{STREAM}.{CONSUMER}")
        assert (state["delivered"]["consumer_seq"], state["num_waiting"]) == (taken, 0)


async def test_a_request_on_a_lost_connection_is_over(
    client: HardenedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "PULL_S", 1000.0)
    await make_consumer(client)
    puller = Puller(client)
    await puller.pull.open()
    puller.pull.ask(1)
    finishing = asyncio.create_task(puller.pull.over())
    await asyncio.sleep(0)
    await client.close()
    async with asyncio.timeout(PATIENCE_S):
        await finishing
