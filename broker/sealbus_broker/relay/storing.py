"""From verdicts to stored messages: each attempt is bound to the moment at which it takes effect.

How one batch is stored. In rounds, until each message is stored or known to be refused:

1. The clock is read. What was judged too long ago, by another clock, or by a ledger that has been lost since, is judged anew.
2. What is accepted becomes a delivery under a new stamp. What is refused, and may be on its way to the store all the same, becomes a
   *note* that closes its id: the sealed refusal. That is so where an attempt of this relay had no answer, and where the message
   was delivered before, to a relay that may have made one. What is refused otherwise needs nothing.
3. All of it is written at once. From the clock to here nothing is awaited.
4. What the server answers is settled: see :meth:`Storing._placed`.

**The chain of ids.** A copy that was stored too late is void, and does not use up its id. Whoever finds one under an id, at the sequence s of
the stream, goes on with ``<id>+<s>``; so does whoever finds a note about another arrival. All attempts begin at the message's own id, and
the ledger remembers each id for as long as any attempt with the nonce may still be stored in time. So each id of the chain is taken once
in that time, and the first copy on it that is not void is the only one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from sealbus.protocol.delivery import pack_delivery
from sealbus.protocol.keys import SigningKey
from sealbus.protocol.limits import MAX_BATCH
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Verifier
from sealbus.protocol.shelf_life import is_void, shelf_life_ms
from sealbus.protocol.stamp import Stamp, Verdict, open_stamp, seal_stamps
from sealbus.protocol.subjects import CLOSED, RELAY
from sealbus_broker.gate.judge import disposition, judge
from sealbus_broker.gate.ledger import settle
from sealbus_broker.gate.policy import HEALTH, Delivery, Disposition, Policy
from sealbus_broker.gate.rate import RateMeters
from sealbus_broker.gate.verdict import Judgment, Moment
from sealbus_broker.nats.streams import PROBE_SUBJECT
from sealbus_broker.relay.journal import Entry, Journal, Stored
from sealbus_broker.relay.ledger import Ledger

PREFIX: Final = {Delivery.STREAM: "accepted", Delivery.LIVE: "live"}

FRESH_SHARE: Final = 4
"""A judgment is used for this fraction of the shelf life, so that three quarters are left for the store."""

CHAIN_MOST: Final = 64
"""Ids of one chain that are tried. Each stands for a pause of more than a shelf life, or for a refusal after a relay's death; a bot that
makes many of its own nonce gets no answer."""


@dataclass(slots=True)
class Item:
    """One message under way: its judgment so far, and what is to be sent back."""

    judgment: Judgment
    since_ms: int | None
    """The beginning of the ledger that it was judged by."""
    judged_at: float
    """When it was judged, by the monotonic clock."""
    receipt: bytes | None = None
    record: int | None = None
    """Where the quarantine keeps it, once it does."""
    fresh: bool = True
    """Whether this is the first time that it is accepted: a retry's receipt is repeated, its effects are not."""
    new: bool = False
    """Whether it was stored now, and takes room."""
    id: str | None = None
    """Where on its chain of ids the next attempt goes."""
    steps: int = 0
    under_way: bool = False
    """Whether an attempt was made whose outcome is not known."""
    made: set[bytes] = field(default_factory=set)
    """Every sealed stamp that was made for it."""
    done: bool = False
    tell: bool = True
    """Whether its sender may be told. Where it cannot be ruled out that it was accepted after all, nobody is."""

    @property
    def accepted(self) -> bool:
        """Whether the judgment so far is that it is accepted."""
        return self.judgment.reason is None


