"""A bot on the bus: what a bot author uses."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, Final, Self

from sealbus.codec import pack_json
from sealbus.credentials import Credentials
from sealbus.delivery import Message
from sealbus.envelope import Header
from sealbus.errors import InvalidInput
from sealbus.hardened import HardenedClient
from sealbus.limits import NONCE_BYTES
from sealbus.outcomes import NoReply
from sealbus.publisher import Publisher
from sealbus.receiving import Opener
from sealbus.requester import REQUEST_TIMEOUT_S, Requester
from sealbus.seal import Verifier
from sealbus.serving import Handled, Handler, serve
from sealbus.session import Session
from sealbus.stamp import Stamp
from sealbus.subjects import (
    BUS,
    INBOX,
    REPLY,
    check_pattern,
    check_subject,
    consumer_name,
    nonce_in,
    receipts_subject,
    reply_subject,
)
from sealbus.subscription import DurableSubscription, LiveSubscription

log = logging.getLogger("sealbus")

TTL_S: Final = 30.0
"""Life of an envelope: far longer than a verdict takes, half of what a policy allows by default."""

LIVE_TTL_S: Final = 5.0
PUBLISH_TIMEOUT_S: Final = 30.0
CONNECT_TIMEOUT_S: Final = 10.0
DRAIN_S: Final = 10.0
"""How long :meth:`Bot.close` waits for handlers and verdicts."""


class Bot:
    """One bot's presence on the bus. Not safe across threads; make it and use it in one event loop.

    Either run it by its handlers (:meth:`run`), or open it as a context and call its methods::

        async with Bot.from_environment() as bot:
            await bot.publish("orders.placed", {"order_id": "ord-000001"})
    """

    def __init__(self, credentials: Credentials, *, renew_s: float | None = None) -> None:
        """``renew_s``: how often the NATS session is renewed, in seconds; by default well before it ends."""
        self.credentials = credentials
        verifier = Verifier()
        options = {} if renew_s is None else {"renew_s": renew_s}
        self._session = Session(credentials, self._attach, **options)
        self._publisher = Publisher(credentials, self._session, verifier)
        self._receipts = receipts_subject(credentials.bot).encode()
        self._opener = Opener(credentials, verifier)
        self._requester = Requester(credentials, self._publisher, self._opener, verifier)
        self._handlers: list[Handled] = []
        self._live: list[LiveSubscription] = []
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sending: asyncio.Task[None] | None = None
        self._failed: asyncio.Future[None] | None = None

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """A bot with the credentials in ``path``. Raises :class:`CredentialsError`."""
        return cls(Credentials.load(path))

    @classmethod
    def from_environment(cls) -> Self:
        """A bot with the credentials that the environment names. Raises :class:`CredentialsError`."""
        return cls(Credentials.from_environment())

    @property
    def name(self) -> str:
        """The bot's name."""
        return self.credentials.bot

    @property
    def refused_deliveries(self) -> dict[str, int]:
        """How many deliveries this bot did not believe, by what did not hold."""
        return dict(self._opener.refused)

    # ---- being there -------------------------------------------------------------------------------------------------

    async def connect(self, timeout: float = CONNECT_TIMEOUT_S) -> None:  # noqa: ASYNC109  # a deadline of ours, with an error of its own
        """Connect, and return when every handler's subscription is in place.

        Raises :class:`ConnectionFailed` after ``timeout`` seconds, and :class:`InvalidInput` for a subscription that is not granted.
        """
        for handled in self._handlers:
            self._declare(handled)
        await self._session.open(timeout)
        self._failed = asyncio.get_running_loop().create_future()
        self._sending = asyncio.create_task(self._publisher.run())
        try:
            for handled in self._handlers:
                self._start(serve(handled, await self._place(handled), self._stopping))
        except BaseException:
            await self.close()
            raise

    async def close(self, timeout: float = DRAIN_S) -> None:  # noqa: ASYNC109  # how long to wait for others
        """Stop receiving, let handlers and verdicts finish for ``timeout`` seconds, and disconnect. May be called again."""
        self._stopping.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
            self._sending = None
        await self._session.close()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def run(self) -> None:
        """Connect, serve the handlers until SIGINT or SIGTERM, and close."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(
                NotImplementedError, RuntimeError
            ):  # not on the main thread, or not on this platform
                loop.add_signal_handler(number, stop.set)
        await self.connect()
        assert self._failed is not None
        waiting = asyncio.create_task(stop.wait())
        try:
            waits: list[asyncio.Future[Any]] = [waiting, self._failed]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if self._failed.done():
                self._failed.result()
        finally:
            waiting.cancel()
            await self.close()
            for number in (signal.SIGINT, signal.SIGTERM):
                with contextlib.suppress(NotImplementedError, RuntimeError):
                    loop.remove_signal_handler(number)

    # ---- speaking ----------------------------------------------------------------------------------------------------

    async def publish(
        self,
        subject: str,
        payload: Any,
        *,
        live: bool = False,
        schema: str | None = None,
        parent: Message | None = None,
        quote: bool = False,
        ttl: float | None = None,
        nonce: bytes | None = None,
        timeout: float = PUBLISH_TIMEOUT_S,  # noqa: ASYNC109  # retries share one deadline, and it has an error of its own
    ) -> Stamp:
        """Publish ``payload`` and return when the relay has accepted it: the stamp is its sealed word.

        ``live``: whether the policy declares the subject as live. ``schema``: such as ``"orders.placed.v1"``; by default the subject's
        first. ``parent``: the message this one follows from; ``quote``: whether its whole envelope travels along, which a cause rule with
        ``match`` needs. ``ttl``: life of the envelope in seconds. ``nonce``: 16 bytes, to resolve an earlier :class:`Unresolved`.

        Raises :class:`Refused` with the reason, :class:`Unresolved` after ``timeout`` seconds without verdict, :class:`InvalidInput`.
        """
        life_s = ttl if ttl is not None else (LIVE_TTL_S if live else TTL_S)
        header = self._header(subject, nonce or os.urandom(NONCE_BYTES), schema, life_s, _quoted(parent, quote))
        resumed = nonce is not None
        return await self._publisher.publish(header, pack_json(payload), live=live, resumed=resumed, timeout_s=timeout)

    async def request(
        self,
        subject: str,
        payload: Any,
        *,
        schema: str | None = None,
        timeout: float = REQUEST_TIMEOUT_S,  # noqa: ASYNC109  # an error of its own
    ) -> Message:
        """Ask on a live subject and return the first answer, verified.

        Raises :class:`Refused`, :class:`Unresolved`, or :class:`NoReply` after ``timeout`` seconds.
        """
        header = self._header(subject, os.urandom(NONCE_BYTES), schema, LIVE_TTL_S)
        return await self._requester.request(header, pack_json(payload), timeout_s=timeout)

    def _header(
        self, subject: str, nonce: bytes, schema: str | None, life_s: float, parent: bytes | None = None
    ) -> Header:
        identity, version = _split_schema(schema)
        return Header(
            bus=self.credentials.bus,
            bot=self.name,
            subject=check_subject(subject),
            nonce=nonce,
            issued_at_ms=0,  # set when it is sealed
            ttl_ms=int(life_s * 1000),
            schema=identity,
            schema_version=version,
            parent=parent,
        )

    # ---- listening ---------------------------------------------------------------------------------------------------

    def subscribe(
        self, pattern: str, *, live: bool = False, durable: str = "default", start: str = "new", concurrency: int = 1
    ) -> Callable[[Handler], Handler]:
        """Decorate ``async def handler(message)`` to be called with each message that ``pattern`` stands for.

        By default the subscription is durable: at least once, also what came while the bot was away. A message counts as done when the
        handler returns, and is delivered again, later each time, when it raises. ``durable`` names the place that is remembered: handlers
        with one name share the messages, also across processes. ``start``: ``"new"`` or ``"all"`` that is stored, for the first time
        that the name is used. ``concurrency``: handlers at once; 1 keeps the order. ``live=True`` instead listens to what passes by, at
        most once; it is the only way for live subjects.
        """
        check_pattern(pattern)
        if start not in ("new", "all"):
            raise InvalidInput(f"start {start!r} is not known", hint='use "new" or "all"')

        def register(handler: Handler) -> Handler:
            self._handle(Handled(handler, pattern, None if live else durable, start, concurrency))
            return handler

        return register

    def reply(self, pattern: str, *, concurrency: int = 64) -> Callable[[Handler], Handler]:
        """Decorate ``async def handler(message) -> payload`` to answer requests on a live subject.

        Of several processes of this bot, one answers. A handler that raises answers nothing, and the asker's time runs out.
        """
        check_pattern(pattern)

        def register(handler: Handler) -> Handler:
            async def answer(message: Message) -> None:
                payload = await handler(message)
                subject = reply_subject(message.bot, message.nonce)
                await self.publish(subject, payload, live=True, parent=message, timeout=REQUEST_TIMEOUT_S)

            self._handle(Handled(answer, pattern, None, "new", concurrency, queue=self.name))
            return handler

        return register

    async def messages(
        self, pattern: str, *, live: bool = False, durable: str = "default", start: str = "new"
    ) -> AsyncGenerator[Message, None]:
        """Iterate over messages; the arguments are those of :meth:`subscribe`.

        A durable message counts as done when the loop asks for the next one.
        """
        subscription = await self._subscribed(check_pattern(pattern), None if live else durable, start)
        async with contextlib.aclosing(subscription.deliveries(self._stopping)) as deliveries:
            async for delivery in deliveries:
                with delivery:
                    yield delivery.message
                subscription.handled(delivery)
                delivery.acknowledge()

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _handle(self, handled: Handled) -> None:
        self._handlers.append(handled)
        if self._sending is not None:
            self._start(self._place_and_serve(handled))

    def _declare(self, handled: Handled) -> None:
        """Before connecting: have the first session allow what the handlers will need."""
        if handled.durable is None:
            handled.live = LiveSubscription(self._session, self._opener, handled.pattern, handled.queue)
            self._live.append(handled.live)
        else:
            self._session.consumers.add(consumer_name(self.name, handled.pattern, handled.durable))

    async def _attach(self, client: HardenedClient) -> None:
        """Subscribe everything on a new connection."""
        await client.subscribe_direct(f"{INBOX}.{self.name}.*", self._on_receipt)
        await client.subscribe_direct(f"{BUS}.{REPLY}.{self.name}.*", self._requester.receive)
        for subscription in self._live:
            await subscription.attach(client)

    async def _subscribed(
        self, pattern: str, durable: str | None, start: str, queue: str = ""
    ) -> DurableSubscription | LiveSubscription:
        if durable is None:
            live = LiveSubscription(self._session, self._opener, pattern, queue)
            self._live.append(live)
            await live.attach(await self._session.client())
            return live
        ask = {"pattern": pattern, "durable": durable, "from": start}
        answer = (await self._insist("sealbus.subscribe", ask)).payload
        if "error" in answer:
            raise InvalidInput(f"cannot subscribe to {pattern}: {answer['error']}")
        consumer = consumer_name(self.name, pattern, durable)
        await self._session.add_consumer(consumer)
        return DurableSubscription(self._session, self._opener, self.name, consumer)

    async def _insist(self, subject: str, payload: Any) -> Message:
        """Ask one of the bus's own services, until it answers."""
        while True:
            try:
                return await self.request(subject, payload)
            except NoReply:
                if self._stopping.is_set():
                    raise

    async def _place(self, handled: Handled) -> DurableSubscription | LiveSubscription:
        return handled.live or await self._subscribed(handled.pattern, handled.durable, handled.start, handled.queue)

    async def _place_and_serve(self, handled: Handled) -> None:
        await serve(handled, await self._place(handled), self._stopping)

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.error("a subscription ended: %s", error)
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(error)

    def _on_receipt(self, subject: bytes, _: bytes, __: bytes, data: bytes) -> None:
        if subject == self._receipts:
            self._publisher.receive(data)
        elif (nonce := nonce_in(subject)) is not None:
            self._publisher.receive(data, nonce)


def _quoted(parent: Message | None, quote: bool) -> bytes | None:
    return parent.as_parent(with_envelope=quote) if parent is not None else None


def _split_schema(name: str | None) -> tuple[str | None, int | None]:
    if name is None:
        return None, None
    identity, dot, number = name.rpartition(".v")
    if not dot or not (number.isascii() and number.isdigit()):
        raise InvalidInput(f"schema {name!r} is not valid", hint="use a name and a version, like orders.placed.v1")
    return identity, int(number)
