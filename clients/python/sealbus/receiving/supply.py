"""The supply of a durable subscription: it fetches messages, over lost and renewed connections.

How it works. One task, :meth:`Supply.run`, pulls on one connection after the other. It is the only
one that opens and closes a :class:`~sealbus.nats.pull.Pull`. On each connection it waits for
:attr:`~Supply.attention`, and goes on when one of these holds:

* **stopped**: the subscription ends. Set by its owner, and never taken back.
* **lost**: the connection is closed. Messages in hand stay, and are acknowledged on the next one.
* **renewed**: the session has a newer connection. The request under way is waited for first,
  because the server would lose messages that it sends to an inbox that is gone
  (:mod:`sealbus.nats.pull`).
* **stuck** (``_stuck``): the timer found a message that has waited for :data:`UNBEGUN_S`, because a
  handler became slow. Waiting messages are given back, and pulling begins anew with a smaller
  window.
* **gone** (``_gone``): the server says that there is no consumer, or says nothing at all. The relay
  is asked to make the consumer again, and the next request tells whether it is there.

A request is made by :meth:`Supply.ask`, which does nothing while one is under way, while one of the
conditions above holds, or while there is no room.

A timer runs while anything is in hand. It tells the server every :data:`PROGRESS_S` that a message
is in progress. Otherwise the server would deliver it again, to another process too. If the server
was not told in time, a delivery with messages that no handler has is lost, whatever is told later.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import Final

from nats.errors import Error as NatsError

from sealbus.errors import SealbusError, SubscriptionDenied
from sealbus.life.session import Session
from sealbus.log import log
from sealbus.nats.acks import IN_PROGRESS, Ack, read_ack
from sealbus.nats.client import HardenedClient
from sealbus.nats.frames import pub
from sealbus.nats.pull import End, Pull
from sealbus.protocol.streams import ACCEPTED
from sealbus.protocol.subjects import INBOX
from sealbus.receiving.attempts import RETRY_FIRST_S
from sealbus.receiving.durable_message import Delivery
from sealbus.receiving.in_hand import InHand
from sealbus.receiving.place import RememberedPlace
from sealbus.supervision import Supervisor
from sealbus.waiting import before

PROGRESS_S: Final = 10.0
"""How often the server is told of each message in hand. The server waits for 30 s, so one or two
lost signs do no harm."""

UNBEGUN_S: Final = 0.75
"""How long a message may wait for a handler before it is given back. It should have begun within
0.5 s (:data:`~sealbus.receiving.window.BEGIN_S`), and this is half as long again. A request that is
still under way adds its second. So nothing waits for more than two seconds beside an idle
process."""

TICK_S: Final = 0.25
"""How often the messages in hand are looked at: fine enough for :data:`UNBEGUN_S`, and it costs
next to nothing beside a message."""

REST: Final = 4
"""Messages fetched at once in order to be given back in order. New ones come with them, and are
given back too, so the fewer the better. Thirty requests fetch all that a process can have in
hand."""

RETRY_CONNECTION_S: Final = 0.1
"""Pause after a connection that could not be subscribed on. Without it a failing connection would
be tried in a tight loop."""


class Supply:
    """Fetches the messages of one consumer while there is room for them. The module names the
    conditions that :meth:`run` acts on."""

    def __init__(
        self,
        *,
        session: Session,
        place: RememberedPlace,
        supervisor: Supervisor,
        hand: InHand,
        stop: asyncio.Event,
        in_order: bool,
        arrived: Callable[[bytes, bytes, Ack, bytes], None],
        give_back: Callable[[Delivery], None],
        is_late: Callable[[Delivery], bool],
        settle: Callable[[], Awaitable[None]],
        refuse: Callable[[str], None],
    ) -> None:
        """Nothing is fetched before :meth:`run`.

        Args:
            session: gives one connection after the other.
            place: the consumer, and how to have it made again.
            supervisor: answers for the timers.
            hand: the messages in hand. The supply takes away those that it gives back.
            stop: set once the subscription stops.
            in_order: whether given-back messages must keep their order, which costs requests.
            arrived: takes the subject, reply, acknowledgement and body of each message.
            give_back: sends a waiting message back to the server.
            is_late: whether another process may have a delivery, because the server was not told of
                it in time.
            settle: returns once the server has the messages that were given back.
            refuse: counts a delivery that is not this consumer's.
        """
        self._session = session
        self._place = place
        self._supervisor = supervisor
        self._hand = hand
        self._stop = stop
        self._in_order = in_order
        self._arrived = arrived
        self._return = give_back
        self._is_late = is_late
        self._settle = settle
        self._refuse = refuse
        self._time = asyncio.get_running_loop().time
        self._mine = ACCEPTED.encode(), place.consumer.encode()
        """Stream and consumer that an acknowledgement subject must name."""

        # The connection in use. Only run() changes both.
        self._client: HardenedClient | None = None
        self._pull: Pull | None = None
        """``None`` between two connections, and while given-back messages are fetched."""

        # Conditions: see the module.
        self._stuck = False
        """Set by the timer; cleared by run() when the waiting messages are given back."""
        self._gone = False
        """Set by the end of a request; cleared when the relay was asked, whatever it answered."""
        self.attention = asyncio.Event()
        """Wakes run(): a condition holds, or a request is over."""

        self._ticking: asyncio.TimerHandle | None = None
        """The timer. ``None`` while nothing is in hand."""

    # ---- one connection after the other ----------------------------------------------------------

    async def run(self) -> None:
        """Pull on one connection after the other until the stop; then give back waiting messages,
        unless others must be given back before them."""
        while not self._stop.is_set():
            client = await before(self._stop, self._session.client())
            if client is None:
                break
            with self._session.hold(client):
                await self._pull_on(client)
        if not (self._in_order and self._hand.unbegun):
            self.give_back_waiting()

    def close(self) -> None:
        """Look after nothing any more."""
        if self._ticking is not None:
            self._ticking.cancel()

    async def _pull_on(self, client: HardenedClient) -> None:
        # The name of the inbox is a secret of this connection. A bot's own sessions may subscribe
        # to `inbox.<bot>.>` only, but any bot may name a reply subject there for the server's
        # answers.
        inbox = f"{INBOX}.{self._place.bot}.{os.urandom(16).hex()}"
        pull = Pull(
            client,
            self._place.consumer,
            inbox,
            supervisor=self._supervisor,
            take=self._take,
            ended=self._request_ended,
        )
        client.when_closed.add(self.attention.set)
        try:
            await pull.open()
            self._client = client
            self._pull = pull
            while not (self._stop.is_set() or self._stuck or client.is_closed):
                if self._gone and self._session.is_current(client):
                    await self._ask_for_consumer()
                self.ask()
                if not pull.outstanding and not self._session.is_current(client):
                    return
                await self.attention.wait()
                self.attention.clear()
        except (NatsError, OSError) as error:
            log.debug("pull: %s", type(error).__name__)
            await asyncio.sleep(RETRY_CONNECTION_S)
        finally:
            # First, so that nobody asks again while the last request is waited for.
            self._pull = None
            client.when_closed.discard(self.attention.set)
            await pull.over()
            if self._stop.is_set() or self._stuck:
                await self._fetch_given_back(pull)
            await pull.close()
        # Whoever stops gives back in run(), behind the opened delivery.
        if self._stuck and not self._stop.is_set():
            self.give_back_waiting()
            await self._settle()
            self._stuck = False

    async def _fetch_given_back(self, pull: Pull) -> None:
        """Before messages are given back, fetch those that were given back earlier.

        The server puts a given-back message behind those that were given back before, however old
        it is. All of it together, and sorted, is in order again.
        """
        while self._in_order and (last := self._last_to_give_back()):
            # A new delivery is behind all that were given back, unless it is opened: those behind
            # it were given back while it was at work.
            if last.delivered == 1 and self._hand.waiting:
                return
            pull.ask(REST, wait=False)
            await pull.over()
            if self._last_to_give_back() is last:
                return

    def _last_to_give_back(self) -> Delivery | None:
        """The delivery that came last among those that are about to be given back."""
        if self._hand.waiting:
            return self._hand.waiting[-1]
        # Opened messages stay with this process, unless it stops.
        return self._hand.unbegun if self._stop.is_set() else None

    async def _ask_for_consumer(self) -> None:
        self._gone = False  # whatever the answer is, the next request tells
        try:
            await before(self._stop, self._place.remake())
        except TimeoutError:
            pass  # no relay answers; perhaps the consumer is there all the same
        except SubscriptionDenied:
            raise  # for whoever takes the messages
        except SealbusError as error:
            log.warning(
                "the durable subscription %s does not answer, and cannot be made: %s",
                self._place.consumer,
                error,
            )
            await before(self._stop, asyncio.sleep(RETRY_FIRST_S))
            self.attention.set()

    # ---- requests --------------------------------------------------------------------------------

    def ask(self) -> None:
        """Ask for as many messages as there is room for, once few are left."""
        # Looked at for each message, so the commonest case comes first.
        if 2 * len(self._hand.opened) > self._hand.window.size:
            return
        pull = self._pull
        if pull is None or pull.outstanding or self._stuck or self._gone or self._stop.is_set():
            return
        room = self._hand.room()
        if not room or self._client is None:
            return
        if self._session.is_current(self._client):
            pull.ask(room)
        else:
            # Where there was no room at the renewal, no request is under way whose end wakes run().
            self.attention.set()

    def _take(self, subject: bytes, reply: bytes, data: bytes) -> None:
        ack = read_ack(reply)
        if ack is None or (ack.stream, ack.consumer) != self._mine:
            self._refuse("not from this subscription's own consumer")
            return
        self._arrived(subject, reply, ack, data)
        if self._ticking is None:
            self._ticking = self._supervisor.later("looking after messages", TICK_S, self._tick)

    def _request_ended(self, how: End) -> None:
        # No answer at all may mean a lost connection, or a consumer that is gone: the relay knows.
        self._gone = how in (End.GONE, End.LOST)
        if how is End.OVER:
            self.ask()
        # A request that goes on changes nothing for run(), so it sleeps on.
        if self._pull is None or not self._pull.outstanding:
            self.attention.set()

    # ---- looking after the messages in hand ------------------------------------------------------

    def give_back_waiting(self) -> None:
        """Give back waiting messages, in order.

        Only while no request is under way: the server would deliver it to this process again.
        """
        self._hand.note_slowness(self._time())
        for held in sorted(self._hand.waiting, key=lambda held: held.sequence):
            # An answer about a late one would count for the process that has it.
            if not self._is_late(held):
                self._return(held)
        self._hand.waiting.clear()

    def _tick(self) -> None:
        self._ticking = None
        hand = self._hand
        if not hand.waiting and not hand.working:
            return
        now = self._time()
        if hand.waiting and now - hand.waiting[0].arrived >= UNBEGUN_S and not self._stuck:
            self._stuck = True
            self.attention.set()
        # First, because a sign of progress does not bring back a delivery that another process has.
        for held in hand.unbegun_deliveries:
            held.is_lost = self._is_late(held)
        client = self._client
        if client is not None and client.is_connected:
            due = [held for held in hand.all if now - held.told >= PROGRESS_S and not held.is_lost]
            with contextlib.suppress(NatsError, OSError):
                client.write([pub(held.reply, IN_PROGRESS) for held in due])
                # Only if it was written: otherwise the next tick tells the server.
                for held in due:
                    held.told = now
        self._ticking = self._supervisor.later("looking after messages", TICK_S, self._tick)
