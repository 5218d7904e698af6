"""A batch of messages on its way through the relay: judged, stamped, stored, answered.

The order is what makes a crash harmless. An acceptance is stored (:mod:`sealbus_broker.relay.storing`), answered, and only then
acknowledged to the ingress stream; so whatever a dying relay had not finished is delivered to the next one, which finds in the ledger
what was done. A refusal is kept, acknowledged, and answered last: were it answered first, the next relay might accept what was refused.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import structlog
from nats.errors import Error as NatsError

from sealbus.nats.frames import pub
from sealbus.nats.hardened import HardenedClient
from sealbus.protocol.codec import pack_together
from sealbus.protocol.keys import SigningKey
from sealbus.protocol.limits import MAX_BATCH, MAX_TOGETHER
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import Stamp, Verdict, seal_stamps
from sealbus.protocol.subjects import RELAY, REPLY, receipt_subject, receipts_subject
from sealbus_broker.gate.judge import judge
from sealbus_broker.gate.policy import Delivery, Policy, Store
from sealbus_broker.gate.rate import RateMeters
from sealbus_broker.gate.verdict import Arrival, Judgment, Moment
from sealbus_broker.relay.journal import Journal
from sealbus_broker.relay.ledger import Ledger
from sealbus_broker.relay.quarantine import Record
from sealbus_broker.relay.storing import Item, Storing
from sealbus_broker.relay.tally import Tally
from sealbus_broker.relay.turn import Turn

log = structlog.get_logger(__name__)

_REPLIES: Final = f"{REPLY}."


GIVE_WAY_S: Final = 0.05
"""After so long the judging of a batch lets everything else have a turn: acknowledgements, the server's pings, other partitions. An ordinary
batch of 256 takes 30 ms, and does not give way."""

PART_S: Final = 0.5
"""After so long what is judged is stored, and the rest of the batch is judged by a new time. A verdict is used for a quarter of its shelf
life, which is 1.25 s for a live message. What is older is judged anew just before it is stored, where nothing may give way."""


class Services(Protocol):
    """Answers accepted messages on the bus's own subjects."""

    def __contains__(self, subject: str) -> bool: ...

    def serve(self, judgment: Judgment, stamp: bytes) -> None:
        """Start answering; return at once, never raise."""

    def probe(self, judgment: Judgment, stamp: bytes) -> bytes:
        """The frame that finds out whether anybody listens to a request, and has the requester told if not."""


class Refusals:
    """What of a batch was refused: told to the senders only when the server has confirmed that nobody else will judge it."""

    def __init__(self, items: Sequence[Item], answer: Callable[[Sequence[Item]], None]) -> None:
        self._items = items
        self._answer = answer

    def __bool__(self) -> bool:
        return bool(self._items)

    def tell(self) -> None:
        """Tell the senders."""
        self._answer(self._items)


Process = Callable[[Sequence[Arrival], Turn], Awaitable[Refusals]]
"""Judges arrivals and carries the verdicts out, in the order of their turn: :meth:`Pipeline.process`."""


class _Part(NamedTuple):
    """What of a batch was judged together, and by what."""

    items: list[Item]
    policy: Policy
    ledger: Ledger


