"""A publisher whose connection only keeps messages, so that a test answers for the relay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from sealbus.credentials import Credentials
from sealbus.life.session import Session
from sealbus.protocol.certificate import SessionKey
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.seal import Verifier
from sealbus.sending.publisher import Publisher
from sealbus.sending.sender import Sender
from sealbus.supervision import Supervisor
from tests.scene import now_ms

BUS, BOT = SigningKey.generate(KeyKind.BUS), SigningKey.generate(KeyKind.BOT)


class Wire:
    """A session whose connection keeps the published messages."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[bytes] = asyncio.Queue()
        self.server_changes = 0
        self.key = SessionKey.make(BOT, bus="shop", bot="order", now_ms=now_ms())
        self.up = asyncio.Event()
        self.up.set()

    async def client(self) -> Any:
        await self.up.wait()
        return self

    async def publish(self, _: str, envelope: bytes) -> None:
        self.sent.put_nowait(envelope)


@asynccontextmanager
async def publisher_on(wire: Wire, bus_key: SigningKey = BUS) -> AsyncIterator[Publisher]:
    """A running publisher of the bot ``order``. It believes ``bus_key``."""
    credentials = Credentials(
        "shop", "order", BOT, ("nats://127.0.0.1:4222",), frozenset([bus_key.public.raw])
    )
    made = Publisher(
        sender=Sender(
            credentials=credentials,
            session=cast("Session", wire),
            verifier=Verifier(),
            supervisor=Supervisor("test"),
        ),
        supervisor=Supervisor("test"),
    )
    running = asyncio.create_task(made.run())
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
