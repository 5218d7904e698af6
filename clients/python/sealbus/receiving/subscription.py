"""Durable subscriptions: messages from a JetStream consumer that remembers how far a bot has come.

How one works. The supply (:mod:`sealbus.receiving.supply`) fetches deliveries while there is room
for them (:mod:`~sealbus.receiving.window`). Each has one or more messages.
:meth:`DurableSubscription.next` opens the first one that waits, and hands over its messages one by
one. A message is then at work until it ends in one of four ways:

* **handled**: its nonce and index are remembered.
* **failed**: it is delivered again after a pause (:mod:`~sealbus.receiving.attempts`).
* **parked**: it failed for the last time, and the relay keeps it
  (:mod:`~sealbus.receiving.parking`).
* **given back**: it was not tried, and is delivered again when all messages of its delivery have
  ended.

A delivery ends with the last of its messages. If all are done, it is acknowledged. Otherwise it
goes back to the server, which delivers all of it again. So the relay first notes which messages
are done, and whoever gets the delivery hands over the rest only.

A message is handed over once in this process. A copy of a delivery that is at work is recognised by
its sender and nonce, and a message that was handled also by its index. A message that the server
was not told of in time is not begun, because another process may have it. Its delivery is *lost*:
messages of it that are at work end here, and the server gets no answer.

When the connection is lost, messages at work go on. Acknowledgements wait for the next connection.
If they come too late the server delivers the messages again, and they are recognised.

A stop gives back waiting deliveries, in order and without waiting for the handlers. Where messages
keep their order, they wait until the opened delivery has ended, if it has messages that no handler
has. A delivery that is being opened counts as opened.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

from sealbus.errors import SealbusError, SubscriptionDenied
from sealbus.life.session import Session
from sealbus.log import log
from sealbus.nats.acks import ACK, Ack, nak
from sealbus.nats.frames import pub
from sealbus.protocol.shelf_life import is_void
from sealbus.protocol.streams import ACCEPTED_PREFIX
from sealbus.protocol.subjects import is_bookkeeping
from sealbus.receiving.attempts import Attempts
from sealbus.receiving.durable_message import Delivery, DurableMessage
from sealbus.receiving.in_hand import InHand
from sealbus.receiving.parking import NO_OUTCOME, UNVERIFIED, Parking
from sealbus.receiving.place import Note, RememberedPlace
from sealbus.receiving.supply import Supply
from sealbus.receiving.verifier import DeliveryVerifier, HandledMessages, PendingMessage
from sealbus.supervision import Supervisor, end
from sealbus.waiting import before, set_after, undisturbed

UNREPORTED_S: Final = 25.0
"""A message that the server was not told of for so long is not begun. After 30 s another process
may have it."""

CAREFUL: Final = 3
"""From this attempt on, each message of a delivery is noted as soon as it is done. Perhaps one of
them kills its process, and would have the others repeated each time."""


class DurableSubscription:
    """Gives the messages of one consumer, one by one, through lost and renewed connections. The
    module names the ends of a message."""

    def __init__(
        self,
        *,
        session: Session,
        opener: DeliveryVerifier,
        place: RememberedPlace,
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
            is_late=self._is_late,
            settle=self._settle,
            refuse=opener.refuse,
        )
        self._given_back = b""
        """Where the last answer went that gave a message back; empty once the server has it."""
        self._supplying: asyncio.Task[None] | None = None
        """The supply's task, while the subscription is open."""
        self._parking = Parking(place=place, supervisor=supervisor, stop=self._stop)

    # ---- for whoever handles the messages --------------------------------------------------------

    @contextlib.asynccontextmanager
    async def open(self, stopping: asyncio.Event) -> AsyncIterator[None]:
        """While the body runs, :meth:`next` gives messages, until ``stopping`` is set.

        Messages that wait then are given back at once. The block is left when all are given back
        that no handler has. A cancellation does not cut this short, because nobody else would get
        these messages.
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
            # The relay's answer why it does not make the consumer again, which names the pattern.
            sentences=(SealbusError,),
        )
        self._supplying.add_done_callback(lambda _: self._changed.set())
        try:
            yield
        finally:
            await undisturbed(self._end(watching), name=f"ending {consumer}")

    async def _end(self, watching: asyncio.Task[None]) -> None:
        """Give back all messages that no handler has. Takes a bounded time.

        The supply ends first. It gives back waiting messages, unless opened ones must go before
        them. Then parking ends, which needs the timer's signs of progress for as long as the relay
        takes.
        """
        assert self._supplying is not None
        try:
            await end(watching)
            self.stop()
            # Not awaited itself: its error is for next(), which raises it.
            await asyncio.wait([self._supplying])
            self._give_back_opened()
            await self._parking.close()
            self._supply.give_back_waiting()
            # Whoever subscribes next asks for messages at once.
            await self._settle()
        finally:
            # Else the server would be told for ever that the messages are in progress.
            self._supply.close()

    def stop(self) -> None:
        """Fetch nothing more. Waiting messages are given back; those at work may end."""
        self._stop.set()
        self._changed.set()
        self._supply.attention.set()

    async def next(self) -> PendingMessage | None:
        """The next message, from now on at work, or ``None`` once the subscription stops."""
        assert self._supplying is not None
        hand = self._hand
        while not self._stop.is_set():
            if self._parking.is_full:
                await before(self._stop, self._parking.one_ended())
                continue
            if hand.opened:
                message = hand.opened.popleft()
                if self._begin(message):
                    # Asked for now, so that the next messages are on their way while a handler
                    # works.
                    self._supply.ask()
                    return message
            elif hand.waiting:
                await self._open(hand.waiting.popleft())
                self._supply.ask()
            elif self._supplying.done():
                self._supplying.result()  # raises SubscriptionDenied where the grant is gone
                return None
            else:
                self._changed.clear()
                await self._changed.wait()
        return None

    # ---- from a delivery to messages -------------------------------------------------------------

    def _arrived(self, subject: bytes, reply: bytes, ack: Ack, data: bytes) -> None:
        now = self._time()
        delivery = Delivery(subject=subject, reply=reply, ack=ack, data=data, now=now)
        self._hand.waiting.append(delivery)
        self._changed.set()

    async def _open(self, delivery: Delivery) -> None:
        """Open a delivery. Nothing comes of it if it is not one to be handled now."""
        if self._is_late(delivery):
            return  # without an answer, which would count for the process that has it now
        if is_bookkeeping(delivery.subject, ACCEPTED_PREFIX):
            self._answer(delivery, ACK)
            return
        attempt = self._attempts.number(delivery.sequence, delivery.delivered)
        messages = self._opener.open(
            delivery.subject, delivery.data, ACCEPTED_PREFIX, attempt=attempt
        )
        if not messages:
            # Perhaps a byte was changed on the way, and the next copy is whole. An acknowledgement
            # would lose the messages for good.
            self._unverified(delivery, attempt)
            return
        first = messages[0]
        if is_void(first.stamp, delivery.stored_ms):
            self._opener.refuse_late(
                first,
                f"stored {delivery.stored_ms - first.stamp.judged_at_ms} ms after it was judged",
            )
            self._answer(delivery, ACK)
            return
        key = (first.bot, first.nonce)
        if key in self._hand.working:
            return  # a second copy: the end of the first one is the end of both
        # Before anything is awaited: a copy that comes meanwhile is recognised.
        delivery.key = key
        self._hand.working[key] = delivery
        delivery.done = self._seen.of(first)
        if attempt > 1 and first.stamp.count > 1:
            note = await self._noted(delivery)
            delivery.done |= note.done
            delivery.given_back = note.given_back
            attempt = max(1, attempt - note.given_back)
            messages = [replace(message, attempt=attempt) for message in messages]
        rest = [
            DurableMessage(self, delivery, message)
            for message in messages
            if not delivery.done >> message.index & 1
        ]
        delivery.left = len(rest)
        if not rest:
            self._finish(delivery)
            return
        if self._attempts.is_hopeless(attempt):
            # Those before it are done. So with one handler it is the one that ends its process.
            # With several it may be another one, which is parked next.
            self._park(delivery, rest.pop(0), attempt, NO_OUTCOME)
        self._hand.open(rest, len(messages))

    async def _noted(self, delivery: Delivery) -> Note:
        """The note about the delivery from before it came back, here or elsewhere."""
        ask = self._place.progress(delivery.sequence, delivery.stored_ms, Note(delivery.done))
        self._hand.opening = delivery
        try:
            noted = await before(self._stop, ask)
        except asyncio.CancelledError:
            # Whoever waited for a message waits no more. The next one opens it.
            self._forget(delivery)
            self._hand.waiting.appendleft(delivery)
            raise
        except SealbusError as problem:
            log.warning(
                "the relay does not tell which messages of delivery %d are done (%s)",
                delivery.sequence,
                problem,
            )
            return Note()
        finally:
            self._hand.opening = None
        return noted or Note()

    def _begin(self, pending: DurableMessage) -> bool:
        """Whether a handler may begin to work on ``pending``."""
        if self._is_late(pending.delivery):
            # Another process may have the delivery, and what ends here does not count there.
            pending.delivery.is_lost = True
            for _ in range(1 + len(self._hand.opened)):
                self._ended(pending.delivery)
            self._hand.opened.clear()
            return False
        self._hand.begin(pending, self._time())
        return True

    def _is_late(self, delivery: Delivery) -> bool:
        """Whether the server was not told of it for so long that another process may have it."""
        return delivery.is_lost or self._time() - delivery.told > UNREPORTED_S

    # ---- how a message ends ----------------------------------------------------------------------

    @property
    def most(self) -> int:
        """How often a message is tried, unless too many failed ones wait."""
        return self._attempts.most

    def handled(self, pending: DurableMessage) -> None:
        """End ``pending``: it is done for good.

        If the acknowledgement is lost the message comes again, and is recognised.
        """
        self._attempts.succeeded()
        self._done(pending)
        self._end_work(pending)

    def given_back(self, pending: DurableMessage) -> None:
        """End ``pending``: it is delivered again when all messages of its delivery have ended. The
        attempt does not count, unless one of them failed."""
        self._again(pending.delivery, 0.0)
        self._end_work(pending)

    def failed(self, pending: DurableMessage, error: str) -> float | None:
        """End ``pending``, whose handler raised ``error``.

        Returns the seconds until the next attempt; ``None``: there is no other, and it is parked.
        """
        attempt = pending.message.attempt
        pause_s = self._attempts.failed(pending.delivery.sequence, attempt)
        if pause_s is None:
            # The handler is free, but the message stays in hand until the relay has it.
            self._park(pending.delivery, pending, attempt, error)
        else:
            self._again(pending.delivery, pause_s)
        self._end_work(pending)
        return pause_s

    def _done(self, pending: DurableMessage) -> None:
        delivery = pending.delivery
        self._seen.add(pending.message)
        delivery.done |= 1 << pending.message.index
        if pending.message.attempt >= CAREFUL and delivery.left > 1:
            note = Note(delivery.done, delivery.given_back)
            self._parking.note(delivery, note, lambda _: None)
        self._ended(delivery)

    def _again(self, delivery: Delivery, pause_s: float) -> None:
        delivery.again_s = max(pause_s, delivery.again_s or 0.0)
        self._ended(delivery)

    def _unverified(self, delivery: Delivery, attempt: int) -> None:
        pause_s = self._attempts.failed(delivery.sequence, attempt)
        if pause_s is not None:
            self._answer(delivery, nak(pause_s))
            return

        def ended(again_s: float | None) -> None:
            self._answer(delivery, ACK if again_s is None else nak(again_s))

        self._parking.park(delivery, None, attempt=attempt, error=UNVERIFIED, ended=ended)

    def _park(self, delivery: Delivery, pending: DurableMessage, attempt: int, error: str) -> None:
        """Have a message parked. Until that has ended it stays at work, so that a copy that comes
        meanwhile is recognised, and the server is told that the delivery is in progress."""

        def ended(again_s: float | None) -> None:
            if again_s is None:
                self._done(pending)
            else:
                self._again(delivery, again_s)

        index = pending.message.index
        self._parking.park(delivery, index, attempt=attempt, error=error, ended=ended)

    # ---- how a delivery ends ---------------------------------------------------------------------

    def _ended(self, delivery: Delivery) -> None:
        """One of its messages has ended."""
        delivery.left -= 1
        if delivery.left == 0:
            self._finish(delivery)

    def _finish(self, delivery: Delivery) -> None:
        """Answer the server: no message of the delivery is at work any more."""
        if delivery.is_lost:
            self._forget(delivery)
        elif delivery.again_s is not None and delivery.done:
            # It stays at work meanwhile, so that the server is told that it is in progress.
            note = Note(delivery.done, delivery.given_back + (not delivery.again_s))
            self._parking.note(delivery, note, lambda is_noted: self._put_back(delivery, is_noted))
        elif delivery.again_s is not None:
            self._put_back(delivery, is_noted=False)
        else:
            self._attempts.ended(delivery.sequence)
            delivery.note = None
            self._answer(delivery, ACK)
            self._forget(delivery)

    def _put_back(self, delivery: Delivery, is_noted: bool) -> None:
        if not delivery.again_s:
            self._return(delivery, is_noted=is_noted)
        else:
            self._answer(delivery, nak(delivery.again_s))
        self._forget(delivery)

    def _return(self, delivery: Delivery, *, is_noted: bool = False) -> None:
        """Have it delivered again at once. The attempt does not count, by its note or by this
        process's memory."""
        if not is_noted:
            self._attempts.gave_back(delivery.sequence)
        self._given_back = delivery.reply
        self._answer(delivery, nak())

    async def _settle(self) -> None:
        """Return once the server has the messages that were given back. The next request gets them
        then, and not newer ones before them."""
        reply = self._given_back
        self._given_back = b""
        if reply:
            await self._session.settle(reply.decode())

    def _give_back_opened(self) -> None:
        """Give back the messages that no handler has begun to work on."""
        opened = list(self._hand.opened)
        self._hand.opened.clear()
        for pending in opened:
            pending.delivery.is_lost = self._is_late(pending.delivery)
            self._again(pending.delivery, 0.0)

    def _end_work(self, pending: DurableMessage) -> None:
        """A handler is free again, so there may be room for another message."""
        self._hand.finish(pending, self._time())
        self._supply.ask()

    def _forget(self, delivery: Delivery) -> None:
        if self._hand.working.get(delivery.key) is delivery:
            del self._hand.working[delivery.key]

    def _answer(self, delivery: Delivery, text: bytes) -> None:
        self._session.write_soon(pub(delivery.reply, text))
