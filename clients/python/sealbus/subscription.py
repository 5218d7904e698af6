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
from collections import Counter, deque
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from sealbus.credentials import Credentials
from sealbus.delivery import Message, open_delivery
from sealbus.errors import Malformed
from sealbus.frames import pub
from sealbus.hardened import HardenedClient
from sealbus.seal import Verifier
from sealbus.session import Session
from sealbus.subjects import BUS, INBOX

log = logging.getLogger("sealbus")
T = TypeVar("T")

PULL_MESSAGES: Final = 128
"""Most messages in hand: asked for, or waiting for the handler. Each must be handled within 30 s, or the server delivers it again."""

PULL_S: Final = 5.0
"""How long a request for messages waits at the server; also how soon a lost one is noticed."""

REFUSED_S: Final = 1.0
"""Pause before the next request where the server would not have the last one (too many of them, or no such consumer any more)."""

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

    def open(self, subject: bytes, data: bytes, prefix: str) -> Message | None:
        """The verified message in ``data``, whose NATS subject begins with ``prefix`` and a dot; ``None`` for anything else."""
        credentials = self._credentials
        name = subject.decode("utf-8", "replace").removeprefix(f"{prefix}.")
        try:
            return open_delivery(data, name, credentials.bus, credentials.bus_keys, self._verifier)
        except Malformed as error:
            self.refuse(error.what)
            return None

    def refuse(self, why: str) -> None:
        """Count a delivery that is not believed."""
        self.refused[why] += 1
        log.warning("a delivery was refused: %s", why)


@dataclass(slots=True, eq=False)
class Delivery:
    """One message in hand. Live ones need no acknowledgement; for them the methods do nothing.

    As a context it is *in progress*: while the body runs, the server is told that it does.
    """

    message: Message
    _session: Session
    _reply: bytes = b""
    _attempt: int = 1
    _telling: asyncio.TimerHandle | None = None

    def acknowledge(self) -> None:
        """It is done: the server forgets it. Where this is lost the message comes again, and is known by its nonce."""
        self._answer(b"+ACK")

    def fail(self) -> None:
        """It is not done: the server delivers it again, later each time."""
        delay_s = min(RETRY_FIRST_S * 2 ** (self._attempt - 1), RETRY_MOST_S)
        self._answer(b"-NAK " + json.dumps({"delay": int(delay_s * 1e9)}).encode())

    def __enter__(self) -> None:
        if self._reply:
            self._telling = asyncio.get_running_loop().call_later(PROGRESS_S, self._tell)

    def __exit__(self, *_: object) -> None:
        if self._telling is not None:
            self._telling.cancel()

    def _tell(self) -> None:
        self._answer(b"+WPI")
        self._telling = asyncio.get_running_loop().call_later(PROGRESS_S, self._tell)

    def _answer(self, text: bytes) -> None:
        if self._reply:
            self._session.write_soon(pub(self._reply, text))


class DurableSubscription:
    """Messages from a JetStream consumer that remembers how far this subscription has come."""

    def __init__(self, session: Session, opener: Opener, bot: str, consumer: str) -> None:
        self._session = session
        self._opener = opener
        self._bot = bot
        self._consumer = consumer
        self._mine = f"$JS.ACK.ACCEPTED.{consumer}.".encode()
        self._seen = Seen()

    async def deliveries(self, stopping: asyncio.Event) -> AsyncGenerator[Delivery, None]:
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

    async def _from(self, client: HardenedClient, stop: asyncio.Task[Any]) -> AsyncGenerator[Delivery, None]:
        """What comes on one connection, as long as it is the one in use; what has been asked for on it is taken to the end."""
        # The inbox's name is a secret of this connection: nobody else can have the server send something here.
        pull = _Pull(client, self._consumer, f"{INBOX}.{self._bot}.{os.urandom(16).hex()}")
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

    def _take(self, subject: bytes, reply: bytes, data: bytes) -> Delivery | None:
        if not reply.startswith(self._mine):
            self._opener.refuse("not from this subscription's own consumer")
            return None
        message = self._opener.open(subject, data, "accepted")
        if message is None:
            # It will not become one: nobody but the relay writes there, so somebody got past it. Not delivered again and again.
            self._session.write_soon(pub(reply, b"+TERM"))
            return None
        deliveries = reply[len(self._mine) :].partition(b".")[0]
        delivery = Delivery(message, self._session, reply, int(deliveries) if deliveries.isdigit() else 1)
        if message in self._seen:
            delivery.acknowledge()
            return None
        return delivery

    def handled(self, delivery: Delivery) -> None:
        """Note that ``delivery`` has been handled."""
        self._seen.add(delivery.message)


