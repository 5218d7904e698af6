"""Nostr: events signed by their author, through nostr-sdk's LocalRelay.

The relay is written in Rust, and has a process of its own: ``python -m benchmarks.peers.nostr
PORT``. It checks each event's id and signature, keeps it in memory, and passes it on to everybody
whose filter it meets. A receiver asks for events of its one sender (``authors``) to itself (``p``).
nostr-sdk's client verifies them, compares them with the filter and passes each on only once. Nobody
looks at a schema, because Nostr has none.

This peer needs some help. Otherwise its figures would be those of its Python binding and its
defaults:

- A sender signs with nostr-sdk, but speaks NIP-01 over a websocket of its own: ``EVENT`` out,
  ``OK`` in. nostr-sdk's ``send_event`` takes twice the processor time for the same two frames.
- The relay closes a connection that has sent 6,000 messages, and no setting changes that. A sender
  changes connections before.
- The relay leaves Nagle's algorithm on. Then each of two small frames in a row waits 40 ms for the
  delayed acknowledgement of the other side. Questions and answers have connections of their own,
  which acknowledge at once.
- The binding's strings are copied at once (:func:`_copy_at_once`).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket as network
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Final

import aiohttp
import nostr_sdk.nostr_sdk as binding
import orjson
from nostr_sdk import (
    ClientBuilder,
    Event,
    EventBuilder,
    Filter,
    Keys,
    Kind,
    LocalRelayBuilder,
    PublicKey,
    RateLimit,
    RelayUrl,
    ReqExitPolicy,
    ReqTarget,
    Tag,
)

from benchmarks.bus import end, free_port
from benchmarks.peer import Order
from benchmarks.workload import reply

ORDER: Final = 7101
"""A regular event (NIP-01): relays keep it."""
ASK: Final = 27101
"""Ephemeral, like the answer: passed on, and not kept."""
ANSWER: Final = 27102

CONNECT: Final = timedelta(seconds=10)
ANSWER_S: Final = 10.0
FOREVER: Final = timedelta(days=1)
BEHIND: Final = 2**14
"""Events that a receiver may be behind. nostr-sdk drops more than these. Its default is 4,096."""
UNLIMITED: Final = RateLimit(max_reqs=2**31, notes_per_minute=2**31)
"""By default the relay takes 60 events a minute from a connection."""


def _copy_at_once(builder: Any, value: bytes) -> None:
    """Replaces the binding's own, which copies byte by byte in Python: 0.3 ms a KiB."""
    with builder._reserve(len(value)):  # noqa: SLF001 - there is no other way to the buffer
        data = builder.rbuf.data
        ctypes.memmove(ctypes.addressof(data.contents) + builder.rbuf.len, bytes(value), len(value))


binding._UniffiRustBufferBuilder.write = _copy_at_once  # noqa: SLF001 - see there


MOST_SAID: Final = 5000
"""Messages to send on one connection."""


class Refused(RuntimeError):
    """The relay said no."""


def sign(keys: Keys, kind: int, order: Order, receiver: str, *more: Tag) -> Event:
    """An event that says ``order`` to ``receiver``, a public key in hex."""
    # An event's id is the hash of its content and its second, and the relay passes on an id only
    # once. So the random tag makes another event of the same order.
    tags = [
        Tag.public_key(PublicKey.parse(receiver)),
        Tag.custom("n", [os.urandom(8).hex()]),
        *more,
    ]
    return EventBuilder(Kind(kind), orjson.dumps(order).decode()).tags(tags).finalize(keys)


def meant_for(keys: Keys, kind: int) -> Filter:
    """A filter for events of ``kind`` to the owner of ``keys``."""
    return Filter().kind(Kind(kind)).pubkey(keys.public_key())


class Line:
    """A websocket that publishes events."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._listening = asyncio.create_task(self._listen())
        self._drained = asyncio.Event()
        self.said = 0

    async def say(self, event: Event) -> None:
        """Returns with the relay's OK. Raises :class:`Refused`."""
        self.said += 1
        name = event.id().to_hex()
        done = self._waiting[name] = asyncio.get_running_loop().create_future()
        try:
            await self._socket.send_str(f'["EVENT",{event.as_json()}]')
            async with asyncio.timeout(ANSWER_S):
                await done
        finally:
            del self._waiting[name]
            if not self._waiting:
                self._drained.set()

    async def retire(self) -> None:
        """Close it when all its events are confirmed."""
        while self._waiting:
            self._drained.clear()
            await self._drained.wait()
        await self.close()

    async def close(self) -> None:
        """Disconnect."""
        await _cancel(self._listening)
        await self._socket.close()

    async def _listen(self) -> None:
        async for message in self._socket:
            match orjson.loads(message.data):
                case ["OK", name, taken, why] if (
                    done := self._waiting.get(name)
                ) is not None and not done.done():
                    if taken:
                        done.set_result(None)
                    else:
                        done.set_exception(Refused(why))


