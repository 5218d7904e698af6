"""Durable subscriptions: messages from a JetStream consumer that remembers how far this subscription has come.

How one works. A *keeper* task owns the connection: it pulls while there is room (:mod:`sealbus.receiving.window`), and moves to the next
connection when the session is renewed or lost. What arrives waits in :attr:`_waiting` until :meth:`DurableSubscription.next` is
called, and is at work from then until its handler has ended. A timer looks after everything in hand:

* The server is told every :data:`PROGRESS_S` that it is in progress. Otherwise it delivers it again, to another process too.
* What has waited for :data:`UNBEGUN_S`, because a handler became slow, goes back to the server.
* What could not be reported in time is not begun any more, because another process may have it.

A stop gives back what waits, at once and in order, without waiting for the handlers. A message is handed over once in this process:
what is at work or was handled is recognised by its sender and nonce.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final

from nats.errors import Error as NatsError

from sealbus.errors import SealbusError, SubscriptionDenied
from sealbus.life.session import Session
from sealbus.log import log
from sealbus.nats.acks import ACK, IN_PROGRESS, Ack, nak, read_ack
from sealbus.nats.frames import pub
from sealbus.nats.hardened import HardenedClient
from sealbus.nats.pull import End, Pull
from sealbus.protocol.shelf_life import is_void
from sealbus.protocol.streams import ACCEPTED, ACCEPTED_PREFIX
from sealbus.protocol.subjects import INBOX, is_bookkeeping
from sealbus.protocol.value import value
from sealbus.receiving.attempts import RETRY_FIRST_S, RETRY_MOST_S, Attempts
from sealbus.receiving.opener import Opener, PendingMessage, Seen
from sealbus.receiving.window import Window
from sealbus.supervision import Supervisor, end
from sealbus.waiting import before, set_after

PROGRESS_S: Final = 10.0
"""How often the server is told of each message in hand. It waits 30 s, so that one or two lost signs do no harm."""

UNREPORTED_S: Final = 25.0
"""A message of which the server was not told for so long is not begun: after 30 s another process may have it."""

UNBEGUN_S: Final = 0.75
"""How long a message may wait for a handler before it is given back: half as long again as that within which it should have begun.
A request that is still under way adds its second, so that nothing waits longer than two beside an idle process."""

TICK_S: Final = 0.25
"""How often what is in hand is looked at: fine enough for UNBEGUN_S, and nothing beside a message's own cost."""

WAITING_BYTES: Final = 1024 * 1024
"""Bytes that may wait here when more is asked for, and one request may bring as much again. They wait undecoded."""

PARKING: Final = 16
"""Messages that the relay is asked to park at once; the next failing one waits. A quarter of what a relay serves at a time."""

PARKED_S: Final = 2.0
"""How long a stop waits for the relay to park what it was asked to. What is not parked then is given back."""

REST: Final = 4
"""Messages fetched at once to be given back in order. Those that are new come out of the reserve of the
server, and are given back too: the fewer the better. Thirty requests fetch all that a process can hold."""

RETRY_CONNECTION_S: Final = 0.1
"""Pause after a connection that could not be subscribed on, so that a failing one is not tried in a tight loop."""

REMAKE_S: Final = 10.0
"""How long a relay may take to make a consumer again, before the consumer is tried once more."""

NO_OUTCOME: Final = "no-outcome"
"""The error of a message that is parked untried: none of its deliveries was ever answered."""

_ERROR = re.compile(r"[A-Za-z0-9_]{1,100}")
"""Names that the relay takes. Python allows more."""

UNVERIFIED: Final = "unverified"
"""The error of a delivery that does not pass the checks of a subscriber."""


@value
class Place:
    """What a durable subscription is to the bus."""

    bot: str
    consumer: str
    attempts: int
    """How often a failing message is tried."""
    park: Callable[[int, int, str], Awaitable[int | None]]
    """Have the relay park the message with this sequence, after so many attempts, with this error.

    Returns its number in the quarantine, or ``None`` where the bus no longer has it. Raises :class:`SealbusError`.
    """
    remake: Callable[[], Coroutine[Any, Any, None]]
    """Ask for the consumer again, after it was deleted. Raises :class:`SealbusError`."""


