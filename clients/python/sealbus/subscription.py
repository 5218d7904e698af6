"""Receiving: durable subscriptions, which JetStream remembers a place for, and live ones.

Whatever arrives is believed only after :func:`~sealbus.delivery.open_delivery` has verified it. A message is handed over once: nonces that
were handled are remembered, so what a crash or a renewal delivers twice is acknowledged and not handled again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from sealbus.credentials import Credentials
from sealbus.delivery import Message, open_delivery
from sealbus.errors import Malformed
from sealbus.hardened import HardenedClient
from sealbus.seal import Verifier
from sealbus.session import Session
from sealbus.subjects import BUS, INBOX

log = logging.getLogger("sealbus")
T = TypeVar("T")

PULL_MESSAGES: Final = 128
PULL_S: Final = 5.0
"""How long a request for messages waits at the server; also how soon a lost one is noticed."""

PROGRESS_S: Final = 10.0
"""A handler that works longer says so this often: the server waits 30 s before it delivers again."""

RETRY_FIRST_S: Final = 1.0
RETRY_MOST_S: Final = 60.0
"""Before a message whose handler failed is delivered again: doubled with each attempt."""

REMEMBERED: Final = 65_536
"""Nonces of handled messages kept: minutes of a busy subject, about 8 MiB."""

LIVE_WAITING: Final = 4096
"""Live messages that may wait for a handler; more are dropped, as live messages may be."""

LIVE_MAX_AGE_S: Final = 60.0
"""An older live message is refused: it has been held back, or was pulled from the store by somebody else."""


class Seen:
    """The last messages that were handled, by sender and nonce: a nonce is its bot's own, and another may use the same."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, bytes], None] = {}

    def __contains__(self, message: Message) -> bool:
        return (message.bot, message.nonce) in self._seen

    def add(self, message: Message) -> None:
        """Remember ``message``, and forget the oldest where there are too many."""
        if len(self._seen) >= REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._seen[message.bot, message.nonce] = None


class Opener:
    """Turns what arrived into messages, and counts what was not one."""

    def __init__(self, credentials: Credentials, verifier: Verifier) -> None:
        self._credentials = credentials
        self._verifier = verifier
        self.refused: Counter[str] = Counter()
        """How many deliveries were refused, by what did not hold."""

    def open(self, msg: Msg, prefix: str) -> Message | None:
        """The verified message in ``msg``, whose NATS subject begins with ``prefix`` and a dot; ``None`` for anything else."""
        credentials = self._credentials
        subject = msg.subject.removeprefix(f"{prefix}.")
        try:
            return open_delivery(msg.data, subject, credentials.bus, credentials.bus_keys, self._verifier)
        except Malformed as error:
            self.refuse(error.what)
            return None

    def refuse(self, why: str) -> None:
        """Count a delivery that is not believed."""
        self.refused[why] += 1
        log.warning("a delivery was refused: %s", why)