class Mouth:
    """Publishes events, over one connection after the other."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self._line: Line | None = None
        self._changing = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()

    async def say(self, event: Event) -> None:
        """Returns with the relay's OK. Raises :class:`Refused`."""
        line = self._line
        if line is None or line.said >= MOST_SAID:
            line = await self._change(line)
        await line.say(event)

    async def close(self) -> None:
        """Disconnect."""
        for task in self._retiring:
            await _cancel(task)
        if self._line is not None:
            await self._line.close()

    async def _change(self, old: Line | None) -> Line:
        async with self._changing:
            if self._line is old or self._line is None:
                self._line = Line(await self._session.ws_connect(self._url, max_msg_size=0))
                if old is not None:
                    task = asyncio.create_task(old.retire())
                    self._retiring.add(task)
                    task.add_done_callback(self._retiring.discard)
            return self._line


class Ear:
    """Hears events that meet a filter, and verifies them."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self._listening: asyncio.Task[None] | None = None

    async def open(self, wanted: Filter, handle: Callable[[Event], Awaitable[None]]) -> None:
        """Connect and subscribe.

        Returns when the relay has said that events now come as they are published.
        """
        socket = await self._session.ws_connect(self._url, max_msg_size=0)
        await socket.send_str(f'["REQ","ear",{wanted.as_json()}]')
        while orjson.loads(await socket.receive_str()) != ["EOSE", "ear"]:
            pass
        self._listening = asyncio.create_task(self._listen(socket, wanted, handle))

    async def close(self) -> None:
        """Disconnect."""
        if self._listening is not None:
            await _cancel(self._listening)

    async def _listen(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        wanted: Filter,
        handle: Callable[[Event], Awaitable[None]],
    ) -> None:
        _acknowledge_at_once(socket)
        async for message in socket:
            _acknowledge_at_once(socket)
            match orjson.loads(message.data):
                case ["EVENT", "ear", raw]:
                    event = Event.from_json(orjson.dumps(raw).decode())
                    if event.verify() and wanted.match_event(event):
                        await handle(event)


def _acknowledge_at_once(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Linux forgets the option, so each message sets it again. Other systems do not have it."""
    if hasattr(network, "TCP_QUICKACK"):
        socket.get_extra_info("socket").setsockopt(network.IPPROTO_TCP, network.TCP_QUICKACK, 1)


class NostrSender:
    """A key for each sender, and connections to publish and to hear answers."""

    def __init__(self) -> None:
        self._keys: list[Keys] = []
        self._receivers: list[str] = []
        self._mouths: list[Mouth] = []
        self._asked: dict[str, asyncio.Future[Any]] = {}
        self._stack = AsyncExitStack()

    async def open(self, setup: dict[str, Any], pairs: int) -> None:
        """Connect."""
        session = await self._stack.enter_async_context(aiohttp.ClientSession())
        for pair in range(pairs):
            keys, receiver = (
                Keys.parse(setup["senders"][pair]),
                Keys.parse(setup["receivers"][pair]).public_key(),
            )
            ear, mouth = Ear(session, setup["url"]), Mouth(session, setup["url"])
            for end_of_line in (ear, mouth):
                self._stack.push_async_callback(end_of_line.close)
            await ear.open(meant_for(keys, ANSWER).author(receiver), self._on_answer)
            self._keys.append(keys)
            self._receivers.append(receiver.to_hex())
            self._mouths.append(mouth)

    async def send(self, pair: int, order: Order) -> None:
        """Returns with the relay's OK: it has verified the event and keeps it."""
        await self._mouths[pair].say(sign(self._keys[pair], ORDER, order, self._receivers[pair]))

    async def ask(self, pair: int, order: Order) -> None:
        """An ephemeral event, and another that names it."""
        event = sign(self._keys[pair], ASK, order, self._receivers[pair])
        name = event.id().to_hex()
        answered = self._asked[name] = asyncio.get_running_loop().create_future()
        try:
            await self._mouths[pair].say(event)
            async with asyncio.timeout(ANSWER_S):
                assert (await answered)["accepted"]
        finally:
            del self._asked[name]

    async def _on_answer(self, event: Event) -> None:
        for tag in event.tags():
            if (
                tag.kind() == "e"
                and (answered := self._asked.get(tag.content())) is not None
                and not answered.done()
            ):
                answered.set_result(orjson.loads(event.content()))

    async def close(self) -> None:
        """Disconnect."""
        await self._stack.aclose()