class DurableMessage(PendingMessage):
    """A message of a durable subscription, from its arrival to its end."""

    __slots__ = (
        "_subscription",
        "arrived",
        "begun",
        "data",
        "delivered",
        "reply",
        "sequence",
        "stored_ms",
        "subject",
        "told",
    )

    is_durable = True

    def __init__(
        self, subscription: DurableSubscription, subject: bytes, reply: bytes, ack: Ack, data: bytes, now: float
    ) -> None:
        self._subscription = subscription
        self.subject = subject
        self.reply = reply
        self.data = data
        self.arrived = self.begun = self.told = now
        """When it came, when a handler began, and when the server last heard of it or sent it."""
        self.delivered, self.sequence, self.stored_ms = ack.deliveries, ack.sequence, ack.stored_ms

    def handled(self) -> None:
        """Acknowledge it."""
        self._subscription.handled(self)

    def failed(self, error: BaseException) -> float | None:
        """Have it delivered again, later each time, or parked after the last attempt. Of ``error`` only the class is told."""
        name = type(error).__name__
        return self._subscription.failed(self, name if _ERROR.fullmatch(name) else "Exception")

    def give_back(self) -> None:
        """Have it delivered again at once. The attempt does not count."""
        self._subscription.given_back(self)


class DurableSubscription:
    """Gives the messages of one consumer, one by one, through lost and renewed connections."""

    def __init__(
        self, session: Session, opener: Opener, place: Place, supervisor: Supervisor, *, concurrency: int = 1
    ) -> None:
        """``concurrency``: how many messages are worked on at once."""
        self._supervisor = supervisor
        self._session = session
        self._opener = opener
        self._place = place
        self._time = asyncio.get_running_loop().time
        self._mine = ACCEPTED.encode(), place.consumer.encode()
        self._in_order = concurrency == 1
        self._window = Window(concurrency)
        self._attempts = Attempts(place.attempts)
        self._seen = Seen()
        # What is in hand.
        self._waiting: deque[DurableMessage] = deque()
        self._working: dict[tuple[str, bytes], DurableMessage] = {}
        """At work or being parked, by sender and nonce."""
        self._busy = 0
        """How many of them occupy a handler."""
        # Where it comes from.
        self._client: HardenedClient | None = None
        self._pull: Pull | None = None
        self._stuck = False
        """Whether the handlers are too slow for what waits, and it is about to be given back."""
        self._gone = False
        """Whether the server says that there is no consumer."""
        # Who waits for what.
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()
        """Something arrived, or the subscription stops: for :meth:`next`."""
        self._attention = asyncio.Event()
        """The connection, the request or the handlers need the keeper."""
        self._keeper: asyncio.Task[None] | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self._parking: set[asyncio.Task[None]] = set()

    # ---- for whoever handles the messages ----------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def open(self, stopping: asyncio.Event) -> AsyncIterator[None]:
        """While the body runs, :meth:`next` gives messages, until ``stopping`` is set. What waits then is given back at once."""
        consumer, supervisor = self._place.consumer, self._supervisor
        watching = supervisor.keep(
            f"the stop of {consumer}",
            lambda: set_after(stopping, self._stop, self._changed, self._attention),
            until=stopping,
        )
        self._keeper = supervisor.keep(
            f"pulling from {consumer}", self._keep, until=self._stop, passes=(SubscriptionDenied,)
        )
        self._keeper.add_done_callback(lambda _: self._changed.set())
        try:
            yield
        finally:
            await end(watching)
            self.stop()
            await asyncio.wait([self._keeper])
            if self._parking:
                _, late = await asyncio.wait(self._parking, timeout=PARKED_S)
                await end(*late)
            if self._ticking is not None:
                self._ticking.cancel()

    def stop(self) -> None:
        """Fetch nothing more. What waits is given back; what is at work may end."""
        self._stop.set()
        self._changed.set()
        self._attention.set()

    async def next(self) -> PendingMessage | None:
        """The next message, from now on at work, or ``None`` once the subscription stops."""
        assert self._keeper is not None
        while not self._stop.is_set():
            if len(self._parking) >= PARKING:
                await asyncio.wait(self._parking, return_when=asyncio.FIRST_COMPLETED)
                continue
            while self._waiting:
                message = self._begin(self._waiting.popleft())
                self._ask()
                if message is not None:
                    return message
            if self._keeper.done():
                self._keeper.result()
                return None
            self._changed.clear()
            await self._changed.wait()
        return None

    def _begin(self, held: DurableMessage) -> DurableMessage | None:
        """Open what arrived; ``None`` if it is not a message, or not one to be handled now."""
        now = self._time()
        if now - held.told > UNREPORTED_S:
            return None
        if is_bookkeeping(held.subject, ACCEPTED_PREFIX):
            self._answer(held.reply, ACK)
            return None
        attempt = self._attempts.number(held.sequence, held.delivered)
        message = self._opener.open(held.subject, held.data, ACCEPTED_PREFIX, attempt)
        if message is None:
            # Perhaps a byte was changed on the way, and the next copy is whole. Deleting it would lose it for good.
            self._unverified(held, attempt)
            return None
        if is_void(message.stamp, held.stored_ms):
            self._opener.refuse_late(
                message, f"stored {held.stored_ms - message.stamp.judged_at_ms} ms after it was judged"
            )
            self._answer(held.reply, ACK)
            return None
        if message in self._seen:
            self._answer(held.reply, ACK)
            return None
        key = (message.bot, message.nonce)
        if key in self._working:
            return None  # a second copy: what becomes of the first holds for both
        held.message = message
        self._working[key] = held
        if self._attempts.is_hopeless(attempt):
            self._start_parking(held, attempt, NO_OUTCOME)
            return None
        held.begun = now
        self._busy += 1
        return held

    # ---- how a message ends ------------------------------------------------------------------------------------------

    def handled(self, pending: DurableMessage) -> None:
        """End ``pending``: it is done for good. Where the acknowledgement is lost it comes again, and is known by its nonce."""
        self._seen.add(pending.message)
        self._attempts.succeeded(pending.sequence)
        self._answer(pending.reply, ACK)
        self._release(pending)

    def given_back(self, pending: DurableMessage) -> None:
        """End ``pending``: it is delivered again at once, and the attempt does not count."""
        self._attempts.gave_back(pending.sequence)
        self._answer(pending.reply, nak())
        self._release(pending)

    def failed(self, pending: DurableMessage, error: str) -> float | None:
        """End ``pending``: it is delivered again after the seconds returned, or is parked with ``error`` (``None``)."""
        attempt = pending.message.attempt
        pause = self._attempts.failed(pending.sequence, attempt)
        if pause is None:
            self._end_work(pending)
            self._start_parking(pending, attempt, error)
        else:
            self._answer(pending.reply, nak(pause))
            self._release(pending)
        return pause

    def _unverified(self, held: DurableMessage, attempt: int) -> None:
        pause = self._attempts.failed(held.sequence, attempt)
        if pause is not None:
            self._answer(held.reply, nak(pause))
        else:
            self._run(self._park(held, attempt, UNVERIFIED))

    def _start_parking(self, pending: DurableMessage, attempt: int, error: str) -> None:
        async def park() -> None:
            try:
                if await self._park(pending, attempt, error):
                    self._seen.add(pending.message)
            finally:
                self._working.pop((pending.message.bot, pending.message.nonce), None)

        self._run(park())

    def _run(self, parking: Awaitable[object]) -> None:
        async def run() -> None:
            await parking

        task = self._supervisor.piece("parking a message", run())
        self._parking.add(task)
        task.add_done_callback(self._parking.discard)

    async def _park(self, held: DurableMessage, attempt: int, error: str) -> bool:
        """Have the relay keep the message in the quarantine; only when it does, the subscription is done with it."""
        try:
            record = await self._place.park(held.sequence, attempt, error)
        except SealbusError as problem:
            pause = 0.0 if self._stop.is_set() else RETRY_MOST_S
            log.warning(
                "message %d of %s could not be parked (%s); it will be delivered again",
                held.sequence,
                held.subject.decode("utf-8", "replace"),
                problem,
            )
            self._answer(held.reply, nak(pause))
            return False
        except asyncio.CancelledError:
            self._answer(held.reply, nak())
            raise
        log.error(
            "gave up message %d of %s after %d attempts (%s); number in the quarantine: %s",
            held.sequence,
            held.subject.decode("utf-8", "replace"),
            attempt,
            error,
            record,
        )
        self._answer(held.reply, ACK)
        return True

    def _release(self, pending: DurableMessage) -> None:
        self._end_work(pending)
        self._working.pop((pending.message.bot, pending.message.nonce), None)

    def _end_work(self, pending: DurableMessage) -> None:
        """A handler is free again."""
        self._busy -= 1
        self._window.note(self._time() - pending.begun)
        self._ask()

    def _answer(self, reply: bytes, text: bytes) -> None:
        self._session.write_soon(pub(reply, text))

    # ---- where messages come from ------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Pull on one connection after the other, until told to stop; give back what waits then."""
        while not self._stop.is_set():
            client = await before(self._stop, self._session.client())
            if client is None:
                break
            with self._session.hold(client):
                await self._pull_on(client)
        self._give_back_waiting()

    async def _pull_on(self, client: HardenedClient) -> None:
        # The inbox's name is a secret of this connection: nobody else can have the server send something here.
        inbox = f"{INBOX}.{self._place.bot}.{os.urandom(16).hex()}"
        pull = Pull(
            client,
            self._place.consumer,
            inbox,
            supervisor=self._supervisor,
            take=self._take,
            ended=self._request_ended,
        )
        client.when_closed.add(self._attention.set)
        try:
            await pull.open()
            self._client, self._pull = client, pull
            while not (self._stop.is_set() or self._stuck or client.is_closed):
                if self._gone and self._session.is_current(client):
                    await self._ask_for_consumer()
                self._ask()
                if not pull.outstanding and not self._session.is_current(client):
                    return
                await self._attention.wait()
                self._attention.clear()
        except (NatsError, OSError) as error:
            log.debug("pull: %s", type(error).__name__)
            await asyncio.sleep(RETRY_CONNECTION_S)
        finally:
            self._pull = None
            client.when_closed.discard(self._attention.set)
            await pull.over()
            if self._stop.is_set() or self._stuck:
                await self._fetch_given_back(pull)
            await pull.close()
        if self._stuck:
            self._give_back_waiting()
            self._stuck = False

    async def _fetch_given_back(self, pull: Pull) -> None:
        """Before messages are given back, fetch those that were given back earlier.

        The server puts what is given back behind what was given back before, however old it is. All of it together, and
        sorted, is in order again.
        """
        while self._in_order and self._waiting and self._waiting[-1].delivered > 1:
            last = self._waiting[-1]
            pull.ask(REST, wait=False)
            await pull.over()
            if not self._waiting or self._waiting[-1] is last:
                return

    def _ask(self) -> None:
        """Ask for as many messages as there is room for, once little is left of what came."""
        pull = self._pull
        if pull is None or pull.outstanding or self._stuck or self._gone or self._stop.is_set():
            return
        size, waiting = self._window.size, len(self._waiting)
        room = size - waiting - self._busy
        if room <= 0 or 2 * waiting > size or sum(len(held.data) for held in self._waiting) > WAITING_BYTES:
            return
        if self._client is not None and self._session.is_current(self._client):
            pull.ask(room)

    def _take(self, subject: bytes, reply: bytes, data: bytes) -> None:
        ack = read_ack(reply)
        if ack is None or (ack.stream, ack.consumer) != self._mine:
            self._opener.refuse("not from this subscription's own consumer")
            return
        self._waiting.append(DurableMessage(self, subject, reply, ack, data, self._time()))
        self._changed.set()
        if self._ticking is None:
            self._ticking = self._supervisor.later("looking after messages", TICK_S, self._tick)

    def _request_ended(self, how: End) -> None:
        self._gone = how in (End.GONE, End.LOST)
        if how is End.OVER:
            self._ask()
        if self._pull is None or not self._pull.outstanding:
            self._attention.set()

    async def _ask_for_consumer(self) -> None:
        self._gone = False  # whatever the answer is, the next request tells
        try:
            async with asyncio.timeout(REMAKE_S):
                await before(self._stop, self._place.remake())
        except TimeoutError:
            pass  # no relay answers; perhaps the consumer is there all the same
        except SubscriptionDenied:
            raise  # for whoever takes the messages
        except SealbusError as error:
            log.warning(
                "the durable subscription %s does not answer, and cannot be made: %s", self._place.consumer, error
            )
            await before(self._stop, asyncio.sleep(RETRY_FIRST_S))
            self._attention.set()

    def _give_back_waiting(self) -> None:
        """Give back what waits, in order. Only while no request is under way, or it would come back to this process."""
        now = self._time()
        if self._waiting:
            self._window.note(now - self._waiting[0].arrived)
        for pending in self._working.values():
            self._window.note(now - pending.begun)
        for held in sorted(self._waiting, key=lambda held: held.sequence):
            self._attempts.gave_back(held.sequence)
            self._answer(held.reply, nak())
        self._waiting.clear()

    def _tick(self) -> None:
        """Look after what is in hand."""
        self._ticking = None
        if not self._waiting and not self._working:
            return
        now = self._time()
        if self._waiting and now - self._waiting[0].arrived >= UNBEGUN_S and not self._stuck:
            self._stuck = True
            self._attention.set()
        client = self._client
        if client is not None and client.is_connected:
            in_hand = [*self._waiting, *self._working.values()]
            late = [held for held in in_hand if now - held.told >= PROGRESS_S]
            with contextlib.suppress(NatsError, OSError):
                client.write([pub(held.reply, IN_PROGRESS) for held in late])
                for held in late:
                    held.told = now
        self._ticking = self._supervisor.later("looking after messages", TICK_S, self._tick)
