"""Messages that came several times and never got a verdict: each is judged alone, and then set aside.

A message may end the relay that judges it: by a fault in a library, or by its memory. It is then delivered to the next relay,
with all that was in hand beside it. Counting deliveries alone would set honest messages aside too: those beside it, and those of a
relay that is stopped and started often. So nothing is set aside untried. From its fifth delivery on a message is tried by
itself, while this relay judges nothing else, and a mark says so in the stream HEALTH. Whoever finds the mark of a message that was
not finished knows that it ended a relay, and keeps it in the quarantine as it is.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import structlog

from sealbus.nats.hardened import HardenedClient
from sealbus.own import UNJUDGEABLE
from sealbus.protocol.streams import HEALTH, HEALTH_PREFIX
from sealbus.protocol.value import value
from sealbus_broker.gate.policy import Delivery, Policy
from sealbus_broker.gate.verdict import Arrival
from sealbus_broker.nats.jetstream import API
from sealbus_broker.relay.journal import Entry, Journal
from sealbus_broker.relay.pipeline import Process, Refusals
from sealbus_broker.relay.quarantine import Record
from sealbus_broker.relay.tally import Tally
from sealbus_broker.relay.turn import Turn

log = structlog.get_logger(__name__)

LAST_DELIVERIES: Final = 5
"""From this delivery on a message is tried alone. Four relays that end for another reason with the same message in hand are rare; and
each that this one ends costs the bus some seconds."""

ASK_S: Final = 5.0

_BEGUN: Final = b"begun"
_DONE: Final = b"done"


@value
class Suspect:
    """A message of the ingress stream that was delivered often, its bytes unread."""

    session: str
    position: int
    deliveries: int
    stored_ms: int
    data: bytes


class Alone:
    """Lets batches be judged together, or one message by itself."""

    def __init__(self) -> None:
        self._under_way = 0
        self._taken = asyncio.Lock()
        self._quiet = asyncio.Event()
        self._quiet.set()

    @contextlib.asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """Beside others; waits while somebody wants to be alone."""
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
        """When what is under way is done, and while nothing else begins."""
        async with self._taken:
            await self._quiet.wait()
            yield


class LastTry:
    """Judges suspects one at a time, and sets aside what ended a relay."""

    def __init__(
        self,
        *,
        nc: HardenedClient,
        journal: Journal,
        process: Process,
        policy: Callable[[], Policy],
        relay: str,
        tally: Tally,
        now_ms: Callable[[], int],
    ) -> None:
        self._nc = nc
        self._journal = journal
        self._process = process
        self._policy = policy
        self._relay = relay
        self._tally = tally
        self._now_ms = now_ms
        self._alone = Alone()

    async def process(self, arrivals: Sequence[Arrival], turn: Turn) -> Refusals:
        """Judge a batch, beside others."""
        async with self._alone.together():
            return await self._process(arrivals, turn)

    async def judge(
        self, suspect: Suspect, partition: int, read: Callable[[], Sequence[Arrival]], turn: Turn
    ) -> Refusals | None:
        """Judge one message alone, or set it aside; return when that is durable. ``read`` takes its bytes apart."""
        async with self._alone.alone():
            if await self._was_tried(partition, suspect.position):
                await self._set_aside(suspect)
                return None
            log.warning(
                "message.isolated", session=suspect.session, position=suspect.position, deliveries=suspect.deliveries
            )
            await self._mark(partition, suspect.position, _BEGUN)
            refusals = await self._process(read(), turn)
            await self._mark(partition, suspect.position, _DONE)
            return refusals

    async def _was_tried(self, partition: int, position: int) -> bool:
        ask = json.dumps({"last_by_subj": mark_subject(partition, position)}).encode()
        answer = json.loads((await self._nc.request(f"{API}.STREAM.MSG.GET.{HEALTH}", ask, ASK_S)).data)
        return "error" not in answer and base64.b64decode(answer["message"].get("data", "")) == _BEGUN

    async def _mark(self, partition: int, position: int, what: bytes) -> None:
        await self._journal.store([Entry(mark_subject(partition, position), what, {})])

    async def _set_aside(self, suspect: Suspect) -> None:
        detail = f"delivered {suspect.deliveries} times without a verdict; a relay that judged it alone ended"
        record = Record(
            reason=UNJUDGEABLE,
            detail=detail,
            session=suspect.session,
            claimed=None,
            proven=None,
            subject=None,
            nonce=None,
            delivery=Delivery.STREAM.value,
            position=suspect.position,
            arrived_at_ms=suspect.stored_ms,
            judged_at_ms=self._now_ms(),
            size=len(suspect.data),
            sha256=hashlib.sha256(suspect.data).hexdigest(),
            policy=self._policy().digest.hex(),
            relay=self._relay,
        )
        (where,) = await self._journal.store([record.entry(suspect.data)])
        self._tally.counts[UNJUDGEABLE] += 1
        log.error(
            "message.set-aside",
            text=f"a message of {suspect.session} was set aside: {detail}\n"
            f"hint: look at it with sealbus quarantine show {where.sequence}, and take the bot out of the policy if it sends more",
            session=suspect.session,
            position=suspect.position,
            deliveries=suspect.deliveries,
            record=where.sequence,
        )


def mark_subject(partition: int, position: int) -> str:
    """Where it says of a message whether it is being tried alone. One each: several that end relays must not hide each other."""
    return f"{HEALTH_PREFIX}.alone.{partition}.{position}"
