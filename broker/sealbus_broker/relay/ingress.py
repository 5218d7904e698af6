"""Where messages come in: pulled from a partition of the ingress stream, or received live.

One NATS message has one envelope, or several of the same bot together; each is an arrival of its own, and is judged by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, NamedTuple

import structlog
from nats.errors import Error as NatsError

from sealbus.errors import Malformed
from sealbus.nats.acks import ACK, NAK, read_ack
from sealbus.nats.frames import pub
from sealbus.nats.hardened import PIN_HEADER, HardenedClient
from sealbus.nats.pull import next_subject
from sealbus.protocol.codec import are_together, split_together
from sealbus.protocol.subjects import CALL
from sealbus.supervision import Supervisor, end
from sealbus.waiting import set_after
from sealbus_broker.gate.policy import Delivery
from sealbus_broker.gate.verdict import Arrival
from sealbus_broker.nats.streams import ACK_WAIT_S, INGRESS, PIN_TIMEOUT_S, PRIORITY_GROUP, partition_consumer
from sealbus_broker.relay.last_try import LAST_DELIVERIES, LastTry, Suspect
from sealbus_broker.relay.live_waiting import LiveWaiting
from sealbus_broker.relay.pipeline import Refusals
from sealbus_broker.relay.tally import Tally
from sealbus_broker.relay.turn import Turn

log = structlog.get_logger(__name__)

Process = Callable[[Sequence[Arrival], Turn], Awaitable[Refusals]]
"""Judges arrivals and carries the verdicts out, in the order of their turn."""

PULL_MESSAGES: Final = 256
"""Messages asked for at once: enough that one round trip is shared by many."""

PULL_BYTES: Final = 640 * 1024
"""Bytes asked for at once, and bytes that may wait here when more is asked for: more than the largest message, and at most some 9,000 of the
smallest envelopes. A disk that syncs 3,000 messages a second takes those of one partition in 3 s, before the server delivers them again
(``ACK_WAIT_S``); of all four at once it takes 12 s, and some are delivered twice, which the ledger makes harmless."""

BATCH: Final = 256
"""Envelopes judged and stamped at once: a signature over so many costs each a tenth of a microsecond, and more would only wait longer.
Messages are not split, so a batch may have up to 63 more."""

BATCH_BYTES: Final = 256 * 1024
"""Bytes of a batch; the message that passes it is taken yet. The dearest payloads take 0.45 ms a KiB, and a schema at its bound 0.2 s for
one of 64 KiB or less: a batch of a bot's dearest is done before the server delivers it again."""

IN_HAND: Final = 2
"""Batches of one partition under way: one is judged while the one before is being stored."""

PULL_EXPIRES_S: Final = PIN_TIMEOUT_S / 2
"""How long a request waits for messages: asked again before the partition's pin runs out."""

RENEW_S: Final = PIN_TIMEOUT_S / 8
"""How long after its last request a relay that has its hands full asks for one message more. Only a request keeps the
pin; without it the next relay would be given newer messages while older ones are in hand here."""

MOST_EXTRA: Final = 20
"""Messages asked for like that, one after the other. They last for half of ``ACK_WAIT_S``: a relay that is stuck for longer gives way."""

SILENCE_S: Final = PULL_EXPIRES_S + 5
"""After this long a request is taken for lost (a lost connection, a new leader) and made again."""

GIVE_BACK_BYTES: Final = PULL_BYTES // 2
"""Most bytes given back; what is more is finished first. They must fit into one request of the next relay, with subjects and
headers: nats-server (2.15.1) puts a redelivered message that no longer fits into a request at the end of its queue."""

CONFIRM_LEAST_S: Final = 1.0
"""How long the server may take to confirm an acknowledgement, where there is no time left to tell anybody: the log says if it does not."""

GIVE_BACK_S: Final = 2.0
"""How long the server may take to say that it has what is given back."""

PAUSE_S: Final = 5.0
"""How long a partition stays paused if the relay dies while it gives back: more than clocks differ, and soon over."""