class NostrReceiver:
    """nostr-sdk's client for each receiver's orders. Requests have connections of their own."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    async def open(self, setup: dict[str, Any], pairs: int, received: Callable[[], None]) -> None:
        """Connect, and subscribe to the events for each receiver."""
        session = await self._stack.enter_async_context(aiohttp.ClientSession())
        for pair in range(pairs):
            keys, sender = (
                Keys.parse(setup["receivers"][pair]),
                Keys.parse(setup["senders"][pair]).public_key(),
            )
            await self._take(setup["url"], meant_for(keys, ORDER).author(sender), received)
            ear, mouth = Ear(session, setup["url"]), Mouth(session, setup["url"])
            for end_of_line in (ear, mouth):
                self._stack.push_async_callback(end_of_line.close)
            await ear.open(meant_for(keys, ASK).author(sender), partial(_answer, keys, mouth))

    async def _take(self, url: str, wanted: Filter, received: Callable[[], None]) -> None:
        client = (
            ClientBuilder().verify_subscriptions(True).notification_channel_size(BEHIND).build()
        )
        self._stack.push_async_callback(client.shutdown)
        await client.add_relay(RelayUrl.parse(url))
        await client.connect(CONNECT)
        policy = ReqExitPolicy.WAIT_DURATION_AFTER_EOSE(FOREVER)
        stream = await client.stream_events(ReqTarget.auto([wanted]), policy=policy)
        self._stack.push_async_callback(_cancel, asyncio.create_task(_count(stream, received)))

    async def close(self) -> None:
        """Disconnect."""
        await self._stack.aclose()


async def _count(stream: Any, received: Callable[[], None]) -> None:
    while (item := await stream.next()) is not None:
        try:
            orjson.loads(item.event.content())
        except (AttributeError, ValueError) as error:  # no event or no JSON: go on with the next
            print(f"nostr: {item.error or error}", file=sys.stderr)
        else:
            received()


async def _answer(keys: Keys, mouth: Mouth, event: Event) -> None:
    answer = reply(orjson.loads(event.content()))
    await mouth.say(sign(keys, ANSWER, answer, event.author().to_hex(), Tag.event(event.id())))


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


class Nostr:
    """The relay."""

    name: ClassVar[str] = "nostr"
    title: ClassVar[str] = (
        f"Nostr: LocalRelay of nostr-sdk {version('nostr-sdk')} (Rust), signed events"
    )
    promises: ClassVar[str] = "signed end to end, verified by the relay, kept in its memory"
    can_ask: ClassVar[bool] = True
    depths: ClassVar[tuple[int, ...]] = (16, 64, 256)
    sender: ClassVar[type[NostrSender]] = NostrSender
    receiver: ClassVar[type[NostrReceiver]] = NostrReceiver

    def __init__(self) -> None:
        self._relay: asyncio.subprocess.Process | None = None

    async def start(self, folder: Path, pairs: int) -> dict[str, Any]:
        """Start the relay, wait until it listens, and make the keys."""
        port = free_port()
        with (folder / "relay.log").open("wb") as log:
            self._relay = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benchmarks.peers.nostr", str(port)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # the benchmark gets Ctrl-C
            )
        assert self._relay.stdout is not None
        async with asyncio.timeout(CONNECT.total_seconds()):
            greeting = await self._relay.stdout.readline()
        if not greeting:
            raise RuntimeError("the relay ended at once")
        return {
            "url": f"ws://127.0.0.1:{port}",
            "senders": [Keys.generate().secret_key().to_hex() for _ in range(pairs)],
            "receivers": [Keys.generate().secret_key().to_hex() for _ in range(pairs)],
        }

    def processes(self) -> dict[str, list[int]]:
        """The relay."""
        return {"nostr relay": [self._relay.pid]} if self._relay is not None else {}

    async def stop(self) -> None:
        """End the relay."""
        if self._relay is not None:
            await end(self._relay)


async def _relay(port: int) -> None:
    """Run until stdin ends, so that it cannot outlive the benchmark."""
    relay = LocalRelayBuilder().addr("127.0.0.1").port(port).rate_limit(UNLIMITED).build()
    await relay.run()
    print(await relay.url(), flush=True)
    stdin = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin
    )
    await stdin.read()
    relay.shutdown()


if __name__ == "__main__":
    asyncio.run(_relay(int(sys.argv[1])))
