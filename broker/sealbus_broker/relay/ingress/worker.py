"""One partition of the ingress stream: its messages are pulled, processed in batches, acknowledged.

**A message** goes through these places:

============= ==================================================================================
received      pulled, and in no batch yet: ``_received``, where the bots have turns. One that is
              greedy and refused too often rests meanwhile. Where the relay has no room for its
              bytes, they are read again when it is in a batch
suspect       delivered often, and to be judged alone: ``_suspects``
under way     in a batch, or judged alone: at most :data:`IN_HAND` batches
opened        some of its envelopes were in a batch, and the others are still in ``_received``. The
              senders of those that are refused are told with the last ones
acknowledged  all its verdicts are durable
gone          read again, and not there any more: another relay has settled it
given back    pulled, and not done when a stop came: the next relay has it, in order
============= ==================================================================================

The messages in the first four places are *in hand*. The server is told again and again that they
are still here (:mod:`sealbus_broker.relay.ingress.holding`).

**A lost connection.** The request under way (:mod:`sealbus_broker.relay.ingress.pulling`) is lost
with it, and :meth:`IngressWorker.on_back` has the next one made. The messages in hand stay in
hand. The server delivers them again after :data:`~sealbus_broker.nats.streams.ACK_WAIT_S` unless
it hears of them by then, and the ledger makes that harmless. A relay that dies leaves everything
to the same rule.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Sequence
from functools import partial
from typing import Final

from nats.errors import Error as NatsError

from sealbus.nats.acks import ACK
from sealbus.nats.client import HardenedClient
from sealbus.nats.frames import pub
from sealbus.supervision import Supervisor, end
from sealbus.waiting import set_after
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.gate.verdict import Arrival
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.streams import Partition
from sealbus_broker.relay.ingress.giving_back import give_back
from sealbus_broker.relay.ingress.holding import Holding
from sealbus_broker.relay.ingress.last_try import LAST_DELIVERIES, LastTry, Suspect
from sealbus_broker.relay.ingress.pulling import Pulling
from sealbus_broker.relay.ingress.refusal_pace import RefusalPace
from sealbus_broker.relay.ingress.rereading import Rereading
from sealbus_broker.relay.ingress.senders import Senders
from sealbus_broker.relay.ingress.stops import Stops
from sealbus_broker.relay.ingress.waiting import (
    SHARE,
    SMALL_BYTES,
    WAITING,
    Bodies,
    IngressWaiting,
    Piece,
    Pulled,
)
from sealbus_broker.relay.judging.arrivals import Place, ingress_arrivals, read_place
from sealbus_broker.relay.judging.pipeline import NONE_REFUSED, Process, Refusals
from sealbus_broker.relay.judging.turn import Turn

log = get_logger(__name__)

BATCH: Final = 256
"""How many envelopes are judged and stamped together. One signature over this number costs each of
them a tenth of a microsecond, and a longer batch would only wait longer. A message that is read
again is not taken in pieces, so a batch may have up to 63 more."""

BATCH_BYTES: Final = 256 * 1024
"""How many bytes a batch has. The message that passes this limit still belongs to the batch. The
most expensive payloads take 0.45 ms a KiB, and a schema at its bound takes 0.2 s for a payload of
up to 64 KiB. So a batch of a bot's most expensive messages is done before the server delivers it
again."""

CROWDED: Final = 64
"""How many envelopes a batch has while several bots send
(:mod:`~sealbus_broker.relay.ingress.senders`). A message that comes meanwhile waits for the
batches before its own, and 64 ordinary envelopes take 5 ms to judge and 20 ms to write."""

CROWDED_BYTES: Final = 64 * 1024
"""How many bytes it has then. The most expensive payloads of this size take 30 ms."""

IN_HAND: Final = 2
"""How many batches of one partition are under way: one is judged while the one before is stored."""

CONFIRM_LEAST_S: Final = 1.0
"""How long the server may take to confirm an acknowledgement when it is too late to tell anybody.
The log says if it does not confirm."""

SUSPECT_WAIT_S: Final = 2.0
"""How long a suspect waits for the messages that came with it: well below ``ACK_WAIT_S``."""


class IngressWorker:
    """The worker of one partition.

    :meth:`run` alone takes messages out of a place, and nats-py's reading loop alone puts them into
    *received*. Whatever gives :meth:`run` work sets ``_changed``. A lost connection moves no
    message: see the module.
    """

    def __init__(
        self,
        *,
        nc: HardenedClient,
        partition: Partition,
        process: Process,
        supervisor: Supervisor,
        last_try: LastTry | None = None,
        stops: Stops | None = None,
        senders: Senders | None = None,
        bodies: Bodies | None = None,
        rereading: Rereading | None = None,
    ) -> None:
        """Prepare; :meth:`run` works.

        Args:
            nc: The relay's connection.
            partition: The partition.
            process: Judges a batch and carries its verdicts out.
            supervisor: Answers for the timers and the watch for a stop.
            last_try: Judges suspects alone. Without it they are judged like other messages.
            stops: Knows how often messages were given back. Without it each delivery makes them
                suspect.
            senders: Knows which bots send to the relay.
            bodies: Bounds the bytes of the messages that wait.
            rereading: Reads the messages whose bytes were not kept. The partitions of a relay share
                these three.
        """
        self._nc = nc
        self._supervisor = supervisor
        self._partition = partition
        self._process = process
        self._last_try = last_try
        self._stops = stops
        self._turn = Turn()
        """Keeps the partition's batches in order."""
        self._rereading = Rereading(nc) if rereading is None else rereading
        self._reading = asyncio.Lock()
        """Held by the batch that is read again. The next one must not reach the judging before."""
        self._changed = asyncio.Event()
        """Set when :meth:`run` has to look again: a message came, a batch or a request ended, a
        stop."""
        self._senders = Senders() if senders is None else senders
        self._neighbours = Senders()
        """The bots of this partition. They wait longest for its batches."""
        self._holding = Holding(nc)
        """All messages in hand."""
        self._received = IngressWaiting(bodies)
        """Pulled, and in no batch yet."""
        self._pace = RefusalPace()
        """How long greedy bots rest that are refused."""
        self._untold = NONE_REFUSED
        """The refused envelopes of opened messages."""
        self._suspects: deque[Pulled] = deque()
        """Delivered often, and waiting to be judged alone, the oldest first."""
        self._suspects_due = 0.0
        """From when on a suspect goes before any new batch (event loop's time)."""
        self._under_way = 0
        """How many batches are being processed."""
        self._pulling = Pulling(
            nc=nc, partition=partition, supervisor=supervisor, changed=self._changed
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until ``stopping`` is set. Finish the batches in hand, and give back the rest in
        order.

        It may be called again after it has failed. The messages that waited are still here, unless
        another relay may have had them meanwhile.
        """
        # A batch that was cancelled before its first step has not counted itself out.
        self._under_way = 0
        if self._stops is not None:
            self._stops.forget()
        self._settle(self._holding.begun)
        if not self._holding.is_sure:
            self.forget()
        subscription = await self._nc.subscribe_direct(self._pulling.answers, self._on_message)
        watch = partial(set_after, stopping, self._changed)
        watching = self._supervisor.keep(
            f"the stop of partition {self._partition}", watch, until=stopping
        )
        prolonging = self._supervisor.keep(
            f"the messages in hand of partition {self._partition}",
            self._holding.prolong,
            until=stopping,
        )
        try:
            # A batch that fails by a mistake ends this run, and the supervisor begins the next one.
            # An error of NATS stays inside of the batch.
            async with asyncio.TaskGroup() as batches:
                # A stop is over once nothing is under way. A message that the server takes out of
                # its queue for a request whose inbox is gone would be lost for ACK_WAIT_S, and come
                # behind newer ones.
                while not stopping.is_set() or self._under_way or self._pulling.is_under_way:
                    # Before a message is taken for a suspect, and before any behind it is taken.
                    if self._stops is not None and self._stops.are_wanted:
                        await self._stops.look()
                    is_open = not stopping.is_set()
                    if wanted := self._pulling.wanted(has_room=is_open and self._has_room()):
                        self._pulling.ask(wanted)
                    # While the last request of before the stop is under way, nobody else gets
                    # messages. They would wait for it to end. A request that only keeps the pin
                    # prolongs no stop: batches would begin for as long as such requests follow.
                    may_begin = is_open or self._pulling.is_for_work
                    if (
                        may_begin
                        and self._received.has_turn
                        and self._under_way < IN_HAND
                        and not self._suspects_wait()
                    ):
                        batches.create_task(self._work(self._take()), name="a batch")
                    elif may_begin and self._suspects and not self._under_way:
                        # Alone in this partition. LastTry waits for the batches of the others.
                        alone = Piece.whole(self._suspects.popleft())
                        self._begin([alone])
                        batches.create_task(self._try_alone(alone), name="a message alone")
                    else:
                        self._changed.clear()
                        await self._changed.wait()
                # Once the drain is over, everything is here that the server sent before it knew of
                # the stop.
                with contextlib.suppress(NatsError, OSError):
                    await subscription.drain()  # type: ignore[no-untyped-call]
            try:
                await self._give_back()
            except (NatsError, OSError) as error:
                # The server delivers the messages after ACK_WAIT_S, and perhaps behind newer ones.
                log.warning(
                    "partition.not-given-back",
                    partition=str(self._partition),
                    error=type(error).__name__,
                )
        finally:
            await end(watching, prolonging)
            self._pulling.close()
            with contextlib.suppress(NatsError):
                await subscription.unsubscribe()

    def on_lost(self) -> None:
        """Tell no refusal of a message that was pulled until now."""
        self._holding.on_lost()

    def on_back(self) -> None:
        """Make a new request: the old one was lost with its connection."""
        self._pulling.end()

    def _has_room(self) -> bool:
        """Whether more messages may be asked for than keep the pin."""
        # Suspects count as well: many may come at once, and they are judged one at a time.
        return self._received.has_room and len(self._suspects) < WAITING

    async def _give_back(self) -> None:
        """Give back the messages that are not done, in order, and then the partition."""
        messages = self._holding.in_order()
        self.forget()

        async def note() -> None:
            if self._stops is not None:
                await self._stops.note(messages[0].place.position, messages[-1].place.position)

        replies = [one.reply for one in messages]
        await give_back(self._nc, self._partition, replies, pin=self._pulling.pin, note=note)

    def forget(self) -> None:
        """Forget the messages in hand, and leave their bytes. No batch is under way."""
        self._suspects.clear()
        self._received.clear()
        self._holding.clear()
        self._untold = NONE_REFUSED

    def _on_message(self, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        # A stored message has a reply subject, for its acknowledgement. A status has none.
        if not reply:
            self._pulling.on_status(subject, headers)
            return
        place = read_place(subject, reply)
        # Else it is not from INGRESS, which only a relay's login can bring about. It is left alone.
        if place is not None:
            pulled = Pulled.of(subject, reply, data, place, self._pulling.asked_at, headers)
            # A copy of a message in hand waits nowhere: one verdict is enough.
            if self._holding.add(pulled):
                self._received.put(pulled)
            if self._stops is not None and place.deliveries >= LAST_DELIVERIES:
                self._stops.want()
        self._pulling.on_message(headers, is_first=place is None or place.deliveries == 1)
        self._changed.set()

    def _take(self) -> list[Piece]:
        """Take the next envelopes, up to a batch. The bots have turns."""
        taken: list[Piece] = []
        most, most_bytes = BATCH, BATCH_BYTES
        if self._senders.are_several:
            most, most_bytes = CROWDED, CROWDED_BYTES
        had: Counter[str] = Counter()
        envelopes = 0
        size = 0
        while self._received.has_turn and envelopes < most and size < most_bytes:
            pulled = self._received.peek()
            bot = pulled.place.session
            if self._is_suspect(pulled.place):
                self._received.drop(pulled)
                self._suspect(pulled)
                continue
            room = most - envelopes
            if self._is_greedy(bot):
                room = min(room, SHARE - had[bot])
                # All others have had their turn since its last one in this batch.
                if room <= 0:
                    break
            piece = self._received.take(room)
            taken.append(piece)
            had[bot] += piece.envelopes
            envelopes += piece.envelopes
            size += piece.size
        for senders in (self._senders, self._neighbours):
            senders.note(had)
        self._begin(taken)
        return taken

    def _is_greedy(self, bot: str) -> bool:
        return self._senders.is_greedy(bot) or self._neighbours.is_greedy(bot)

    def _slow_down(self, refusals: Refusals) -> None:
        """Let greedy bots rest that are refused too often."""
        for bot, refused in refusals.by_bot.items():
            if self._is_greedy(bot):
                self._pace.note(bot, refused, time.monotonic())
                self._rest(bot)

    def _rest(self, bot: str) -> None:
        """Let a bot rest for as long as its refusals ask, and then wake it."""
        if wait_s := self._pace.wait_s(bot, time.monotonic()):
            self._received.rest(bot)
            self._supervisor.later("the rest of a greedy bot", wait_s, self._rest, bot)
        else:
            self._received.wake(bot)
            self._changed.set()

    def _begin(self, taken: Sequence[Piece]) -> None:
        """These pieces are under way until :meth:`_end`."""
        self._under_way += 1
        self._holding.begin([piece.pulled for piece in taken])

    def _end(self, taken: Sequence[Piece], *, is_lost: bool) -> None:
        """They are not under way any more. ``is_lost``: without a verdict."""
        self._under_way -= 1
        # A message of which an earlier piece was lost may be in hand once more, as a copy.
        ours = [one for one in taken if self._holding.has(one.pulled)]
        self._settle([one.pulled for one in ours if is_lost or one.is_last])
        self._pulling.on_batch_ended()
        self._changed.set()

    def _settle(self, messages: Sequence[Pulled]) -> None:
        """These messages are not in hand any more. One that has no verdict yet comes again, so
        nothing of it is left here."""
        for one in messages:
            self._received.drop(one)
        _, self._untold = self._untold.split({one.place.position for one in messages})
        self._holding.settle(messages)

    async def _read(self, taken: Sequence[Piece]) -> tuple[list[Piece], list[Arrival]]:
        """Return the pieces whose messages are still there, and their arrivals, in order. The bytes
        that were not kept are read again."""
        # Also for a batch with all its bytes: it must stay behind the one before.
        async with self._reading:
            missing = [one.pulled for one in taken if one.arrivals is None]
            read = iter(await asyncio.gather(*map(self._rereading.read, missing)))
        there: list[Piece] = []
        arrivals: list[Arrival] = []
        for one in taken:
            found = one.arrivals
            if found is None and (data := next(read)) is not None:
                found = ingress_arrivals(one.pulled.place, data)
            if found is not None:
                there.append(one)
                arrivals += found
        return there, arrivals

    def _is_suspect(self, place: Place) -> bool:
        """Whether so many relays may have ended with this message in hand that it is judged
        alone."""
        # A stop delivers messages again, too, and ends nothing.
        stops = 0 if self._stops is None else self._stops.times(place.position)
        return self._last_try is not None and place.deliveries - stops >= LAST_DELIVERIES

    def _suspect(self, pulled: Pulled) -> None:
        """Keep a message until the batches in hand are done."""
        if not self._suspects:
            self._suspects_due = asyncio.get_running_loop().time() + SUSPECT_WAIT_S
        # A window of suspects would take gigabytes. Each is read again when it is its turn.
        if pulled.size > SMALL_BYTES:
            pulled.data = None
        # The messages behind it go first, though that breaks the bot's order: this one may end the
        # relay, and would take them along once more.
        self._suspects.append(pulled)

    def _suspects_wait(self) -> bool:
        return bool(self._suspects) and asyncio.get_running_loop().time() >= self._suspects_due

    async def _try_alone(self, piece: Piece) -> None:
        """Judge a suspect alone."""
        assert self._last_try is not None, "otherwise there are no suspects"
        pulled = piece.pulled
        place = pulled.place
        try:
            data = pulled.data
            if data is None:
                async with self._reading:
                    data = await self._rereading.read(pulled)
            # Otherwise it is gone.
            if data is not None:
                suspect = Suspect(
                    place.session, place.position, place.deliveries, place.stored_ms, data
                )
                refusals = await self._last_try.judge(
                    suspect, self._partition, partial(ingress_arrivals, place, data), self._turn
                )
                await self._acknowledge([pulled], refusals)
        except (NatsError, OSError, StreamsUnusable) as error:
            # It comes again.
            log.warning("message.not-judged-alone", error=type(error).__name__)
        finally:
            self._end([piece], is_lost=False)

    async def _acknowledge(self, pulled: Sequence[Pulled], refusals: Refusals | None) -> None:
        """Acknowledge messages, and then tell the senders of the refused ones.

        Nobody else may judge a message whose sender is told that it is refused. So the server has
        to confirm the acknowledgement while the message is surely here
        (:mod:`sealbus_broker.relay.ingress.holding`). Otherwise nobody is told. The sender then
        does not know the verdict, and sends the message again.
        """
        if not pulled:
            return
        if not refusals:
            # Unconfirmed: if it is lost, the messages come again, and the ledger has them already.
            self._nc.write([pub(one.reply, ACK) for one in pulled])
            return
        *earlier, last = pulled
        self._nc.write([pub(one.reply, ACK) for one in earlier])
        left_s = self._holding.sure_until(pulled) - time.monotonic()
        # With a reply subject the server says when it has taken the last one, and so all of them.
        try:
            await self._nc.request(
                last.reply.decode("utf-8", "replace"), ACK, max(left_s, CONFIRM_LEAST_S)
            )
        except (NatsError, OSError, TimeoutError) as error:
            log.warning(
                "acknowledgement.not-confirmed",
                partition=str(self._partition),
                error=type(error).__name__,
            )
            return
        # It may have come too late, when another relay may have had the message already.
        if time.monotonic() < self._holding.sure_until(pulled):
            refusals.tell()

    async def _work(self, taken: Sequence[Piece]) -> None:
        is_lost = True
        try:
            there, arrivals = await self._read(taken)
            # There may be nothing: all messages may be suspects, or gone.
            if arrivals:
                refusals = await self._process(arrivals, self._turn)
                is_lost = False
                self._slow_down(refusals)
                # A message that is gone is not acknowledged: another one may be in its place.
                await self._acknowledge(*self._done(there, refusals))
        except (NatsError, OSError) as error:
            # The message is delivered again, and the ledger recognises it.
            log.warning("acknowledgement.lost", error=type(error).__name__)
        finally:
            self._end(taken, is_lost=is_lost)

    def _done(self, taken: Sequence[Piece], refusals: Refusals) -> tuple[list[Pulled], Refusals]:
        """Return the messages that have all their verdicts now, with all their refusals. Keep the
        refusals of the others."""
        # An earlier piece of a message may have been lost meanwhile, and the message comes again.
        # Batches end in the order of their turn, so the earlier refusals are here.
        ours = [one for one in taken if self._holding.has(one.pulled)]
        known, _ = refusals.split({one.pulled.place.position for one in ours})
        done = [one.pulled for one in ours if one.is_last]
        told, self._untold = (self._untold + known).split({one.place.position for one in done})
        return done, told
