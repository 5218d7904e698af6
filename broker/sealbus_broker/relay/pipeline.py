"""A batch of messages on its way through the relay: judged, stamped, stored, answered.

The order is what makes a crash harmless. A verdict is stored before its receipt is sent, and both before the message is acknowledged to
the ingress stream; so whatever a dying relay had not finished is delivered to the next one, which finds in the ledger what was done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog
from nats.errors import Error as NatsError

from sealbus.codec import pack_together
from sealbus.delivery import pack_delivery
from sealbus.frames import pub
from sealbus.hardened import HardenedClient
from sealbus.keys import SigningKey
from sealbus.limits import MAX_BATCH, MAX_TOGETHER
from sealbus.seal import Verifier
from sealbus.stamp import Stamp, Verdict, seal_stamps
from sealbus.subjects import RELAY, REPLY, receipt_subject, receipts_subject
from sealbus_broker.gate.judge import disposition, judge
from sealbus_broker.gate.ledger import settle
from sealbus_broker.gate.policy import HEALTH, Delivery, Policy, Store
from sealbus_broker.gate.rate import RateMeters
from sealbus_broker.gate.verdict import Arrival, Judgment, Moment
from sealbus_broker.relay.journal import Entry, Journal, Stored
from sealbus_broker.relay.ledger import Ledger
from sealbus_broker.relay.quarantine import Record
from sealbus_broker.relay.streams import PROBE_SUBJECT
from sealbus_broker.relay.tally import Tally

log = structlog.get_logger(__name__)

_REPLIES: Final = f"{REPLY}."
_PREFIX: Final = {Delivery.STREAM: "accepted", Delivery.LIVE: "live"}


class Services(Protocol):
    """Answers accepted messages on the bus's own subjects."""

    def __contains__(self, subject: str) -> bool: ...

    def serve(self, judgment: Judgment, stamp: bytes) -> None:
        """Start answering; return at once, never raise."""

    def probe(self, judgment: Judgment, stamp: bytes) -> bytes:
        """The frame that finds out whether anybody listens to a request, and has the requester told if not."""


@dataclass(slots=True)
class _Item:
    """One message under way: its judgment so far, and what is to be sent back."""

    judgment: Judgment
    receipt: bytes | None = None
    record: int | None = None
    """Where the quarantine keeps it, once it does."""
    fresh: bool = True
    """Whether this is the first time that it is accepted: a retry's receipt is repeated, its effects are not."""


class Pipeline:
    """Judges arrivals and carries the verdicts out. One a relay; :meth:`process` may run for several batches at once."""

    def __init__(
        self,
        nc: HardenedClient,
        journal: Journal,
        ledgers: Mapping[Delivery, Ledger],
        policy: Callable[[], Policy],
        key: SigningKey,
        relay: str,
        services: Services,
        tally: Tally,
        now_ms: Callable[[], int],
    ) -> None:
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
        self._meters = RateMeters()

    async def process(self, arrivals: Sequence[Arrival], turn: asyncio.Lock) -> None:
        """Judge ``arrivals`` (all of one delivery class, at most 1,024) and return when every verdict is durable and answered.

        ``turn``: held while they are stored, so that what is judged in the meantime is stored behind them.
        """
        policy, ledger = self._policy(), self._ledgers[arrivals[0].delivery]
        await ledger.known()
        moment = Moment(self._now_ms(), ledger.since_ms)
        items = [_Item(judge(arrival, policy, moment, self._verifier, self._meters)) for arrival in arrivals]
        async with turn:
            await ledger.known()
            if ledger.since_ms != moment.ledger_since_ms:  # it was lost while others were being stored
                self._judge_again(items, policy, Moment(self._now_ms(), ledger.since_ms))
            await self._recall(items, ledger)
            self._stamp([item for item in items if item.judgment.reason is None], policy)
            await self._store_accepted(items, ledger, policy)
            # A refusal's stamp names the record in the quarantine, so it is stored before it is stamped.
            await self._store_quarantined(items, policy)
            self._stamp(items, policy)
        self._answer(items)
        for item in items:
            self._tally.count(item.judgment)

    def _judge_again(self, items: list[_Item], policy: Policy, moment: Moment) -> None:
        """What was accepted by a ledger that has since forgotten; its rate has been counted already."""
        for item in items:
            if item.judgment.reason is None:
                item.judgment = judge(item.judgment.arrival, policy, moment, self._verifier, RateMeters())

    async def _recall(self, items: list[_Item], ledger: Ledger) -> None:
        """Find out whether a relay that died had accepted what is refused now.

        A verdict stands: what was accepted, and only never acknowledged, is not refused because its wait, a key or the policy changed since.
        """
        for item in items:
            judgment = item.judgment
            if judgment.reason is not None and judgment.proven and judgment.arrival.redelivered:
                item.receipt = await ledger.find(judgment)
                if item.receipt is not None:
                    item.fresh = False
                    item.judgment = replace(judgment, reason=None, detail=None)

    def _stamp(self, items: list[_Item], policy: Policy) -> None:
        """Seal the stamps of all that have none yet with one signature."""
        todo: list[tuple[_Item, Stamp]] = []
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

    async def _store_accepted(self, items: list[_Item], ledger: Ledger, policy: Policy) -> None:
        """Store what passed; what the ledger already holds is settled by what it holds."""
        accepted = [item for item in items if item.judgment.reason is None and item.fresh]
        stored = await self._journal.store([_accepted_entry(item) for item in accepted])
        for item, where in zip(accepted, stored, strict=True):
            if where.stream == ledger.stream:
                ledger.remember(where.sequence)
                if not where.duplicate:
                    self._charge(item, Store(where.stream), policy)
        known = [(item, where) for item, where in zip(accepted, stored, strict=True) if where.duplicate]
        await asyncio.gather(*(self._settle(item, where, ledger, policy) for item, where in known))

    async def _settle(self, item: _Item, where: Stored, ledger: Ledger, policy: Policy) -> None:
        stored = await ledger.read(where.sequence)
        if stored == _accepted_entry(item).data:
            return  # our own: it was stored, and only the acknowledgement was late
        settled = settle(item.judgment, stored, policy.bus_keys, self._verifier)
        item.fresh = False
        item.receipt = settled.receipt
        if settled.reason is not None:
            judgment, now_ms = item.judgment, self._now_ms()
            kept = disposition(settled.reason, judgment.rule, judgment.arrival, policy, now_ms, self._meters)
            item.judgment = replace(judgment, reason=settled.reason, disposition=kept)

    async def _store_quarantined(self, items: list[_Item], policy: Policy) -> None:
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

    def _charge(self, item: _Item, store: Store, policy: Policy) -> None:
        arrival = item.judgment.arrival
        self._meters.shares.charge(arrival.session, store, policy.share(store), len(arrival.data), self._now_ms())

    def _answer(self, items: list[_Item]) -> None:
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


def _accepted_entry(item: _Item) -> Entry:
    judgment = item.judgment
    assert judgment.envelope is not None and item.receipt is not None and judgment.ledger_id is not None
    subject, data = judgment.envelope.header.subject, pack_delivery(judgment.envelope.data, item.receipt)
    if subject == HEALTH:
        # In a stream of its own that keeps the last one. Without an id: storing it twice is as good.
        return Entry(PROBE_SUBJECT, data, {})
    prefix = _PREFIX[judgment.arrival.delivery]
    return Entry(f"{prefix}.{subject}", data, {"Nats-Msg-Id": judgment.ledger_id})
