"""A batch of messages on its way through the relay: judged, stored, stamped, answered.

The steps of a batch, and the order that makes a crash harmless:

1. It waits until the ledger is valid, and is judged. The next batch of its queue waits for its
   turn.
2. The acceptances are stored (:mod:`sealbus_broker.relay.store.storing`). A message that is already
   stored keeps its earlier verdict. One that has to be judged again is judged by the policy that is
   in force by then.
3. The refusals that the policy keeps are stored in the quarantine, and stamped. So are the refused
   payloads of accepted envelopes.
4. The acceptances are answered. Their receipts, and the answers of the bus's own services, leave.
5. The caller acknowledges the batch to INGRESS, and then has the refusals answered.

A dying relay leaves unfinished messages to the next one, which finds in the ledger those that were
accepted. A refusal is answered last, because the next relay might accept a message whose sender was
told that it is refused.

A judging that takes long gives way to other work, and stores in parts. A verdict has a shelf life
(ADR 19), and what judging takes is taken from it.

On a lost connection the ledger becomes invalid, so no judging begins. A store that is under way is
tried again until it succeeds. A receipt that cannot be written is lost: its sender asks again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Final, Protocol

from nats.errors import Error as NatsError

from sealbus.nats.client import HardenedClient
from sealbus.nats.frames import pub
from sealbus.protocol.codec import pack_bundle
from sealbus.protocol.keys import Signer
from sealbus.protocol.limits import MAX_BATCH, MAX_BUNDLE, MAX_BUNDLE_BYTES
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import Stamp, Verdict, open_stamp, seal_stamps
from sealbus.protocol.subjects import RELAY, REPLY, receipt_subject, receipts_subject
from sealbus.protocol.value import value
from sealbus_broker.gate.judge import disposition, judge
from sealbus_broker.gate.policy import DeliveryClass, Disposition, Policy, Store
from sealbus_broker.gate.rate import RateMeters
from sealbus_broker.gate.verdict import Arrival, JudgedAt, Judgment
from sealbus_broker.logger import get_logger
from sealbus_broker.relay.judging.counters import WORTHLESS, VerdictCounters
from sealbus_broker.relay.judging.turn import Turn
from sealbus_broker.relay.store.ledger import Ledger
from sealbus_broker.relay.store.quarantine import Record, RefusedPart
from sealbus_broker.relay.store.storing import Item, Storing
from sealbus_broker.relay.store.stream_store import StreamStore

log = get_logger(__name__)

GIVE_WAY_S: Final = 0.002
"""After this time the judging of a batch lets all other work have a turn: pulls, acknowledgements,
the server's pings, other partitions. So the messages of one bot that cost much keep those of other
partitions waiting for 2 ms at a time. A turn of the event loop takes 50 µs, a fortieth of that. One
batch is judged at a time: otherwise those of all partitions would take a turn of the event loop
together, and each pull and each receipt would wait for all of them."""

CATCH_UP_TURNS: Final = 24
"""How many more turns of the event loop the connections have between two slices of judging, while
their last reads were large. Otherwise each has one read, which is 16 MB of live messages a second.
A flood brings more, so 16 MiB waited in nats-server, and the live messages of all bots waited
behind them for a second. And a relay has seen a backlog of half a gigabyte after two seconds, in
place of five. A large read may be the last one. Then these turns take 0.04 ms, because nothing
comes."""

CATCH_UP_S: Final = 0.002
"""How long these turns may take: as long as a slice. A read of tiny messages takes some
milliseconds."""

PART_S: Final = 0.5
"""After this time the messages that are judged are stored, and the rest of the batch is judged by a
new time. A verdict is used for a quarter of its shelf life, which is 1.25 s for a live message. An
older one is judged anew just before it is stored, and nothing may give way there."""

_REPLIES: Final = f"{REPLY}."


class Services(Protocol):
    """Answers accepted messages on the bus's own subjects."""

    def __contains__(self, subject: str) -> bool: ...

    def serve(self, judgment: Judgment, stamp: bytes) -> None:
        """Start answering; return at once, never raise."""

    def probe(self, judgment: Judgment, stamp: bytes) -> bytes:
        """Return the frame that asks whether anybody listens to a request. If not, the requester is
        told."""


