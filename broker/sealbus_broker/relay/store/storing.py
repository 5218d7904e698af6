"""From verdicts to stored messages: each attempt is bound to the moment at which it takes effect
(ADR 19).

A batch is stored in rounds, until each message is stored or known to be refused:

1. The clock is read. A message is judged anew if it was judged too long ago, by another clock, by
   a ledger that was lost since, or by a policy that is not in force any more.
2. An accepted message becomes a delivery under a new stamp. A refused message that may still be on
   its way to the store becomes a *note*, the sealed refusal, which closes its id. That is so where
   an attempt of this relay had no answer, and where the message was delivered before, to a relay
   that may have made an attempt. Any other refused message needs nothing.
3. All of them are written at once. From the clock to here nothing is awaited.
4. Each answer of the server is settled: see :meth:`Storing._placed`.

**The chain of ids.** A copy that was stored too late is void, and does not use up its id. A relay
that finds a void copy under an id, at the sequence s of the stream, goes on with ``<id>+<s>``. So
does a relay that finds a note about another arrival. All attempts begin at the message's own id.
The ledger remembers each id for as long as any attempt with the nonce may still be stored in time.
So each id of the chain is taken once in that time, and the first copy on it that is not void is the
only one.

**A lost connection.** The attempt under way is unknown, and its items are *under way*. The next
round waits until the ledger is valid again, and then begins with the clock.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from sealbus.protocol.delivery import pack_delivery
from sealbus.protocol.keys import Signer
from sealbus.protocol.limits import MAX_BATCH
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Verifier
from sealbus.protocol.shelf_life import is_void, shelf_life_ms
from sealbus.protocol.stamp import Stamp, Verdict, open_stamp, seal_stamps
from sealbus.protocol.streams import ACCEPTED_PREFIX, LIVE_PREFIX
from sealbus.protocol.subjects import CLOSED, RELAY
from sealbus_broker.gate.judge import disposition, judge
from sealbus_broker.gate.ledger import settle
from sealbus_broker.gate.policy import HEALTH, DeliveryClass, Disposition, Policy
from sealbus_broker.gate.rate import RateMeters
from sealbus_broker.gate.verdict import JudgedAt, Judgment
from sealbus_broker.nats.streams import PROBE_SUBJECT
from sealbus_broker.relay.store.ledger import Copy, Ledger
from sealbus_broker.relay.store.stream_store import Stored, StreamMessage, StreamStore

PREFIX: Final = {DeliveryClass.STREAM: ACCEPTED_PREFIX, DeliveryClass.LIVE: LIVE_PREFIX}
"""The first token of the subjects on which deliveries are stored."""

FRESH_SHARE: Final = 4
"""A judgment is used for the shelf life divided by this, so that three quarters are left for the
store."""

CHAIN_MOST: Final = 64
"""How many ids of one chain are tried. Each stands for a pause of more than a shelf life, or for a
refusal after a relay's death. A bot that makes many with its own nonce gets no answer."""

CLOSE_MOST: Final = 8
"""How many ids of one chain are tried for a refused message. The messages that a relay had in hand
when it died come again together, and a hostile bot may give all of them one nonce. Each would be
led through the notes about the others, and honest messages wait behind them."""


@dataclass(slots=True)
class Item:
    """A message of a batch, with its judgment so far, and its answer."""

    judgment: Judgment
    since_ms: int | None
    """The beginning of the ledger that it was judged by."""
    judged_at: float
    """When it was judged (monotonic clock)."""
    policy: Policy
    """The policy that it was judged by."""
    receipt: bytes | None = None
    """The sealed stamp for its sender, once there is one."""
    record: int | None = None
    """Its sequence in the quarantine, if it is kept there."""
    fresh: bool = True
    """Whether it is accepted for the first time. A retry gets its receipt again, and has no
    effect."""
    new: bool = False
    """Whether it was stored now, and takes room."""
    id: str | None = None
    """The id on its chain that the next attempt uses. ``None``: its own."""
    steps: int = 0
    """How many ids of the chain it has left behind."""
    under_way: bool = False
    """Whether an attempt was made whose outcome is unknown."""
    made: set[bytes] = field(default_factory=set)
    """Every sealed stamp that was made for it."""
    done: bool = False
    """Whether it is stored, or known to be refused."""
    tell: bool = True
    """Whether its sender may be told. Nobody is told where it may have been accepted after all."""

    @property
    def accepted(self) -> bool:
        """Whether it is accepted, by the judgment so far."""
        return self.judgment.reason is None

    def is_named_by(self, stamp: Stamp) -> bool:
        """Whether ``stamp`` is about this very arrival, and not about another attempt or a copy."""
        judgment = self.judgment
        return judgment.envelope is not None and (stamp.position, stamp.envelope) == (
            judgment.arrival.position,
            judgment.envelope.digest,
        )


