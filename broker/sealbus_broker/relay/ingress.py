"""Where messages come in: pulled from a partition of the ingress stream, or received live."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from sealbus.limits import MAX_BATCH
from sealbus.subjects import CALL
from sealbus_broker.gate.policy import Delivery
from sealbus_broker.gate.verdict import Arrival
from sealbus_broker.relay.streams import INGRESS, PIN_TIMEOUT_S, PRIORITY_GROUP, partition_consumer

log = structlog.get_logger(__name__)

Process = Callable[[Sequence[Arrival]], Awaitable[None]]

PULL_MESSAGES: Final = 256
"""Messages asked for at once: enough that one signature and one round trip are shared by many."""

PULL_BYTES: Final = 8 * 1024 * 1024
"""Bytes asked for at once. With the messages above it bounds a relay's memory, whatever the bots send."""

PULL_EXPIRES_S: Final = PIN_TIMEOUT_S / 2
"""How long a request waits for messages: asked again before the partition's pin runs out."""

SILENCE_S: Final = PULL_EXPIRES_S + 5
"""After this long without any answer the request is taken for lost (a lost connection, a new leader) and made again."""

LIVE_WAITING: Final = 4096
"""Live messages that may wait for judgment; more are dropped, as live messages may be. Bounds the relay's memory."""

LIVE_WAITING_BYTES: Final = 64 * 1024 * 1024


class IngressWorker:
    """Works on one partition: pulls a batch, has it processed, acknowledges it, pulls the next.

    While another relay holds the partition's pin, the requests wait and give nothing; when that relay falls silent, they do.
    """

    def __init__(self, nc: Client, partition: int, process: Process) -> None:
        self._nc = nc
        self._process = process
        self._consumer = partition_consumer(partition)
        self._inbox = nc.new_inbox()
        self._received: deque[Msg] = deque()
        self._arrived = asyncio.Event()
        self._asked = False
        self._outstanding = 0
        self._pin: str | None = None

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until ``stopping`` is set; the batch in hand is finished first."""
        # No limit on what waits here: it is bounded by what was asked for, and must not be dropped.
        subscription = await self._nc.subscribe(
            self._inbox, cb=self._on_message, pending_msgs_limit=0, pending_bytes_limit=0
        )
        stop = asyncio.ensure_future(stopping.wait())
        try:
            while not stopping.is_set():
                if not self._asked:
                    await self._ask()
                if not self._received:
                    self._arrived.clear()
                    arrived = asyncio.ensure_future(self._arrived.wait())
                    done, _ = await asyncio.wait(
                        {arrived, stop}, timeout=SILENCE_S, return_when=asyncio.FIRST_COMPLETED
                    )
                    arrived.cancel()
                    if not done:
                        self._asked = False
                    continue
                batch = [self._received.popleft() for _ in range(min(len(self._received), PULL_MESSAGES))]
                await self._work(batch)
        finally:
            stop.cancel()
            await subscription.unsubscribe()

    async def _ask(self) -> None:
        ask: dict[str, object] = {
            "batch": PULL_MESSAGES,
            "max_bytes": PULL_BYTES,
            "expires": int(PULL_EXPIRES_S * 1e9),
            "group": PRIORITY_GROUP,
        }
        if self._pin:
            ask["id"] = self._pin
        try:
            await self._nc.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{INGRESS}.{self._consumer}", json.dumps(ask).encode(), reply=self._inbox
            )
        except (NatsError, OSError) as error:
            log.warning("ingress.ask-failed", consumer=self._consumer, error=type(error).__name__)
        self._asked, self._outstanding = True, PULL_MESSAGES

    async def _on_message(self, msg: Msg) -> None:
        headers = msg.headers or {}
        status = headers.get("Status") if not msg.reply else None
        if status is not None:
            # 404, 408, 409: this request is over. 423: another relay has the pin.
            if status == "423":
                self._pin = None
            self._asked = False
        else:
            self._pin = headers.get("Nats-Pin-Id", self._pin)
            self._received.append(msg)
            self._outstanding -= 1
            if self._outstanding <= 0:
                self._asked = False
        self._arrived.set()

    async def _work(self, batch: Sequence[Msg]) -> None:
        pairs = [(msg, arrival) for msg in batch if (arrival := ingress_arrival(msg)) is not None]
        if pairs:
            await self._process([arrival for _, arrival in pairs])
        for msg, _ in pairs:
            try:
                await self._nc.publish(msg.reply, b"+ACK")
            except (NatsError, OSError) as error:
                # Delivered again later, and then recognised in the ledger.
                log.warning("ingress.ack-lost", error=type(error).__name__)


def ingress_arrival(msg: Msg) -> Arrival | None:
    """What a message pulled from the ingress stream is; ``None`` for what did not come from there.

    Everything is taken from what the *server* writes: the subject ``ingress.<partition>.<bot>``, whose last token is the session that
    NATS let publish, and the acknowledgement subject with delivery count, sequence and time. No header is read.
    """
    place = msg.reply.split(".")
    # $JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<consumer sequence>.<time ns>.<pending>; with a domain, two tokens more in front
    if len(place) not in (9, 11, 12) or place[:2] != ["$JS", "ACK"]:
        return None
    fields = place[2:9] if len(place) == 9 else place[4:11]
    subject = msg.subject.split(".")
    if fields[0] != INGRESS or len(subject) != 3:
        return None
    return Arrival(
        session=subject[2],
        data=msg.data,
        delivery=Delivery.STREAM,
        arrived_at_ms=int(fields[5]) // 1_000_000,
        position=int(fields[3]),
        redelivered=int(fields[2]) > 1,
    )


class LiveWorker:
    """Receives live messages, shared among the relays by a queue group, and has them processed in batches of what is there."""

    def __init__(self, nc: Client, process: Process, now_ms: Callable[[], int]) -> None:
        self._nc = nc
        self._process = process
        self._now_ms = now_ms
        self._waiting: deque[Arrival] = deque()
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self.dropped = 0

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until ``stopping`` is set; what has been received is finished first."""
        subscription = await self._nc.subscribe(f"{CALL}.*", queue="relays", cb=self._on_message)
        stop = asyncio.ensure_future(stopping.wait())
        try:
            while not stopping.is_set():
                if not self._waiting:
                    self._arrived.clear()
                    arrived = asyncio.ensure_future(self._arrived.wait())
                    await asyncio.wait({arrived, stop}, return_when=asyncio.FIRST_COMPLETED)
                    arrived.cancel()
                    continue
                await self._work()
            await subscription.drain()  # type: ignore[no-untyped-call]  # nats-py leaves it without types
            while self._waiting:
                await self._work()
        finally:
            stop.cancel()

    async def _on_message(self, msg: Msg) -> None:
        if len(self._waiting) >= LIVE_WAITING or self._waiting_bytes + len(msg.data) > LIVE_WAITING_BYTES:
            self.dropped += 1
            return
        session = msg.subject.split(".")[1]
        self._waiting_bytes += len(msg.data)
        self._waiting.append(Arrival(session, msg.data, Delivery.LIVE, self._now_ms(), None))
        self._arrived.set()

    async def _work(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_BATCH))]
        self._waiting_bytes -= sum(len(arrival.data) for arrival in batch)
        await self._process(batch)
