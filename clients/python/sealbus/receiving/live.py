"""Live subscriptions: messages as they pass by, delivered at most once.

How one works. The reading loop of each connection calls ``_receive``, which checks a message and
puts it into a bounded queue. :meth:`LiveSubscription.next` takes it out. A delivery that does not
fit is dropped, counted, and told in the log: nothing here may hold up the reading loop, which all
subscriptions of a bot share.

* **asked**: it is attached to a connection. nats-server refuses a subscription after the fact, by
  an error that names the subject, so there is no moment of consent: the listener flushes, and takes
  the absence of an error for one.
* **placed** (``placed``): it was granted once. A later refusal means that the grant is gone.
* **denied** (``denied``): the server refused it on the newest connection. Cleared by every
  :meth:`~LiveSubscription.attach`, because the policy may have changed back.
* **closed** (``closed``): it has ended. New connections leave it out, the others have it no more,
  and nothing is received.

The listener (:mod:`sealbus.receiving.listener`) attaches it to each new connection. During a
renewal two connections deliver, and a nonce that was seen counts once. Messages that pass while
there is no connection are missed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from sealbus.errors import SubscriptionDenied
from sealbus.log import log
from sealbus.nats.client import HardenedClient
from sealbus.protocol.subjects import BUS, is_bookkeeping
from sealbus.receiving.live_queue import LiveQueue
from sealbus.receiving.verifier import DeliveryVerifier, HandledMessages, PendingMessage
from sealbus.supervision import Supervisor, end
from sealbus.waiting import undisturbed

TOO_MANY: Final = "too many waiting"
"""The name of deliveries without room in :attr:`DeliveryVerifier.refused`."""

TOLD_AGAIN_S: Final = 10.0
"""How long the log says nothing more about deliveries that are dropped. A flood would fill it."""


class LiveSubscription:
    """Messages on one pattern, as they pass by."""

    def __init__(
        self,
        *,
        opener: DeliveryVerifier,
        supervisor: Supervisor,
        pattern: str,
        queue: str = "",
    ) -> None:
        """``queue``: the queue group whose members share the messages; empty: none."""
        self._opener = opener
        self._supervisor = supervisor
        self.pattern = pattern
        self._queue = queue
        self.placed = False
        """Whether the server has granted it once."""
        self.denied: SubscriptionDenied | None = None
        """The server's refusal, on the newest connection."""
        self.raises = False
        """Whether :meth:`next` raises a refusal. Otherwise the listener tells a hook."""
        self._waiting = LiveQueue(lambda subject, data: opener.open(subject, data, BUS))
        self._changed = asyncio.Event()
        """Wakes :meth:`next`: a message, a refusal or the stop."""
        self._stop = asyncio.Event()
        """Set once, by :meth:`stop` or by the bot's signal."""
        self._seen = HandledMessages()
        """Messages that were queued: a copy of one is dropped."""
        self._dropped = 0
        """Deliveries without room that the log has not told yet."""
        self._telling: asyncio.TimerHandle | None = None
        """Set after the log has told of some, until it looks for more."""
        self._attached: dict[HardenedClient, Subscription | None] = {}
        """Connections that it is attached to. ``None`` while it is being attached. Closed ones are
        dropped when another one comes."""
        self._listening: list[Subscription] = []
        """Subscriptions that receive nothing: see :meth:`_leave`."""
        self.closed = False
        """Whether it has ended: new connections leave it out, and nothing is received."""

    async def attach(self, client: HardenedClient) -> None:
        """Subscribe on a new connection. For a connection that it is attached to, it does nothing.

        Raises nats-py's errors and :class:`OSError`.
        """
        if client in self._attached:
            return
        self._attached = {one: its for one, its in self._attached.items() if not one.is_closed}
        # Before it awaits: the listener and whoever subscribes may both attach it at this moment.
        self._attached[client] = None
        self.denied = None
        try:
            subscription = await client.subscribe_direct(
                f"{BUS}.{self.pattern}",
                self._receive,
                self._queue,
            )
        except BaseException:
            self._attached.pop(client, None)
            raise
        self._attached[client] = subscription
        if self.closed:  # meanwhile
            await self.detach()

    def deny(self, error: SubscriptionDenied) -> None:
        """The server refused it, on some connection."""
        self.denied = error
        self._changed.set()

    def _receive(self, subject: bytes, _: bytes, headers: bytes, data: bytes) -> None:
        if self.closed:
            return  # it came before the server knew
        if not data and not headers:
            return  # a relay finds out by it whether anybody listens
        if is_bookkeeping(subject, BUS):
            return
        # Before it is opened: messages that would be dropped must cost no check of a signature.
        if not self._waiting.has_room(data):
            self._drop()
            return
        messages = self._opener.open(subject, data, BUS)
        messages = [message for message in messages if message not in self._seen]
        if not messages or self._opener.is_late_live(messages[0]):
            return
        # Last, because a delivery that is void must not be remembered (docs/protocol.md, check 11).
        for message in messages:
            self._seen.add(message)
        self._waiting.put(messages, subject, data)
        self._changed.set()

    def _drop(self) -> None:
        """Count a delivery without room. The first one is told at once."""
        self._opener.refused[TOO_MANY] += 1
        self._dropped += 1
        if self._telling is None:
            self._tell_drops()

    def _tell_drops(self) -> None:
        """Log those that were not told yet, and look again later, unless it has ended."""
        self._telling = None
        if self._dropped:
            log.warning(
                "live deliveries on %s were dropped, because too many wait for the handler: %d",
                self.pattern,
                self._dropped,
            )
            self._dropped = 0
            if not self.closed:
                self._telling = self._supervisor.later(
                    f"drops on {self.pattern}", TOLD_AGAIN_S, self._tell_drops
                )

    @contextlib.asynccontextmanager
    async def open(self, stopping: asyncio.Event) -> AsyncIterator[None]:
        """While the body runs, :meth:`next` gives messages, until ``stopping`` is set.

        From then on nothing is received. A cancellation does not cut the end short.
        """
        watching = self._supervisor.keep(
            f"the stop of {self.pattern}",
            lambda: self._end_after(stopping),
            until=stopping,
        )
        try:
            yield
        finally:
            await undisturbed(self._end(watching), name=f"ending {self.pattern}")

    async def _end_after(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self.stop()
        await self._leave()

    async def _leave(self) -> None:
        """Receive nothing more while handlers still work.

        Otherwise the server would go on giving requests to this process, and other processes of the
        bot could have answered them. But this process still counts as one that listens. A relay
        asks for that just behind a request, and would tell the asker of a request in hand that
        nobody does.
        """
        for client in list(self._attached) if self._queue else ():
            with contextlib.suppress(NatsError, OSError):
                self._listening.append(
                    await client.subscribe_direct(f"{BUS}.{self.pattern}", _ignore)
                )
        await self.detach()

    async def _end(self, watching: asyncio.Task[None]) -> None:
        await end(watching)
        self.stop()
        await self.detach()
        for subscription in self._listening:
            await _unsubscribe(subscription)

    async def detach(self) -> None:
        """Subscribe no more, on any connection, and forget the messages that wait."""
        self.closed = True
        if self._telling is not None:
            self._telling.cancel()
            self._tell_drops()
        self._waiting.clear()
        self._seen = HandledMessages()
        # During a renewal, or after an attempt at one that failed, there are several.
        while self._attached:
            _, subscription = self._attached.popitem()
            if subscription is not None:
                await _unsubscribe(subscription)

    def stop(self) -> None:
        """Take nothing more."""
        self._stop.set()
        self._changed.set()

    async def next(self) -> PendingMessage | None:
        """The next message, or ``None`` once the subscription stops.

        Raises :class:`SubscriptionDenied` if :attr:`raises` is set.
        """
        while not self._stop.is_set():
            while self._waiting:
                message = self._waiting.pop()
                if message is not None:
                    return PendingMessage(message)
            if self.raises and self.denied is not None:
                raise self.denied
            self._changed.clear()
            await self._changed.wait()
        return None


async def _unsubscribe(subscription: Subscription) -> None:
    with contextlib.suppress(NatsError, OSError):
        await subscription.unsubscribe()


def _ignore(*_: bytes) -> None:
    """Receive nothing."""
