"""Messages that came several times without a verdict: each is judged alone, and then set aside.

A message may end the relay that judges it, by a fault in a library, or by the memory that it takes.
It is then delivered to the next relay, with all messages that were in hand beside it. A count of
deliveries alone would set honest messages aside too: those beside it. So a message is tried before
it is set aside. Deliveries that follow an orderly stop do not count
(:mod:`sealbus_broker.relay.ingress.stops`):

=========== ========================================================================================
delivery    the relay
=========== ========================================================================================
1 to 4      judges it in a batch
from the    judges it alone, while it judges nothing else. Before, it sets the mark *begun* in the
5th         stream HEALTH, and afterwards the mark *done*
if *begun*  keeps it in the quarantine, untouched, because it has ended a relay
is marked
=========== ========================================================================================

The marks are in a stream because the relay that finds one is another process than the one that set
it.

A message is alone, and marked *begun*, while it is taken apart and judged, and not while it waits
for NATS. A ledger without a leader, or a full stream, may hold it up for hours. The messages of
other streams go on meanwhile (ADR 47, ADR 52). Some of them are judged again before they are
stored. Their first judging has not ended the relay. A mark has one attempt while the message is
alone. If it fails, as without a leader of HEALTH, the others go on before the next attempt. A relay
that is killed before *done* could be stored has the message set aside.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Final

from nats.errors import Error as NatsError

from sealbus.nats.client import HardenedClient
from sealbus.nats.frames import pub
from sealbus.own import UNJUDGEABLE
from sealbus.protocol.streams import HEALTH, HEALTH_PREFIX
from sealbus.protocol.value import value
from sealbus_broker.gate.policy import DeliveryClass, Policy
from sealbus_broker.gate.verdict import Arrival
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.jetstream import last_on
from sealbus_broker.nats.streams import Partition
from sealbus_broker.relay.judging.counters import VerdictCounters
from sealbus_broker.relay.judging.pipeline import ProcessWithin, Refusals
from sealbus_broker.relay.judging.turn import Turn
from sealbus_broker.relay.store.quarantine import Record
from sealbus_broker.relay.store.stream_store import StreamMessage, StreamStore

log = get_logger(__name__)

LAST_DELIVERIES: Final = 5
"""The delivery from which on a message is tried alone. It is rare that four relays end for another
reason with the same message in hand. And each relay that a message ends costs the bus some
seconds."""

ASK_S: Final = 2.0
"""How long JetStream may take to find a mark, in each of three attempts."""

_BEGUN: Final = b"begun"
_DONE: Final = b"done"


@value
class Suspect:
    """A message of INGRESS that was delivered often."""

    session: str
    """The bot whose session published it."""
    position: int
    """Its sequence in INGRESS."""
    deliveries: int
    """How often it was delivered, this time included."""
    stored_ms: int
    """When INGRESS stored it, in ms since 1970 by the server's clock."""
    data: bytes
    """Its bytes, which nobody has taken apart."""


