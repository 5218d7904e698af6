"""Receiving: durable subscriptions, which JetStream remembers a place for, and live ones.

Whatever arrives is believed only after :func:`~sealbus.delivery.open_delivery` has verified it. A message is handed over once: nonces that
were handled are remembered, so what a crash or a renewal delivers twice is acknowledged and not handled again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Final, TypeVar

from nats.errors import Error as NatsError

from sealbus.delivery import Message
from sealbus.errors import SubscriptionDenied
from sealbus.frames import pub
from sealbus.hardened import HardenedClient
from sealbus.pull import Pull
from sealbus.receiving import Opener, PendingMessage, Seen
from sealbus.session import Session
from sealbus.subjects import BUS, INBOX

log = logging.getLogger("sealbus")
T = TypeVar("T")

LIVE_WAITING: Final = 4096
"""Live messages that may wait for a handler; more are dropped, as live messages may be."""

LIVE_MAX_AGE_MS: Final = 60_000
"""An older live message is refused: it has been held back, or was pulled from the store by somebody else."""


class DurableSubscription:
    """Messages from a JetStream consumer that remembers how far this subscription has come."""

    def __init__(self, session: Session, opener: Opener, bot: str, consumer: str) -> None:
        self._session = session
        self._opener = opener
        self._bot = bot
        self._consumer = consumer
        self._mine = f"$JS.ACK.ACCEPTED.{consumer}.".encode()
        self._seen = Seen()

    async def deliveries(self, stopping: asyncio.Event) -> AsyncGenerator[PendingMessage, None]:
        """Yield what is new, for ever, through lost and renewed connections, until ``stopping`` is set."""
        stop = asyncio.create_task(stopping.wait())
        try:
            while not stopping.is_set():
                client = await _before(stop, self._session.client())
                if client is None:
                    return
                async with contextlib.aclosing(self._from(client, stop)) as deliveries:
                    async for delivery in deliveries:
                        yield delivery
        finally:
            stop.cancel()

    async def _from(self, client: HardenedClient, stop: asyncio.Task[Any]) -> AsyncGenerator[PendingMessage, None]:
        """What comes on one connection, as long as it is the one in use; what has been asked for on it is taken to the end."""
        # The inbox's name is a secret of this connection: nobody else can have the server send something here.
        pull = Pull(client, self._consumer, f"{INBOX}.{self._bot}.{os.urandom(16).hex()}")
        with self._session.hold(client):
            try:
                await pull.open(stop)
                while True:
                    while pull.waiting:
                        delivery = self._take(*pull.waiting.popleft())
                        if delivery is not None:
                            yield delivery
                        if stop.done():
                            return
                    if stop.done() or client.is_closed:
                        return
                    if self._session.is_current(client):
                        pull.ask()
                    elif not pull.outstanding:
                        return
                    await pull.changed()
            except (NatsError, OSError) as error:
                log.debug("pull: %s", type(error).__name__)
                if self._session.is_current(client):
                    await asyncio.sleep(0.1)
            finally:
                await pull.close()

    def _take(self, subject: bytes, reply: bytes, data: bytes) -> PendingMessage | None:
        if not reply.startswith(self._mine):
            self._opener.refuse("not from this subscription's own consumer")
            return None
        message = self._opener.open(subject, data, "accepted")
        if message is None:
            # It will not become one: nobody but the relay writes there, so somebody got past it. Not delivered again and again.
            self._session.write_soon(pub(reply, b"+TERM"))
            return None
        deliveries = reply[len(self._mine) :].partition(b".")[0]
        delivery = PendingMessage(message, self._session, reply, int(deliveries) if deliveries.isdigit() else 1)
        if message in self._seen:
            delivery.acknowledge()
            return None
        return delivery

    def handled(self, delivery: PendingMessage) -> None:
        """Note that ``delivery`` has been handled."""
        self._seen.add(delivery.message)


def is_too_old(message: Message, now_ms: int) -> bool:
    """Whether a message that came live was judged more than a minute ago."""
    return now_ms - message.stamp.judged_at_ms > LIVE_MAX_AGE_MS


class LiveSubscription:
    """Messages as they pass by. What passes while the bot is away, or too busy, is missed."""

    def __init__(self, session: Session, opener: Opener, pattern: str, queue: str = "") -> None:
        self._session = session
        self._opener = opener
        self.pattern = pattern
        self._queue = queue
        self.placed = False
        """Whether the server has granted it once."""
        self.denied: SubscriptionDenied | None = None
        """The server's refusal, on the last connection."""
        self.raises = False
        """Whether whoever takes the messages is told of a refusal by an exception."""
        self._waiting: deque[Message] = deque()
        self._changed = asyncio.Event()
        self._seen = Seen()

    async def attach(self, client: HardenedClient) -> None:
        """Subscribe on a new connection; during a renewal both deliver, and each message counts once."""
        self.denied = None
        await client.subscribe_direct(f"{BUS}.{self.pattern}", self._receive, self._queue)

    def deny(self, error: SubscriptionDenied) -> None:
        """The server refused it."""
        self.denied = error
        self._changed.set()

    def _receive(self, subject: bytes, _: bytes, __: bytes, data: bytes) -> None:
        if len(self._waiting) >= LIVE_WAITING:
            self._opener.refused["too many waiting"] += 1
            return
        message = self._opener.open(subject, data, BUS)
        if message is None or message in self._seen:
            return
        if is_too_old(message, time.time_ns() // 1_000_000):
            self._opener.refuse("stamped too long ago for a live message")
            return
        self._seen.add(message)
        self._waiting.append(message)
        self._changed.set()

    async def deliveries(self, stopping: asyncio.Event) -> AsyncGenerator[PendingMessage, None]:
        """Yield what passes by until ``stopping`` is set."""
        stop = asyncio.create_task(stopping.wait())
        stop.add_done_callback(lambda _: self._changed.set())
        try:
            while not stopping.is_set():
                if self._waiting:
                    yield PendingMessage(self._waiting.popleft(), self._session)
                elif self.raises and self.denied is not None:
                    raise self.denied
                else:
                    self._changed.clear()
                    await self._changed.wait()
        finally:
            stop.cancel()

    def handled(self, delivery: PendingMessage) -> None:
        """Nothing to note: a live message is handed over once as it is."""


async def _before(stop: asyncio.Task[Any], work: Coroutine[Any, Any, T]) -> T | None:
    """What ``work`` gives, or ``None`` if ``stop`` is done first."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