UNSENT_S: Final = 0.5
"""After this long a request that could not be sent, for want of a connection, is tried again."""

SUSPECT_WAIT_S: Final = 2.0
"""How long a message that is to be judged alone waits for those that came with it: well below ``ACK_WAIT_S``."""

_PIN: Final = PIN_HEADER.encode() + b": "
_STREAM: Final = INGRESS.encode()


class _Pulled(NamedTuple):
    """A message pulled from the stream, as it came."""

    subject: bytes
    reply: bytes
    data: bytes
    asked: float
    """The server has delivered it later than this (monotonic)."""


class IngressWorker:
    """Works on one partition: pulls messages, has them processed in batches, acknowledges them, pulls more.

    While another relay holds the partition's pin, the requests wait and give nothing; when that relay falls silent or gives
    the pin up, they do.
    """

    def __init__(
        self,
        nc: HardenedClient,
        partition: int,
        process: Process,
        supervisor: Supervisor,
        last_try: LastTry | None = None,
    ) -> None:
        """``last_try``: judges alone what was delivered often; without it, such messages are judged like others."""
        self._nc = nc
        self._supervisor = supervisor
        self._partition = partition
        self._process = process
        self._last_try = last_try
        self._suspects: deque[_Pulled] = deque()
        self._suspects_due = 0.0
        """When no new batch is begun before one of them (event loop's time)."""
        self._pull = next_subject(INGRESS, partition_consumer(partition)).encode()
        self._inbox = nc.new_inbox()
        self._requests = 0
        self._asked = time.monotonic()
        """When the request was made that may bring what comes now: the one under way, or an earlier one that was only given up."""
        self._is_over = True
        """Whether the last request has ended, and was not only given up."""
        self._reply = b""
        """Of the last request, and of no other: what the server says of an earlier one is not about this one."""
        self._received: deque[_Pulled] = deque()
        self._received_bytes = 0
        self._changed = asyncio.Event()
        self._turn = Turn()
        self._under_way = 0
        self._outstanding = 0
        self._asking: asyncio.TimerHandle | None = None
        """Runs out when the request under way is to be taken for lost; ``None``: there is none."""
        self._pin = b""
        self._extra = 0
        """Messages asked for without room for them since there was room."""
        self._ended_at = 0.0
        """When the last request was over (event loop's time)."""
        self._renewing: asyncio.TimerHandle | None = None

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until ``stopping`` is set. Finishes the batches in hand, and gives back the rest in order.

        May be called again after it has failed. The messages in hand are delivered again, or are still here.
        """
        subscription = await self._nc.subscribe_direct(f"{self._inbox}.*", self._on_message)
        name, watch = f"the stop of partition {self._partition}", partial(set_after, stopping, self._changed)
        watching = self._supervisor.keep(name, watch, until=stopping)
        try:
            async with asyncio.TaskGroup() as batches:
                while not stopping.is_set() or self._under_way or self._received_bytes > GIVE_BACK_BYTES:
                    is_open = not stopping.is_set()
                    if wanted := self._wanted(may_take=is_open):
                        self._ask(wanted)
                    may_begin = is_open or self._received_bytes > GIVE_BACK_BYTES
                    if may_begin and self._received and self._under_way < IN_HAND and not self._suspects_wait():
                        self._under_way += 1
                        batches.create_task(self._work(self._take()), name="a batch")
                    elif may_begin and self._suspects and not self._under_way:
                        self._under_way += 1
                        batches.create_task(self._try_alone(self._suspects.popleft()), name="a message alone")
                    else:
                        self._changed.clear()
                        await self._changed.wait()
                # What the server had sent before it knew of the stop is here then.
                with contextlib.suppress(NatsError, OSError):
                    await subscription.drain()  # type: ignore[no-untyped-call]
            try:
                await self._give_back()
            except (NatsError, OSError) as error:
                # Delivered again after ACK_WAIT_S, and perhaps behind newer ones.
                log.warning("ingress.not-given-back", partition=self._partition, error=type(error).__name__)
        finally:
            await end(watching)
            for timer in (self._asking, self._renewing):
                if timer is not None:
                    timer.cancel()
            self._asking = self._renewing = None
            with contextlib.suppress(NatsError):
                await subscription.unsubscribe()

    def on_back(self) -> None:
        """There is a new connection: the request made on the one before is lost with it."""
        self._ended()

    def _wanted(self, *, may_take: bool) -> int:
        """How many messages to ask for now. ``may_take``: more than keeps the pin."""
        if self._asking is not None:
            return 0
        if may_take and len(self._received) < PULL_MESSAGES and self._received_bytes < PULL_BYTES:
            self._extra = 0
            return PULL_MESSAGES
        is_due = asyncio.get_running_loop().time() >= self._ended_at + RENEW_S
        if self._pin and is_due and self._extra < MOST_EXTRA:
            self._extra += 1
            return 1
        return 0

    async def _give_back(self) -> None:
        """Return what was pulled and not begun, in order, and then the partition.

        The consumer is paused meanwhile. Otherwise nats-server takes one message after the other back
        out of its queue, finds nobody to deliver it to while the pin is ours, and puts it at the end;
        or it delivers newer messages to the next relay before it has read what is given back.
        """
        self._received.extendleft(reversed(self._suspects))
        self._suspects.clear()
        if self._received:
            until = datetime.now(UTC) + timedelta(seconds=PAUSE_S)
            await self._api("PAUSE", {"pause_until": until.isoformat().replace("+00:00", "Z")})
            *earlier, last = self._received
            self._received.clear()
            self._nc.write([pub(pulled.reply, NAK) for pulled in earlier])
            # With a reply subject the server says when it has taken this one, hence those before it.
            await self._nc.request(last.reply.decode("utf-8", "replace"), NAK, GIVE_BACK_S)
            log.info("ingress.given-back", partition=self._partition, messages=len(earlier) + 1)
            if self._pin:
                await self._api("UNPIN", {"group": PRIORITY_GROUP})
            # Has the server forget our last request, which nobody listens to any more: it would take a
            # message out of its queue for it, and put that at the end.
            await self._api("INFO", {})
            await self._api("PAUSE", {})
        elif self._pin:
            await self._api("UNPIN", {"group": PRIORITY_GROUP})

    async def _api(self, call: str, body: dict[str, str]) -> None:
        subject = f"$JS.API.CONSUMER.{call}.{INGRESS}.{partition_consumer(self._partition)}"
        await self._nc.request(subject, json.dumps(body).encode(), GIVE_BACK_S)

    def _ask(self, count: int) -> None:
        ask: dict[str, object] = {
            "batch": count,
            "max_bytes": PULL_BYTES,
            "expires": int(PULL_EXPIRES_S * 1e9),
            "group": PRIORITY_GROUP,
        }
        if self._pin:
            ask["id"] = self._pin.decode("utf-8", "replace")
        if self._is_over:
            self._asked = time.monotonic()
        self._is_over = False
        self._outstanding, patience_s = count, SILENCE_S
        self._requests += 1
        self._reply = f"{self._inbox}.{self._requests}".encode()
        try:
            self._nc.write([pub(self._pull, json.dumps(ask).encode(), self._reply)])
        except (NatsError, OSError):
            patience_s = UNSENT_S  # that there is no connection is in the log already
        self._asking = self._supervisor.later("asking for messages", patience_s, self._ended)

    def _ended(self) -> None:
        """The request is over: the next one may be made."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None
        loop = asyncio.get_running_loop()
        self._ended_at = loop.time()
        if self._renewing is not None:
            self._renewing.cancel()
        self._renewing = self._supervisor.later("keeping a partition", RENEW_S, self._changed.set)
        self._changed.set()

    def _on_message(self, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        if not reply:
            # A status. 404, 408, 409: this request is over. 423: another relay has the pin.
            if headers.startswith(b"NATS/1.0 423"):
                self._pin = b""
            if subject == self._reply:
                self._is_over = True
                self._ended()
            return
        # nats-server writes its line behind whatever the bot's headers are: see sealbus.nats.hardened.read_headers.
        at = headers.rfind(_PIN)
        if at >= 0:
            self._pin = headers[at + len(_PIN) :].partition(b"\r\n")[0]
        self._received.append(_Pulled(subject, reply, data, self._asked))
        self._received_bytes += len(data)
        self._outstanding -= 1
        if self._outstanding <= 0:
            self._is_over = True
            self._ended()
        self._changed.set()
        return

    def _take(self) -> list[tuple[_Pulled, list[Arrival]]]:
        """The next messages in order, with what is in them, up to a batch."""
        taken: list[tuple[_Pulled, list[Arrival]]] = []
        envelopes = size = 0
        while self._received and envelopes < BATCH and size < BATCH_BYTES:
            pulled = self._received.popleft()
            if self._last_try is not None and _deliveries(pulled.reply) >= LAST_DELIVERIES:
                self._suspect(pulled)
                continue
            self._received_bytes -= len(pulled.data)
            size += len(pulled.data)
            arrivals = ingress_arrivals(pulled.subject, pulled.reply, pulled.data)
            if arrivals:
                envelopes += len(arrivals)
                taken.append((pulled, arrivals))
        return taken

    def _suspect(self, pulled: _Pulled) -> None:
        """Keep a message until the batches in hand are done; its bytes go on counting as received."""
        if not self._suspects:
            self._suspects_due = asyncio.get_running_loop().time() + SUSPECT_WAIT_S
        self._suspects.append(pulled)

    def _suspects_wait(self) -> bool:
        return bool(self._suspects) and asyncio.get_running_loop().time() >= self._suspects_due

    async def _try_alone(self, pulled: _Pulled) -> None:
        self._received_bytes -= len(pulled.data)
        place = _place(pulled.subject, pulled.reply)
        try:
            if place is not None and self._last_try is not None:
                suspect = Suspect(place.session, place.position, place.deliveries, place.stored_ms, pulled.data)
                refusals = await self._last_try.judge(
                    suspect,
                    self._partition,
                    lambda: ingress_arrivals(pulled.subject, pulled.reply, pulled.data),
                    self._turn,
                )
                await self._acknowledge([pulled], refusals)
        except (NatsError, OSError) as error:
            log.warning("ingress.ack-lost", error=type(error).__name__)
        finally:
            self._under_way -= 1
            self._changed.set()

    async def _acknowledge(self, pulled: Sequence[_Pulled], refusals: Refusals | None) -> None:
        """Acknowledge messages, and then have the senders of refused ones told.

        Nobody else may judge what a sender is told to be refused. The server gives a message to another relay ``ACK_WAIT_S`` after it
        delivered it, which it did later than the request that brought it was made. So if it confirms within that time, from the
        request on, that it has the acknowledgement, no other relay has been given the message. Otherwise nobody is told: that is
        *unknown* to the sender, who tries again.
        """
        if not refusals:
            self._nc.write([pub(one.reply, ACK) for one in pulled])
            return
        *earlier, last = pulled
        self._nc.write([pub(one.reply, ACK) for one in earlier])
        until = min(one.asked for one in pulled) + ACK_WAIT_S
        left_s = until - time.monotonic()
        # With a reply subject the server says when it has taken this one, hence those before it.
        try:
            await self._nc.request(last.reply.decode("utf-8", "replace"), ACK, max(left_s, CONFIRM_LEAST_S))
        except (NatsError, OSError, TimeoutError) as error:
            log.warning("ingress.unconfirmed", partition=self._partition, error=type(error).__name__)
            return
        if time.monotonic() < until:
            refusals.tell()

    async def _work(self, taken: Sequence[tuple[_Pulled, list[Arrival]]]) -> None:
        try:
            if taken:
                refusals = await self._process([arrival for _, arrivals in taken for arrival in arrivals], self._turn)
                await self._acknowledge([pulled for pulled, _ in taken], refusals)
        except (NatsError, OSError) as error:
            # Delivered again later, and then recognised in the ledger.
            log.warning("ingress.ack-lost", error=type(error).__name__)
        finally:
            self._under_way -= 1
            self._changed.set()


class _Place(NamedTuple):
    """What the server writes about a message of the ingress stream."""

    session: str
    deliveries: int
    position: int
    stored_ms: int


def _place(subject: bytes, reply: bytes) -> _Place | None:
    """Read the subject ``ingress.<partition>.<bot>`` and the acknowledgement subject.

    ``None``: the message did not come from there.
    """
    ack = read_ack(reply)
    tokens = subject.split(b".")
    if ack is None or ack.stream != _STREAM or len(tokens) != 3:
        return None
    session = tokens[2].decode("utf-8", "replace")
    return _Place(session, ack.deliveries, ack.sequence, ack.stored_ms)


def _deliveries(reply: bytes) -> int:
    ack = read_ack(reply)
    return 0 if ack is None or ack.stream != _STREAM else ack.deliveries


def ingress_arrivals(subject: bytes, reply: bytes, data: bytes) -> list[Arrival]:
    """What is in a message pulled from the ingress stream; nothing in what did not come from there.

    Everything is taken from what the *server* writes: the subject ``ingress.<partition>.<bot>``, whose last token is the session that
    NATS let publish, and the acknowledgement subject with delivery count, sequence and time. No header is read.
    """
    place = _place(subject, reply)
    if place is None:
        return []
    return [
        Arrival(place.session, envelope, Delivery.STREAM, place.stored_ms, place.position, place.deliveries > 1)
        for envelope in _envelopes(data)
    ]


def _envelopes(data: bytes) -> list[bytes]:
    """What is to be judged in one message. Several together that are not as they must be are judged, and refused, as one."""
    if not are_together(data):
        return [data]
    try:
        return split_together(data)
    except Malformed:
        return [data]


class LiveWorker:
    """Receives live messages, shared among the relays by a queue group, and has them processed in batches of what is there."""

    def __init__(
        self, nc: HardenedClient, process: Process, tally: Tally, now_ms: Callable[[], int], supervisor: Supervisor
    ) -> None:
        self._nc = nc
        self._supervisor = supervisor
        self._process = process
        self._tally = tally
        self._now_ms = now_ms
        self._waiting = LiveWaiting()
        self._changed = asyncio.Event()
        self._turn = Turn()

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until ``stopping`` is set; what has been received is finished first."""
        subscription = await self._nc.subscribe_direct(f"{CALL}.*", self._on_message, queue="relays")
        watch = partial(set_after, stopping, self._changed)
        watching = self._supervisor.keep("the stop of live messages", watch, until=stopping)
        try:
            while not stopping.is_set():
                if not self._waiting:
                    self._changed.clear()
                    await self._changed.wait()
                    continue
                await self._work()
            await subscription.drain()  # type: ignore[no-untyped-call]  # what the server had sent before it knew is here then
            while self._waiting:
                await self._work()
        finally:
            await end(watching)
            with contextlib.suppress(NatsError):  # it is drained already, unless something failed
                await subscription.unsubscribe()

    def _on_message(self, subject: bytes, _: bytes, __: bytes, data: bytes) -> None:
        envelopes = _envelopes(data)
        session = subject.split(b".")[1].decode("utf-8", "replace")
        now_ms = self._now_ms()
        if not self._waiting.put(session, [Arrival(session, one, Delivery.LIVE, now_ms, None) for one in envelopes]):
            self._tally.count_dropped(session, len(envelopes))
            return
        self._changed.set()

    def on_back(self) -> None:
        """Do nothing: nats-py subscribes again by itself."""

    async def _work(self) -> None:
        (await self._process(self._waiting.take(), self._turn)).tell()
