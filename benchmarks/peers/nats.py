"""Raw nats-py on the nats-server of the round's bus: core NATS and JetStream.

They are the ceiling, because they have no signatures and no schema.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import nats
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, StorageType, StreamConfig

from benchmarks.peer import Order
from benchmarks.peers.together import Together
from benchmarks.workload import reply

if TYPE_CHECKING:
    from benchmarks.bus import Bus

STREAM: Final = "BENCH"
FETCH: Final = 256
FETCH_S: Final = 1.0
ASK_S: Final = 10.0


async def login(setup: dict[str, Any], pairs: int) -> list[Client]:
    """One connection a pair, with the relay's rights."""
    return [
        await nats.connect(setup["url"], nkeys_seed_str=setup["seed"], pending_size=2**23)
        for _ in range(pairs)
    ]


MOST_BYTES: Final = 1_000_000
"""The largest message. nats-server takes 1 MiB by default."""


class _Asker:
    """Both send requests with core NATS."""

    def __init__(self) -> None:
        self._clients: list[Client] = []

    async def open(self, setup: dict[str, Any], pairs: int) -> None:
        """Connect."""
        self._clients = await login(setup, pairs)

    async def ask(self, pair: int, order: Order) -> None:
        """Request and reply."""
        answer = await self._clients[pair].request(
            f"bench.quotes.{pair}", orjson.dumps(order), ASK_S
        )
        assert orjson.loads(answer.data)["accepted"]

    async def close(self) -> None:
        """Disconnect."""
        for client in self._clients:
            await client.close()


class CoreSender(_Asker):
    """Publishes, and asks the server for a PONG now and then."""

    def __init__(self) -> None:
        super().__init__()
        self._flushes: dict[int, asyncio.Task[None]] = {}

    async def send(self, pair: int, order: Order) -> None:
        """Return when the server has answered a later PING. All who wait share one PING."""
        client = self._clients[pair]
        await client.publish(f"bench.core.{pair}", orjson.dumps(order))
        under_way = self._flushes.get(pair)
        if under_way is not None and not under_way.done():
            await under_way  # it may have left before this message, so another one follows
            under_way = self._flushes[pair]
        if under_way is None or under_way.done():
            under_way = self._flushes[pair] = asyncio.create_task(client.flush())
        await under_way


class JetStreamSender(_Asker):
    """Pipelined publishes, each acknowledged once it is stored."""

    def __init__(self) -> None:
        super().__init__()
        self._streams: list[JetStreamContext] = []

    async def open(self, setup: dict[str, Any], pairs: int) -> None:
        """Connect."""
        await super().open(setup, pairs)
        self._streams = [client.jetstream() for client in self._clients]

    async def send(self, pair: int, order: Order) -> None:
        """Returns with the server's acknowledgement."""
        await (await self._streams[pair].publish_async(f"bench.stream.{pair}", orjson.dumps(order)))


class JetStreamTogetherSender(JetStreamSender):
    """The same with 64 orders in each message."""

    async def open(self, setup: dict[str, Any], pairs: int) -> None:
        """Connect."""
        await super().open(setup, pairs)
        self._together = [Together(partial(self._send_all, pair)) for pair in range(pairs)]

    async def send(self, pair: int, order: Order) -> None:
        """Returns with the acknowledgement of the message that the order is in."""
        await self._together[pair].send(order)

    async def _send_all(self, pair: int, orders: list[Order]) -> None:
        data = orjson.dumps(orders)
        if len(data) > MOST_BYTES:
            half = len(orders) // 2
            await asyncio.gather(
                self._send_all(pair, orders[:half]), self._send_all(pair, orders[half:])
            )
            return
        await (await self._streams[pair].publish_async(f"bench.stream.{pair}", data))


class _Answerer:
    """Receives and answers."""

    def __init__(self) -> None:
        self._clients: list[Client] = []
        self._pulls: list[asyncio.Task[None]] = []

    async def open(self, setup: dict[str, Any], pairs: int, received: Callable[[], None]) -> None:
        """Connect."""

        async def answer(msg: Msg) -> None:
            await msg.respond(orjson.dumps(reply(orjson.loads(msg.data))))

        self._clients = await login(setup, pairs)
        for pair, client in enumerate(self._clients):
            await client.subscribe(f"bench.quotes.{pair}", cb=answer)
            await self._listen(client, pair, received)
            await client.flush()

    async def _listen(self, client: Client, pair: int, received: Callable[[], None]) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        """Disconnect."""
        for pull in self._pulls:
            pull.cancel()
        await asyncio.gather(*self._pulls, return_exceptions=True)
        for client in self._clients:
            await client.close()