class Storing:
    """Stores the messages of batches. A relay has one, and it keeps nothing between two batches.
    It knows the batches under way, and the policies of their attempts.

    The state of a message is in its :class:`Item`: *under way*, *done*, and its id on the chain.
    :meth:`_round` and :meth:`_placed` change it. On a lost connection :class:`StreamStore` ends the
    attempt, and the next round begins once the ledger is valid: see the module.
    """

    def __init__(
        self,
        *,
        stream_store: StreamStore,
        key: Signer,
        relay: str,
        verifier: Verifier,
        meters: RateMeters,
        policy: Callable[[], Policy],
        now_ms: Callable[[], int],
    ) -> None:
        """Prepare.

        Args:
            stream_store: Makes the attempts.
            key: The bus key, which seals stamps.
            relay: The relay's name, which stamps have.
            verifier: Remembers the seals that hold.
            meters: Says which refusals the quarantine keeps.
            policy: Gives the policy in force.
            now_ms: The wall clock, in ms since 1970.
        """
        self._stream_store = stream_store
        self._key = key
        self._relay = relay
        self._verifier = verifier
        self._meters = meters
        self._policy = policy
        self._now_ms = now_ms
        self._tried: Counter[bytes] = Counter()
        """For each digest of a policy, the batches under way with an attempt by it. An attempt
        without an answer may still be stored, until its message is."""
        self._ended = asyncio.Event()
        """Set when a batch ends."""
        self._anew = asyncio.Lock()
        """Held while items are judged anew, until the event loop has had a turn."""

    async def settle(self, policy: Policy) -> None:
        """Return when no attempt by another policy than ``policy``, which is in force, can be
        stored any more."""
        # By the digest: a new key of the bus makes another policy of the same rules.
        while self._tried.keys() - {policy.digest}:
            self._ended.clear()
            await self._ended.wait()

    def judge(self, item: Item, ledger: Ledger, meters: RateMeters) -> None:
        """Judge an item again, by the present time and the policy in force."""
        policy = item.policy = self._policy()
        moment = JudgedAt(self._now_ms(), ledger.since_ms)
        item.judged_at = time.monotonic()
        item.since_ms = ledger.since_ms
        item.judgment = judge(item.judgment.arrival, policy, moment, self._verifier, meters)
        # The receipt of an earlier attempt goes: nobody knows whether that attempt is stored.
        item.receipt = None

    async def store(self, items: Sequence[Item], ledger: Ledger) -> None:
        """Store ``items``, all of one delivery class and in order; return when each outcome is
        durable.

        Each item is then accepted, and has its receipt, or refused, and has none.
        """
        tried: set[bytes] = set()

        async def attempt() -> str | None:
            while True:
                why = await self._round([item for item in items if not item.done], ledger, tried)
                # Without a reason each entry has its answer. Some may lead on along a chain, at
                # once and without a pause.
                if why is not None or all(item.done for item in items):
                    return why

        try:
            await self._stream_store.persist(attempt)
        finally:
            self._tried -= Counter(tried)
            self._ended.set()

    async def _round(self, items: Sequence[Item], ledger: Ledger, tried: set[bytes]) -> str | None:
        """Make one attempt for ``items``. ``tried``: the digest of each policy of an attempt."""
        await ledger.wait_valid()
        if any(self._is_outdated(item, ledger) for item in items):
            await self._wait_for_turn()
            await ledger.wait_valid()
        # From here to the write nothing is awaited, so an item that is young here is young there.
        policy = self._policy()
        for item in items:
            if self._is_outdated(item, ledger):
                # With meters of its own: the first judgment has counted this message already.
                self.judge(item, ledger, RateMeters())
        writing = [item for item in items if item.accepted or self._must_close(item)]
        for item in items:
            # Refused, and no attempt for it can be stored: nothing is left to do.
            item.done = not (item.accepted or self._must_close(item))
        if not writing:
            return None
        entries = self._entries(writing)
        known = ledger.last_sequence
        if policy.digest not in tried:
            tried.add(policy.digest)
            self._tried[policy.digest] += 1
        found, why = await self._stream_store.attempt(entries)
        for item, where in zip(writing, found, strict=True):
            # Without an answer it may be stored all the same, and an earlier attempt still may be.
            item.under_way = item.under_way or where is None
            if where is None or where.duplicate or where.stream != ledger.stream:
                continue
            # It is stored, but an earlier copy may have been in the ledger that is lost.
            if ledger.is_of_another(where.sequence, known):
                self._give_up(item, "the ledger began anew")
        placed = [
            (item, where)
            for item, where in zip(writing, found, strict=True)
            if where is not None
            and not item.done
            and not self._is_stored_in_time(item, where, ledger)
        ]
        # Together: the stored messages of many copies are read in few round trips. The ledger
        # bounds how many at once.
        if placed:
            await asyncio.gather(*(self._placed(item, where, ledger) for item, where in placed))
        return why

    async def _wait_for_turn(self) -> None:
        """Wait until the event loop has had a turn since other items were judged anew.

        After an outage all partitions do so at once. Together they may take eight seconds, and
        nats-server takes a relay that reads nothing for half of that for gone (ADR 44).
        """
        await self._anew.acquire()
        # It is called behind this step, which judges and writes.
        asyncio.get_running_loop().call_soon(self._anew.release)

    def _is_outdated(self, item: Item, ledger: Ledger) -> bool:
        """Whether the item is accepted by a judgment that may not be used for an attempt now."""
        is_by_it = item.policy is self._policy()
        return item.accepted and not (is_by_it and self._is_young(item, ledger))

    def _is_stored_in_time(self, item: Item, where: Stored, ledger: Ledger) -> bool:
        """Settle the ordinary answer: a new delivery, within its shelf life. Whether it was one."""
        if where.duplicate or not item.accepted or where.stream != ledger.stream:
            return False
        if not self._is_within(item, shelf_life_ms(live=_is_live(item))):
            return False
        ledger.remember(where.sequence)
        item.done = item.new = True
        return True

    def _is_young(self, item: Item, ledger: Ledger) -> bool:
        """Whether the judgment may be used for an attempt now.

        It must be young by both clocks, and by the ledger as it is.
        """
        most_ms = shelf_life_ms(live=_is_live(item)) / FRESH_SHARE
        return item.since_ms == ledger.since_ms and self._is_within(item, most_ms)

    def _is_within(self, item: Item, most_ms: float) -> bool:
        """Whether it was judged at most ``most_ms`` ago, by the wall clock and the monotonic
        one."""
        elapsed_ms = self._now_ms() - item.judgment.judged_at_ms
        # Below 0 the wall clock was set back, and proves nothing.
        return 0 <= elapsed_ms <= most_ms and (time.monotonic() - item.judged_at) * 1000 <= most_ms

    @staticmethod
    def _must_close(item: Item) -> bool:
        """Whether it is refused although an earlier attempt may still be stored.

        Its id is then closed before anybody is told.
        """
        judgment = item.judgment
        # A probe has no id, and nobody handles it.
        is_ours = judgment.arrival.session == RELAY
        # A refusal has an id only where an earlier relay may have made an attempt
        # (``may_be_stored`` in gate/judge.py).
        touched = item.under_way or judgment.ledger_id is not None
        return judgment.reason is not None and not item.done and touched and not is_ours

    def _entries(self, items: Sequence[Item]) -> list[StreamMessage]:
        """Make the deliveries and notes of a round, with one signature for each 1,024."""
        stamps = [self._stamp(item) for item in items]
        sealed: list[bytes] = []
        for at in range(0, len(stamps), MAX_BATCH):
            sealed += seal_stamps(self._key, stamps[at : at + MAX_BATCH], self._verifier)
        return [self._entry(item, stamp) for item, stamp in zip(items, sealed, strict=True)]

    def _stamp(self, item: Item) -> Stamp:
        stamp = item.judgment.stamp(item.policy, self._relay)
        assert stamp is not None
        # A note is no verdict yet. A message that is quarantined is kept later.
        return stamp if item.accepted else replace(stamp, verdict=Verdict.DROPPED)

    @staticmethod
    def _entry(item: Item, stamp: bytes) -> StreamMessage:
        judgment = item.judgment
        assert judgment.envelope is not None
        item.made.add(stamp)
        item.receipt = stamp if item.accepted else None
        # The place on the chain outlives a new judgment, whose id is the chain's first.
        item.id = item.id or judgment.ledger_id
        prefix = PREFIX[judgment.arrival.delivery]
        subject = judgment.envelope.header.subject
        assert item.id is not None
        if not item.accepted:
            return StreamMessage(f"{prefix}.{CLOSED}", stamp, {"Nats-Msg-Id": item.id})
        links = item.policy.links_to(judgment.arrival.session, judgment.envelope.enrolled)
        data = pack_delivery(judgment.shown(), stamp, links)
        if subject == HEALTH:
            # A probe goes into a stream of its own, which keeps the last one. It has no id, because
            # a probe that is stored twice does no harm.
            return StreamMessage(PROBE_SUBJECT, data, {})
        return StreamMessage(f"{prefix}.{subject}", data, {"Nats-Msg-Id": item.id})

    async def _placed(self, item: Item, where: Stored, ledger: Ledger) -> None:
        """Settle an answer: the entry is stored at ``where``, or another copy was there before.

        - *A new delivery* was answered after its shelf life, by one of the clocks
          (:meth:`_is_stored_in_time`). So its stored time decides.
        - *A new note* is a refusal. No attempt for this arrival can be stored any more. But nobody
          is told where the ledger may have forgotten an earlier copy by now.
        - *Another copy*: see :meth:`_settled`.
        - *A copy that is gone* went with a ledger that was lost. Nobody knows the outcome any more,
          so nobody is told.
        """
        if where.stream != ledger.stream:
            item.done = True  # a probe
            return
        # A stream that comes back shorter than this has lost ids.
        ledger.remember(where.sequence)
        if not where.duplicate and not item.accepted:
            item.done = True
            item.tell = self._still_knows(item, ledger)
            return
        # Without an answer in time, or where another copy has the id, only the stored copy says
        # which of the cases it is.
        copy = await ledger.copy(where.sequence)
        # In a ledger that began anew, another message may have the sequence.
        if not copy.stored_ms or ledger.since_ms != item.since_ms:
            self._give_up(item, "the ledger began anew")
        elif where.duplicate:
            self._settled(item, copy, where.sequence)
        elif self._is_void(item, copy):
            self._go_on(item, where.sequence)
        else:
            item.done = item.new = True

    def _is_void(self, item: Item, copy: Copy) -> bool:
        assert item.receipt is not None
        return is_void(
            open_stamp(item.receipt, item.policy.bus_keys, self._verifier), copy.stored_ms
        )

    def _settled(self, item: Item, copy: Copy, sequence: int) -> None:
        """Settle an item by the copy that was there before.

        A copy that is void, or a note about another arrival, leads on along the chain. A note about
        this arrival is a refusal. Any other copy is a message that was accepted, and decides as
        :func:`~sealbus_broker.gate.ledger.settle` says.
        """
        settled = settle(
            item.judgment,
            copy.data,
            copy.stored_ms,
            item.made,
            item.policy.bus_keys,
            self._verifier,
        )
        if settled.passed:
            self._go_on(item, sequence)
            return
        item.done = True
        # It takes room now, though its answer was late.
        item.new = settled.receipt in item.made
        if item.accepted:
            item.fresh = item.new
            item.receipt = settled.receipt
            if settled.reason is not None:
                self._refuse(item, settled.reason, settled.detail)
            else:
                self._take_verdict(item)
        elif settled.receipt is not None:
            # A verdict stands. An accepted message is not refused because its wait, a key, a rate
            # or the policy has changed since.
            item.fresh = False
            item.receipt = settled.receipt
            if settled.reason is not None:
                self._refuse(item, settled.reason, None)
            else:
                self._take_verdict(item)

    def _take_verdict(self, item: Item) -> None:
        """Let the stamp of the stored copy say which payloads are refused.

        The judgment may be by another policy, which refuses others.
        """
        assert item.receipt is not None
        stamp = open_stamp(item.receipt, item.policy.bus_keys, self._verifier)
        item.judgment = replace(item.judgment, reason=None, detail=None, refused=stamp.refused)

    def _refuse(self, item: Item, reason: Reason, detail: str | None) -> None:
        judgment = item.judgment
        # With the real meters: the ledger has just found the violation, so nobody has counted it.
        kept = disposition(
            reason, judgment.rule, judgment.arrival, item.policy, self._now_ms(), self._meters
        )
        item.judgment = replace(judgment, reason=reason, detail=detail, disposition=kept)

    def _go_on(self, item: Item, sequence: int) -> None:
        item.id = f"{item.id}+{sequence}"
        item.steps += 1
        item.receipt = None
        if item.steps >= (CHAIN_MOST if item.accepted else CLOSE_MOST):
            self._give_up(item, "too many attempts under its nonce")

    @staticmethod
    def _give_up(item: Item, why: str) -> None:
        """End an item without an outcome: its sender hears nothing, and asks again."""
        item.done = True
        item.tell = False
        item.receipt = None
        if item.accepted:
            item.judgment = replace(
                item.judgment, reason=Reason.STALE, detail=why, disposition=Disposition.DROP
            )

    def _still_knows(self, item: Item, ledger: Ledger) -> bool:
        """Whether the ledger remembers every copy that may have been stored under the nonce.

        A note that was new is then the first copy.
        """
        envelope = item.judgment.envelope
        policy = item.policy
        skew = policy.limits.clock_skew_ms
        assert envelope is not None
        # A ledger that began anew does not know an attempt from before.
        since_ms = ledger.since_ms
        if since_ms is not None and envelope.header.birth_ms <= since_ms + skew:
            return False
        # An id is remembered until its nonce's birth, plus the window, less three skews, by the
        # server's clock (threats.md, steps 6 to 8). This relay's clock may be one more behind it.
        window_ms = policy.live_window_ms if _is_live(item) else policy.ledger_window_ms
        return self._now_ms() < envelope.header.birth_ms + window_ms - 4 * skew


def _is_live(item: Item) -> bool:
    return item.judgment.arrival.delivery is DeliveryClass.LIVE