class _Pull:
    """Requests for messages to one consumer on one connection, one at a time, and what came for them."""

    def __init__(self, client: HardenedClient, consumer: str, inbox: str) -> None:
        self._client = client
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.ACCEPTED.{consumer}".encode()
        self._inbox = inbox
        self._requests = 0
        self._reply = b""
        """Of the last request, and of no other: what the server says of an earlier one is not about this one."""
        self._changed = asyncio.Event()
        self._subscription: Subscription | None = None
        self._ending: asyncio.TimerHandle | None = None
        self.waiting: deque[tuple[bytes, bytes, bytes]] = deque()
        """Subject, reply and body of each message that came and was not taken yet."""
        self.outstanding = 0
        """How many messages the request under way may still bring; 0: there is none."""

    async def open(self, stop: asyncio.Task[Any]) -> None:
        """Subscribe; :meth:`changed` also returns when ``stop`` is done or the connection is closed."""
        self._subscription = await self._client.subscribe_direct(f"{self._inbox}.*.pull", self._receive)
        self._client.when_closed.add(self._changed.set)
        stop.add_done_callback(self._wake)
        self._stop = stop

    async def close(self) -> None:
        """Unsubscribe."""
        if self._subscription is None:
            return
        if self._ending is not None:
            self._ending.cancel()
        self._stop.remove_done_callback(self._wake)
        self._client.when_closed.discard(self._changed.set)
        with contextlib.suppress(NatsError, OSError):
            await self._subscription.unsubscribe()

    def _wake(self, _: object) -> None:
        self._changed.set()

    def ask(self) -> None:
        """Ask for more, once the last request is over and little of what came is left: the server need not wait for the handler."""
        if self.outstanding or len(self.waiting) > PULL_MESSAGES // 2:
            return
        self._requests += 1
        self._reply = f"{self._inbox}.{self._requests}.pull".encode()
        self.outstanding = PULL_MESSAGES - len(self.waiting)
        wanted = {"batch": self.outstanding, "expires": int(PULL_S * 1e9)}
        self._client.write([pub(self._subject, json.dumps(wanted).encode(), self._reply)])
        self._end_in(PULL_S + 1)

    def _end_in(self, seconds: float) -> None:
        if self._ending is not None:
            self._ending.cancel()
        self._ending = asyncio.get_running_loop().call_later(seconds, self._end)

    def _end(self) -> None:
        """Nothing more will come for what has been asked."""
        if self._ending is not None:
            self._ending.cancel()
        self.outstanding = 0
        self._changed.set()

    def _receive(self, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        if reply:
            self.waiting.append((subject, reply, data))
            self.outstanding -= 1
            if self.outstanding <= 0:
                self._end()
            self._changed.set()
        elif subject == self._reply:  # a status: this request is over
            if headers.startswith(_ENDED):
                self._end()
            else:
                self._end_in(REFUSED_S)

    async def changed(self) -> None:
        """Wait until something came or ended."""
        self._changed.clear()
        await self._changed.wait()


_ENDED: Final = (b"NATS/1.0 404", b"NATS/1.0 408")
"""Nothing there; its time is over."""


class LiveSubscription:
    """Messages as they pass by. What passes while the bot is away, or too busy, is missed."""

    def __init__(self, session: Session, opener: Opener, pattern: str, queue: str = "") -> None:
        self._session = session
        self._opener = opener
        self._pattern = pattern
        self._queue = queue
        self._waiting: deque[Message] = deque()
        self._changed = asyncio.Event()
        self._seen = Seen()

    async def attach(self, client: HardenedClient) -> None:
        """Subscribe on a new connection; during a renewal both deliver, and each message counts once."""
        await client.subscribe_direct(f"{BUS}.{self._pattern}", self._receive, self._queue)

    def _receive(self, subject: bytes, _: bytes, __: bytes, data: bytes) -> None:
        if len(self._waiting) >= LIVE_WAITING:
            self._opener.refused["too many waiting"] += 1
            return
        message = self._opener.open(subject, data, BUS)
        if message is None or message in self._seen:
            return
        if time.time() - message.stamp.judged_at_ms / 1000 > LIVE_MAX_AGE_S:
            self._opener.refuse("stamped too long ago for a live message")
            return
        self._seen.add(message)
        self._waiting.append(message)
        self._changed.set()

    async def deliveries(self, stopping: asyncio.Event) -> AsyncGenerator[Delivery, None]:
        """Yield what passes by until ``stopping`` is set."""
        stop = asyncio.create_task(stopping.wait())
        stop.add_done_callback(lambda _: self._changed.set())
        try:
            while not stopping.is_set():
                if self._waiting:
                    yield Delivery(self._waiting.popleft(), self._session)
                else:
                    self._changed.clear()
                    await self._changed.wait()
        finally:
            stop.cancel()

    def handled(self, delivery: Delivery) -> None:
        """Nothing to note: a live message is handed over once as it is."""


async def _before(stop: asyncio.Task[Any], work: Coroutine[Any, Any, T]) -> T | None:
    """What ``work`` gives, or ``None`` if ``stop`` is done first."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