@dataclass(slots=True, eq=False)
class Delivery:
    """One message in hand. Live ones need no acknowledgement; for them the methods do nothing."""

    message: Message
    _session: Session
    _reply: str | None
    _attempt: int = 1

    async def acknowledge(self) -> None:
        """It is done: the server forgets it."""
        await self._answer(b"+ACK")

    async def fail(self) -> None:
        """It is not done: the server delivers it again, later each time."""
        delay_s = min(RETRY_FIRST_S * 2 ** (self._attempt - 1), RETRY_MOST_S)
        await self._answer(b"-NAK " + json.dumps({"delay": int(delay_s * 1e9)}).encode())

    @contextlib.asynccontextmanager
    async def in_progress(self) -> AsyncIterator[None]:
        """While the body runs, the server is told that it does."""
        if self._reply is None:
            yield
            return
        task = asyncio.create_task(self._keep_telling())
        try:
            yield
        finally:
            task.cancel()

    async def _keep_telling(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            await self._answer(b"+WPI")

    async def _answer(self, text: bytes) -> None:
        if self._reply is not None:
            await _answer(self._session, self._reply, text)


class DurableSubscription:
    """Messages from a JetStream consumer that remembers how far this subscription has come."""

    def __init__(self, session: Session, opener: Opener, bot: str, consumer: str) -> None:
        self._session = session
        self._opener = opener
        self._bot = bot
        self._consumer = consumer
        self._mine = f"$JS.ACK.ACCEPTED.{consumer}."
        self._seen = Seen()

    async def deliveries(self, stopping: asyncio.Event) -> AsyncGenerator[Delivery, None]:
        """Yield what is new, for ever, through lost and renewed connections, until ``stopping`` is set."""
        while not stopping.is_set():
            client = await _unless(stopping, self._session.client())
            if client is None:
                return
            try:
                async with contextlib.aclosing(self._pull(client, stopping)) as messages:
                    async for delivery in messages:
                        yield delivery
            except (NatsError, OSError) as error:
                log.debug("pull: %s", type(error).__name__)
                if self._session.is_current(client):
                    await asyncio.sleep(0.1)

    async def _pull(self, client: HardenedClient, stopping: asyncio.Event) -> AsyncGenerator[Delivery, None]:
        """Pull on one connection, as long as it is the one in use; what has been asked for on it is taken to the end."""
        # The inbox's name is a secret of this connection: nobody else can have the server send something here.
        inbox = f"{INBOX}.{self._bot}.{os.urandom(16).hex()}.pull"
        subscription = await client.subscribe(inbox)
        ask = json.dumps({"batch": PULL_MESSAGES, "expires": int(PULL_S * 1e9)}).encode()
        try:
            with self._session.hold(client):
                while not stopping.is_set() and self._session.is_current(client):
                    await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.ACCEPTED.{self._consumer}", ask, reply=inbox)
                    for _ in range(PULL_MESSAGES):
                        msg = await _next(subscription, stopping)
                        if msg is None or not msg.reply:  # nothing for now, or a status: ask again
                            break
                        delivery = await self._take(msg)
                        if delivery is not None:
                            yield delivery
        finally:
            with contextlib.suppress(NatsError, OSError):
                await subscription.unsubscribe()

    async def _take(self, msg: Msg) -> Delivery | None:
        if not msg.reply.startswith(self._mine):
            self._opener.refuse("not from this subscription's own consumer")
            return None
        deliveries = msg.reply.removeprefix(self._mine).split(".")[0]
        message = self._opener.open(msg, "accepted")
        if message is None:
            # It will not become one: nobody but the relay writes there, so somebody got past it. Not delivered again and again.
            await _answer(self._session, msg.reply, b"+TERM")
            return None
        delivery = Delivery(message, self._session, msg.reply, int(deliveries) if deliveries.isdigit() else 1)
        if message in self._seen:
            await delivery.acknowledge()
            return None
        return delivery

    def handled(self, delivery: Delivery) -> None:
        """Note that ``delivery`` has been handled."""
        self._seen.add(delivery.message)


class LiveSubscription:
    """Messages as they pass by. What passes while the bot is away, or too busy, is missed."""

    def __init__(self, session: Session, opener: Opener, pattern: str, queue: str = "") -> None:
        self._session = session
        self._opener = opener
        self._pattern = pattern
        self._queue = queue
        self._waiting: asyncio.Queue[Message] = asyncio.Queue(LIVE_WAITING)
        self._seen = Seen()

    async def attach(self, client: HardenedClient) -> None:
        """Subscribe on a new connection; during a renewal both deliver, and each message counts once."""
        await client.subscribe(f"{BUS}.{self._pattern}", queue=self._queue, cb=self._on_message)

    async def _on_message(self, msg: Msg) -> None:
        message = self._opener.open(msg, BUS)
        if message is None or message in self._seen:
            return
        if time.time() - message.stamp.judged_at_ms / 1000 > LIVE_MAX_AGE_S:
            self._opener.refuse("stamped too long ago for a live message")
            return
        self._seen.add(message)
        try:
            self._waiting.put_nowait(message)
        except asyncio.QueueFull:
            self._opener.refused["too many waiting"] += 1

    async def deliveries(self, stopping: asyncio.Event) -> AsyncGenerator[Delivery, None]:
        """Yield what passes by until ``stopping`` is set."""
        while not stopping.is_set():
            message = await _unless(stopping, self._waiting.get())
            if message is not None:
                yield Delivery(message, self._session, None)

    def handled(self, delivery: Delivery) -> None:
        """Nothing to note: a live message is handed over once as it is."""


async def _answer(session: Session, reply: str, text: bytes) -> None:
    """Acknowledge, or not. Where that is lost the message comes again, and is known by its nonce."""
    with contextlib.suppress(NatsError, OSError):
        client = await session.client()
        await client.publish(reply, text)


async def _next(subscription: Subscription, stopping: asyncio.Event) -> Msg | None:
    """The next message, or ``None`` after a request's time, or when stopping."""
    with contextlib.suppress(TimeoutError):
        return await _unless(stopping, subscription.next_msg(PULL_S + 1))
    return None


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What ``work`` gives, or ``None`` if ``stopping`` is set first."""
    task, stop = asyncio.ensure_future(work), asyncio.ensure_future(stopping.wait())
    try:
        waits: list[asyncio.Future[Any]] = [task, stop]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        stop.cancel()
