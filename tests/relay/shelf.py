"""A stream store and a ledger by script.

The script says when the server stores an entry, and when the relay hears of it. Time is a number.
The judge and the stamps are real.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from sealbus.errors import Malformed
from sealbus.protocol.delivery import split_delivery
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import Stamp, Verdict, open_stamp
from sealbus_broker.gate.judge import judge
from sealbus_broker.gate.policy import DeliveryClass, Policy
from sealbus_broker.gate.rate import RateMeters
from sealbus_broker.gate.verdict import Arrival, JudgedAt
from sealbus_broker.relay.store.ledger import Copy
from sealbus_broker.relay.store.storing import Item, Storing
from sealbus_broker.relay.store.stream_store import Stored, StreamMessage
from tests.gate.world import BUS_KEY, BUS_KEYS, NOW, POLICY, sealed_stamp


@dataclass
class Clocks:
    """The two clocks of the relay, and the server's clock."""

    wall_ms: int = NOW
    monotonic_ms: int = 0
    server_ms: int = NOW

    def monotonic(self) -> float:
        """Seconds, like Python's."""
        return self.monotonic_ms / 1000

    def tick(self, ms: int) -> None:
        """Let time pass."""
        self.wall_ms += ms
        self.monotonic_ms += ms
        self.server_ms += ms


@dataclass(frozen=True)
class Attempt:
    """The course of one attempt."""

    before: int = 0
    """How many ms pass until the server stores the entries."""
    after: int = 0
    """How many more ms pass until its answer arrives."""
    stores: bool = True
    """Whether the entries reach the server."""
    answers: bool = True
    unheard: tuple[int, ...] = ()
    """The entries without an answer, if the others have one."""
    then: Callable[[], None] = lambda: None
    """Happens before the answer arrives."""


@dataclass
class Shelf:
    """One relay's storing, with everything around it."""

    delivery: DeliveryClass = DeliveryClass.STREAM
    policy: Policy = POLICY
    in_force: Policy | None = None
    """The policy that has taken its place since."""
    clocks: Clocks = field(default_factory=Clocks)
    since_ms: int | None = None
    attempts: deque[Attempt] = field(default_factory=deque)
    """The attempts to come. After them, every attempt succeeds."""
    written: list[list[StreamMessage]] = field(default_factory=list)
    """The entries that the relay wrote in each attempt."""
    copies: list[Copy] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=dict)
    looked: list[int] = field(default_factory=list)
    """The sequences that the relay has read."""
    problems: list[str] = field(default_factory=list)
    seen: int = 0
    is_lost: bool = False
    """Whether the ledger was found to be another."""
    verifier: Verifier = field(default_factory=Verifier)
    meters: RateMeters = field(default_factory=RateMeters)

    # ---- as the relay's stream store
    # ------------------------------------------------------------------

    async def persist(self, attempt: Callable[[], Awaitable[str | None]]) -> None:
        while (problem := await attempt()) is not None:
            self.problems.append(problem)

    async def attempt(
        self, entries: Sequence[StreamMessage]
    ) -> tuple[list[Stored | None], str | None]:
        self.written.append(list(entries))
        plan = self.attempts.popleft() if self.attempts else Attempt()
        self.clocks.tick(plan.before)
        found: list[Stored | None] = (
            [self._store(entry) for entry in entries] if plan.stores else [None] * len(entries)
        )
        self.clocks.tick(plan.after)
        plan.then()
        for at in plan.unheard if plan.answers else range(len(entries)):
            found[at] = None
        return found, "no answer" if None in found else None

    def _store(self, entry: StreamMessage) -> Stored:
        name = entry.headers.get("Nats-Msg-Id")
        stream = "HEALTH" if entry.subject.startswith("health.") else self.stream
        if name in self.ids:
            return Stored(stream, self.ids[name], duplicate=True)
        return Stored(stream, self.hold(name, entry.data, self.clocks.server_ms), duplicate=False)

    # ---- as the relay's ledger -------------------------------------------------------------------

    @property
    def stream(self) -> str:
        return "ACCEPTED" if self.delivery is DeliveryClass.STREAM else "LIVE"

    async def wait_valid(self) -> None:
        """The ledger is always known."""

    @property
    def last_sequence(self) -> int:
        return self.seen

    def is_of_another(self, sequence: int, known: int) -> bool:
        self.is_lost = self.delivery is DeliveryClass.LIVE and sequence <= known
        return self.is_lost

    def remember(self, sequence: int) -> None:
        self.seen = max(self.seen, sequence)

    async def copy(self, sequence: int) -> Copy:
        self.looked.append(sequence)
        return self.copies[sequence - 1]

    # ---- for tests -------------------------------------------------------------------------------

    def hold(self, name: str | None, data: bytes, stored_ms: int) -> int:
        """Have the stream hold ``data``. Gives its sequence."""
        self.copies.append(Copy(data, stored_ms))
        if name is not None:
            self.ids[name] = len(self.copies)
        return len(self.copies)

    def item(
        self, data: bytes, *, position: int = 7, session: str = "order", redelivered: bool = False
    ) -> Item:
        """A message that has arrived and is judged now."""
        place = position if self.delivery is DeliveryClass.STREAM else None
        arrival = Arrival(session, data, self.delivery, NOW, place, redelivered)
        moment = JudgedAt(self.clocks.wall_ms, self.since_ms)
        judgment = judge(arrival, self.policy, moment, self.verifier, self.meters)
        return Item(judgment, self.since_ms, self.clocks.monotonic(), self.policy)

    def store(self, *items: Item) -> None:
        """Store them, as the pipeline does."""
        asyncio.run(self.storing().store(items, cast("Any", self)))

    def storing(self) -> Storing:
        """The relay's storing."""
        given = cast("Any", self)
        return Storing(
            stream_store=given,
            key=BUS_KEY,
            relay="relay-1",
            verifier=self.verifier,
            meters=self.meters,
            policy=lambda: self.in_force or self.policy,
            now_ms=lambda: self.clocks.wall_ms,
        )

    def stamp(self, at: int, entry: int = 0) -> Stamp:
        """The stamp that the relay wrote in the attempt ``at``."""
        return opened(self.written[at][entry].data)

    def receipt(self, at: int) -> bytes:
        """The same, sealed as it was written."""
        return split_delivery(self.written[at][0].data)[1]

    @property
    def names(self) -> list[str | None]:
        """The id of each attempt's first entry."""
        return [entries[0].headers.get("Nats-Msg-Id") for entries in self.written]


def is_told(item: Item, reason: Reason | None) -> bool:
    """Whether the item ends with this verdict, and its sender may hear it."""
    return item.done and item.tell and item.judgment.reason is reason


def opened(data: bytes) -> Stamp:
    """The stamp of a stored delivery, or a stamp by itself."""
    with contextlib.suppress(Malformed):
        data = split_delivery(data)[1]
    return open_stamp(data, BUS_KEYS, Verifier())


def note(data: bytes, **changes: Any) -> bytes:
    """The note that closes an id."""
    refused = {"verdict": Verdict.DROPPED, "reason": Reason.STALE, "detail": "waited", **changes}
    return sealed_stamp(data, **cast("Any", refused))