class Refusals:
    """The refused messages of a batch.

    Their senders are told only once the server has confirmed that nobody else judges the messages.
    """

    def __init__(self, items: Sequence[Item], answer: Callable[[Sequence[Item]], None]) -> None:
        self._items = items
        self._answer = answer

    def __bool__(self) -> bool:
        return bool(self._items)

    def __add__(self, others: Refusals) -> Refusals:
        return Refusals([*self._items, *others._items], others._answer)

    def split(self, positions: Collection[int]) -> tuple[Refusals, Refusals]:
        """Return those of the messages at these places in INGRESS, and the others."""
        parts: tuple[list[Item], list[Item]] = [], []
        for item in self._items:
            parts[item.judgment.arrival.position not in positions].append(item)
        return Refusals(parts[0], self._answer), Refusals(parts[1], self._answer)

    @property
    def by_bot(self) -> Counter[str]:
        """How many each bot has, without the worthless ones, which have a bound of their own."""
        return Counter(
            item.judgment.arrival.session
            for item in self._items
            if item.judgment.reason not in WORTHLESS
        )

    def tell(self) -> None:
        """Tell the senders."""
        self._answer(self._items)


NONE_REFUSED: Final = Refusals((), lambda _: None)

Process = Callable[[Sequence[Arrival], Turn], Awaitable[Refusals]]
"""Judges arrivals and carries the verdicts out, in the order of their turn:
:meth:`Pipeline.process`."""

Judging = Callable[[], AbstractAsyncContextManager[None]]
"""Makes a block in which messages are judged. Whatever waits for NATS is outside of it."""

ProcessWithin = Callable[[Sequence[Arrival], Turn, Judging], Awaitable[Refusals]]
"""Does the same, and judges within such a block."""


@value
class _Part:
    """The messages of a batch that were judged together."""

    items: list[Item]
    ledger: Ledger
    """The ledger that they were judged by."""