class CoreReceiver(_Answerer):
    """A plain subscription without limits, because a lost message would spoil the count."""

    async def _listen(self, client: Client, pair: int, received: Callable[[], None]) -> None:
        async def take(msg: Msg) -> None:
            with contextlib.suppress(ValueError):
                orjson.loads(msg.data)
                received()

        await client.subscribe(
            f"bench.core.{pair}", cb=take, pending_msgs_limit=-1, pending_bytes_limit=-1
        )


class JetStreamReceiver(_Answerer):
    """A durable pull consumer that acknowledges each message."""

    fetch: ClassVar[int] = FETCH
    """How many messages one pull request asks for."""

    async def _listen(self, client: Client, pair: int, received: Callable[[], None]) -> None:
        config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, max_ack_pending=10_000)
        subscription = await client.jetstream().pull_subscribe(
            f"bench.stream.{pair}", durable=f"r{pair}", stream=STREAM, config=config
        )
        fetch = partial(subscription.fetch, self.fetch, timeout=FETCH_S)
        self._pulls.append(asyncio.create_task(_pull(fetch, received)))


class JetStreamTogetherReceiver(JetStreamReceiver):
    """The same for messages of up to 1 MB. nats-server cuts a connection off on which 64 MiB wait,
    and its messages come again after half a minute."""

    fetch: ClassVar[int] = 16


async def _pull(fetch: Callable[[], Awaitable[list[Msg]]], received: Callable[[], None]) -> None:
    while True:
        with contextlib.suppress(TimeoutError):
            for msg in await fetch():
                try:
                    orders = orjson.loads(msg.data)
                except ValueError:
                    await msg.term()  # otherwise it would come again and again
                    continue
                for _ in orders if isinstance(orders, list) else [orders]:
                    received()
                await msg.ack()


class OnServer:
    """The server of the round's bus, with a stream of this peer's own, if it names one."""

    can_ask: ClassVar[bool] = True
    stream: ClassVar[str | None] = None
    subjects: ClassVar[str] = ""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def start(self, folder: Path, pairs: int) -> dict[str, Any]:
        """Make the stream."""
        del folder, pairs
        if self.stream is not None:
            config = StreamConfig(
                name=self.stream, subjects=[self.subjects], storage=StorageType.FILE
            )
            async with self._jetstream() as jetstream:
                await jetstream.add_stream(config)
        return self._setup

    def processes(self) -> dict[str, list[int]]:
        """The server alone."""
        return {"nats-server": [self._bus.server_pid]}

    async def stop(self) -> None:
        """Delete the stream, so that the next one finds an empty disk.

        The server goes on, because other peers use it.
        """
        if self.stream is not None:
            async with self._jetstream() as jetstream:
                await jetstream.delete_stream(self.stream)

    @property
    def _setup(self) -> dict[str, Any]:
        return {"url": self._bus.url, "seed": self._bus.relay_seed}

    @contextlib.asynccontextmanager
    async def _jetstream(self) -> AsyncIterator[JetStreamContext]:
        (client,) = await login(self._setup, 1)
        try:
            yield client.jetstream()
        finally:
            await client.close()


class Core(OnServer):
    """Core NATS."""

    name: ClassVar[str] = "nats"
    title: ClassVar[str] = f"core NATS, nats-py {version('nats-py')}"
    promises: ClassVar[str] = "nothing: the server has read it"
    depths: ClassVar[tuple[int, ...]] = (64, 256, 1024)
    sender: ClassVar[type[CoreSender]] = CoreSender
    receiver: ClassVar[type[CoreReceiver]] = CoreReceiver


class JetStream(OnServer):
    """JetStream."""

    name: ClassVar[str] = "jetstream"
    title: ClassVar[str] = (
        f"JetStream, nats-py {version('nats-py')}, pipelined, durable pull consumer"
    )
    promises: ClassVar[str] = "durable"
    depths: ClassVar[tuple[int, ...]] = (64, 256, 1024)
    sender: ClassVar[type[JetStreamSender]] = JetStreamSender
    receiver: ClassVar[type[JetStreamReceiver]] = JetStreamReceiver
    stream: ClassVar[str | None] = STREAM
    subjects: ClassVar[str] = "bench.stream.*"


class JetStreamTogether(JetStream):
    """JetStream, with the orders put together by hand."""

    name: ClassVar[str] = "jetstream-64"
    title: ClassVar[str] = f"JetStream, nats-py {version('nats-py')}, 64 orders in a message"
    can_ask: ClassVar[bool] = False
    depths: ClassVar[tuple[int, ...]] = (256, 1024, 4096)
    sender: ClassVar[type[JetStreamSender]] = JetStreamTogetherSender
    receiver: ClassVar[type[JetStreamReceiver]] = JetStreamTogetherReceiver