class Alone:
    """Lets batches be judged together, or one message alone. Nothing in a block waits for a stream,
    but for one attempt to store a mark in HEALTH."""

    def __init__(self) -> None:
        self._under_way = 0
        """How many batches are being judged together."""
        self._taken = asyncio.Lock()
        """Held by the message that is alone or wants to be. Nothing else begins meanwhile."""
        self._quiet = asyncio.Event()
        """Set while no batch is being judged together."""
        self._quiet.set()

    @contextlib.asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """Judge beside others in this block. It waits while a message is alone or wants to be."""
        # Held for a moment only. A message that is alone holds it all the time, and asyncio's lock
        # is fair, so new batches cannot keep that message waiting.
        async with self._taken:
            self._under_way += 1
            self._quiet.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if self._under_way == 0:
                self._quiet.set()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Judge alone in this block. It waits for the batches under way, and no other begins."""
        async with self._taken:
            await self._quiet.wait()
            yield


class LastTry:
    """Judges suspects one at a time, and sets a message aside that has ended a relay.

    A message's state is its mark in HEALTH: *none*, *begun* or *done*. :meth:`judge` alone sets it,
    in whichever relay has the message. On a lost connection the mark is stored as soon as there is
    a connection again, and the message is judged after that.
    """

    def __init__(
        self,
        *,
        nc: HardenedClient,
        stream_store: StreamStore,
        process: ProcessWithin,
        policy: Callable[[], Policy],
        relay: str,
        counters: VerdictCounters,
        now_ms: Callable[[], int],
    ) -> None:
        """Prepare; nothing is asked of NATS.

        Args:
            nc: The relay's connection, for looking up marks.
            stream_store: Stores marks, and messages that are set aside.
            process: Judges arrivals, within a block: :meth:`Pipeline.process`.
            policy: Gives the policy in force.
            relay: The relay's name, which records have.
            counters: Counts the messages that are set aside.
            now_ms: The wall clock, in ms since 1970.
        """
        self._nc = nc
        self._stream_store = stream_store
        self._process = process
        self._policy = policy
        self._relay = relay
        self._counters = counters
        self._now_ms = now_ms
        self._alone = Alone()
        """Shared by all queues of the relay: the live one and each partition."""

    async def process(self, arrivals: Sequence[Arrival], turn: Turn) -> Refusals:
        """Judge a batch, beside others."""
        return await self._process(arrivals, turn, self._alone.together)

    async def judge(
        self,
        suspect: Suspect,
        partition: Partition,
        read: Callable[[], Sequence[Arrival]],
        turn: Turn,
    ) -> Refusals | None:
        """Judge one message alone, or set it aside; return when that is durable.

        Args:
            suspect: The message.
            partition: The partition that it is in.
            read: Takes its bytes apart. It is called only once the mark is set.
            turn: The turn of the partition.

        Returns:
            The refusals, or ``None`` for a message that was set aside.

        Raises:
            StreamsUnusable: HEALTH cannot be read, so nobody knows whether it has ended a relay.
            nats.errors.Error: The server did not answer.
        """
        position = suspect.position
        if await self._was_tried(partition, position):
            await self._set_aside(suspect)
            return None
        log.warning(
            "message.isolated",
            session=suspect.session,
            position=position,
            deliveries=suspect.deliveries,
        )
        trying = partial(self._trying, partition, position)
        # The reading itself may end the relay.
        async with trying():
            arrivals = read()
        try:
            return await self._process(arrivals, turn, trying)
        except (NatsError, OSError):
            raise
        except Exception:
            # A mistake in Sealbus, also after the judging. It would end each attempt.
            await self._stream_store.store([_entry(partition, position, _BEGUN)])
            raise

    @contextlib.asynccontextmanager
    async def _trying(self, partition: Partition, position: int) -> AsyncIterator[None]:
        """Have a message alone in this block, with the mark *begun*. Afterwards it is *done*,
        unless the block has failed."""
        begun, done = (_entry(partition, position, what) for what in (_BEGUN, _DONE))
        async with contextlib.AsyncExitStack() as alone:

            async def begin() -> str | None:
                # Alone before it is marked: whatever ends the relay from here on is this message.
                await alone.enter_async_context(self._alone.alone())
                _, why = await self._stream_store.attempt([begun])
                if why is not None:
                    # The others go on until the next attempt. Only the answer may have been lost,
                    # and no mark may stand meanwhile.
                    self._send(done)
                    await alone.aclose()
                return why

            try:
                await self._stream_store.persist(begin)
                yield
                _, why = await self._stream_store.attempt([done])
                await alone.aclose()
                if why is not None:
                    await self._stream_store.store([done])
            except asyncio.CancelledError:
                # The relay ends in order, or only its run of the partition does. There is no time
                # to wait. Without a connection the mark stays, and the message is set aside.
                self._send(done)
                raise

    async def _was_tried(self, partition: Partition, position: int) -> bool:
        return await last_on(self._nc, HEALTH, mark_subject(partition, position), ASK_S) == _BEGUN

    def _send(self, mark: StreamMessage) -> None:
        """Send a mark, and wait for no answer."""
        with contextlib.suppress(NatsError):
            self._nc.write([pub(mark.subject.encode(), mark.data)])

    async def _set_aside(self, suspect: Suspect) -> None:
        times = f"delivered {suspect.deliveries} times without a verdict"
        detail = f"{times}; a relay that judged it alone ended"
        record = Record(
            reason=UNJUDGEABLE,
            detail=detail,
            session=suspect.session,
            claimed=None,
            proven=None,
            subject=None,
            nonce=None,
            delivery=DeliveryClass.STREAM.value,
            position=suspect.position,
            arrived_at_ms=suspect.stored_ms,
            judged_at_ms=self._now_ms(),
            size=len(suspect.data),
            sha256=hashlib.sha256(suspect.data).hexdigest(),
            policy=self._policy().digest.hex(),
            relay=self._relay,
        )
        (where,) = await self._stream_store.store([record.entry(suspect.data)])
        self._counters.counts[UNJUDGEABLE] += 1
        what = f"a message of {suspect.session} was set aside: {detail}"
        hint = (
            f"look at it with sealbus quarantine show {where.sequence},"
            " and take the bot out of the policy if it sends more"
        )
        log.error(
            "message.set-aside",
            text=f"{what}\nhint: {hint}",
            session=suspect.session,
            position=suspect.position,
            deliveries=suspect.deliveries,
            record=where.sequence,
        )


def _entry(partition: Partition, position: int, mark: bytes) -> StreamMessage:
    # Without an id: a second mark is not a duplicate of the first, it replaces it.
    return StreamMessage(mark_subject(partition, position), mark, {})


def mark_subject(partition: Partition, position: int) -> str:
    """Return the subject of a message's mark.

    Each message has one of its own, because several that end relays must not hide each other.
    """
    return f"{HEALTH_PREFIX}.alone.{partition.index}.{position}"
