"""Durable subscriptions: messages from a JetStream consumer that remembers how far a bot has come.

How one works. The supply (:mod:`sealbus.receiving.supply`) fetches messages while there is room for
them (:mod:`~sealbus.receiving.window`). :meth:`DurableSubscription.next` opens the first one that
waits and hands it over. The message is then at work until it ends in one of four ways:

* **handled**: it is acknowledged, and its nonce is remembered.
* **failed**: it goes back to the server, which delivers it again after a pause
  (:mod:`~sealbus.receiving.attempts`).
* **parked**: it failed for the last time, and the relay keeps it
  (:mod:`~sealbus.receiving.parking`).
* **given back**: it was not tried, and is delivered again at once.

A message is handed over once in this process. A copy of a message that is at work or was handled is
recognised by its sender and nonce. A message that the server was not told of in time is not begun,
because another process may have it.

When the connection is lost, messages at work go on. Acknowledgements wait for the next connection.
If they come too late the server delivers the messages again, and they are recognised.

A stop gives back waiting messages, at once and in order, without waiting for the handlers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from sealbus.errors import SubscriptionDenied
from sealbus.life.session import Session
from sealbus.nats.acks import ACK, Ack, nak
from sealbus.nats.frames import pub
from sealbus.protocol.shelf_life import is_void
from sealbus.protocol.streams import ACCEPTED_PREFIX
from sealbus.protocol.subjects import is_bookkeeping
from sealbus.receiving.attempts import Attempts
from sealbus.receiving.durable_message import DurableMessage
from sealbus.receiving.in_hand import InHand
from sealbus.receiving.parking import NO_OUTCOME, UNVERIFIED, Parking
from sealbus.receiving.place import Place
from sealbus.receiving.supply import Supply
from sealbus.receiving.verifier import DeliveryVerifier, HandledMessages, PendingMessage
from sealbus.supervision import Supervisor, end
from sealbus.waiting import before, set_after

UNREPORTED_S: Final = 25.0
"""A message that the server was not told of for so long is not begun. After 30 s another process
may have it."""


class DurableSubscription:
    """Gives the messages of one consumer, one by one, through lost and renewed connections. The
    module names the ends of a message."""

    def __init__(
        self,
        *,
        session: Session,
        opener: DeliveryVerifier,
        place: Place,
        supervisor: Supervisor,
        concurrency: int = 1,
    ) -> None:
        """
        Args:
            session: gives one connection after the other, and takes acknowledgements.
            opener: opens deliveries, and counts those that are refused.
            place: the consumer, and the requests about it.
            supervisor: answers for the tasks and timers.
            concurrency: how many messages are worked on at once. With 1 they keep their order.
        """
        self._session = session
        self._opener = opener
        self._place = place
        self._supervisor = supervisor
        self._time = asyncio.get_running_loop().time
        self._hand = InHand(concurrency)
        self._attempts = Attempts(place.attempts)
        self._seen = HandledMessages()
        """Messages that were handled or parked: never handed over again."""
        self._stop = asyncio.Event()
        """Set once, by :meth:`stop` or by the bot's signal."""
        self._changed = asyncio.Event()
        """Wakes :meth:`next`: a message arrived, the supply ended, or the subscription stops."""
        self._supply = Supply(
            session=session,
            place=place,
            supervisor=supervisor,
            hand=self._hand,
            stop=self._stop,
            in_order=concurrency == 1,
            arrived=self._arrived,
            give_back=self._return,
            settle=self._settle,
            refuse=opener.refuse,
        )
        self._given_back = b""
        """Where the last answer went that gave a message back; empty once the server has it."""
        self._supplying: asyncio.Task[None] | None = None
        """The supply's task, while the subscription is open."""
        self._parking = Parking(
            place=place,
            supervisor=supervisor,
            stop=self._stop,
            answer=self._answer,
        )

    # ---- for whoever handles the messages --------------------------------------------------------

    @contextlib.asynccontextmanager
    async def open(self, stopping: asyncio.Event) -> AsyncIterator[None]:
        """While the body runs, :meth:`next` gives messages, until ``stopping`` is set.

        Messages that wait then are given back at once.
        """
        consumer = self._place.consumer
        supervisor = self._supervisor
        watching = supervisor.keep(
            f"the stop of {consumer}",
            lambda: set_after(stopping, self._stop, self._changed, self._supply.attention),
            until=stopping,
        )
        self._supplying = supervisor.keep(
            f"pulling from {consumer}",
            self._supply.run,
            until=self._stop,
            passes=(SubscriptionDenied,),
        )
        self._supplying.add_done_callback(lambda _: self._changed.set())
        try:
            yield
        finally:
            # The supply ends first, because it gives back waiting messages. Then parking, which
            # needs the timer's signs of progress for as long as the relay takes.
            await end(watching)
            self.stop()
            # Not awaited itself: its error is for next(), which raises it.
            await asyncio.wait([self._supplying])
            await self._parking.close()
            # Whoever subscribes next asks for messages at once.
            await self._settle()
            self._supply.close()

    def stop(self) -> None:
        """Fetch nothing more. Waiting messages are given back; those at work may end."""
        self._stop.set()
        self._changed.set()
        self._supply.attention.set()

    async def next(self) -> PendingMessage | None:
        """The next message, from now on at work, or ``None`` once the subscription stops."""
        assert self._supplying is not None
        waiting = self._hand.waiting
        while not self._stop.is_set():
            if self._parking.is_full:
                await before(self._stop, self._parking.one_ended())
                continue
            while waiting:
                # Asked for now, so that the next messages are on their way while a handler works.
                message = self._begin(waiting.popleft())
                self._supply.ask()
                if message is not None:
                    return message
            if self._supplying.done():
                self._supplying.result()  # raises SubscriptionDenied where the grant is gone
                return None
            self._changed.clear()
            await self._changed.wait()
        return None

    # ---- from a delivery to a message ------------------------------------------------------------

    def _arrived(self, subject: bytes, reply: bytes, ack: Ack, data: bytes) -> None:
        now = self._time()
        held = DurableMessage(self, subject=subject, reply=reply, ack=ack, data=data, now=now)
        self._hand.waiting.append(held)
        self._changed.set()

    def _begin(self, held: DurableMessage) -> DurableMessage | None:
        """Open a delivery; ``None`` if it is not a message, or not one to be handled now."""
        now = self._time()
        if now - held.told > UNREPORTED_S:
            return None  # without an answer, which would count for the process that has it now
        if is_bookkeeping(held.subject, ACCEPTED_PREFIX):
            self._answer(held.reply, ACK)
            return None
        attempt = self._attempts.number(held.sequence, held.delivered)
        message = self._opener.open(held.subject, held.data, ACCEPTED_PREFIX, attempt=attempt)
        if message is None:
            # Perhaps a byte was changed on the way, and the next copy is whole. An acknowledgement
            # would lose the message for good.
            self._unverified(held, attempt)
            return None
        if is_void(message.stamp, held.stored_ms):
            self._opener.refuse_late(
                message,
                f"stored {held.stored_ms - message.stamp.judged_at_ms} ms after it was judged",
            )
            self._answer(held.reply, ACK)
            return None
        if message in self._seen:
            self._answer(held.reply, ACK)
            return None
        key = (message.bot, message.nonce)
        if key in self._hand.working:
            return None  # a second copy: the end of the first one is the end of both
        held.message = message
        # Before it may be parked, which goes on beside: a copy that comes meanwhile is recognised.
        self._hand.working[key] = held
        if self._attempts.is_hopeless(attempt):
            self._park(held, attempt, NO_OUTCOME)
            return None
        self._hand.begin(held, now)
        return held

    # ---- how a message ends ----------------------------------------------------------------------

    def handled(self, pending: DurableMessage) -> None:
        """End ``pending``: it is done for good.

        If the acknowledgement is lost the message comes again, and is recognised by its nonce.
        """
        self._seen.add(pending.message)
        self._attempts.succeeded(pending.sequence)
        self._answer(pending.reply, ACK)
        self._release(pending)

    def given_back(self, pending: DurableMessage) -> None:
        """End ``pending``: it is delivered again at once, and the attempt does not count."""
        self._return(pending)
        self._release(pending)

    def failed(self, pending: DurableMessage, error: str) -> float | None:
        """End ``pending``, whose handler raised ``error``.

        Returns the seconds until the next attempt; ``None``: there is no other, and it is parked.
        """
        attempt = pending.message.attempt
        pause = self._attempts.failed(pending.sequence, attempt)
        if pause is None:
            # The handler is free, but the message stays in hand until the relay has it.
            self._end_work(pending)
            self._park(pending, attempt, error)
        else:
            self._answer(pending.reply, nak(pause))
            self._release(pending)
        return pause

    def _unverified(self, held: DurableMessage, attempt: int) -> None:
        pause = self._attempts.failed(held.sequence, attempt)
        if pause is not None:
            self._answer(held.reply, nak(pause))
        else:
            self._parking.start(held, attempt=attempt, error=UNVERIFIED)

    def _park(self, pending: DurableMessage, attempt: int, error: str) -> None:
        """Have ``pending`` parked. Until that has ended it stays at work, so that a copy that comes
        meanwhile is recognised, and the server is told that it is in progress."""

        def ended(is_kept: bool) -> None:
            if is_kept:
                self._seen.add(pending.message)
            self._forget(pending)

        self._parking.start(pending, attempt=attempt, error=error, ended=ended)

    def _return(self, held: DurableMessage) -> None:
        self._attempts.gave_back(held.sequence)
        self._given_back = held.reply
        self._answer(held.reply, nak())

    async def _settle(self) -> None:
        """Return once the server has the messages that were given back. The next request gets them
        then, and not newer ones before them."""
        reply = self._given_back
        self._given_back = b""
        if reply:
            await self._session.settle(reply.decode())

    def _release(self, pending: DurableMessage) -> None:
        self._end_work(pending)
        self._forget(pending)

    def _end_work(self, pending: DurableMessage) -> None:
        """A handler is free again, so there may be room for another message."""
        self._hand.finish(pending, self._time())
        self._supply.ask()

    def _forget(self, pending: DurableMessage) -> None:
        self._hand.working.pop((pending.message.bot, pending.message.nonce), None)

    def _answer(self, reply: bytes, text: bytes) -> None:
        self._session.write_soon(pub(reply, text))