class Storing:
    """Stores what batches accept. One a relay."""

    def __init__(
        self,
        *,
        journal: Journal,
        key: SigningKey,
        relay: str,
        verifier: Verifier,
        meters: RateMeters,
        now_ms: Callable[[], int],
    ) -> None:
        self._journal = journal
        self._key = key
        self._relay = relay
        self._verifier = verifier
        self._meters = meters
        self._now_ms = now_ms

    def judge(self, item: Item, policy: Policy, ledger: Ledger, meters: RateMeters) -> None:
        """Judge it by the clock of now."""
        moment = Moment(self._now_ms(), ledger.since_ms)
        item.judged_at, item.since_ms = time.monotonic(), ledger.since_ms
        item.judgment = judge(item.judgment.arrival, policy, moment, self._verifier, meters)
        item.receipt = None  # that of an attempt before: nobody knows whether it is stored

    async def store(self, items: Sequence[Item], policy: Policy, ledger: Ledger) -> None:
        """Store ``items``, all of one delivery class and in order; return when what becomes of each is durable.

        Afterwards each is accepted, with its receipt, or refused, without.
        """

        async def attempt() -> str | None:
            while True:
                trouble = await self._round([item for item in items if not item.done], policy, ledger)
                if trouble is not None or all(item.done for item in items):
                    return trouble

        await self._journal.persist(attempt)

    async def _round(self, items: Sequence[Item], policy: Policy, ledger: Ledger) -> str | None:
        await ledger.known()
        for item in items:
            if item.accepted and not self._is_young(item, ledger):
                self.judge(item, policy, ledger, RateMeters())  # what it counts was counted already
        writing = [item for item in items if item.accepted or self._must_close(item)]
        for item in items:
            item.done = not (item.accepted or self._must_close(item))
        if not writing:
            return None
        entries = self._entries(writing, policy)
        found, trouble = await self._journal.attempt(entries)
        for item, where in zip(writing, found, strict=True):
            item.under_way = item.under_way or where is None
        placed = [(item, where) for item, where in zip(writing, found, strict=True) if where is not None]
        await asyncio.gather(*(self._placed(item, where, policy, ledger) for item, where in placed))
        return trouble

    def _is_young(self, item: Item, ledger: Ledger) -> bool:
        """Whether the judgment may be used for an attempt now: it is young by both clocks, and the ledger is as it was."""
        most_ms = shelf_life_ms(live=_is_live(item)) / FRESH_SHARE
        return item.since_ms == ledger.since_ms and self._is_within(item, most_ms)

    def _is_within(self, item: Item, most_ms: float) -> bool:
        """Whether it was judged at most ``most_ms`` ago, by the wall clock and by the one that is never set."""
        elapsed_ms = self._now_ms() - item.judgment.judged_at_ms
        return 0 <= elapsed_ms <= most_ms and (time.monotonic() - item.judged_at) * 1000 <= most_ms

    @staticmethod
    def _must_close(item: Item) -> bool:
        """Whether it is refused, and an earlier attempt may be stored yet: then its id has to be closed before anybody is told."""
        judgment = item.judgment
        is_ours = judgment.arrival.session == RELAY  # a probe: it has no id, and nobody handles it
        touched = item.under_way or judgment.ledger_id is not None
        return judgment.reason is not None and not item.done and touched and not is_ours

    def _entries(self, items: Sequence[Item], policy: Policy) -> list[Entry]:
        """Deliveries and notes, under one signature each 1,024."""
        stamps = [self._stamp(item, policy) for item in items]
        sealed: list[bytes] = []
        for at in range(0, len(stamps), MAX_BATCH):
            sealed += seal_stamps(self._key, stamps[at : at + MAX_BATCH], self._verifier)
        return [self._entry(item, stamp) for item, stamp in zip(items, sealed, strict=True)]

    def _stamp(self, item: Item, policy: Policy) -> Stamp:
        stamp = item.judgment.stamp(policy, self._relay)
        assert stamp is not None
        # A note is no verdict yet: what is quarantined is kept later.
        return stamp if item.accepted else replace(stamp, verdict=Verdict.DROPPED)

    @staticmethod
    def _entry(item: Item, stamp: bytes) -> Entry:
        judgment = item.judgment
        assert judgment.envelope is not None
        item.made.add(stamp)
        item.receipt = stamp if item.accepted else None
        item.id = item.id or judgment.ledger_id
        prefix, subject = PREFIX[judgment.arrival.delivery], judgment.envelope.header.subject
        assert item.id is not None
        if not item.accepted:
            return Entry(f"{prefix}.{CLOSED}", stamp, {"Nats-Msg-Id": item.id})
        data = pack_delivery(judgment.envelope.data, stamp)
        if subject == HEALTH:
            # In a stream of its own that keeps the last one. Without an id: storing it twice is as good.
            return Entry(PROBE_SUBJECT, data, {})
        return Entry(f"{prefix}.{subject}", data, {"Nats-Msg-Id": item.id})

    async def _placed(self, item: Item, where: Stored, policy: Policy, ledger: Ledger) -> None:
        """The server has answered: the entry is stored at ``where``, or something else was there before.

        - *A new delivery*, acknowledged within the shelf life by both clocks: accepted. Acknowledged later: its stored time decides.
        - *A new note*: refused. Nothing of this arrival can be stored any more. But nobody is told where the ledger may have
          forgotten an earlier copy by now.
        - *Something else*: void, or a note about another arrival: on along the chain. A note about this arrival: refused. Else a
          message that was accepted, which decides as :func:`~sealbus_broker.gate.ledger.settle` says.
        """
        if where.stream != ledger.stream:
            item.done = True  # a probe
            return
        ledger.remember(where.sequence)
        if not where.duplicate:
            if not item.accepted:
                item.done, item.tell = True, self._still_knows(item, policy)
                return
            is_in_time = self._is_within(item, shelf_life_ms(live=_is_live(item)))
            if is_in_time or not await self._is_void(item, where.sequence, policy, ledger):
                item.done = item.new = True
                return
            self._go_on(item, where.sequence)
            return
        copy = await ledger.copy(where.sequence)
        settled = settle(item.judgment, copy.data, copy.stored_ms, item.made, policy.bus_keys, self._verifier)
        if settled.passed:
            self._go_on(item, where.sequence)
            return
        item.done, item.new = True, settled.receipt in item.made  # it takes room, though its answer was late
        if item.accepted:
            item.fresh = item.new
            item.receipt = settled.receipt
            if settled.reason is not None:
                self._refuse(item, settled.reason, settled.detail, policy)
        elif settled.receipt is not None:
            # A verdict stands: what was accepted is not refused because its wait, a key, a rate or the policy changed since.
            item.fresh, item.receipt = False, settled.receipt
            if settled.reason is not None:
                self._refuse(item, settled.reason, None, policy)
            else:
                item.judgment = replace(item.judgment, reason=None, detail=None)

    def _refuse(self, item: Item, reason: Reason, detail: str | None, policy: Policy) -> None:
        judgment = item.judgment
        kept = disposition(reason, judgment.rule, judgment.arrival, policy, self._now_ms(), self._meters)
        item.judgment = replace(judgment, reason=reason, detail=detail, disposition=kept)

    async def _is_void(self, item: Item, sequence: int, policy: Policy, ledger: Ledger) -> bool:
        assert item.receipt is not None
        copy = await ledger.copy(sequence)
        return is_void(open_stamp(item.receipt, policy.bus_keys, self._verifier), copy.stored_ms)

    @staticmethod
    def _go_on(item: Item, sequence: int) -> None:
        item.id, item.steps, item.receipt = f"{item.id}+{sequence}", item.steps + 1, None
        if item.steps >= CHAIN_MOST:
            item.done, item.tell = True, False
            if item.accepted:
                detail = "too many attempts under its nonce"
                item.judgment = replace(item.judgment, reason=Reason.STALE, detail=detail, disposition=Disposition.DROP)

    def _still_knows(self, item: Item, policy: Policy) -> bool:
        """Whether the ledger remembers every copy that may have been stored under the nonce: then a note that was new is the first."""
        envelope, skew = item.judgment.envelope, policy.limits.clock_skew_ms
        assert envelope is not None
        window_ms = policy.live_window_ms if _is_live(item) else policy.ledger_window_ms
        return self._now_ms() < envelope.header.birth_ms + window_ms - 4 * skew


def _is_live(item: Item) -> bool:
    return item.judgment.arrival.delivery is Delivery.LIVE