class Pipeline:
    """Judges arrivals and carries the verdicts out.

    A relay has one. :meth:`process` may run for several batches at once. It keeps nothing between
    two batches except rates, shares and verified seals, which a relay may lose. On a lost
    connection each batch stays at its step: see the module.
    """

    def __init__(
        self,
        *,
        nc: HardenedClient,
        stream_store: StreamStore,
        ledgers: Mapping[DeliveryClass, Ledger],
        policy: Callable[[], Policy],
        key: Signer,
        relay: str,
        services: Services,
        counters: VerdictCounters,
        now_ms: Callable[[], int],
        reads: Sequence[HardenedClient],
        meters: RateMeters | None = None,
    ) -> None:
        """Prepare; nothing is asked of NATS.

        Args:
            nc: The relay's connection, for receipts.
            stream_store: Stores messages.
            ledgers: The ledger of each delivery class.
            policy: Gives the policy in force, anew for each batch.
            key: The bus key, which seals stamps.
            relay: The relay's name, which stamps have.
            services: Answers on the bus's own subjects.
            counters: Counts verdicts.
            now_ms: The wall clock, in ms since 1970.
            reads: The connections that bring messages. They are read on between two slices of
                judging.
            meters: The rates and shares of each bot, where others count in them too.
        """
        self._nc = nc
        self._stream_store = stream_store
        self._ledgers = ledgers
        self._policy = policy
        self._key = key
        self._relay = relay
        self._services = services
        self._counters = counters
        self._now_ms = now_ms
        self._verifier = Verifier()
        """Shared with the storing: a message that is judged again is not verified again."""
        self._meters = RateMeters() if meters is None else meters
        """The rates and shares of each bot."""
        self._reads = reads
        self._judging = asyncio.Lock()
        """Held by the batch that is being judged, for :data:`GIVE_WAY_S` at a time, and while the
        connections catch up."""
        self._storing = Storing(
            stream_store=stream_store,
            key=key,
            relay=relay,
            verifier=self._verifier,
            meters=self._meters,
            policy=policy,
            now_ms=now_ms,
        )

    async def settle(self) -> None:
        """Return when nothing is being stored that an older policy judged."""
        await self._storing.settle(self._policy())

    async def process(
        self, arrivals: Sequence[Arrival], turn: Turn, judging: Judging = nullcontext
    ) -> Refusals:
        """Judge ``arrivals`` and return when every verdict is durable.

        Args:
            arrivals: At most 1,024, all of one delivery class.
            turn: The turn of the queue from which they come. A batch that is judged while they are
                stored is stored behind them.
            judging: Makes a block for each part that is judged.

        Returns:
            The refusals, whose senders are to be told once the batch is acknowledged. The senders
            of accepted messages are told already.
        """
        waiting = deque(arrivals)
        refused: list[Item] = []
        async with turn.judging:
            while True:
                part = await self._judge(waiting, judging)
                if not waiting:
                    # Before judging is left: else a later batch could be stored before this one.
                    await turn.storing.acquire()
                    break
                async with turn.storing:
                    refused += await self._carry_out(part)
        # From here on the next batch of the queue is judged while this one is stored.
        try:
            refused += await self._carry_out(part)
        finally:
            turn.storing.release()
        return Refusals(refused, self._answer)

    async def _judge(self, waiting: deque[Arrival], judging: Judging) -> _Part:
        """Judge the messages that wait, in order, for :data:`PART_S`. The rest waits on."""
        ledger = self._ledgers[waiting[0].delivery]
        await ledger.wait_valid()
        async with judging():
            return _Part(await self._judged(waiting, ledger), ledger)

    async def _judged(self, waiting: deque[Arrival], ledger: Ledger) -> list[Item]:
        # Only now: the wait may have been long. Another policy may be in force, and the ledger may
        # have begun anew.
        policy = self._policy()
        moment = JudgedAt(self._now_ms(), ledger.since_ms)
        judged_at = now = time.monotonic()
        items: list[Item] = []
        while waiting:
            # The ledger may become invalid meanwhile. So Storing looks at it again before it
            # writes.
            async with self._judging:
                gives_way = min(time.monotonic() + GIVE_WAY_S, judged_at + PART_S)
                while waiting:
                    judgment = judge(
                        waiting.popleft(), policy, moment, self._verifier, self._meters
                    )
                    items.append(Item(judgment, moment.ledger_since_ms, judged_at, policy))
                    now = time.monotonic()
                    if now > gives_way:
                        break
                # Under the lock: else another batch would be judged in these turns.
                await self._catch_up()
            if now - judged_at > PART_S:
                # The first of them must still be young when it is stored.
                break
            # Whoever reads, writes or acknowledges goes first.
            await asyncio.sleep(0)
        return items

    async def _catch_up(self) -> None:
        """Let the connections read on while one is behind, for :data:`CATCH_UP_TURNS` and
        :data:`CATCH_UP_S` at most."""
        until = time.monotonic() + CATCH_UP_S
        for _ in range(CATCH_UP_TURNS):
            if time.monotonic() >= until or not any(nc.is_behind for nc in self._reads):
                break
            await asyncio.sleep(0)

    async def _carry_out(self, part: _Part) -> list[Item]:
        """Store and answer the messages of a part; return the refused ones that may be told."""
        items = part.items
        ledger = part.ledger
        await self._storing.store(items, ledger)
        for item in items:
            # A message that was stored before has been charged before.
            if item.new:
                self._charge(item, Store(ledger.stream))
        refused = [one for item in items if item.accepted for one in self._refused(item)]
        # A refusal's stamp names the record in the quarantine, so it is stored before it is
        # stamped.
        await self._store_quarantined(items, refused)
        self._stamp(items)
        self._answer([item for item in items if item.accepted])
        for item in items:
            self._counters.count(item.judgment)
        for one in refused:
            self._counters.count_payloads(one)
        return [item for item in items if not item.accepted and item.tell]

    def _stamp(self, items: list[Item]) -> None:
        """Seal the refusals' stamps with one signature."""
        todo: list[tuple[Item, Stamp]] = []
        for item in items:
            # An accepted message has the stamp under which it was stored, and a copy has the stored
            # one.
            if item.receipt is None:
                stamp = item.judgment.stamp(item.policy, self._relay, item.record)
                if stamp is not None:
                    todo.append((item, stamp))
        for at in range(0, len(todo), MAX_BATCH):
            chunk = todo[at : at + MAX_BATCH]
            for (item, _), sealed in zip(
                chunk,
                seal_stamps(self._key, [stamp for _, stamp in chunk], self._verifier),
                strict=True,
            ):
                item.receipt = sealed

    def _refused(self, item: Item) -> list[RefusedPart]:
        """Return the refused payloads of an accepted envelope, together by reason.

        The stamp under which it is stored says which they are. A judgment since may differ.
        """
        judgment = item.judgment
        if not judgment.refused or not (item.new or judgment.arrival.redelivered):
            return []
        policy = item.policy
        assert item.receipt is not None
        stamp = open_stamp(item.receipt, policy.bus_keys, self._verifier)
        # A relay that died may have stored this arrival, and not yet its refused payloads.
        if not item.new and not item.is_named_by(stamp):
            return []
        # A judgment of today may refuse a message that was accepted before, and has no rule then.
        header = judgment.header
        rule = judgment.rule or (None if header is None else policy.rule(header.subject))
        return [
            RefusedPart(
                judgment,
                policy,
                stamp,
                reason,
                next(one.detail for one in stamp.refused if one.reason is reason),
                [one.index for one in stamp.refused if one.reason is reason],
                disposition(reason, rule, judgment.arrival, policy, self._now_ms(), self._meters),
            )
            for reason in dict.fromkeys(one.reason for one in stamp.refused)
        ]

    async def _store_quarantined(self, items: list[Item], refused: list[RefusedPart]) -> None:
        quarantined = [
            item
            for item in items
            if item.judgment.verdict is Verdict.QUARANTINED
            # A probe's stamp tells the relay that sent it, and no operator need see the bytes.
            and item.judgment.arrival.session != RELAY
        ]
        kept = [part for part in refused if part.disposition is Disposition.QUARANTINE]
        if not quarantined and not kept:
            return
        entries = [
            Record.of(item.judgment, item.policy.digest, self._relay).entry(
                item.judgment.arrival.data
            )
            for item in quarantined
        ]
        entries += [part.entry() for part in kept]
        stored = await self._stream_store.store(entries)
        for item, where in zip(quarantined, stored[: len(quarantined)], strict=True):
            item.record = where.sequence
            if not where.duplicate:
                self._charge(item, Store.QUARANTINE)
        for part, entry, where in zip(
            kept, entries[len(quarantined) :], stored[len(quarantined) :], strict=True
        ):
            if not where.duplicate:
                bot = part.judgment.arrival.session
                share = part.policy.share(Store.QUARANTINE)
                size = len(entry.data)
                self._meters.shares.charge(bot, Store.QUARANTINE, share, size, self._now_ms())

    def _charge(self, item: Item, store: Store) -> None:
        arrival = item.judgment.arrival
        size = item.judgment.stored_bytes if item.accepted else len(arrival.data)
        self._meters.shares.charge(
            arrival.session, store, item.policy.share(store), size, self._now_ms()
        )

    def _answer(self, items: Sequence[Item]) -> None:
        """Send the senders their stamps, and let the bus's own services answer.

        A receipt that is lost is asked for again, by a retry.
        """
        receipts: dict[str, list[tuple[bytes, bytes]]] = {}
        probes: list[bytes] = []
        for item in items:
            header = item.judgment.header
            if header is None or item.receipt is None:
                continue
            # To the session that sent it, as NATS has proven. The header's bot may be anybody.
            receipts.setdefault(item.judgment.arrival.session, []).append(
                (header.nonce, item.receipt)
            )
            # A retry gets its receipt again. Its request was served the first time.
            if item.fresh and item.judgment.reason is None:
                if header.subject in self._services:
                    self._services.serve(item.judgment, item.receipt)
                elif _is_request(item.judgment):
                    probes.append(self._services.probe(item.judgment, item.receipt))
        frames = [
            frame for bot, stamps in receipts.items() for frame in _receipt_frames(bot, stamps)
        ]
        try:
            self._nc.write([*frames, *probes])
        except (NatsError, OSError) as error:
            log.warning("receipt.lost", error=type(error).__name__)


def _is_request(judgment: Judgment) -> bool:
    """Whether it may be answered. An answer has the rule of its request, and is no request."""
    header = judgment.header
    rule = judgment.rule
    assert header is not None and rule is not None
    return rule.reply is not None and not header.subject.startswith(_REPLIES)


def _receipt_frames(bot: str, stamps: Sequence[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Return one bot's stamps, each with its nonce, in as few NATS messages as possible."""
    # A message and its retry in one batch have the same receipt, and a bundle in which an item
    # occurs twice is malformed.
    nonces = {stamp: nonce for nonce, stamp in stamps}
    bundle: list[bytes] = []
    size = 0
    for stamp in [*nonces, b""]:
        # Stamps with long lists of refused payloads fill a bundle sooner.
        if bundle and (
            not stamp or len(bundle) == MAX_BUNDLE or size + len(stamp) + 8 > MAX_BUNDLE_BYTES - 8
        ):
            if len(bundle) == 1:
                yield pub(receipt_subject(bot, nonces[bundle[0]]).encode(), bundle[0])
            else:
                yield pub(receipts_subject(bot).encode(), pack_bundle(bundle))
            bundle = []
            size = 0
        bundle.append(stamp)
        size += len(stamp) + 8
