"""A server that says things which no server says, in each state of a connection.

Bot and relay try again, and are connected in the end.
"""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, suppress
from typing import Any

import pytest
from nats.errors import Error as NatsError

from sealbus import Bot, Credentials
from sealbus.nats.client import HardenedClient
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.nats.connection import RelayLink, disconnect
from sealbus_broker.relay.secrets import BusSecrets
from tests.listening import listening
from tests.waiting import until

pytestmark = pytest.mark.slow

INFO: dict[str, Any] = {
    "server_id": "N",
    "version": "2.15.1",
    "max_payload": 1048576,
    "nonce": "abc",
    "headers": True,
}
DEEP = 100_000


def greeting(**changed: Any) -> bytes:
    """A server's first line, with some invalid fields."""
    fields = {name: field for name, field in {**INFO, **changed}.items() if field is not None}
    return b"INFO " + json.dumps(fields).encode() + b"\r\n"


GREETINGS = {
    "a list": b"INFO []\r\n",
    "a number": b"INFO 7\r\n",
    "null": b"INFO null\r\n",
    "no JSON": b"INFO {\r\n",
    "no object": b"INFO\r\n",
    "no UTF-8": b'INFO {"server_id":"\xff"}\r\n',
    "too deep": b"INFO " + b"[" * DEEP + b"\r\n",
    "too long a number": b'INFO {"max_payload":' + b"9" * 5000 + b"}\r\n",
    "a line without end": b"INFO " + bytes(200_000),
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "an empty line": b"\r\n",
    "the end": b"",
    "no challenge": greeting(nonce=None),
    "a challenge with a line feed": greeting(nonce="a\nb"),
    "a challenge that is a list": greeting(nonce=[]),
    "an empty challenge": greeting(nonce=""),
    "a challenge beyond ASCII": greeting(nonce="\u2028"),
    "other servers that are a number": greeting(connect_urls=7),
    "a version that is a list": greeting(version=[2, 15]),
    "a limit that is a text": greeting(max_payload="much"),
    "a secret of TLS's": greeting(tls_required=[1]),
    "lame duck": greeting(ldm=True) + greeting(ldm=[]),
}
"""Said instead of the first line.

Then the server ends the connection. If the line was harmless, it goes on as usual.
"""

ANSWERS = {
    "the end": b"",
    "OK": b"+OK\r\n",
    "a list": b"INFO []\r\n",
    "a PING": b"PING\r\n",
    "an error without text": b"-ERR\r\n",
    "an error that is no UTF-8": b"-ERR '\xff'\r\n",
    "a message": b"MSG x 1 1\r\nx\r\n",
    "no line": b"\0" * 100,
    "a line without end": b"P" * 200_000,
}
"""Said instead of the first PONG. Then the server ends the connection."""

LATER = {
    "the end": b"",
    "a list": b"INFO []\r\n",
    "too deep": b"INFO " + b"[" * DEEP + b"\r\n",
    "a limit that is a text": greeting(max_payload="much"),
    "lame duck, again and again": greeting(ldm=True) * 1000,
    "lame ducks that are none": greeting(ldm=[True]) + greeting(ldm="true"),
    "an error without text": b"-ERR\r\n",
    "an error that is no UTF-8": b"-ERR '\xff'\r\n",
    "a stale connection": b"-ERR 'Stale Connection'\r\n",
    "an authorization that ended": b"-ERR 'Authorization Violation'\r\n",
    "answers to nothing": b"PONG\r\n" * 100,
    "no word": b"\xff\xfe\r\n",
    "a message for nobody": b"MSG x 999999 1\r\nx\r\n",
    "a message without size": b"MSG x 1 \r\n",
    "a size below nothing": b"MSG x 1 -1\r\n",
    "a size beyond all": b"MSG x 1 999999999999999999\r\n",
    "headers larger than all": b"HMSG x 1 9 3\r\nabc\r\n",
    "half a message": b"MSG x 1 10\r\nabc",
    "a line without end": b"M" * 200_000,
}
"""Said while there is a session. Then the server goes on as if nothing had happened."""