class Pipeline:
    """Judges arrivals and carries the verdicts out. One a relay; :meth:`process` may run for several batches at once."""

    def __init__(
        self,
        *,
        nc: HardenedClient,
        journal: Journal,
        ledgers: Mapping[Delivery, Ledger],
        policy: Callable[[], Policy],
        key: SigningKey,
        relay: str,
        services: Services,
        tally: Tally,
        now_ms: Callable[[], int],
        meters: RateMeters | None = None,
    ) -> None:
        """``meters``: what each bot has sent and stored, where others add to it too."""
        self._nc = nc
        self._journal = journal
        self._ledgers = ledgers
        self._policy = policy
        self._key = key
        self._relay = relay
        self._services = services
        self._tally = tally
        self._now_ms = now_ms
        self._verifier = Verifier()
        self._meters = RateMeters() if meters is None else meters
        self._storing = Storing(
            journal=journal, key=key, relay=relay, verifier=self._verifier, meters=self._meters, now_ms=now_ms
        )

    async def process(self, arrivals: Sequence[Arrival], turn: Turn) -> Refusals:
        """Judge ``arrivals`` (all of one delivery class, at most 1,024) and return when every verdict is durable.

        What was accepted is answered by then. What was refused is returned, to be acknowledged first and told then: a message whose
        sender was told *refused* must not be judged again. ``turn``: of the queue that they come from, so that what is judged while they
        are stored is stored behind them.
        """
        waiting, refused = deque(arrivals), list[Item]()
        async with turn.judging:
            while True:
                part = await self._judge(waiting)
                if not waiting:
                    await turn.storing.acquire()
                    break
                async with turn.storing:
                    refused += await self._carry_out(part)
        try:
            refused += await self._carry_out(part)
        finally:
            turn.storing.release()
        return Refusals(refused, self._answer)

    async def _judge(self, waiting: deque[Arrival]) -> _Part:
        """Judge what waits, in order, for :data:`PART_S`; what is left after that waits on."""
        policy, ledger = self._policy(), self._ledgers[waiting[0].delivery]
        await ledger.known()
        moment, judged_at = Moment(self._now_ms(), ledger.since_ms), time.monotonic()
        items, gave_way = list[Item](), judged_at
        while waiting:
            judgment = judge(waiting.popleft(), policy, moment, self._verifier, self._meters)
            items.append(Item(judgment, moment.ledger_since_ms, judged_at))
            now = time.monotonic()
            if now - judged_at > PART_S:
                break
            if now - gave_way > GIVE_WAY_S:
                await asyncio.sleep(0)
                gave_way = time.monotonic()
        return _Part(items, policy, ledger)

    async def _carry_out(self, part: _Part) -> list[Item]:
        """Store and answer what was judged; return what was refused, and may be told."""
        items, policy, ledger = part
        await self._storing.store(items, policy, ledger)
        for item in items:
            if item.new:
                self._charge(item, Store(ledger.stream), policy)
        # A refusal's stamp names the record in the quarantine, so it is stored before it is stamped.
        await self._store_quarantined(items, policy)
        self._stamp(items, policy)
        self._answer([item for item in items if item.accepted])
        for item in items:
            self._tally.count(item.judgment)
        return [item for item in items if not item.accepted and item.tell]

    def _stamp(self, items: list[Item], policy: Policy) -> None:
        """Seal the refusals' stamps with one signature."""
        todo: list[tuple[Item, Stamp]] = []
        for item in items:
            if item.receipt is None:
                stamp = item.judgment.stamp(policy, self._relay, item.record)
                if stamp is not None:
                    todo.append((item, stamp))
        for at in range(0, len(todo), MAX_BATCH):
            chunk = todo[at : at + MAX_BATCH]
            for (item, _), sealed in zip(
                chunk, seal_stamps(self._key, [stamp for _, stamp in chunk], self._verifier), strict=True
            ):
                item.receipt = sealed

    async def _store_quarantined(self, items: list[Item], policy: Policy) -> None:
        quarantined = [
            item
            for item in items
            if item.judgment.verdict is Verdict.QUARANTINED and item.judgment.arrival.session != RELAY
        ]
        if not quarantined:
            return
        judgments = [item.judgment for item in quarantined]
        records = [Record.of(judgment, policy.digest, self._relay) for judgment in judgments]
        stored = await self._journal.store(
            [record.entry(judgment.arrival.data) for record, judgment in zip(records, judgments, strict=True)]
        )
        for item, where in zip(quarantined, stored, strict=True):
            item.record = where.sequence
            if not where.duplicate:
                self._charge(item, Store.QUARANTINE, policy)

    def _charge(self, item: Item, store: Store, policy: Policy) -> None:
        arrival = item.judgment.arrival
        self._meters.shares.charge(arrival.session, store, policy.share(store), len(arrival.data), self._now_ms())

    def _answer(self, items: Sequence[Item]) -> None:
        """Send the senders their stamps, and let the bus's own services answer. Lost receipts are asked for again by a retry."""
        receipts: dict[str, list[tuple[bytes, bytes]]] = {}
        probes: list[bytes] = []
        for item in items:
            header = item.judgment.header
            if header is None or item.receipt is None:
                continue
            receipts.setdefault(item.judgment.arrival.session, []).append((header.nonce, item.receipt))
            if item.fresh and item.judgment.reason is None:
                if header.subject in self._services:
                    self._services.serve(item.judgment, item.receipt)
                elif _is_request(item.judgment):
                    probes.append(self._services.probe(item.judgment, item.receipt))
        frames = [frame for bot, stamps in receipts.items() for frame in _receipt_frames(bot, stamps)]
        try:
            self._nc.write([*frames, *probes])
        except (NatsError, OSError) as error:
            log.warning("receipt.lost", error=type(error).__name__)


def _is_request(judgment: Judgment) -> bool:
    """Whether it may be answered. An answer's rule is that of its request."""
    header, rule = judgment.header, judgment.rule
    assert header is not None and rule is not None
    return rule.reply is not None and not header.subject.startswith(_REPLIES)


def _receipt_frames(bot: str, stamps: Sequence[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """One bot's stamps (each with its nonce) in as few NATS messages as may be."""
    for at in range(0, len(stamps), MAX_TOGETHER):
        together = dict.fromkeys(stamp for _, stamp in stamps[at : at + MAX_TOGETHER])
        if len(together) == 1:
            nonce, stamp = stamps[at]
            yield pub(receipt_subject(bot, nonce).encode(), stamp)
        else:
            yield pub(receipts_subject(bot).encode(), pack_together(list(together)))