ENDING = (LATER["the end"], LATER["half a message"])
"""After these the server ends the connection."""


class Stranger:
    """A nats-server for a client, except for the bytes that it was told to say."""

    def __init__(self, state: str, says: bytes) -> None:
        self._state = state
        self._says = says
        self.connections = 0
        self.published = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(ValueError), closing(writer):
            await self._talk(reader, writer, hostile=self.connections == 1)

    async def _talk(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, hostile: bool
    ) -> None:
        if hostile and self._state == "greeting":
            writer.write(self._says)
            return await writer.drain()
        writer.write(greeting())
        pings = 0
        while line := await reader.readuntil(b"\r\n"):
            if line.startswith(b"PUB "):
                await reader.readexactly(int(line.split()[-1]) + 2)
                self.published += 1
            if line != b"PING\r\n":
                continue
            pings += 1
            if hostile and self._state == "answer":
                writer.write(self._says)
                return await writer.drain()
            writer.write(b"PONG\r\n")
            if hostile and pings == 2:  # the session's flush, or the relay's: it is connected
                writer.write(self._says)
                await writer.drain()
                if self._says in ENDING:
                    return None
        return None


@asynccontextmanager
async def as_a_bot(url: str) -> AsyncIterator[Any]:
    """A bot's session. Yields a function that gives its current connection."""
    bus_keys = frozenset([SigningKey.generate(KeyKind.BUS).public.raw])
    bot = Bot(Credentials("shop", "order", SigningKey.generate(KeyKind.BOT), (url,), bus_keys))
    await bot._session.open()
    try:
        yield bot._session.client
    finally:
        await bot._known.close()
        await bot._session.close(flush=False)


@asynccontextmanager
async def as_a_relay(url: str) -> AsyncIterator[Any]:
    """A relay's connection, which nats-py itself renews.

    Yields a function that gives it, or ``None`` after the relay was told that it is closed.
    """
    link = RelayLink("messages", lambda: None, lambda: None)
    client = await link.connect([url], BusSecrets.generate().relay.seed_text, "test")
    closed = asyncio.Event()
    client.when_closed.add(closed.set)
    await client.flush()

    async def current() -> HardenedClient | None:
        return None if closed.is_set() else client

    try:
        yield current
    finally:
        await disconnect(client)


def open_a_side(side: str, url: str) -> AbstractAsyncContextManager[Any]:
    return as_a_bot(url) if side == "bot" else as_a_relay(url)


async def _meet(side: str, state: str, says: bytes) -> None:
    """Connect to a stranger, and see that a message is published in the end."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    stranger = Stranger(state, says)
    async with (
        listening(stranger.serve) as port,
        open_a_side(side, f"nats://127.0.0.1:{port}") as current,
    ):

        async def published() -> bool:
            client = await current()
            if client is None:
                return True
            try:
                await client.publish("probe", b"")
                await client.flush(1)
            except (NatsError, OSError, TimeoutError):
                return False
            return stranger.published > 0

        await until(published, "it is connected, and publishes")
    await asyncio.sleep(0)
    gc.collect()  # a forgotten exception is reported when its task goes
    assert complaints == []


@pytest.mark.parametrize("side", ["bot", "relay"])
@pytest.mark.parametrize("what", GREETINGS)
async def test_any_first_line_ends_one_attempt_alone(side: str, what: str) -> None:
    await _meet(side, "greeting", GREETINGS[what])


@pytest.mark.parametrize("side", ["bot", "relay"])
@pytest.mark.parametrize("what", ANSWERS)
async def test_any_answer_to_the_first_ping_ends_one_attempt_alone(side: str, what: str) -> None:
    await _meet(side, "answer", ANSWERS[what])


@pytest.mark.parametrize("side", ["bot", "relay"])
@pytest.mark.parametrize("what", LATER)
async def test_anything_said_later_ends_one_connection_alone(side: str, what: str) -> None:
    await _meet(side, "later", LATER[what])
